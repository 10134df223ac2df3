"""Commands that were deleted before they were decided: never passed over silently."""

from __future__ import annotations

from commands.messages import command_codec
from commands.processor.desk import Meta
from ledger.errors import DecodeError, Gap
from ledger.events import OrderEvent, OrderRefusal
from ledger.last_record import last_before
from ledger.log import EventLog, TopicPartition
from ledger.progress import claimed, read_claims
from ledger.schemas.codec import event_codec, refusal_codec
from ledger.topics import Topics


def check_gap(event_log: EventLog, topics: Topics, meta: Meta, tp: TopicPartition, start: int) -> None:
    """`tp` of the commands begins at `start`, behind the last command that is known to be decided. Raises `Gap`, `LogError`.

    Not if the commands are a mirror of those that the fold decided: they have another topic id, so their offsets are not known to
    be decided, but a command at or behind `start` is at the offset that its own event or refusal names. If there is none left,
    nothing shows that a mirror has the same offsets: only a person knows.
    """
    elsewhere = [one for one in _last_outcomes(event_log, topics, meta, tp.partition) if one.command_log != meta.command_log]
    if not any(one.command_offset >= start and _is_there(event_log, tp, one) for one in elsewhere):
        raise Gap(
            f"commands {meta.dealt} to {start - 1} of {tp.topic}/{tp.partition} were deleted before they were decided: ask their "
            "senders what is missing, then stop `commands` here, run `order-ledger accept-gap --why ...`, and start it again"
            f"{_if_mirrored(event_log, topics, meta, tp.partition, start, elsewhere)}"
        )


def _last_outcomes(event_log: EventLog, topics: Topics, meta: Meta, partition: int) -> list[OrderEvent | OrderRefusal]:
    codecs = {topics.events: event_codec(), topics.refusals: refusal_codec()}
    places = {TopicPartition(topics.events, partition): meta.events, TopicPartition(topics.refusals, partition): meta.refusals}
    outcomes: list[OrderEvent | OrderRefusal] = []
    for place, record in last_before(event_log, {place: at for place, at in places.items() if at}).items():
        try:
            outcomes.append(codecs[place.topic].decode(record.value))  # type: ignore[attr-defined]
        except DecodeError:
            continue  # it names no command
    return outcomes


def _is_there(event_log: EventLog, tp: TopicPartition, outcome: OrderEvent | OrderRefusal) -> bool:
    """Whether the command of `outcome` is at the offset that it names."""
    if event_log.ends([tp])[tp] <= outcome.command_offset:
        return False  # a restored log has none of the commands from before
    command = last_before(event_log, {tp: outcome.command_offset + 1}).get(tp)
    return command is not None and command.offset == outcome.command_offset and _id_of(command.value) == outcome.command_id


def _if_mirrored(
    event_log: EventLog, topics: Topics, meta: Meta, partition: int, start: int, elsewhere: list[OrderEvent | OrderRefusal]
) -> str:
    """How the gap is none: if these commands are a mirror of a topic in which all that are gone were decided."""
    for one in elsewhere:
        claims = read_claims(event_log, topics, one.command_log)
        decided = max(one.command_offset + 1, claimed(claims, partition, meta.events))
        if decided >= start:
            return (
                f". If this topic is a mirror with the same offsets of the one with the id {one.command_log.hex()}, nothing is "
                f"missing: all commands before {decided} were decided there"
            )
    return ""


def _id_of(value: bytes | None) -> object:
    try:
        return command_codec().decode_fields(value)["command_id"]
    except DecodeError:
        return None
