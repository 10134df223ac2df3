"""Commands that were deleted before they were decided: never passed over silently."""

from __future__ import annotations

from commands.messages import command_codec
from commands.processor.desk import Meta
from ledger.errors import DecodeError, Gap
from ledger.events import OrderEvent, OrderRefusal
from ledger.last_record import last_before
from ledger.log import EventLog, TopicPartition
from ledger.schemas.codec import event_codec, refusal_codec
from ledger.topics import Topics


def check_gap(event_log: EventLog, topics: Topics, meta: Meta, tp: TopicPartition, start: int) -> None:
    """`tp` of the commands begins at `start`, behind the last command that is known to be decided. Raises `Gap`, `LogError`.

    Not if the commands are a mirror of those that the fold decided: they have another topic id, so their offsets are not known to
    be decided, but a command at or behind `start` is at the offset that its own event or refusal names.
    """
    if not _is_mirror(event_log, topics, meta, tp, start):
        raise Gap(
            f"commands {meta.dealt} to {start - 1} of {tp.topic}/{tp.partition} were deleted before they were decided: ask their "
            "senders what is missing, then stop `commands` here, run `order-ledger accept-gap`, and start it again"
        )


def _is_mirror(event_log: EventLog, topics: Topics, meta: Meta, tp: TopicPartition, start: int) -> bool:
    codecs = {topics.events: event_codec(), topics.refusals: refusal_codec()}
    places = {
        TopicPartition(topics.events, tp.partition): meta.events,
        TopicPartition(topics.refusals, tp.partition): meta.refusals,
    }
    for place, record in last_before(event_log, {place: at for place, at in places.items() if at}).items():
        try:
            decided: OrderEvent | OrderRefusal = codecs[place.topic].decode(record.value)  # type: ignore[attr-defined]
        except DecodeError:
            continue  # it names no command
        if decided.command_offset >= start and decided.command_log != meta.command_log:
            command = last_before(event_log, {tp: decided.command_offset + 1}).get(tp)
            if command is not None and command.offset == decided.command_offset and _id_of(command.value) == decided.command_id:
                return True
    return False


def _id_of(value: bytes | None) -> object:
    try:
        return command_codec().decode_fields(value)["command_id"]
    except DecodeError:
        return None
