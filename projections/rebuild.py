"""`rebuild`: rebuilds the databases of a node from the log, beside a running `serve` (ARCHITECTURE, Rebuild and verify).

    1  processes, one per group of partitions, fold the log in bulk into a new generation
    2  this process folds later records, exactly to positions whose digests the running `serve` reports, and compares
    3  the pointer is moved; the running `serve` switches to the new generation (`projections.live`)

If it is killed, the old generation stays in use and the new one can be resumed. It reads Kafka and writes only below `root`.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Literal, Protocol

from filelock import FileLock, Timeout

from ledger.contact_rows import CONTACTS_STORE
from ledger.errors import LedgerError, NotThisLog, StoreError
from ledger.files import write_json
from ledger.log import TopicPartition
from ledger.log_identity import topic_ids
from ledger.topics import Topics
from projections.bulk import BulkFold, Interrupted
from projections.databases import Databases, OtherReadModels, store_name
from projections.digests import Digest
from projections.generations import Generations, NoSuchGeneration, read_json
from projections.live import ask, digest_from_json, serving
from projections.origin import OtherOffsets, check_log
from projections.rebuild_jobs import Doors, JobFailed, Share, _groups, _Job, _job

NEAR_RECORDS = 2_000  # this close to the end of the log, `serve` can fold the remaining records
MAX_ROUNDS = 20  # of catching up with a growing log
TAKE_OVER_S = 60.0


class InProgress(LedgerError):
    """Another rebuild of the same databases is running."""

    code = "in_progress"


@dataclass(frozen=True, slots=True)
class DigestDifference:
    """One partition whose rebuilt digest differs from the live one. The two agree for the first `equal_until` events."""

    partition: int
    position: int
    live: str
    rebuilt: str
    equal_until: int


@dataclass(slots=True)
class RebuildReport:
    """The result of a rebuild. `compared`: number of compared partitions; None if there was nothing to compare with."""

    events: int = 0
    bytes: int = 0
    took_s: float = 0.0
    resumed: bool = False
    compared: int | None = None
    not_compared_because: str = ""
    differences: list[DigestDifference] = field(default_factory=list)
    digests: dict[int, Digest] = field(default_factory=dict)
    generation: str | None = None
    kept: str | None = None
    taken_over: Literal["yes", "no", "nobody serves"] = "nobody serves"


class RebuildObserver(Protocol):
    """Observes a rebuild."""

    def started(self, total: int, done: int) -> None:
        """Total number of records to fold, and those that an earlier run has folded."""

    def moved(self, done: int, events: int, bytes_read: int) -> None:
        """Number of folded records; events and bytes of this run."""

    def phase(self, text: str) -> None:
        """The current phase."""


# ---- one process of it


class Rebuild:
    """One rebuild of the databases in `root`."""

    def __init__(
        self,
        generations: Generations,
        doors: Doors,
        topics: Topics,
        partitions: int,
        jobs: int,
        watcher: RebuildObserver,
        stopping: Callable[[], bool],
    ) -> None:
        self._generations, self._doors, self._topics, self._partitions = generations, doors, topics, partitions
        self._jobs, self._watcher, self._stopping = max(1, jobs), watcher, stopping
        self._log = doors.open_log()
        self._report = RebuildReport()
        self._other_program = False  # the running `serve` has another version and cannot switch to this one

    def run(self, *, keep_old: bool, dry_run: bool, back: bool, fresh: bool, accept_difference: bool) -> RebuildReport:
        """Build, compare, swap. A difference leaves everything unchanged unless it is accepted.

        Raises `InProgress`, `Interrupted`, `JobFailed`, `NoSuchGeneration`, `LogError` (`NotThisLog` if the current read models
        are of another log), `StoreError`.
        """
        lock = FileLock(self._generations.root / "rebuild.lock")
        self._generations.root.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise InProgress(f"another rebuild of {self._generations.root} is running") from None
        try:
            began = time.monotonic()
            folder = self._folder(back, fresh)
            self._load(folder)
            databases = self._open(folder)
            try:
                self._catch_up(databases)
                self._report.digests = databases.digests()
            finally:
                databases.close()
            self._report.took_s = time.monotonic() - began
            if dry_run:
                if not back:
                    self._generations.remove(folder)
            elif not self._report.differences or accept_difference:
                self._swap(folder, keep_old or back, back)
        finally:
            lock.release()
        return self._report

    def _folder(self, back: bool, fresh: bool) -> Path:
        if back:
            kept = self._generations.kept()
            if kept is None:
                raise NoSuchGeneration("no generation is kept to return to: `rebuild --keep-old` keeps one")
            return self._generations.folder(kept)
        log_id = self._log.topic_id(self._topics.events).hex()
        before = self._generations.building()
        if before is not None and (fresh or not self._can_go_on(before, log_id)):
            self._generations.remove(before)
            before = None
        self._report.resumed = before is not None
        folder = self._generations.begin()
        write_json(folder / "log.json", {"topic_id": log_id})
        return folder

    def _can_go_on(self, folder: Path, log_id: str) -> bool:
        """Whether an unfinished build can be resumed: not if another version began it, or the log was recreated since."""
        if (begun := read_json(folder / "log.json")) is None or begun["topic_id"] != log_id:
            return False
        try:
            databases = self._open(folder)
        except OtherReadModels:
            return False
        try:
            check_log(databases, self._log)
        except (NotThisLog, OtherOffsets):
            return False
        finally:
            databases.close()
        return True

    def _open(self, folder: Path) -> Databases:
        # Without contacts: no erasure would reach those of an interrupted build. `serve` folds them when it opens the generation.
        return Databases(self._doors.opener(folder, True), self._topics, range(self._partitions), None)

    def _ends(self) -> dict[TopicPartition, int]:
        topics = (self._topics.events, self._topics.refusals)
        return self._log.ends([TopicPartition(topic, p) for topic in topics for p in range(self._partitions)], timeout_s=30.0)

    # ---- 1: in bulk

    def _load(self, folder: Path) -> None:
        ends = self._ends()
        databases = self._open(folder)
        try:
            check_log(databases, self._log)
            at = databases.positions()
        finally:
            databases.close()
        total, done = sum(ends.values()), sum(min(at[tp], end) for tp, end in ends.items())
        self._watcher.started(total, done)
        if total == done:
            return
        # Not beyond the live fold: its digest there would not be available.
        ends = self._no_further_than_live(ends)
        jobs = self._start_jobs(folder, ends)
        try:
            self._watch(jobs, at, ends)
        finally:
            for job in jobs:
                job.pipe.close()  # which ends it, if it is still running
            for job in jobs:
                job.process.join(20)
                if job.process.is_alive():
                    job.process.kill()
                    job.process.join()

    def _no_further_than_live(self, ends: dict[TopicPartition, int]) -> dict[TopicPartition, int]:
        live = self._live()
        if live is None:
            return ends
        events = {TopicPartition(self._topics.events, p): digest.position for p, digest in live[0].items()}
        return {tp: min(end, events.get(tp, end)) for tp, end in ends.items()}

    def _start_jobs(self, folder: Path, until: Mapping[TopicPartition, int]) -> list[_Job]:
        context, jobs = multiprocessing.get_context("spawn"), []
        for number, group in enumerate(_groups(self._partitions, self._jobs)):
            receiver, sender = context.Pipe(duplex=False)
            own = {tp: end for tp, end in until.items() if tp.partition in group}
            share = Share(self._topics, folder, group, own)
            process = context.Process(target=_job, args=(self._doors, share, sender), name=f"rebuild-{number}")
            process.start()
            sender.close()
            jobs.append(_Job(process, receiver))
        return jobs

    def _watch(self, jobs: list[_Job], at: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]) -> None:
        while not all(job.done for job in jobs):
            if self._stopping():
                raise Interrupted("stopped; `rebuild` resumes from here, `rebuild --fresh` starts over")
            for pipe in wait([job.pipe for job in jobs if not job.done], timeout=0.2):
                job = next(job for job in jobs if job.pipe is pipe)
                try:
                    message = job.pipe.recv()
                except EOFError:
                    raise JobFailed(f"{job.process.name} exited early; run `rebuild` again to resume") from None
                if message == "done":
                    job.done = True
                elif isinstance(message, str):
                    raise JobFailed(message)
                else:
                    job.progress = message
            self._report_progress(jobs, at, ends)
        self._report.events += sum(job.progress.events for job in jobs)
        self._report.bytes += sum(job.progress.bytes for job in jobs)

    def _report_progress(self, jobs: list[_Job], at: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]) -> None:
        now = dict(at)
        for job in jobs:
            now |= job.progress.positions
        done = sum(min(now[tp], end) for tp, end in ends.items())
        self._watcher.moved(done, sum(job.progress.events for job in jobs), sum(job.progress.bytes for job in jobs))

    # ---- 2: up to positions with known live digests

    def _live(self) -> tuple[dict[int, Digest], dict[int, list[Digest]]] | None:
        """Digests and checkpoints of the current generation; None, with a reason in the report, if there are none."""
        name = self._generations.current()
        if name is None or not (self._generations.folder(name) / store_name(0)).is_dir():
            self._report.not_compared_because = "there are no current read models"
            return None
        opener = self._doors.opener(self._generations.folder(name), False)
        try:
            databases = Databases(opener, self._topics, range(self._partitions), None)
        except OtherReadModels as exc:
            self._report.not_compared_because = f"the version of the read models differs ({exc})"
            return None
        except StoreError:  # another process has them open
            return self._ask()
        try:
            check_log(databases, self._log)
            return databases.digests(), {p: list(databases.checkpoints(p)) for p in databases.stores}
        except OtherOffsets as exc:
            self._report.not_compared_because = str(exc)
            return None
        finally:
            databases.close()

    def _ask(self) -> tuple[dict[int, Digest], dict[int, list[Digest]]] | None:
        try:
            ids = topic_ids(self._log, (self._topics.events, self._topics.refusals))
            reply = ask(self._generations.root, "digests", ids)
        except OtherReadModels as exc:
            self._other_program, self._report.not_compared_because = True, str(exc)
            return None
        return (
            {int(p): digest_from_json(digest) for p, digest in reply["digests"].items()},
            {int(p): [digest_from_json(digest) for digest in kept] for p, kept in reply["checkpoints"].items()},
        )

    def _catch_up(self, databases: Databases) -> None:
        """Fold later records, each time exactly up to the positions of the live digests, and compare there."""
        self._watcher.phase("catching up and comparing")
        bulk = BulkFold(self._log, databases, "rebuild-end")
        try:
            before = None
            for _ in range(MAX_ROUNDS):
                ends, live = self._ends(), self._live()
                if live is not None and live[0] != before:
                    before = live[0]
                    self._compare_at(bulk, databases, ends, *live)
                else:  # nothing to compare with, or it is stuck behind the end of the log and has been compared
                    bulk.run(ends, stopping=self._stopping)
                if self._report.differences or self._near(databases):
                    break
        finally:
            bulk.close()

    def _near(self, databases: Databases) -> bool:
        return sum(end - databases.position(tp) for tp, end in self._ends().items()) <= NEAR_RECORDS

    def _compare_at(
        self,
        bulk: BulkFold,
        databases: Databases,
        ends: dict[TopicPartition, int],
        live: dict[int, Digest],
        checkpoints: dict[int, list[Digest]],
    ) -> None:
        until = {tp: end for tp, end in ends.items() if tp.topic != self._topics.events}
        until |= {TopicPartition(self._topics.events, p): digest.position for p, digest in live.items()}
        bulk.run(until, stopping=self._stopping)
        compared = {p: digest for p, digest in live.items() if databases.digest(p).position == digest.position}
        self._report.compared = len(compared)
        self._report.differences = [
            DigestDifference(
                p, digest.position, digest.hex(), databases.digest(p).hex(), _equal_until(databases, p, checkpoints[p])
            )
            for p, digest in sorted(compared.items())
            if databases.digest(p) != digest
        ]

    # ---- 3: the swap

    def _swap(self, folder: Path, keep: bool, back: bool) -> None:
        before, reading = self._generations.current(), self._running()
        if back:
            name = folder.name
            self._generations.point(name, before)
        else:
            name = self._generations.finish(folder, keep)
        self._report.generation, self._report.kept = name, self._generations.kept()
        if reading and self._other_program:
            self._report.taken_over = "no"
            return
        if not reading:
            if self._report.kept is not None:
                self._generations.remove_contacts(self._report.kept)
            self._generations.remove_unused()
            return
        self._watcher.phase("waiting for `serve` to switch")
        deadline = time.monotonic() + TAKE_OVER_S
        while serving(self._generations.root) != name and time.monotonic() < deadline and not self._stopping():
            time.sleep(0.1)
        self._report.taken_over = "yes" if serving(self._generations.root) == name else "no"

    def _running(self) -> bool:
        """Whether a process has the current generation open."""
        name = self._generations.current()
        if name is None:
            return False
        try:
            self._doors.opener(self._generations.folder(name), False)(CONTACTS_STORE).close()
        except StoreError:
            return True
        return False


def _equal_until(databases: Databases, partition: int, live: Iterable[Digest]) -> int:
    """Number of events of the partition up to which both sides agree, according to the checkpoints."""
    own = {digest.events: digest for digest in databases.checkpoints(partition)}
    equal = 0
    for digest in live:
        if own.get(digest.events, digest) != digest:
            break
        equal = digest.events
    return equal
