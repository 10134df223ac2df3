"""Reads a log up to its current end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from ledger.errors import LogUnavailable
from ledger.log import NoLeader, Reader, Record, TopicPartition
from ledger.log_identity import EndWatch


def of_led(
    ask: Callable[[list[TopicPartition]], dict[TopicPartition, int]], partitions: Iterable[TopicPartition]
) -> tuple[dict[TopicPartition, int], frozenset[TopicPartition]]:
    """What `ask` answers about those of `partitions` that have a leader, and the others. Raises `LogError` like `ask`."""
    missing: frozenset[TopicPartition] = frozenset()
    left = list(partitions)
    while left:
        try:
            return ask(left), missing
        except NoLeader as exc:
            missing |= exc.missing
            left = [tp for tp in left if tp not in missing]
    return {}, missing


def committed(
    reader: Reader,
    positions: Mapping[TopicPartition, int],
    until: Mapping[TopicPartition, int] | None,
    stopping: threading.Event,
    enough: Callable[[], bool] = lambda: False,
) -> Iterator[Record]:
    """Records from `positions` on, up to `until` if set, until `stopping` or `enough`. `reader` must report partition ends.

    Raises `NotThisLog` if the log keeps ending before `until`, `LogError`.
    """
    watch = EndWatch()
    reader.assign(positions)
    left = set(positions) if until is None else {tp for tp, position in positions.items() if position < until[tp]}
    while left and not stopping.is_set() and not enough():
        for record in reader.poll(500, 0.2):
            tp = TopicPartition(record.topic, record.partition)
            if until is None or record.offset < until[tp]:
                yield record
            if until is not None and record.offset + 1 >= until[tp]:
                left.discard(tp)
        if until is not None:
            reached = reader.reached_end()
            left -= {tp for tp, end in reached.items() if end >= until[tp]}
            watch.check(reached, {tp: until[tp] for tp in left}, reader.silent_s())


def committed_within(
    reader: Reader, positions: Mapping[TopicPartition, int], until: Mapping[TopicPartition, int], timeout_s: float
) -> Iterator[Record]:
    """All records of `committed`. Raises `LogUnavailable` at the end of what arrived, if that takes longer than `timeout_s`."""
    deadline, is_late = time.monotonic() + timeout_s, False

    def enough() -> bool:
        nonlocal is_late
        is_late = time.monotonic() > deadline
        return is_late

    yield from committed(reader, positions, until, threading.Event(), enough)
    if is_late:
        topics = ", ".join(sorted({tp.topic for tp in until}))
        raise LogUnavailable(f"{topics} could not be read within {timeout_s:.0f} s")
