"""The verb `copy-log`: the ledger with more partitions, under another prefix of the same cluster. The old one is closed.

1  refuse while a node of either ledger runs, or a command is not decided, or a message is not sent
2  fence the writers of the old topics, and wait until no transaction is open: what they contain now is final
3  copy schemas and level, events and refusals, contacts
4  prove it: the new log is one of a correct writer, and its events say the same as the old ones
5  refuse if anything was written to the old ledger meanwhile; then close it: every program refuses it from then on, with the
   name of the new one
"""

from __future__ import annotations

import re
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from api.cli.acts import ActOptions, Acts, Ask, confirmed
from api.cli.archive import BATCH, WRITER_S, Checker, NotEmpty, committed_records, refuse_closed
from api.cli.screens import LogProgress
from api.cli.terminal import Terminal, write_json
from api.cli.writers import fence_writers, wait_until_unheld
from api.processes.patient_log import patient
from api.processes.signals import stopper
from api.processes.wiring import KafkaDoors, open_log
from api.settings import Settings, program_version
from commands.notifier.resuming import note_of, notifier_group
from ledger.audit import DONE, LOG_COPY
from ledger.errors import ConfigError, DecodeError, LedgerError, LogError
from ledger.kafka.settings import KafkaSettings
from ledger.last_record import last_before
from ledger.levels import LEVEL
from ledger.log import Acked, EventLog, NewRecord, Record, TopicPartition
from ledger.progress import claimed, read_claims
from ledger.repartitioning import Content, Repartitioning
from ledger.schemas.codec import event_codec, refusal_codec
from ledger.topics import Topics
from ledger.upgrades.control import Control
from ledger.upgrades.membership import USE_AFTER_S, LedgerMoved, ProgramTooOld
from ledger.upgrades.records import LEVEL_KEY, Moved, View, announcement, moved_records, schema_record
from projections.rebuild import RebuildObserver
from projections.rebuild_jobs import Doors

ENDS_S = 30.0
OPEN_S, PAUSE_S = 60.0, 0.5  # until an aborted transaction has its markers
PREFIX = re.compile(r"[A-Za-z0-9._-]{1,64}")  # that of TOPIC_PREFIX, and not empty


log = structlog.get_logger(__name__)


class NotTheSame(LedgerError):
    """What was read back from the new topics is not what was copied. The old ledger is as it was; delete the new topics."""

    code = "not_the_same"


class LateRecords(LedgerError):
    """The ledger is copied and closed, but a node wrote to it just before. The message says where."""

    code = "late_records"


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOptions(ActOptions):
    """`prefix` and `partitions` of the new ledger."""

    prefix: str
    partitions: int


@dataclass(slots=True)
class Copied:
    """Numbers of records, and the digest of what the events say (`repartitioning.Content`)."""

    events: int = 0
    refusals: int = 0
    contacts: int = 0
    digest: str = ""
    decided: dict[int, int] = field(default_factory=dict)  # old partition -> one past its last decided command


def run_copy_log(kafka: KafkaSettings, settings: Settings, options: CopyOptions, terminal: Terminal, ask: Ask) -> int:
    """Returns 2 if not confirmed; then nothing is done.

    Raises `ConfigError` for a wrong number or prefix, while a node runs, and while commands are not decided; `NotEmpty`,
    `NotTheSame`, `BrokenLog`, `NotDurable`, `Interrupted`, `LogError`: the old ledger is then as it was. `LateRecords`.
    """
    if options.prefix == settings.topic_prefix or not PREFIX.fullmatch(options.prefix):
        raise ConfigError("the copy needs another prefix for its topics: letters, digits, dots, - and _")
    target = settings.model_copy(update={"topic_prefix": options.prefix, "partitions": options.partitions})
    event_log = patient(open_log(kafka, settings.topics))
    copying = Copying(event_log, settings, target, KafkaDoors(kafka, target.topics), stopper())
    copying.refuse_running()
    if not terminal.as_json:
        terminal.out.print(
            f"{copying.partitions} partitions become {options.partitions}, in topics that begin with {options.prefix}. This "
            "ledger is closed when the copy is proven: no program writes to it any more."
        )
    if not confirmed(options, terminal, ask):
        return 2
    wait_until_unheld(event_log, settings.topics, settings.ledger_id, terminal.err.print)
    acts = Acts(event_log, settings, LOG_COPY, options.why)
    acts.request(count=options.partitions)
    with LogProgress(terminal.err) as bar:
        copied = copying.run(bar)
    acts.record(DONE, count=copied.events)
    if terminal.as_json:
        shown = {"events": copied.events, "refusals": copied.refusals, "contacts": copied.contacts, "content": copied.digest}
        write_json({"ok": True, "prefix": options.prefix, "partitions": options.partitions, **shown})
    else:
        counts = f"{copied.events:,} events, {copied.refusals:,} refusals and {copied.contacts:,} records of contacts"
        terminal.out.print(f"Copied and proven: {counts}. Content {copied.digest}.", style="green")
        terminal.out.print(
            f"Set TOPIC_PREFIX={options.prefix} and PARTITIONS={options.partitions} for every process, with a new STATE_DIR."
        )
    return 0


class Copying:
    """From the ledger of `source` to that of `target`, in one `event_log`. `doors` open the temporary stores of the proof."""

    def __init__(self, event_log: EventLog, source: Settings, target: Settings, doors: Doors, stopping: threading.Event) -> None:
        """Raises `ConfigError`, also if the number of partitions is not a multiple; `LogError`."""
        self._log, self._source, self._target, self._doors, self._stopping = event_log, source, target, doors, stopping
        self._old, self._new = source.topics, target.topics
        self.partitions = event_log.partitions(self._old.events)
        try:
            self._making = Repartitioning(self.partitions, target.partitions, self._new)
        except ValueError as exc:
            raise ConfigError(str(exc)) from None
        self._copied = Copied()

    def refuse_running(self) -> None:
        """Raises `ConfigError` while a node of the ledger runs, `LedgerMoved` if it is closed."""
        with closing(Control(self._log, self._old)) as control:
            view = control.read_now(View())
        if view.moved is not None:
            raise LedgerMoved(view.moved)
        if view.level > LEVEL:
            raise ProgramTooOld(f"this ledger uses feature level {view.level}: copy it with version {view.raised_by} or later")
        if names := view.names_of_live():
            raise ConfigError(f"stop every node first: {names} (one that was killed is forgotten after five minutes)")

    def run(self, bar: RebuildObserver) -> Copied:
        """Everything from the fencing on. Raises as `run_copy_log` says."""
        fence_writers(self._log, self._source.ledger_id, self.partitions)
        ends = self._ends()
        self._prepare()
        self._copy_control()
        self._copy_records({tp: end for tp, end in ends.items() if tp.topic in (self._old.events, self._old.refusals)}, bar)
        self._refuse_undecided(ends)
        bookmark = self._announced(ends)
        self._copy_contacts({tp: end for tp, end in ends.items() if tp.topic == self._old.contacts}, bar)
        self._prove(bar)
        self._refuse_new_nodes()
        fence_writers(self._log, self._target.ledger_id, self._target.partitions)
        if bookmark:
            self._announce_from_here()
        self.refuse_running()
        self._refuse_changed(ends)
        self._close()
        self._confirm_closed(ends)
        return self._copied

    def _ends(self) -> dict[TopicPartition, int]:
        """Of all that is copied, and of the commands. Raises `ConfigError` while a transaction is open."""
        tps = _all(self._old, self.partitions)
        deadline = time.monotonic() + OPEN_S
        while True:
            ends, written = self._log.ends(tps, timeout_s=ENDS_S), self._log.ends(tps, "read_uncommitted", ENDS_S)
            if not (held := [tp for tp in tps if ends[tp] < written[tp]]):
                return ends
            if time.monotonic() > deadline or self._stopping.wait(PAUSE_S):
                places = ", ".join(f"{tp.topic}/{tp.partition}" for tp in held)
                raise ConfigError(f"open transactions hold back {places}: see `order-ledger transactions`, then repeat this")

    def _refuse_changed(self, before: Mapping[TopicPartition, int]) -> None:
        if places := self._changed(before):
            raise NotTheSame(
                f"records were written to the old ledger during the copy: {places}; stop every node, and repeat this"
            )

    def _changed(self, before: Mapping[TopicPartition, int]) -> str:
        now = self._log.ends(before, "read_uncommitted", ENDS_S)
        return ", ".join(f"{tp.topic}/{tp.partition}" for tp in before if now[tp] != before[tp])

    def _confirm_closed(self, before: Mapping[TopicPartition, int]) -> None:
        """A node that started in the last second sees the end of the ledger, and leaves; what it wrote until then is named."""
        deadline = time.monotonic() + USE_AFTER_S
        while Control(self._log, self._old).read(View()).live() and time.monotonic() < deadline:
            self._stopping.wait(PAUSE_S)
        if places := self._changed(before):
            raise LateRecords(
                f"the copy is complete up to its beginning, and the old ledger is closed, but a node wrote to it in the last "
                f"seconds: {places}. These records are not in the copy: `order-ledger tail --from P-N --no-follow` shows those "
                "of order-events; whoever sent the others repeats them to the new ledger"
            )

    def _refuse_new_nodes(self) -> None:
        with closing(Control(self._log, self._new)) as control:
            view = control.read_now(View())
        refuse_closed(view, self._new)
        if names := view.names_of_live():
            raise ConfigError(f"nodes run on the new topics: {names}. Stop them, delete those topics, and repeat this")

    def _prepare(self) -> None:
        count = self._target.partitions
        self._log.ensure_topics(self._new.specs(count, self._target.writers))
        self._refuse_new_nodes()
        fence_writers(self._log, self._target.ledger_id, count)  # who was ready there folds before it decides
        for tp, end in self._log.ends(_all(self._new, count), "read_uncommitted", ENDS_S).items():
            if end:
                raise NotEmpty(f"{tp.topic}/{tp.partition} is not empty: delete the topics of that prefix, or choose another one")

    def _copy_control(self) -> None:
        """Schemas before the records that are written with them. Nodes and progress belong to the old topics."""
        with closing(Control(self._log, self._old)) as old, closing(Control(self._log, self._new)) as new:
            view, there = old.read(View()), new.read(View())
            records = [schema_record(schema) for schema in view.schemas.values()]
            if view.level >= there.level:  # compaction keeps the last one, so a lower one would replace it
                records.append((LEVEL_KEY, announcement(view.level, view.raised_by or program_version())))
            new.write(records)

    # ---- events and refusals

    def _copy_records(self, ends: Mapping[TopicPartition, int], bar: RebuildObserver) -> None:
        command_log = self._log.topic_id(self._old.commands)
        # The transactional id of writer 0: a `commands` that starts there fences this copy instead of interleaving with it.
        writer = self._log.writer(f"{self._target.ledger_id}-0")
        batch: list[NewRecord] = []
        try:
            writer.start(WRITER_S)
            for record in committed_records(self._log, self._log.starts(ends, timeout_s=ENDS_S), ends, bar, self._stopping):
                if record.topic == self._old.events:
                    batch.append(self._event(record, command_log))
                    self._copied.events += 1
                else:
                    self._refused(record, command_log)
                    batch.append(self._making.refusal(record))
                    self._copied.refusals += 1
                if len(batch) == BATCH:
                    writer.transact(batch)
                    batch = []
            if batch:
                writer.transact(batch)
        finally:
            writer.close()

    def _event(self, record: Record, command_log: bytes) -> NewRecord:
        try:
            event = event_codec().decode(record.value)
            copied = self._making.event(record)
        except DecodeError as exc:
            raise ConfigError(f"the event {record.partition}-{record.offset} cannot be read: {exc}") from None
        if event.command_log == command_log:
            self._decided(record.partition, event.command_offset)
        return copied

    def _refused(self, record: Record, command_log: bytes) -> None:
        try:
            refusal = refusal_codec().decode(record.value)
        except DecodeError as exc:  # it is copied as it is, and nobody reads it there either
            log.warning("a refusal cannot be read", partition=record.partition, offset=record.offset, why=str(exc))
            return
        if refusal.command_log == command_log:
            self._decided(record.partition, refusal.command_offset)

    def _decided(self, partition: int, offset: int) -> None:
        self._copied.decided[partition] = max(self._copied.decided.get(partition, 0), offset + 1)

    def _refuse_undecided(self, ends: Mapping[TopicPartition, int]) -> None:
        """Raises `ConfigError` for commands that may be accepted and would be lost."""
        tps = [TopicPartition(self._old.commands, p) for p in range(self.partitions)]
        noted = self._log.progress(self._source.ledger_id, tps)
        claims = read_claims(self._log, self._old, self._log.topic_id(self._old.commands))
        left: dict[int, int] = {}
        for tp in tps:
            p = tp.partition
            done = max(self._copied.decided.get(p, 0), noted[tp], claimed(claims, p, ends[TopicPartition(self._old.events, p)]))
            if done < ends[tp]:
                left[p] = ends[tp] - done
        if left:
            places = ", ".join(f"{count} in partition {p}" for p, count in left.items())
            raise ConfigError(
                f"commands are not decided, or nothing says that they are: {places}. Start `commands`, wait until `doctor` says "
                "that all are decided, stop it, delete the new topics, and repeat this"
            )

    # ---- messages

    def _announced(self, ends: Mapping[TopicPartition, int]) -> bool:
        """Whether messages are sent from this ledger. Raises `ConfigError` while one waits: it would never be sent."""
        tps = [TopicPartition(self._old.events, p) for p in range(self.partitions)]
        with closing(self._log.bookmark(notifier_group(self._source.ledger_id))) as bookmark:
            places = {tp: at for tp, at in bookmark.read(tps).items() if at is not None}
        last = last_before(self._log, {tp: ends[tp] for tp in places})
        if waiting := sorted(tp.partition for tp, record in last.items() if record.offset >= places[tp]):
            raise ConfigError(
                f"messages about events of partitions {waiting} are not sent: start `commands` until they are (its metric "
                "ledger_commands_messages_waiting is 0), stop it, delete the new topics, and repeat this"
            )
        return bool(places)

    def _announce_from_here(self) -> None:
        """The first `commands` of the new ledger announces whatever is decided there, also before it has read all contacts."""
        tps = [TopicPartition(self._new.events, p) for p in range(self._target.partitions)]
        ends, log_id = self._log.ends(tps, timeout_s=ENDS_S), self._log.topic_id(self._new.events)
        with closing(self._log.bookmark(notifier_group(self._target.ledger_id))) as bookmark:
            bookmark.write(ends, dict.fromkeys(ends, note_of(log_id, b"")))

    # ---- contacts

    def _copy_contacts(self, ends: Mapping[TopicPartition, int], bar: RebuildObserver) -> None:
        bar.phase("copying contacts")
        errors: list[LogError] = []

        def answered(_acked: Acked | None, error: LogError | None) -> None:
            if error is not None:
                errors.append(error)

        with closing(self._log.sender("copy")) as sender:
            for record in committed_records(self._log, self._log.starts(ends, timeout_s=ENDS_S), ends, bar, self._stopping):
                if (copied := self._making.contact(record)) is not None:
                    sender.send(copied, answered)
                    self._copied.contacts += 1
                    if self._copied.contacts % BATCH == 0:
                        _flush(sender.flush(WRITER_S), errors)
            _flush(sender.flush(WRITER_S), errors)

    # ---- the proof

    def _prove(self, bar: RebuildObserver) -> None:
        count, content, decode = self._target.partitions, Content(), event_codec().decode
        tps = [TopicPartition(topic, p) for topic in (self._new.events, self._new.refusals) for p in range(count)]
        ends = self._log.ends(tps, timeout_s=ENDS_S)
        with (
            tempfile.TemporaryDirectory(prefix="copy-") as folder,
            closing(Checker(self._doors.opener, self._new, count, Path(folder))) as checker,
        ):
            bar.phase("proving")
            for record in committed_records(self._log, self._log.starts(tps, timeout_s=ENDS_S), ends, bar, self._stopping):
                checker.take(record)
                if record.topic == self._new.events:
                    content.add(decode(record.value))
            checker.finish()
        written = self._making.content
        if (content.events, content.digest) != (written.events, written.digest):
            raise NotTheSame(
                f"copied {written.events} events with content {written.digest}, read {content.events} with {content.digest}"
            )
        self._copied.digest = content.digest

    def _close(self) -> None:
        with closing(Control(self._log, self._old)) as control:
            control.write(moved_records(Moved(self._new.prefix, self._target.partitions), program_version()))


def _topics(topics: Topics) -> tuple[str, ...]:
    return topics.events, topics.refusals, topics.contacts


def _all(topics: Topics, partitions: int) -> list[TopicPartition]:
    return [TopicPartition(topic, p) for topic in (*_topics(topics), topics.commands) for p in range(partitions)]


def _flush(unanswered: int, errors: list[LogError]) -> None:
    if errors:
        raise errors[0]
    if unanswered:
        raise LogError(f"{unanswered} records of contacts are not known to be durable: delete the new topics, and repeat this")
