"""How far commands are decided, for when the log no longer shows it: claims in `order-control`.

Events and refusals say which command each of them answers. But a retry leaves no record, and a refusal expires: of a partition
whose last commands were such, the log forgets that they were decided, and `order-commands` forgets the commands themselves. A
claim says it for ever.

A claim is true as long as the log has the events that it was made with. Each process has keys of its own, one for each partition,
so a late claim of an old process replaces nobody else's. Of all claims about a partition the highest one counts.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import structlog
from msgspec import Struct

from ledger.errors import LogError
from ledger.log import Acked, EventLog, NewRecord, TopicPartition
from ledger.reading import committed_within
from ledger.topics import Topics

ANSWER_S = 60.0
KEY = b"progress/"

log = structlog.get_logger(__name__)

_encode = msgspec.json.Encoder().encode


class Claim(Struct, frozen=True):
    """Every command of `partition` below offset `decided` has its outcome.

    `command_log` is the hexadecimal id of the topic that the offset belongs to. Valid only if the log of events reaches to offset
    `events`. `by`: who says so.
    """

    partition: int
    command_log: str
    decided: int
    events: int
    by: str


_decode = msgspec.json.Decoder(Claim).decode


def record_of(topics: Topics, claim: Claim) -> NewRecord:
    """The record of `order-control` for `claim`."""
    return NewRecord(topics.control, 0, KEY + f"{claim.partition}/{claim.by}".encode(), _encode(claim))


def read_claims(event_log: EventLog, topics: Topics, command_log: bytes) -> tuple[Claim, ...]:
    """All claims about this `order-commands`. Raises `LogError`."""
    tp = TopicPartition(topics.control, 0)
    start, end = event_log.starts([tp])[tp], event_log.ends([tp])[tp]
    claims: dict[bytes | None, Claim] = {}
    reader = event_log.reader("progress", eof=True, max_wait_ms=10)
    try:
        for record in committed_within(reader, {tp: start}, {tp: end}, ANSWER_S):
            if not (record.key or b"").startswith(KEY):
                continue
            try:
                claims[record.key] = _decode(record.value or b"")
            except msgspec.DecodeError as exc:
                log.error("unreadable claim of progress", offset=record.offset, why=str(exc))
    finally:
        reader.close()
    return tuple(claim for claim in claims.values() if claim.command_log == command_log.hex())


def claimed(claims: Iterable[Claim], partition: int, events: int) -> int:
    """One past the last command of `partition` that is decided according to `claims`, for a fold that has reached `events`."""
    return max((claim.decided for claim in claims if claim.partition == partition and claim.events <= events), default=0)


def accept_gap(event_log: EventLog, topics: Topics, partition: int, before: int, by: str) -> None:
    """Claim for a person (`by`) that commands below offset `before` of `partition` need no decision any more; durable on return.

    Every node respects it. Raises `LogError`.
    """
    claim = Claim(partition, event_log.topic_id(topics.commands).hex(), before, 0, by)
    errors: list[LogError] = []

    def on_ack(acked: Acked | None, error: LogError | None) -> None:
        if acked is None:
            errors.append(error or LogError("neither acknowledged nor refused"))

    sender = event_log.sender("accept-gap")
    try:
        sender.send(record_of(topics, claim), on_ack)
    finally:
        sender.close()
    if errors:
        raise errors[0]
