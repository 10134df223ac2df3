"""Every position that this node keeps, and what the log has there: for `inspect`, `adopt-log` and `accept-gap`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from commands.notifier.resuming import mark_of
from commands.processor.desk import VERSION, Desk, Meta
from commands.processor.desk_rows import is_of_other_version
from commands.processor.fold_check import marks_of
from commands.processor.gaps import check_gap
from ledger.contact_rows import CONTACTS_STORE, log_id_in
from ledger.errors import Gap, LogError, LogUnavailable, StoreError
from ledger.last_record import last_before
from ledger.log import EventLog, TopicPartition
from ledger.log_identity import Judged, Verdict, judge, topic_ids, verdict_of, worst
from ledger.progress import claimed, read_claims
from ledger.store import Store
from ledger.topics import Topics
from projections.databases import Databases, OtherReadModels, store_name
from projections.generations import Generations
from projections.origin import compare

Opener = Callable[[Path], Callable[[str], Store]]
"""Returns a function that opens stores in a folder by name."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Something that keeps positions. `verdict` None: not compared, `why` says why not. `in_use`: a process has it open.

    `folder`: of a generation of read models.
    """

    name: str
    verdict: Verdict | None
    why: str
    judged: Mapping[TopicPartition, Judged]
    in_use: bool = False
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class MissingCommands:
    """Commands from `first` to `last` of a partition were deleted before they were decided."""

    writer: int
    partition: int
    first: int
    last: int


class Node:
    """The state of one node beside a log. Opens a store only if it exists; a running process has its stores open."""

    def __init__(self, event_log: EventLog, topics: Topics, generations: Generations, state_dir: Path, opener: Opener) -> None:
        """Raises `LogError`."""
        self.event_log, self._topics, self._generations = event_log, topics, generations
        self._commands_dir, self._opener = state_dir / "commands", opener
        self.partitions, self.writers = event_log.partitions(topics.events), event_log.partitions(topics.writers)
        self.ids = topic_ids(event_log, (topics.commands, topics.events, topics.refusals, topics.contacts))

    def partition_of(self, order_id: str) -> int:
        """The partition of an order."""
        return self.event_log.partition_for(order_id.encode(), self.partitions)

    # ---- what is kept

    def holders(self, notifier_group: str) -> list[Holder]:
        """Compare everything. Raises `LogError`."""
        folders = list(self._folders())
        kept_here = [self._generation(name, path) for name, path in folders]
        kept_here += [self._writer(w) for w in self.writers_here()]
        kept_here += [self._contacts(f"contacts of {path.name}", path, "serve") for _, path in folders if _has_contacts(path)]
        if _has_contacts(self._commands_dir):
            kept_here.append(self._contacts("contacts of the notifier", self._commands_dir, "commands"))
        return [*kept_here, self._notifier(notifier_group)]

    def _folders(self) -> Iterator[tuple[str, Path]]:
        current, kept, building = self._generations.current(), self._generations.kept(), self._generations.building()
        for name, label in ((current, "read models"), (kept, "read models kept for --back")):
            if name is not None and (self._generations.folder(name) / store_name(0)).is_dir():
                yield f"{label} {name}", self._generations.folder(name)
        if building is not None and (building / store_name(0)).is_dir():
            yield f"unfinished rebuild {building.name}", building

    def _generation(self, name: str, folder: Path) -> Holder:
        count = sum((folder / store_name(p)).is_dir() for p in range(self.partitions))
        try:
            databases = Databases(self._opener(folder), self._topics, range(count), None)
        except OtherReadModels as exc:
            return Holder(name, None, str(exc), {})
        except StoreError:
            return _in_use(name, "serve")
        try:
            judged, verdict = compare(databases, self.event_log, self.ids)
        finally:
            databases.close()
        return Holder(name, verdict, "", judged, folder=folder)

    def writers_here(self) -> list[int]:
        """Writers with a store on this node."""
        return [w for w in range(self.writers) if (self._commands_dir / f"writer-{w}").is_dir()]

    def desks(self, writer: int, store: Store) -> list[Desk]:
        """The desks of a writer, as they are in its store; none for rows of another version, which a desk would delete."""
        parts = range(writer, self.partitions, self.writers)
        owned = [p for p in parts if not is_of_other_version(store, p, VERSION)]
        return [Desk(store, p, self.partitions, self._topics, self.ids[self._topics.commands]) for p in owned]

    def judged(self, desk: Desk) -> dict[TopicPartition, Judged]:
        """Compare one desk, after `holders` has waited for the ends of the log. Raises `LogError`."""
        return judge(self.event_log, marks_of(desk, self._topics), self.ids, self._topics, patience_s=0.0)

    def open_writer(self, writer: int) -> Store:
        """Raises `StoreError` if `commands` has it open."""
        return self._opener(self._commands_dir)(f"writer-{writer}")

    def _writer(self, writer: int) -> Holder:
        name = f"orders of writer-{writer}"
        try:
            store = self.open_writer(writer)
        except StoreError:
            return _in_use(name, "commands")
        try:
            desks = self.desks(writer, store)
            if not desks:
                return Holder(name, None, "of another version: `commands` folds them again", {})
            marks = {tp: mark for desk in desks for tp, mark in marks_of(desk, self._topics).items()}
        finally:
            store.close()
        judged = judge(self.event_log, marks, self.ids, self._topics)
        by_partition: dict[int, dict[TopicPartition, Judged]] = {}
        for tp, one in judged.items():
            by_partition.setdefault(tp.partition, {})[tp] = one
        # As in `commands`, where each partition is followed, folded again or refused by itself.
        verdict = worst([verdict_of(own, self._topics) for own in by_partition.values()])
        return Holder(name, verdict, "", judged)

    def _contacts(self, name: str, folder: Path, process: str) -> Holder:
        try:
            store = self._opener(folder)(CONTACTS_STORE)
        except StoreError:
            return _in_use(name, process)
        try:
            known = log_id_in(store)
        finally:
            store.close()
        if known in (b"", self.ids[self._topics.contacts]):
            return Holder(name, "same", "", {})
        return Holder(name, "moved", "they are read again by themselves", {})

    def _notifier(self, group: str) -> Holder:
        name, tps = "messages sent", [TopicPartition(self._topics.events, p) for p in range(self.partitions)]
        bookmark = self.event_log.bookmark(group)
        try:
            places, notes = bookmark.read(tps), bookmark.notes(tps)
        except LogUnavailable:
            raise
        except LogError as exc:  # only the principal of `commands` may read them
            return Holder(name, None, str(exc), {})
        finally:
            bookmark.close()
        marks = {tp: mark_of(at, notes[tp]) for tp, at in places.items() if at is not None}
        strange = {tp: mark for tp, mark in marks.items() if mark.log_id not in (b"", self.ids[tp.topic])}
        judged = judge(self.event_log, strange, self.ids, self._topics)
        if not judged:
            return Holder(name, "same", "", {})
        why = (
            "resumes behind the last announced event"
            if all(one.at for one in judged.values())
            else "resumes at the end of the log"
        )
        return Holder(name, "moved", why, judged)

    # ---- what is missing

    def missing_commands(self) -> list[MissingCommands]:
        """Commands without an outcome that the log no longer has, in the partitions that are not `unfolded`.

        Raises `LogError`, `StoreError` if `commands` is running.
        """
        claims = read_claims(self.event_log, self._topics, self.ids[self._topics.commands])
        missing = []
        for writer in self.writers_here():
            for partition, meta in self._folded(writer).items():
                tp = TopicPartition(self._topics.commands, partition)
                start = self.event_log.starts([tp])[tp]
                dealt = max(meta.dealt, claimed(claims, partition, meta.events))
                if start > dealt:
                    try:
                        check_gap(self.event_log, self._topics, replace(meta, dealt=dealt), tp, start)
                    except Gap:
                        missing.append(MissingCommands(writer, partition, dealt, start - 1))
        return missing

    def unfolded(self) -> list[int]:
        """Partitions of which this node does not know what is decided: not folded to the end of the log, or by another version.

        Those of writers that it does not follow, for example. Raises `LogError`, `StoreError` if `commands` is running.
        """
        unfolded: list[int] = []
        for writer in self.writers_here():
            folded = self._folded(writer)
            unfolded += [p for p in range(writer, self.partitions, self.writers) if p not in folded]
        return sorted(unfolded)

    def _folded(self, writer: int) -> dict[int, Meta]:
        """By partition of the writer that is folded to the end of the log: its meta, with that end as the position of events.

        The last marker is not a record, so a fold that only followed may be before it. A claim may name the position behind it.
        """
        store = self.open_writer(writer)
        try:
            metas = {desk.partition: desk.meta for desk in self.desks(writer, store)}
        finally:
            store.close()
        events = {TopicPartition(self._topics.events, p): meta.events for p, meta in metas.items()}
        at = events | {TopicPartition(self._topics.refusals, p): meta.refusals for p, meta in metas.items()}
        ends = self.event_log.ends(at)
        short = {tp: end for tp, end in ends.items() if at[tp] < end}
        last = last_before(self.event_log, short) if short else {}
        other = {tp.partition for tp, record in last.items() if record.offset >= at[tp]}
        other |= {tp.partition for tp, end in ends.items() if at[tp] > end}  # a hanging transaction, or another log
        return {tp.partition: replace(metas[tp.partition], events=ends[tp]) for tp in events if tp.partition not in other}


def _has_contacts(folder: Path) -> bool:
    return (folder / CONTACTS_STORE).is_dir()


def _in_use(name: str, process: str) -> Holder:
    return Holder(name, None, f"in use: `{process}` is running, and compares by itself", {}, True)
