"""Opens the current generation: as it is on disk, or after folding the log before anybody reads from it."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import NamedTuple

import structlog

from ledger.asking import until_answered
from ledger.errors import LedgerError, LogUnavailable
from ledger.files import write_json
from ledger.log import EventLog, TopicPartition
from ledger.rocks_store import remove_store, store_opener
from ledger.store import Store
from ledger.topics import Topics
from projections.bulk import BulkFold, FoldProgress, Interrupted, OnProgress, ignore_progress
from projections.databases import Databases, OtherReadModels
from projections.freshness import read_note
from projections.generations import Generations
from projections.origin import OtherOffsets, check_log

log = structlog.get_logger(__name__)

FAR_BEHIND_RECORDS = 20_000
LOG_EVERY_S = 5.0


class Opened(NamedTuple):
    """An open generation. At `current_at` (`time.monotonic`, s) it had everything that was committed.

    `moved`: its offsets are not those of the generation before, because the log is a restored one.
    """

    name: str
    databases: Databases
    current_at: float
    moved: bool = False


def projections_of(state_dir: Path) -> Generations:
    """The generations of `serve`'s databases in its state directory."""
    return Generations(state_dir / "projections", remove_store)


def open_generation(generations: Generations, name: str, topics: Topics, partitions: int) -> Databases:
    """Open all databases of a generation. Raises `OtherReadModels`, `StoreError`."""
    return Databases(store_opener(generations.folder(name)), topics, range(partitions), partitions)


def nothing(topics: Topics) -> Databases:
    """No databases, for a node that has never folded anything."""

    def open_none(name: str) -> Store:
        raise LookupError(name)

    return Databases(open_none, topics, (), None)


def open_known(generations: Generations, topics: Topics) -> Opened | None:
    """The current generation, if its freshness is known: it can answer reads before the log answers.

    None if it never was current, or has another version of read models. Raises `StoreError`.
    """
    name = generations.current()
    note = None if name is None else read_note(generations.folder(name))
    if name is None or note is None:
        return None
    try:
        databases = open_generation(generations, name, topics, sum(tp.topic == topics.events for tp in note.positions))
    except OtherReadModels:
        return None
    if not note.holds_for(databases.positions()):
        log.warning("the read models are behind the position at which they were last current", generation=name)
        databases.close()
        return None
    return Opened(name, databases, time.monotonic() - max(0.0, time.time() - note.at))


def open_caught_up(
    generations: Generations, topics: Topics, event_log: EventLog, partitions: int, stopping: threading.Event, progress: Path
) -> Opened | None:
    """The current generation, open, after folding the log to its end in bulk. For a node that does not answer reads yet.

    Databases of another version, or with other offsets, are left untouched and rebuilt from the log in a new generation: a node
    must start after an update, even if `rebuild` was not run first. The file `progress` shows the progress. Returns None if
    stopped. Raises `NotThisLog`.
    """
    name = generations.first()
    try:
        databases = open_generation(generations, name, topics, partitions)
    except OtherReadModels as exc:
        return build_new(generations, topics, event_log, partitions, stopping, progress, exc)
    try:
        until_answered(lambda: check_log(databases, event_log, stopping), stopping)
    except OtherOffsets as exc:
        databases.close()
        return build_new(generations, topics, event_log, partitions, stopping, progress, exc)
    except BaseException:
        databases.close()
        raise
    return _caught_up(name, databases, event_log, stopping, progress)


def build_new(
    generations: Generations,
    topics: Topics,
    event_log: EventLog,
    partitions: int,
    stopping: threading.Event,
    progress: Path,
    why: LedgerError,
) -> Opened | None:
    """A new generation, folded from the log to its end, instead of the current one. Returns None if stopped."""
    log.warning("building new read models from the log", why=str(why))
    name = generations.create()
    generations.point(name, None)  # immediately: if this process is killed, its next start resumes here
    databases = open_generation(generations, name, topics, partitions)
    try:
        until_answered(lambda: check_log(databases, event_log, stopping), stopping)
    except BaseException:
        databases.close()
        raise
    opened = _caught_up(name, databases, event_log, stopping, progress)
    return None if opened is None else opened._replace(moved=isinstance(why, OtherOffsets))


def _caught_up(name: str, databases: Databases, event_log: EventLog, stopping: threading.Event, progress: Path) -> Opened | None:
    try:
        current_at = _catch_up(databases, event_log, stopping, progress)
    except BaseException:
        databases.close()
        raise
    if current_at is None:
        databases.close()
        return None
    return Opened(name, databases, current_at)


def _catch_up(databases: Databases, event_log: EventLog, stopping: threading.Event, progress: Path) -> float | None:
    """Fold in bulk. Returns when the reached end was read (`time.monotonic`, s); None if stopped."""
    while not stopping.is_set():
        bulk = BulkFold(event_log, databases, "catch-up")
        try:
            starts = until_answered(lambda: expirable_starts(databases, event_log), stopping)
            asked_at = time.monotonic()
            ends = until_answered(bulk.ends, stopping)
            contacts_id = until_answered(lambda: event_log.topic_id(databases.topics.contacts), stopping)
            if starts is None or ends is None or contacts_id is None:
                return None
            databases.skip_expired(starts)
            if databases.contacts is not None:
                databases.contacts.follow(ends, contacts_id)
            behind = sum(end - databases.position(tp) for tp, end in ends.items())
            on_progress: OnProgress = ignore_progress
            if behind > FAR_BEHIND_RECORDS:
                log.info("far behind the log, folding in bulk", records=behind)
                on_progress = _ProgressReport(behind, progress)
            bulk.run(ends, on_progress, stopping.is_set)
            return asked_at
        except Interrupted:
            return None
        except LogUnavailable as exc:
            log.warning("log is unreachable, resuming the fold when it is back", why=str(exc))
        finally:
            bulk.close()
            progress.unlink(missing_ok=True)
    return None


def expirable_starts(databases: Databases, event_log: EventLog) -> dict[TopicPartition, int]:
    """Offsets of the first refusals that the log still has. Raises `LogError`."""
    refusals = databases.topics.refusals
    return event_log.starts([TopicPartition(refusals, p) for p in databases.stores])


class _ProgressReport:
    """Reports the progress of a long start: in a file immediately, in the log now and then."""

    def __init__(self, behind: int, file: Path) -> None:
        self._behind, self._file, self._began, self._logged_at = behind, file, time.monotonic(), time.monotonic()

    def __call__(self, progress: FoldProgress) -> None:
        now = time.monotonic()
        write_json(self._file, {"events": progress.events, "of_about": self._behind})
        if now - self._logged_at > LOG_EVERY_S:
            self._logged_at = now
            per_s = int(progress.events / (now - self._began))
            log.info("folding in bulk", events=progress.events, of_about=self._behind, events_per_s=per_s)
