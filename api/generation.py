"""Opening the generation that this node reads, and bringing it near to the log's end before the agent takes over."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import structlog

from api.running import FOLDING_FILE
from api.wiring import store_opener
from ledger.config import Settings
from ledger.errors import LogUnavailable
from ledger.log import EventLog, TopicPartition
from ledger.rocks_store import remove_store
from ledger.topics import Topics
from projections.bulk import BulkFold, Interrupted, Progress
from projections.databases import Databases, OtherReadModels
from projections.generations import Generations, write_json

log = structlog.get_logger(__name__)

FAR_BEHIND_RECORDS = 20_000  # the agent needs about a second for as many
TOLD_S = 5.0


def projections_of(settings: Settings) -> Generations:
    """The generations of `serve`'s databases on this node."""
    return Generations(settings.state_dir / "projections", remove_store)


def open_generation(generations: Generations, name: str, topics: Topics, partitions: int) -> Databases:
    """Open every database of a generation. Raises `OtherReadModels`, `StoreError`."""
    return Databases(store_opener(generations.folder(name)), topics, range(partitions), partitions)


def open_caught_up(
    generations: Generations, settings: Settings, event_log: EventLog, partitions: int, stopping: threading.Event
) -> tuple[str, Databases] | None:
    """The generation to read, open, and no further behind the log than the agent makes good at once.

    Databases of other read models are left to lie and made anew from the log, in a generation of their own: a node must start
    after an update, whether or not somebody ran `rebuild` first. None when told to stop meanwhile.
    """
    name = generations.first()
    try:
        databases = open_generation(generations, name, settings.topics, partitions)
    except OtherReadModels as exc:
        log.warning("making new read models from the log", why=str(exc))
        name = generations.begin_anew()
        generations.point(name, None)  # at once: should this process be killed, its next start goes on here
        databases = open_generation(generations, name, settings.topics, partitions)
    try:
        caught_up = _catch_up(databases, event_log, stopping, generations.root / FOLDING_FILE)
    except BaseException:
        databases.close()
        raise
    if not caught_up:
        databases.close()
        return None
    return name, databases


def _catch_up(databases: Databases, event_log: EventLog, stopping: threading.Event, told: Path) -> bool:
    """Fold in bulk while the log's end is far; False when told to stop. A log that does not answer is waited for elsewhere."""
    while not stopping.is_set():
        try:
            _skip_expired(databases, event_log)
            bulk = BulkFold(event_log, databases, "catch-up")
            try:
                ends = bulk.ends()
                if databases.contacts is not None:
                    databases.contacts.follow(ends)
                behind = sum(end - databases.position(tp) for tp, end in ends.items())
                if behind > FAR_BEHIND_RECORDS:
                    log.info("far behind the log, folding in bulk", records=behind)
                    bulk.run(ends, _Teller(behind, told), stopping.is_set)
                return True
            finally:
                bulk.close()
                told.unlink(missing_ok=True)
        except Interrupted:
            return False
        except LogUnavailable as exc:
            log.warning("waiting for Kafka", why=str(exc))
            stopping.wait(0.5)
    return False


def _skip_expired(databases: Databases, event_log: EventLog) -> None:
    refusals = databases.topics.refusals
    databases.skip_expired(event_log.starts([TopicPartition(refusals, p) for p in databases.stores]))


class _Teller:
    """Says how far a long start is: in a file at once, in the log now and then."""

    def __init__(self, behind: int, file: Path) -> None:
        self._behind, self._file, self._began, self._told_at = behind, file, time.monotonic(), time.monotonic()

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        write_json(self._file, {"events": progress.events, "of_about": self._behind})
        if now - self._told_at > TOLD_S:
            self._told_at = now
            per_s = int(progress.events / (now - self._began))
            log.info("folding in bulk", events=progress.events, of_about=self._behind, events_per_s=per_s)
