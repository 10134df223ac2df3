"""The command processor: the only writer of `order-events` (ARCHITECTURE, Deciding).

A writer owns the partitions p with p mod W == its number: one thread, one transactional id, one transaction per batch across
all of them. The position is part of the records (`command_offset`, `batch_first`), so the log alone shows the progress;
the store is a cache of the fold. To take a writer is to fence the predecessor, fold its partitions to the end, and continue. The
same steps recover from every error:

    1  new transactional writer: fences the predecessor, ends its open transaction
    2  fold events and refusals of its partitions up to their current end; that end is final
    3  read commands from the first of the last batch on; duplicates are recognised by command id
    4  decide what has arrived, produce, commit: one transaction; if nothing was suspicious, store the same fold
    5  anything but plain success: discard the writer and start over at 1, while still assigned
    6  fenced or suspended: give the group some heartbeats to reassign the writer before fencing back

This loop makes no network calls except to the log. While another process owns the writer, the thread folds along (hot
standby), so that a takeover is short.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from commands.processor.batches import Batches, Fences
from commands.processor.claims import Claims
from commands.processor.desks import Desks
from commands.processor.fold_check import FoldCheck
from commands.processor.held_back import CHECK_EVERY_S, HeldBack, Landed
from commands.processor.meters import WriterMeters
from commands.processor.order_listener import OrderListener
from commands.processor.retention import Retention
from commands.processor.traced import Decisions
from ledger.envelope import Written
from ledger.errors import Discard, Fenced, Gap, HangingTransaction, Hole, LogError, NotThisLog, OtherLayout, Rejected
from ledger.jitter import between
from ledger.log import EventLog, NewRecord, Reader, Record, TopicPartition, Writer
from ledger.schemas.of_the_ledger import learned
from ledger.store import Store
from ledger.supervision import WorkerThread
from ledger.topics import Topics

INIT_S, FOLD_S = 10.0, 60.0  # every wait is bounded: after that, start over with a new writer
STANDBY_S = 0.5
MARKERS_S = 0.1  # markers come milliseconds after the answer to a commit; later checks are rarer, up to `CHECK_EVERY_S`
FENCED_WAIT_S = 2.0  # several heartbeats of the group
ASLEEP_S = 5.0
# Transactions, not the commands in them, set the cost on a small machine; and librdkafka waits 20 ms when a transaction
# meets the last one's markers. A lone command never waits (ARCHITECTURE, One writer).
GROUP_ABOVE_COMMANDS = 4
GROUP_WAIT_S = 0.003
STORE_EVERY_RECORDS = 1000

log = structlog.get_logger(__name__)


class WriterLoop(WorkerThread):
    """One writer in this process: decides while this process owns it; until then it follows the owner, or does nothing.

    `ids` are those of the log's topics, by name. `on_fatal(exc)` is called once, from this thread, when this process cannot
    recover on its own: a hole, a bug, a full disk, repeated fencing while owning the writer.
    """

    def __init__(  # noqa: PLR0913, PLR0917  # its parts
        self,
        event_log: EventLog,
        store: Store,
        topics: Topics,
        ids: Mapping[str, bytes],
        app_id: str,
        writer: int,
        owned: list[int],
        partitions: int,
        claims: Claims,
        on_fatal: Callable[[BaseException], None],
        on_dealt: Callable[[dict[TopicPartition, int]], None] = lambda positions: None,
        watchers: Sequence[OrderListener] = (),
    ) -> None:
        super().__init__(f"writer-{writer}", self._decide_or_follow, on_fatal, again=False)
        self.writer = writer
        self.ready = threading.Event()
        self._log, self._topics = event_log, topics
        self._transactional_id = f"{app_id}-{writer}"
        self._on_dealt, self._watchers = on_dealt, watchers
        self._owned, self._followed, self._stopping = threading.Event(), threading.Event(), threading.Event()
        self._wake = threading.Event()  # by the group, or to stop
        self._writers_topic = ids[topics.writers]
        self._command_log = ids[topics.commands]
        self._desks = Desks(store, topics, ids, owned, partitions)
        self._fences = Fences()
        self._alive = time.monotonic()
        self._where = "start"
        self._batches, self._recheck_s = Batches(self._stopping), MARKERS_S
        self._left_out: frozenset[int] = frozenset()
        self._traced = Decisions()
        self._dealing: list[Record] = []
        self._learned = 0  # schemas that were known when frozen orders were last tried
        self.held = HeldBack(event_log, writer)
        self._fold_check = FoldCheck(event_log, store, topics, owned, ids)
        self._claims, self._retention = claims, Retention(event_log, topics, claims)
        self.meters = WriterMeters()

    def check_log(self) -> None:
        """Before this is started: compare what was folded from topics with other ids with the log. Raises `NotThisLog`."""
        self._fold_check.compare([d for d in self._desks.values() if self._fold_check.is_of_other_topics(d)], change=False)

    # ---- what the group says

    def take(self) -> None:
        """From now on, this process owns the writer."""
        self._owned.set()
        self._wake.set()

    def follow(self, follows: bool) -> None:
        """Whether to keep up with the owner, so that taking over is quick. Without that, it costs nothing, and folds later."""
        (self._followed.set if follows else self._followed.clear)()
        self._wake.set()

    @property
    def owns(self) -> bool:
        """Whether the group says that this process owns the writer."""
        return self._owned.is_set()

    def decided(self) -> dict[TopicPartition, int]:
        """By partition of the commands, one past the last one that is decided. Safe from any thread."""
        return {TopicPartition(self._topics.commands, p): desk.meta.dealt for p, desk in self._desks.items()}

    def folded(self) -> dict[TopicPartition, int]:
        """The next offsets to fold. Safe from any thread."""
        return self._desks.positions()

    @property
    def follows(self) -> bool:
        """Whether it keeps up with the log."""
        return self._followed.is_set() or self._owned.is_set()

    def leave(self, wait_s: float) -> None:
        """This process no longer owns it. Waits up to `wait_s` for the current batch; the next owner fences anything later."""
        self._owned.clear()
        deadline = time.monotonic() + wait_s
        while self.ready.is_set() and time.monotonic() < deadline:
            time.sleep(0.01)

    def stop(self) -> None:
        """End after the current batch; then call `join`."""
        self._stopping.set()
        self._owned.clear()
        self._wake.set()

    # ---- thread

    def _decide_or_follow(self) -> None:
        try:
            wait_s = 0.05
            while not self._stopping.is_set():
                try:
                    if self._owned.is_set():
                        self._incarnation()
                    elif self._followed.is_set():
                        self._follow()
                    else:
                        self._idle()
                    wait_s = 0.05
                except Hole:
                    raise
                except LogError as exc:
                    was_ready = self._not_ready()
                    self._traced.settle(exc.code)
                    if isinstance(exc, Rejected):
                        self._batches.rejected(self._dealing, exc)
                    doubtful = self._note(exc) or time.monotonic() - self._alive > ASLEEP_S
                    wait_s = 0.05 if was_ready else min(wait_s * 2, 1.0)
                    pause = wait_s * between(0.5, 1.5)
                    self._stopping.wait(pause + (FENCED_WAIT_S if doubtful and self._owned.is_set() else 0))
                finally:
                    self._not_ready()
                    self._desks.forget()
        except (NotThisLog, Gap, OtherLayout) as exc:  # says by itself what to do
            log.critical("writer stopped for good", writer=self.writer, where=self._where, error=exc.code, why=str(exc))
            raise
        except BaseException:  # passed to the process, which exits non-zero: nothing is swallowed
            log.critical("writer stopped for good", writer=self.writer, where=self._where, exc_info=True)
            raise

    def _not_ready(self) -> bool:
        """Returns whether it was ready."""
        was_ready = self.ready.is_set()
        self.ready.clear()
        if was_ready:
            for watcher in self._watchers:
                watcher.disown(list(self._desks))
        return was_ready

    def _note(self, exc: LogError) -> bool:
        """Log `exc`. Returns whether another process may own the writer now. Raises if fenced too often."""
        self.meters.starts_over(exc)
        log.warning("writer starts over", writer=self.writer, where=self._where, error=exc.code, why=str(exc))
        if not isinstance(exc, Fenced):
            return False
        self._fences.note(exc)
        return True

    # ---- folding

    def _idle(self) -> None:
        self._where = "idle"
        self._wake.wait()
        self._wake.clear()

    def _follow(self) -> None:
        """Hot standby: fold what the owner commits, until this process becomes the owner."""
        self._where = "follow"
        reader = self._log.reader(f"follow-{self.writer}", max_wait_ms=500)
        try:
            self._retention.skip_expired(self._desks)
            positions = self._desks.positions()
            stable, end = self._log.ends(positions), self._log.ends(positions, "read_uncommitted")
            # An open transaction in the log: it may yet be aborted, so nothing behind it is folded.
            ahead = self._fold_check.ahead_of_open(positions, stable, end)
            if not self._fold_check.check(self._desks, self._desks.positions(ahead), stable):
                return
            self._thaw()
            reader.assign(self._desks.positions(ahead))
            self._recheck_s = min(2 * self._recheck_s, CHECK_EVERY_S) if ahead else MARKERS_S
            check_at = time.monotonic() + self._recheck_s
            while self._followed.is_set() and not self._owned.is_set() and not self._stopping.is_set():
                self._alive = time.monotonic()
                if ahead and self._alive > check_at:
                    return
                if learned() != self._learned:
                    self._thaw()
                if records := self._poll(reader, STORE_EVERY_RECORDS, STANDBY_S, self._desks.positions):
                    self._desks.fold(records)
                    self.meters.folded += len(records)
        finally:
            reader.close()

    def _poll(self, reader: Reader, most: int, wait_s: float, at: Callable[[], Mapping[TopicPartition, int]]) -> list[Record]:
        """What has arrived. If retention has deleted a position (`at`) meanwhile, starting over shows whether it was needed."""
        try:
            return reader.poll(most, wait_s)
        except Hole as exc:
            if self._retention.has_passed(at()):
                raise Discard(f"the log now begins later: {exc}") from exc
            raise

    def _thaw(self) -> None:
        """Fold what waits for frozen orders, if this program can now."""
        self._learned = learned()
        changed = self._desks.thaw()
        for watcher in self._watchers if self.ready.is_set() else ():
            watcher.changed(changed)

    def _fold_to_the_end(self) -> int:
        """Step 1 has ended every older transaction, so the current committed end is final. Returns the number of records."""
        self._where = "fold"
        self._retention.skip_expired(self._desks)
        positions = self._desks.positions()
        stable, end = self._log.ends(positions), self._log.ends(positions, "read_uncommitted")
        self._fold_check.ahead_of_open(positions, stable, end)
        self._left_out = self.held.left_out(stable, end)
        if len(self._left_out) == len(self._desks):
            raise HangingTransaction(f"nothing can be decided behind {'; '.join(map(str, self.held.hanging))}")
        if not self._fold_check.check(self._desks, self._desks.positions(self._left_out), stable):
            self._desks.forget()
            self._retention.skip_expired(self._desks)  # a partition that is folded again begins where its log does
        self._thaw()
        positions = self._desks.positions(self._left_out)
        todo = {tp for tp, position in positions.items() if position < stable[tp]}
        if not todo:
            return 0
        folded, deadline = 0, time.monotonic() + FOLD_S
        reader = self._log.reader(f"fold-{self.writer}", eof=True, max_wait_ms=10)
        try:
            reader.assign({tp: positions[tp] for tp in todo})
            while todo:
                if time.monotonic() > deadline or not self._owned.is_set():
                    raise Discard("the fold did not reach the end in time")
                if records := self._poll(reader, STORE_EVERY_RECORDS, 1.0, self._desks.positions):
                    self._desks.fold(records)
                    folded += len(records)
                    self.meters.folded += len(records)
                    deadline = time.monotonic() + FOLD_S
                at = self._desks.positions() | dict(reader.reached_end())
                todo = {tp for tp in todo if at[tp] < stable[tp]}
            for tp, position in reader.reached_end().items():
                self._desks[tp.partition].landed(tp.topic, max(position, self._desks.positions()[tp]))
        finally:
            reader.close()
        self._desks.save()
        return folded

    # ---- deciding

    def _incarnation(self) -> None:
        """Fence the predecessor, fold the log, process commands until anything but plain success."""
        began = self._alive = time.monotonic()
        self._where = "init"
        writer = self._log.writer(self._transactional_id)
        reader: Reader | None = None
        try:
            writer.start(INIT_S)
            # After that, so that nobody decides by an older layout: `writers set` replaces the topic, then fences everybody.
            if self._log.topic_id(self._topics.writers) != self._writers_topic:
                raise OtherLayout
            inited = time.monotonic()
            folded = self._fold_to_the_end()
            epoch = 1 + max(desk.meta.epoch for desk in self._desks.values())
            reader = self._log.reader(f"commands-{self.writer}", max_wait_ms=100, headers=True)
            decided = [p for p in self._desks if p not in self._left_out]
            begins = self._retention.resume_at(self._desks, decided)
            reader.assign(begins)
            # Once more, although nothing was decided: a group forgets what was noted for a partition a week ago.
            self._on_dealt({TopicPartition(self._topics.commands, p): self._desks[p].meta.dealt for p in decided})
            took = {"init_ms": round((inited - began) * 1000), "fold_ms": round((time.monotonic() - inited) * 1000)}
            self.meters.taken_over_s.note(time.monotonic() - began)
            log.info("writer ready", writer=self.writer, partitions=decided, epoch=epoch, folded=folded, **took)
            self.ready.set()
            for watcher in self._watchers:
                watcher.own(decided)
            landed = Landed(self._log)
            while self._owned.is_set():
                self._claims.check({p: self._desks[p] for p in decided})
                if trouble := writer.trouble():
                    raise Discard(f"connection trouble: {trouble}")
                records = self._next_commands(reader, begins)
                landed.check(idle=not records)
                if not records:
                    continue
                if time.monotonic() - self._alive > ASLEEP_S:
                    raise Fenced("this process was suspended; another one may own the writer")
                new = self._deal(records, epoch)
                if new:
                    self._commit(writer, new, landed)
                self._finish(records)
                self.meters.committed(len(records), [record.topic for record in new], self._topics.events)
                self._batches.committed()
                if len(records) > GROUP_ABOVE_COMMANDS:
                    time.sleep(GROUP_WAIT_S)
        finally:
            if reader is not None:
                reader.close()
            writer.close()

    def _next_commands(self, reader: Reader, begins: Mapping[TopicPartition, int]) -> list[Record]:
        """Raises `Discard` if the incarnation must start over."""
        self._where, self._alive = "read", time.monotonic()
        if self.held.has_ended():
            raise Discard("a hanging transaction has ended: its partition is resumed")
        if learned() != self._learned:
            self._thaw()
        self._dealing = self._poll(reader, self._batches.most, 0.1, lambda: self._read_to(begins))
        return self._dealing

    def _read_to(self, begins: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Positions in the commands, read from `begins` on."""
        return {tp: max(at, self._desks[tp.partition].meta.resume) for tp, at in begins.items()}

    def _deal(self, records: list[Record], epoch: int) -> list[NewRecord]:
        self._where = "decide"
        batches: dict[int, Written] = {}
        decided: list[NewRecord] = []
        for record in records:
            written = batches.get(record.partition)
            if written is None:
                written = batches[record.partition] = Written(self._command_log, record.offset, epoch)
            context = self._traced.begin(record)
            new = self._desks[record.partition].deal(record, written, self._batches.is_unwritable(record), context)
            self._traced.decided(new, self._topics.events)
            if new is not None:
                decided.append(new)
        return decided

    def _commit(self, writer: Writer, new: list[NewRecord], landed: Landed) -> None:
        self._where = "commit"
        began = time.monotonic()
        positions = writer.transact(new)
        self.meters.transaction_s.note(time.monotonic() - began)
        landed.note(positions)
        self._fold_check.wrote(p for _, p in positions)
        for (topic, p), position in positions.items():
            self._desks[p].landed(topic, position)

    def _finish(self, records: list[Record]) -> None:
        """The batch is committed: store its fold, and report progress to lag monitors."""
        self._where = "store"
        self._traced.settle()
        last = {record.partition: record.offset for record in records}
        for p, offset in last.items():
            self._desks[p].passed(offset)
        changed = [order for p in last for order in self._desks[p].changed()]
        self._desks.save()
        asked = [order_id for p in last for order_id in self._desks[p].take_asked()]
        for watcher in self._watchers:
            watcher.changed(changed)
            if asked:
                watcher.asked(asked)
        self._on_dealt({TopicPartition(self._topics.commands, p): offset + 1 for p, offset in last.items()})
