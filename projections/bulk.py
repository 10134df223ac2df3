"""The bulk fold: the log into databases as fast as one process can, with the same `Databases.write_chunk` that `serve` uses.

For `rebuild`, for `verify`, and for a node that has no read models yet, before Faust takes over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from ledger.errors import Hole, LedgerError
from ledger.log import EventLog, Record, TopicPartition
from ledger.log_identity import EndWatch
from projections.databases import Databases

BATCH_RECORDS = 5_000  # of one partition, folded in one write
POLL_RECORDS = 2_000
POLL_S = 0.5
REPORT_S = 0.5
_PLACE = attrgetter("topic", "partition")


class Interrupted(LedgerError):
    """Stopped before the end. What was folded is kept, and the next run resumes there."""

    code = "interrupted"


class FoldProgress(NamedTuple):
    """Progress of one bulk fold: counts since its start, and its positions."""

    events: int
    bytes: int
    positions: dict[TopicPartition, int]


OnProgress = Callable[[FoldProgress], None]
OnBatch = Callable[[TopicPartition, list[Record]], None]


def ignore_progress(progress: FoldProgress) -> None:
    """Ignore progress."""


class BulkFold:
    """Folds the log into `databases`. One thread; the reader stays open between runs."""

    def __init__(self, log: EventLog, databases: Databases, name: str, on_batch: OnBatch | None = None) -> None:
        """`on_batch` receives every batch of records, with headers, before it is folded (for `verify`)."""
        self._databases, self._on_batch = databases, on_batch
        self._log = log
        topics = databases.topics
        self._reader = log.reader(name, eof=True, headers=on_batch is not None)
        self._events_topic = topics.events
        self._events = self._bytes = 0

    def ends(self) -> dict[TopicPartition, int]:
        """The committed ends of all folded partitions."""
        return self._log.ends(self._databases.positions(), timeout_s=30.0)

    def run(
        self,
        until: Mapping[TopicPartition, int],
        on_progress: OnProgress = ignore_progress,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Fold all records before `until`, which is at most the committed end, and nothing behind it.

        Partitions that are not in `until` are left alone. Raises `Hole` if records are gone, `NotThisLog` if the log keeps ending
        before `until`, `Interrupted`, `LogError`, `StoreError`.
        """
        databases = self._databases
        starts = self._log.starts(until, timeout_s=30.0)
        databases.skip_expired(starts)
        left = {tp: end for tp, end in until.items() if databases.position(tp) < end}
        if not left:
            on_progress(self._progress())
            return
        self._check_starts({tp: starts[tp] for tp in left})
        self._reader.assign({tp: databases.position(tp) for tp in left})
        waiting: dict[TopicPartition, list[Record]] = {tp: [] for tp in left}
        reported_at, watch = 0.0, EndWatch()
        while left:
            if stopping():
                raise Interrupted("stopped before the end; run it again to resume")
            for (topic, partition), group in groupby(self._poll(waiting, left), _PLACE):
                tp = TopicPartition(topic, partition)
                if (end := left.get(tp)) is None:
                    continue
                records = list(group)
                last = records[-1].offset
                if last >= end:
                    records = [record for record in records if record.offset < end]
                waiting[tp] += records
                if len(waiting[tp]) >= BATCH_RECORDS:
                    self._fold(tp, waiting)
                if last + 1 >= end:  # or beyond it, if the end is behind the marker of a transaction
                    self._done(tp, waiting, left)
            reached = self._reader.reached_end()
            for tp, end in reached.items():
                if tp in left and end >= left[tp]:
                    self._done(tp, waiting, left)
            watch.check(reached, left, self._reader.silent_s())
            if time.monotonic() >= reported_at:
                on_progress(self._progress())
                reported_at = time.monotonic() + REPORT_S
        on_progress(self._progress())

    def _poll(self, waiting: dict[TopicPartition, list[Record]], left: dict[TopicPartition, int]) -> list[Record]:
        """What has arrived. Refusals that retention has deleted since the start of the fold are skipped."""
        try:
            return self._reader.poll(POLL_RECORDS, POLL_S)
        except Hole:
            starts = self._log.starts(left, timeout_s=30.0)
            for tp in left:
                self._fold(tp, waiting)
            before = self._databases.positions()
            self._databases.skip_expired(starts)
            if before == self._databases.positions():
                raise
        for tp in [tp for tp, end in left.items() if self._databases.position(tp) >= end]:
            del left[tp]
        self._check_starts({tp: starts[tp] for tp in left})
        self._reader.assign({tp: self._databases.position(tp) for tp in left})
        return []

    def _check_starts(self, starts: Mapping[TopicPartition, int]) -> None:
        """Raises `Hole` if the log begins after a position; but compaction leaves gaps in contacts."""
        for tp, start in starts.items():
            if start > self._databases.position(tp) and tp.topic == self._events_topic:
                raise Hole(f"{tp.topic}/{tp.partition}: the log begins at {start}, {self._databases.position(tp)} is needed")

    def _done(self, tp: TopicPartition, waiting: dict[TopicPartition, list[Record]], left: dict[TopicPartition, int]) -> None:
        self._fold(tp, waiting)
        del left[tp]

    def _fold(self, tp: TopicPartition, waiting: dict[TopicPartition, list[Record]]) -> None:
        records, waiting[tp] = waiting[tp], []
        if not records:
            return
        if self._on_batch is not None:
            self._on_batch(tp, records)
        self._databases.write_chunk(tp, records, return_events=False)
        if tp.topic == self._events_topic:
            self._events += len(records)
        self._bytes += sum(len(record.value or b"") for record in records)

    def _progress(self) -> FoldProgress:
        return FoldProgress(self._events, self._bytes, self._databases.positions())

    def close(self) -> None:
        self._reader.close()
