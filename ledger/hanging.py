"""How to end a hanging transaction, judged by the ledger's own records in it.

A transaction hangs when its coordinator is done with it but a partition never got its marker (`ledger.log.OpenTransaction`). Its
records are in the partition, and nothing behind them is committed until a marker comes. Kafka's own tool can only abort it. But
the coordinator may have committed it: then its other partitions show it, its writer knows, and an abort would revert decisions
that were acted on.

Nobody writes behind it: a writer does not decide in a blocked partition. So if the records are one batch of one writer and follow
the committed ones, it is right to commit them, whatever the coordinator decided: they are the next decisions, and a batch that is
complete in one partition and missing in another is decided again there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from ledger.errors import DecodeError, LogUnavailable, NotAllowed
from ledger.events import NO_HASH, OrderEvent, OrderRefusal
from ledger.last_record import last_before
from ledger.log import EventLog, OpenTransaction, Record, TopicPartition
from ledger.schemas.codec import event_codec, link_of, refusal_codec
from ledger.topics import Topics

ANSWER_S = 60.0
TIMEOUT_PAST_MS = 5 * 60_000  # as in Kafka's own tool: by then, a coordinator has surely handled the time-out

End = Literal["commit", "abort"]


class Advice(NamedTuple):
    """How to end an `OpenTransaction`; None: a person must choose. `records`: their number behind the committed end."""

    end: End | None
    records: int
    why: str


def open_transactions(
    log: EventLog, topics: Topics, ledger_id: str, partitions: Iterable[TopicPartition]
) -> list[OpenTransaction]:
    """`EventLog.open_transactions`, if this user can see which of them hang.

    Kafka names no id that a user may not describe. A live transaction of such an id looks like one that its coordinator has
    forgotten, which hangs. Raises `NotAllowed` then, `LogError`.
    """
    transactions = log.open_transactions(partitions)
    if nameless := [one for one in transactions if one.transactional_id is None]:
        ids = [f"{ledger_id}-{writer}" for writer in range(log.partitions(topics.writers))]
        if hidden := log.hidden_ids(ids):
            raise NotAllowed(
                f"whether the transaction in {nameless[0]} hangs cannot be seen: this user may not describe the transactional id "
                f"{hidden[0]}; use the principal of `commands`, or grant Describe on the transactional ids {ledger_id}-*"
            )
    return transactions


def why_not_to_end(one: OpenTransaction, now_ms: int) -> str:
    """Why it should not be ended from outside now; empty if it can be."""
    if not one.known:
        return ""
    if one.state == "Ongoing":
        over_ms = now_ms - one.last_timestamp_ms - one.timeout_ms
        if over_ms > TIMEOUT_PAST_MS:
            return ""
        return f"its coordinator reports {one.state} and ends it by itself {one.timeout_ms / 1000:.0f} s after its start"
    return f"its coordinator reports {one.state} and is about to write the marker itself"


def advise(log: EventLog, topics: Topics, one: OpenTransaction) -> Advice:
    """Judge by the records behind the committed end of its partition. Raises `LogError`."""
    tp = one.partition
    tail = _tail(log, tp)
    if one.state == "CompleteAbort":
        return Advice("abort", len(tail), "its coordinator aborted it")
    before = last_before(log, {tp: log.ends([tp])[tp]}).get(tp)
    if flaw := _flaw(tail, before, is_events=tp.topic == topics.events):
        return Advice(None, len(tail), flaw)
    return Advice("commit", len(tail), "the records are one batch of one writer and follow the committed ones")


def _tail(log: EventLog, tp: TopicPartition) -> list[Record]:
    """All records between the committed end and the end."""
    stable, end = log.ends([tp])[tp], log.ends([tp], "read_uncommitted")[tp]
    records: list[Record] = []
    reader = log.reader("hanging", isolation="read_uncommitted", eof=True, max_wait_ms=10)
    deadline = time.monotonic() + ANSWER_S
    try:
        reader.assign({tp: stable})
        while stable < end and reader.reached_end().get(tp, 0) < end:
            records += reader.poll(1000, 0.5)
            if time.monotonic() > deadline:
                raise LogUnavailable(f"{tp.topic}/{tp.partition} could not be read up to {end}")
    finally:
        reader.close()
    return [record for record in records if record.offset < end]


def _flaw(tail: Sequence[Record], before: Record | None, is_events: bool) -> str:
    """Why these records are not the next batch; empty if they are."""
    link = NO_HASH if before is None else link_of(before.value or b"")
    batches = set()
    for record in tail:
        place = f"the record at {record.offset}"
        try:
            decided: OrderEvent | OrderRefusal = (event_codec() if is_events else refusal_codec()).decode(record.value)
        except DecodeError as exc:
            return f"{place} was not written by the ledger: {exc}"
        if isinstance(decided, OrderEvent):
            if decided.prev_hash != link:
                return f"{place} does not follow the one before it"
            link = link_of(record.value or b"")
        batches.add((decided.command_log, decided.batch_first, decided.writer_epoch))
    if len(batches) > 1:
        return f"the {len(tail)} records behind the committed end belong to {len(batches)} batches"
    return "" if tail else "there are no records behind the committed end"
