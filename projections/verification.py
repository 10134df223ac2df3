"""One run of `verify`: folds the log into temporary databases, and compares a copy of the current read models with the fold."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from ledger.errors import StoreError
from ledger.log import EventLog
from ledger.log_identity import topic_ids
from ledger.topics import Topics
from ledger.walk import Head
from projections.bulk import BulkFold, FoldProgress
from projections.databases import Databases, OtherReadModels, store_name
from projections.generations import Generations
from projections.live import ask
from projections.origin import OtherOffsets, check_log
from projections.rebuild import RebuildObserver
from projections.rebuild_jobs import Doors
from projections.verify import Findings, LogWalk, compare

COPY_S = 500.0  # patience with a `serve` that copies its databases: a second for a million orders
STARTS_S = 30.0  # patience with the broker that is asked where its topics begin


class Verification:
    """Checks the log and, unless `log_only`, the read models of `generations`. Good for one run.

    `doors.enter_process()` must have been called. `stopping()` is asked between chunks.
    """

    def __init__(
        self,
        generations: Generations,
        doors: Doors,
        event_log: EventLog,
        topics: Topics,
        observer: RebuildObserver,
        stopping: Callable[[], bool],
    ) -> None:
        self._generations, self._doors, self._log, self._topics = generations, doors, event_log, topics
        self._observer, self._stopping = observer, stopping
        self._partitions = range(event_log.partitions(topics.events))
        self._findings = Findings()

    def run(self, heads: dict[int, list[Head]], *, log_only: bool) -> Findings:
        """Read the whole log. `heads`: by partition, heads that the log must contain.

        Raises `LogError` (`NotThisLog` if the read models are of another log), `Interrupted`.
        """
        folder = self._generations.root / "requests" / f"{uuid.uuid4().hex}.verify"
        try:
            live = None if log_only else self._copy_of_live(folder / "live")
            try:
                self._walk(folder / "fold", live, heads)
            finally:
                if live is not None:
                    live.close()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return self._findings

    def _open(self, folder: Path, *, loading: bool = False) -> Databases:
        return Databases(self._doors.opener(folder, loading), self._topics, self._partitions, None)

    def _copy_of_live(self, folder: Path) -> Databases | None:
        """The current read models: copied by the running `serve`, or by this process if none runs."""
        root, current = self._generations.root, self._generations.current()
        if current is None:
            self._findings.not_compared_because = f"there are no read models in {root}"
            return None
        name = current
        try:
            try:
                source = self._open(self._generations.folder(current))
            except StoreError:  # open elsewhere
                ids = topic_ids(self._log, (self._topics.events, self._topics.refusals))
                name = str(ask(root, "copy", ids, timeout_s=COPY_S, folder=str(folder.absolute()))["generation"])
            else:
                try:
                    for p, store in source.stores.items():
                        store.copy_to(folder / store_name(p))
                finally:
                    source.close()
            databases = self._open(folder)
        except OtherReadModels as exc:
            self._findings.not_compared_because = str(exc)
            return None
        try:
            check_log(databases, self._log)
        except OtherOffsets as exc:
            databases.close()
            self._findings.not_compared_because = str(exc)
            return None
        except BaseException:
            databases.close()
            raise
        self._findings.compared_with = name
        return databases

    def _walk(self, folder: Path, live: Databases | None, heads: dict[int, list[Head]]) -> None:
        fold = self._open(folder, loading=True)
        walk = LogWalk(fold, self._findings, heads)
        bulk = BulkFold(self._log, fold, "verify", walk.check)
        try:
            ends, starts = bulk.ends(), self._log.starts(list(fold.positions()), timeout_s=STARTS_S)
            self._observer.started(sum(ends.values()) - sum(starts.values()), 0)

            def report(progress: FoldProgress) -> None:
                done = sum(max(0, progress.positions[tp] - starts[tp]) for tp in ends)
                self._observer.moved(done, progress.events, progress.bytes)

            if live is not None:  # first exactly up to the position of the read models
                bulk.run(live.positions(), report, self._stopping)
                self._observer.phase("comparing rows")
                expire = {tp.partition for tp, start in starts.items() if tp.topic == self._topics.refusals and start > 0}
                for p, store in live.stores.items():
                    compare(store, fold.stores[p], p, live.digest(p), p in expire, self._findings)
                self._observer.phase("reading on")
            bulk.run({tp: end for tp, end in ends.items() if tp.topic == self._topics.events}, report, self._stopping)
            walk.end()
        finally:
            bulk.close()
            fold.close()
