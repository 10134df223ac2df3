"""The verbs `export-log` and `import-log`: write the ledger to one file, and back to an empty cluster (`ledger.archive`)."""

from __future__ import annotations

import itertools
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

from api.cli.screens import LogProgress
from api.cli.terminal import Screen
from api.cli.writers import fence_writers
from api.processes.signals import stopper
from api.processes.wiring import KafkaDoors
from api.settings import Settings
from ledger.archive import EVENTS, REFUSALS, ArchiveReader, ArchiveWriter, Contents, Entry, Header
from ledger.clock import now_ms
from ledger.errors import ConfigError, LedgerError, LogError
from ledger.kafka.settings import KafkaSettings
from ledger.levels import LEVEL
from ledger.log import EventLog, NewRecord, Record, TopicPartition
from ledger.order import Order
from ledger.reading import committed
from ledger.rfc3339 import format_ms
from ledger.schemas.of_the_ledger import learn, unusable
from ledger.schemas.versions import EVENTS as EVENT_SCHEMAS
from ledger.schemas.versions import REFUSALS as REFUSAL_SCHEMAS
from ledger.schemas.versions import SchemaVersion, schema_id, schema_versions, versions_of
from ledger.topics import Topics
from ledger.upgrades.control import Control, schemas_in
from ledger.upgrades.membership import LedgerMoved, ProgramTooOld
from ledger.upgrades.records import View, schema_record
from ledger.walk import Head
from projections import read_models
from projections.bulk import Interrupted
from projections.databases import Databases, OpenStore
from projections.rebuild import RebuildObserver
from projections.rebuild_jobs import Doors
from projections.verify import Findings, LogWalk

BATCH = 500  # records of one transaction of an import
WALK_BATCH = 5_000
REPORT_RECORDS = 2_000
WRITER_S = 100.0  # patience with opening a transactional writer, which usually takes 0.1 s


Opener = Callable[[Path, bool], OpenStore]  # `Doors.opener`


class BrokenLog(LedgerError):
    """The log or its archive was not written by one correct writer. The message names the first fault; nothing was imported."""

    code = "broken_log"


class NotEmpty(LedgerError):
    """The ledger is not empty, which an import requires."""

    code = "not_empty"


class Checker:
    """Checks records as `verify` does, folding them into temporary databases.

    The chains must contain `heads` (by partition). With `accept_faults`, faults are only counted in `findings`.
    """

    def __init__(
        self,
        opener: Opener,
        topics: Topics,
        partitions: int,
        folder: Path,
        heads: Mapping[int, list[Head]] | None = None,
        accept_faults: bool = False,
    ) -> None:
        self.findings = Findings()
        self._topics, self._accept_faults = topics, accept_faults
        self._fold = Databases(opener(folder, True), topics, range(partitions), None)
        self._walk = LogWalk(self._fold, self.findings, heads or {})
        self._waiting: dict[TopicPartition, list[Record]] = {}

    def take(self, record: Record) -> None:
        """Add a record. Raises `BrokenLog` at the first fault, when its batch is checked."""
        tp = TopicPartition(record.topic, record.partition)
        waiting = self._waiting.setdefault(tp, [])
        waiting.append(record)
        if len(waiting) >= WALK_BATCH:
            self._check(tp)

    def _check(self, tp: TopicPartition) -> None:
        records, self._waiting[tp] = self._waiting[tp], []
        self._walk.check(tp, records)
        self._refuse()
        self._fold.write_chunk(tp, records)

    def finish(self) -> Findings:
        """Check the remaining records; returns the findings with the heads. Raises `BrokenLog`."""
        for tp in list(self._waiting):
            self._check(tp)
        self._walk.end()
        self._refuse()
        return self.findings

    def order(self, partition: int, order_id: str) -> Order | None:
        """The order as of the checked records, after `finish`."""
        raw = self._fold.stores[partition].get(read_models.order_key(order_id))
        return read_models.decode_order(raw) if raw else None

    def is_frozen(self, partition: int, order_id: str) -> bool:
        """Whether the order has a record that cannot be folded."""
        return self._fold.stores[partition].get(read_models.frozen_key(order_id)) is not None

    def _refuse(self) -> None:
        if self.findings.faults and not self._accept_faults:
            raise BrokenLog(f"event {self.findings.faults[0]}")

    def close(self) -> None:
        self._fold.close()


def run_export_log(kafka: KafkaSettings, settings: Settings, path: Path, out: Screen, err: Screen) -> int:
    """Write the ledger up to its current end to `path` and check it. Raises `BrokenLog`, `LogError`, `Interrupted`."""
    stopping, doors, topics = stopper(), KafkaDoors(kafka, settings.topics), settings.topics
    event_log = doors.open_log(stopping)
    partitions = event_log.partitions(topics.events)
    ends = event_log.ends(partitions_of_ledger(topics, partitions), timeout_s=30.0)
    header = header_of(event_log, topics, partitions)
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="export-", dir=path.parent) as folder, LogProgress(err) as bar:
        checker = Checker(doors.opener, topics, partitions, Path(folder))
        try:
            with part.open("wb") as file, tempfile.TemporaryFile(dir=folder) as scratch:
                writer = ArchiveWriter(scratch, header)
                counted = [0, 0]
                for record in committed_records(event_log, event_log.starts(ends, timeout_s=30.0), ends, bar, stopping):
                    kind = EVENTS if record.topic == topics.events else REFUSALS
                    writer.write(Entry(kind, *record[1:]))
                    counted[kind] += 1
                    checker.take(record)
                findings = checker.finish()
                writer.finish(Contents(counted[EVENTS], counted[REFUSALS], findings.heads), file)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        finally:
            checker.close()
    part.replace(path)
    size = path.stat().st_size / 1e6
    counts = f"{counted[EVENTS]:,} events and {counted[REFUSALS]:,} refusals"
    out.print(f"wrote {counts} to {path} ({size:,.1f} MB), chain checked")
    return 0


def header_of(event_log: EventLog, topics: Topics, partitions: int) -> Header:
    """The header of an archive of this log, with the schemas of every program. Raises `LogError`."""
    schemas = {s.id: s.text for s in (*versions_of(EVENT_SCHEMAS), *versions_of(REFUSAL_SCHEMAS))}
    later = schemas_in(event_log, topics).items()
    schemas |= {identity: s.text for identity, s in later if s.topic in (EVENT_SCHEMAS, REFUSAL_SCHEMAS)}
    topic_id = event_log.topic_id(topics.events)
    return Header(format_ms(now_ms()), partitions, (topics.events, topics.refusals), topic_id, schemas)


def partitions_of_ledger(topics: Topics, partitions: int) -> list[TopicPartition]:
    """All partitions of events and refusals."""
    return [TopicPartition(topic, p) for topic in (topics.events, topics.refusals) for p in range(partitions)]


def committed_records(
    event_log: EventLog,
    starts: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int],
    bar: RebuildObserver,
    stopping: threading.Event,
) -> Iterator[Record]:
    """Committed records from `starts` to before `ends`, with headers, in the order of each partition.

    Raises `Interrupted`, `LogError`.
    """
    bar.started(sum(max(0, ends[tp] - start) for tp, start in starts.items()), 0)
    reader = event_log.reader("export", eof=True, headers=True)
    at, events, size = dict(starts), 0, 0

    def report() -> None:
        bar.moved(sum(min(at[tp], ends[tp]) - starts[tp] for tp in ends), events, size)

    try:
        for record in committed(reader, starts, ends, stopping):
            yield record
            at[TopicPartition(record.topic, record.partition)] = record.offset + 1
            events, size = events + 1, size + len(record.value or b"")
            if events % REPORT_RECORDS == 0:
                report()
    finally:
        reader.close()
    report()
    if stopping.is_set():
        raise Interrupted("stopped before the end")


def run_import_log(kafka: KafkaSettings, settings: Settings, path: Path, check_only: bool, out: Screen, err: Screen) -> int:
    """Check the archive at `path` from end to end, then write it into the empty ledger of the settings.

    Raises `ArchiveError`, `BrokenLog`, `NotEmpty`, `ConfigError`, `Interrupted`, all before anything is written; `LogError`: if
    the log fails halfway, the topics must be deleted before the next attempt.
    """
    stopping, doors, topics = stopper(), KafkaDoors(kafka, settings.topics), settings.topics
    with LogProgress(err) as bar:
        header, findings, refusals = check_archive(path, doors, bar, stopping)
        counts = f"{findings.events:,} events and {refusals:,} refusals"
        if check_only:
            out.print(f"{path} is complete: {counts}, chain checked")
            return 0
        event_log = doors.open_log(stopping)
        event_log.ensure_topics(topics.specs(header.partitions, settings.writers))
        names = [topics.events, topics.refusals, topics.commands]
        refuse_filled(event_log, topics, settings.ledger_id, header.partitions, names)
        with closing(Control(event_log, topics)) as control:  # before the records that are written with them
            control.write(schema_record(schema) for schema in later_schemas(header))
        bar.phase("writing")
        with path.open("rb") as file:
            entries = ArchiveReader(file).entries()
            write_entries(
                event_log, topics, entries, settings.ledger_id, lambda: bar.moved(file.tell(), 0, file.tell()), stopping
            )
    out.print(f"wrote {counts} to {topics.events} and {topics.refusals}")
    return 0


def check_archive(path: Path, doors: Doors, bar: RebuildObserver, stopping: threading.Event) -> tuple[Header, Findings, int]:
    """(header, findings, number of refusals) of a correct archive. Raises `ArchiveError`, `BrokenLog`, `Interrupted`."""
    names = Topics()
    with path.open("rb") as file, tempfile.TemporaryDirectory(prefix="import-", dir=path.parent) as folder:
        reader = ArchiveReader(file)
        for schema in later_schemas(reader.header):
            learn(schema)
        bar.started(path.stat().st_size, 0)
        checker = Checker(doors.opener, names, reader.header.partitions, Path(folder))
        refusals = 0
        try:
            for number, entry in enumerate(reader.entries()):
                if number % REPORT_RECORDS == 0:
                    if stopping.is_set():
                        raise Interrupted("stopped; nothing was written")
                    bar.moved(file.tell(), number, file.tell())
                if not 0 <= entry.partition < reader.header.partitions:
                    raise BrokenLog(f"event {entry.partition}-{entry.offset} is in a partition beyond those of the header")
                refusals += entry.kind == REFUSALS
                checker.take(record_of(entry, names))
            findings = checker.finish()
        finally:
            checker.close()
        heads = reader.contents.heads
        if heads != findings.heads:
            p = next(p for p in findings.heads if heads.get(p) != findings.heads[p])
            raise BrokenLog(
                f"event {p}-{findings.heads[p].offset}: the chain of partition {p} does not end with the head in the header"
            )
        return reader.header, findings, refusals


def later_schemas(header: Header) -> list[SchemaVersion]:
    """The usable schemas of later programs in an archive, which does not say their version."""
    own = {schema.id for schema in schema_versions()}
    candidates = [
        SchemaVersion(topic, len(versions_of(topic)) + 1, text)
        for identity, text in header.schemas.items()
        for topic in (EVENT_SCHEMAS, REFUSAL_SCHEMAS)
        if identity not in own and schema_id(text) == identity
    ]
    return [schema for schema in candidates if unusable(schema) is None]


def record_of(entry: Entry, topics: Topics) -> Record:
    """An archived record as a reader of the log returns it."""
    topic = topics.events if entry.kind == EVENTS else topics.refusals
    return Record(topic, entry.partition, entry.offset, entry.timestamp_ms, entry.key, entry.value, entry.headers)


def _new_record(entry: Entry, topics: Topics) -> NewRecord:
    topic = topics.events if entry.kind == EVENTS else topics.refusals
    return NewRecord(topic, entry.partition, entry.key, entry.value, entry.timestamp_ms, entry.headers)


def refuse_filled(event_log: EventLog, topics: Topics, ledger_id: str, partitions: int, names: Iterable[str]) -> None:
    """Raises `NotEmpty` if one of the topics `names` has a record, or the ledger another number of partitions or was closed;
    `ProgramTooOld` if it is at a later level than this program; `ConfigError` while a node runs on it. Then fences all writers:
    one that was ready on the empty topics must fold before it decides.
    """
    existing = event_log.partitions(topics.events)
    if existing != partitions:
        raise NotEmpty(f"{topics.events} has {existing} partitions, the archive {partitions}: orders would change partition")
    tps = [TopicPartition(name, p) for name in names for p in range(partitions)]
    for tp, end in event_log.ends(tps, "read_uncommitted").items():
        if end:
            raise NotEmpty(f"{tp.topic}/{tp.partition} is not empty: import only into a new ledger")
    with closing(Control(event_log, topics)) as control:
        view = control.read_now(View())
    refuse_closed(view, topics)
    if running := view.names_of_live():
        raise ConfigError(f"nodes run on these topics already: stop {running}, and repeat this")
    fence_writers(event_log, ledger_id, partitions)


def refuse_closed(view: View, topics: Topics) -> None:
    """Raises `NotEmpty`, `ProgramTooOld` if no program, or not this one, could start on what would be written to `topics`."""
    if view.moved is not None:
        advice = f"delete {topics.control}, too, or choose another prefix"
        raise NotEmpty(f"{topics.control} is not empty: {LedgerMoved(view.moved)}; {advice}")
    if view.level > LEVEL:
        raise ProgramTooOld(
            f"{topics.control} has feature level {view.level}, which this program does not read: take version {view.raised_by} "
            f"or later, or delete {topics.control}, too"
        )


def write_entries(
    event_log: EventLog,
    topics: Topics,
    entries: Iterator[Entry],
    app_id: str,
    moved: Callable[[], object],
    stopping: threading.Event,
) -> None:
    """Commit all records of an archive; `moved` after each transaction. Raises `LogError`, also if stopped halfway."""
    # The transactional id of writer 0: a `commands` process that starts now fences this import instead of interleaving with it.
    writer = event_log.writer(f"{app_id}-0")
    try:
        writer.start(WRITER_S)
        while batch := list(itertools.islice(entries, BATCH)):
            if stopping.is_set():
                raise LogError("stopped halfway: delete the topics before the next attempt")
            writer.transact([_new_record(entry, topics) for entry in batch])
            moved()
    finally:
        writer.close()
