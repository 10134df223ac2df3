"""The `commands` process: runs the writers that the group assigns to it, and is hot standby for the others.

The group over the empty topic `order-writers` only decides which process should run which writer; transactional ids decide who
may write (ARCHITECTURE, One writer). The number of writers is read from the cluster, so that all processes agree on it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import structlog

from commands.processor.claims import Claims
from commands.processor.order_book import OrderBook
from commands.processor.order_listener import OrderListener
from commands.processor.writer_loop import WriterLoop
from ledger.asking import until_answered
from ledger.errors import ConfigError, LogError, OtherLayout
from ledger.jitter import between
from ledger.log import EventLog, Lease, Sender, TopicPartition
from ledger.log_clock import LogClock
from ledger.log_identity import topic_ids
from ledger.progress import Claim, read_claims
from ledger.store import Store
from ledger.supervision import workers
from ledger.topics import Topics

EXIT_FAILED = 70  # EX_SOFTWARE: this process cannot recover, another one may
REVOKED_WAIT_S = 2.0  # for the current batch; the next owner ends what is still open
COMPANION_STOP_S = 5.0
PROGRESS_EVERY_S = 1.0  # lag monitors poll less often
STATUS_EVERY_S = 5.0
UNHELD_EVERY_S = 5.0  # 4 to 6 s; with two checks in a row and a session time-out: repaired within 18 s, whatever the group does
# Offsets of each writer, a fifth of a second for a fold. The last ones may be of aborted transactions, which nobody folds.
FAR_BEHIND = 5_000
FOLD_CHECK_S = 1.0

log = structlog.get_logger(__name__)


class Companion(OrderListener, Protocol):
    """Runs beside the writers in the same process, on its own threads: the reconciler, the notifier."""

    def start(self) -> None:
        """Start. Raises an error if it can never work."""

    def stop(self, timeout_s: float) -> None:
        """Stop, leaving unfinished work to the next process."""

    def counts(self) -> dict[str, int]:
        """Counts of its work since the start, by name. Safe from any thread."""


Books = Callable[[int], OrderBook]  # by partition
Fatal = Callable[[BaseException], None]


def _alone(_books: Books, _on_fatal: Fatal, _partitions: int) -> Sequence[Companion]:
    return ()


def to_follow(owned: Collection[int], writers: int, standby: int) -> set[int]:
    """Writers that a process keeps up with: its own, and as many others as `standby`, the next after its own.

    The group gives each process neighbouring writers, so the next are those that it gets when a neighbour ends. A process that
    owns none is there to take over whatever becomes free, and follows all.
    """
    if not owned:
        return set(range(writers))
    ring = [(max(owned) + n) % writers for n in range(1, writers)]
    return set(owned) | set([w for w in ring if w not in owned][:standby])


class CommandsProcess:
    """The writers of one ledger, as seen by one process.

    `open_store(name)` opens or creates the fold of one writer (`writer-0`, ...). `instance` is this process's stable name in
    the group: two processes must not share one. `companions(books, on_fatal, partitions)` creates the companions; calling
    `on_fatal` from any thread ends the process. `on_status(status)` receives `status()` every few seconds, to publish it. The
    companions share `clock`. `standby_writers`: how many writers it keeps up with besides its own (`followed`).
    """

    def __init__(
        self,
        event_log: EventLog,
        open_store: Callable[[str], Store],
        topics: Topics,
        app_id: str,
        instance: str,
        companions: Callable[[Books, Fatal, int], Sequence[Companion]] = _alone,
        on_status: Callable[[dict[str, Any]], None] = lambda status: None,
        *,
        clock: LogClock | None = None,
        standby_writers: int = 1,
    ) -> None:
        self._log, self._open_store, self._topics = event_log, open_store, topics
        self._app_id, self._instance = app_id, instance
        self._make_companions, self._on_status = companions, on_status
        self._clock = LogClock() if clock is None else clock
        self._standby_writers, self._taken_writers = standby_writers, set[int]()
        self._companions: list[Companion] = []
        self._loops: dict[int, WriterLoop] = {}
        self._stores: list[Store] = []
        self._sender: Sender | None = None
        self._fatal: BaseException | None = None
        self._stopping = threading.Event()
        self._progress: dict[TopicPartition, int] = {}
        self._progress_lock = threading.Lock()
        self._next_note = 0.0
        self._next_status = 0.0
        self._rejoins = 0
        self.metrics_url: str | None = None  # for `status`
        self.folds_first = False  # before it joins the group: `_fold_first`
        self._unheld: set[int] = set()
        self._next_unheld_check = time.monotonic() + UNHELD_EVERY_S

    def stop(self) -> None:
        """Ask it to end. From any thread."""
        self._stopping.set()

    @property
    def ready_writers(self) -> list[int]:
        """Writers that this process runs and that accept commands now."""
        return [w for w, loop in self._loops.items() if loop.ready.is_set()]

    @property
    def loops(self) -> list[WriterLoop]:
        """Its writers; none before the log has answered."""
        return list(self._loops.values())

    @property
    def rejoins(self) -> int:
        """How often it joined the group again because a writer was held by nobody."""
        return self._rejoins

    def run(self) -> int:
        """Run until stopped (returns 0) or until this process cannot recover (returns 70).

        Raises `ConfigError` if the topics do not match, `NotThisLog` if the log is not the one from before, `StoreError` if the
        state is open elsewhere.
        """
        layout = self._layout()
        if layout is None:
            return 0
        try:
            self._start_loops(*layout)
            self._fold_first()
            if not self._ends:
                self._hold_lease()
        finally:
            self._end_loops()
            for store in self._stores:
                store.close()
            if self._sender is not None:
                self._sender.close()
        return EXIT_FAILED if self._fatal is not None else 0

    @property
    def _ends(self) -> bool:
        return self._stopping.is_set() or self._fatal is not None

    def _fold_first(self) -> None:
        """A process without any fold, as after an upgrade, joins the group when it has folded the log, or is needed before.

        One that joins gets a share immediately, with a known name before the session of its predecessor ends, and decides nothing
        there before it has folded the log. That takes minutes, in which hot standbys would be idle. So it joins later, as long as
        others hold every writer.
        """
        while self.folds_first and not self._ends:
            self.folds_first = self._is_far_behind() and self._all_are_held()
            if self.folds_first:
                self._report_status()
                self._stopping.wait(FOLD_CHECK_S)

    def _is_far_behind(self) -> bool:
        at = {tp: position for loop in self._loops.values() for tp, position in loop.folded().items()}
        try:
            return sum(end - at[tp] for tp, end in self._log.ends(at).items()) > FAR_BEHIND * len(self._loops)
        except LogError as exc:
            log.info("how far the fold is behind is unknown, joining the group", why=str(exc))
            return False

    def _all_are_held(self) -> bool:
        """By a process that runs, or by one that ended less than a session ago: maybe by this one, under its name."""
        try:
            return not self._log.unheld(self._topics.writers, self._app_id)
        except LogError as exc:
            log.info("assignment of writers is unknown, joining the group", why=str(exc))
            return False

    def _hold_lease(self) -> None:
        lease = self._log.lease(self._topics.writers, self._app_id, self._instance, self._taken, self._revoked, self._lost)
        try:
            while not self._ends:
                lease.poll(0.1)
                self._note_progress(lease)
                self._mend_unheld(lease)
                self._report_status()
        finally:
            self._end_loops()
            lease.close()

    def _layout(self) -> tuple[int, int, dict[str, bytes], tuple[Claim, ...]] | None:
        """(partitions, writers, ids of their topics, claims), read from the cluster; waits until it answers.

        None if stopped meanwhile.
        """
        t = self._topics

        def question() -> tuple[dict[str, int], dict[str, bytes], tuple[Claim, ...]]:
            count = {name: self._log.partitions(name) for name in (t.commands, t.events, t.refusals, t.writers)}
            ids = topic_ids(self._log, (t.commands, t.events, t.refusals, t.writers))
            return count, ids, read_claims(self._log, t, ids[t.commands])

        answer = until_answered(question, self._stopping, LogError)
        if answer is None:
            return None
        count, ids, claims = answer
        partitions, writers = count[t.commands], count[t.writers]
        if not count[t.events] == count[t.refusals] == partitions >= writers > 0:
            raise ConfigError(f"topics have different numbers of partitions: {count}")
        return partitions, writers, ids, claims

    def _start_loops(self, partitions: int, writers: int, ids: dict[str, bytes], claims: tuple[Claim, ...]) -> None:
        self._sender = self._log.sender("progress")
        for w in range(writers):
            self._stores.append(self._open_store(f"writer-{w}"))
        books = [OrderBook(store) for store in self._stores]
        companions = self._make_companions(lambda partition: books[partition % writers], self._failed, partitions)
        for w, store in enumerate(self._stores):
            owned = list(range(w, partitions, writers))
            self._loops[w] = WriterLoop(
                self._log,
                store,
                self._topics,
                ids,
                self._app_id,
                w,
                owned,
                partitions,
                Claims(self._log, self._sender, self._topics, ids[self._topics.commands], self._instance, claims, self._clock),
                self._failed,
                self._dealt,
                tuple(companions),
            )
            # Before anything is sent or deleted because of what another log says.
            until_answered(self._loops[w].check_log, self._stopping)
        for companion in companions:
            companion.start()
            self._companions.append(companion)
        self.folds_first = not any(at for loop in self._loops.values() for at in loop.folded().values())
        self._follow_next()
        for loop in self._loops.values():
            loop.start()

    def _end_loops(self) -> None:
        while self._companions:
            self._companions.pop().stop(COMPANION_STOP_S)
        started = [loop for loop in self._loops.values() if loop.ident is not None]
        for loop in started:
            loop.stop()
        deadline = time.monotonic() + 15
        for loop in started:
            loop.join(max(0.0, deadline - time.monotonic()))
            if loop.is_alive():
                log.error("writer did not stop in time", writer=loop.writer)

    def _failed(self, exc: BaseException) -> None:
        self._fatal = exc

    def _dealt(self, positions: dict[TopicPartition, int]) -> None:
        """Called by the thread of a writer after each batch; the group is informed now and then, from its own thread."""
        with self._progress_lock:
            self._progress.update(positions)

    def _note_progress(self, lease: Lease) -> None:
        if time.monotonic() < self._next_note:
            return
        self._next_note = time.monotonic() + PROGRESS_EVERY_S
        with self._progress_lock:
            progress, self._progress = self._progress, {}
        if progress:
            lease.commit(progress)

    def _mend_unheld(self, lease: Lease) -> None:
        """Rejoin if no process holds a writer: its partitions would not be decided, and nothing else would notice."""
        if time.monotonic() < self._next_unheld_check:
            return
        self._next_unheld_check = time.monotonic() + UNHELD_EVERY_S * between(0.8, 1.2)
        try:
            unheld = set(self._log.unheld(self._topics.writers, self._app_id))
        except LogError as exc:
            log.info("assignment of writers is unknown for now", why=str(exc))
            return
        if lasting := sorted(unheld & self._unheld):
            log.error("writers are held by no process, rejoining the group", writers=lasting)
            self._rejoins += 1
            try:
                lease.rejoin()
                unheld = set()
            except LogError as exc:  # the next check finds the same; writers that are held continue
                log.error("rejoining the group failed", why=str(exc))
        self._unheld = unheld

    def status(self) -> dict[str, Any]:
        """State of this process as JSON: writers, hanging transactions, clocks, workers with their restarts, counts."""
        counts: dict[str, int] = {"joined the group again": self._rejoins} if self._rejoins else {}
        for companion in self._companions:
            counts |= companion.counts()
        return {
            "metrics_url": self.metrics_url,
            "ready_writers": self.ready_writers,
            "followed_writers": [w for w, loop in self._loops.items() if loop.follows],
            "unheld_writers": sorted(self._unheld),
            "hanging": [str(one) for loop in self._loops.values() for one in loop.held.hanging],
            "clock_skews_ms": {str(partition): skew_ms for partition, skew_ms in self._clock.skews_ms().items()},
            "workers": [asdict(worker) for worker in workers()],
            "counts": counts,
        }

    def _report_status(self) -> None:
        if time.monotonic() >= self._next_status:
            self._next_status = time.monotonic() + STATUS_EVERY_S
            self._on_status(self.status())

    # ---- what the group says; called inside `lease.poll`

    def _taken(self, writers: list[int]) -> None:
        """`writers` may be empty: then this process follows all, to take over whatever becomes free."""
        log.info("writers taken", writers=writers)
        if not self._loops.keys() >= set(writers):
            exc = OtherLayout()
            log.critical("writers are unknown here", error=exc.code, why=str(exc))
            self._failed(exc)
            return
        for w in writers:
            self._loops[w].take()
        self._taken_writers |= set(writers)
        self._follow_next()

    def _revoked(self, writers: list[int]) -> None:
        log.info("writers revoked", writers=writers)
        self._release(writers, REVOKED_WAIT_S)

    def _lost(self, writers: list[int]) -> None:
        log.warning("writers lost", writers=writers)
        self._release(writers, 0)

    def _release(self, writers: list[int], wait_s: float) -> None:
        self._taken_writers -= set(writers)
        for w in self._loops.keys() & set(writers):
            self._loops[w].follow(True)  # in most rebalances it comes back immediately
            self._loops[w].leave(wait_s)

    def _follow_next(self) -> None:
        """Keep up with the own writers and those that this process would take over next."""
        followed = to_follow(self._taken_writers, len(self._loops), self._standby_writers)
        for w, loop in self._loops.items():
            loop.follow(w in followed)
