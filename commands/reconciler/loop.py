"""The reconciler: performs obligations and reports facts as commands (ARCHITECTURE, What an order owes).

Level-triggered, like a Kubernetes controller. Obligations are derived from the folded state on every pass. Tries and back-off
are only in memory, so a restart loses nothing that matters: the same obligation is met again under the same key.

    woken by      a writer that became ready (all orders with obligations), a stored batch (its orders), a clock, a customer
                  who requests again a payment that is not open yet
    clocks        due times are those of the log's clock, which decides; pauses those of the monotonic one
    processes     `obligations(order)`; one call per key at a time, at most 32 per port
    afterwards    facts -> commands -> the order changes -> woken again. Without news or answer: later, with back-off
    back-off      obligations that a customer waits for are retried after 0.2, 0.5, 1, 2 s, others after a second; then the pause
                  doubles, up to five minutes. If reads succeed and only the act fails, the longest pause is 15 s

Handles only orders of writers that this process owns. If two processes briefly believe they own a writer, they make the same
calls with the same keys. Runs on an event loop in its own thread, never in the deciding loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence

import structlog

from commands.obligations import Kind, Obligation, obligations
from commands.processor.order_book import OrderBook
from commands.processor.traced import following
from commands.reconciler.backlog import Backlog, Place, take_each
from commands.reconciler.clients import Clients
from commands.reconciler.meters import CallMeters, Census, census
from commands.reconciler.pauses import WAITED_FOR, Tries
from commands.reconciler.payment_port import Sighting
from commands.reconciler.performing import CallReport, Ports, perform, report_of, stuck
from commands.reconciler.reports import Reports
from commands.reconciler.schedule import Schedule
from commands.reconciler.sweep import sweep
from ledger.durations import HOUR_MS, MINUTE_MS
from ledger.event_loop import new_event_loop
from ledger.faults import in_short
from ledger.log import Sender
from ledger.log_clock import LogClock
from ledger.order import Order
from ledger.supervision import WorkerThread
from ledger.topics import Topics

MAX_CALLS_PER_PORT = 32
MAX_TASKS_PER_PORT = 2 * MAX_CALLS_PER_PORT  # beyond these, due orders wait in the backlog
SOME_CHECKS, SOME_ROWS = 20, 200  # in one turn, which takes about a millisecond
CALL_S = 60.0  # ports have shorter time-outs of their own; this guards against one without
# Webhooks can be lost, and a manual refund triggers no obligation: once a day, fetch what happened in the last three days.
FIRST_SWEEP_S, SWEEP_EVERY_S, SWEEP_BACK_MS = 600.0, 86_400.0, 3 * 24 * HOUR_MS
UNREAD_PAUSE_MS = 10_000
LONGEST_SLEEP_S = 30.0  # a clock may be set meanwhile
log = structlog.get_logger(__name__)


class Reconciler:
    """One per `commands` process. `book_of(partition)` is the store of its writer.

    `start` and `stop` are for the owner; `own`, `disown` and `changed` may be called from any thread.
    """

    def __init__(
        self,
        ports: Callable[[], Ports],
        book_of: Callable[[int], OrderBook],
        partition_of: Callable[[str], int],
        sender: Sender,
        topics: Topics,
        on_fatal: Callable[[BaseException], None],
        clock: LogClock,
    ) -> None:
        self._make_ports, self._book_of, self._partition_of = ports, book_of, partition_of
        self._clock = clock
        self._reports = Reports(sender, topics, partition_of, clock)
        self._owned: set[int] = set()
        self._tries: dict[str, dict[str, Tries]] = {}
        self._schedule = Schedule(clock.monotonic_ms, clock.latest_ms)
        self._calls: set[asyncio.Task[None]] = set()
        self._closing = False  # whether its loop ends now, and begins nothing more
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._backlog, self._turns = Backlog(MAX_TASKS_PER_PORT), Backlog(1)  # by port, and by partition
        self.done: Counter[str] = Counter()
        self.calls = CallMeters()
        self._ended_for_good = threading.Event()
        self._thread = WorkerThread("reconciler", self._run, on_fatal, again=True, stopping=self._ended_for_good)
        self._started = threading.Event()

    # ---- from other threads

    def start(self) -> None:
        self._thread.start()
        self._started.wait()

    def stop(self, timeout_s: float) -> None:
        """Abandon the calls in progress: the next process finds out what they did."""
        self._ended_for_good.set()
        if self._thread.is_alive():
            self._call_soon(self._stopping.set)
            self._thread.join(timeout_s)

    def own(self, partitions: Sequence[int]) -> None:
        """These partitions are decided here now: schedule all orders with obligations."""
        self._owned.update(partitions)  # not on the loop: a restarted loop must know them
        self._call_soon(lambda: self._begin(self._schedule_all(partitions)))

    def disown(self, partitions: Sequence[int]) -> None:
        self._owned.difference_update(partitions)

    def changed(self, orders: Sequence[Order]) -> None:
        """These orders were stored in this state."""
        self._call_soon(self._changed, orders)

    def asked(self, order_ids: Sequence[str]) -> None:
        """Payments of these orders were requested again."""
        self._call_soon(self._asked, order_ids)

    def clock_moved(self) -> None:
        """A clock was moved: check again what is due."""
        self._call_soon(self._wake_up)

    def _wake_up(self) -> None:
        self._wake.set()

    def _call_soon(self, callback: Callable[..., object], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    # ---- the loop

    def _run(self) -> None:
        """Run event loops until stopped. After a fault, a new loop starts: no obligation exists only in memory."""
        try:
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                self._loop, self._closing = runner.get_loop(), False
                try:
                    runner.run(self._main())
                finally:
                    self._closing = True  # other threads may call until the loop is closed
        finally:
            self._started.set()

    @property
    def restarts(self) -> int:
        """How often its loop was restarted."""
        return self._thread.restarts

    def counts(self) -> dict[str, int]:
        return dict(self.done)

    def census(self) -> Census:
        """Counts of the obligations that are scheduled or were tried. Safe from any thread."""
        return census([one for tries in list(self._tries.values()) for one in list(tries.values())], self._clock.monotonic_ms())

    def _owed(self, order: Order) -> tuple[Obligation, ...]:
        """Obligations of `order`. A bug in deriving them affects only this order, which is retried when it changes."""
        try:
            return obligations(order)
        except Exception as exc:
            self.done["order not understood"] += 1
            log.error(
                "obligations of order could not be derived", order_id=order.order_id, version=order.version, why=in_short(exc)
            )
            return ()

    async def _main(self) -> None:
        self._stopping, self._wake = asyncio.Event(), asyncio.Event()
        self._bug: BaseException | None = None
        self._calls, self._slots = set(), {}  # drop those of an earlier loop
        for one in (one for tries in self._tries.values() for one in tries.values()):
            one.calling = False  # a call that was cancelled before it began could not say so
        self._schedule = Schedule(self._clock.monotonic_ms, self._clock.latest_ms)
        self._backlog, self._turns = Backlog(MAX_TASKS_PER_PORT), Backlog(1)
        self._clients = Clients(self._make_ports, self.done)
        self._begin(self._schedule_all(sorted(self._owned)))
        self._started.set()
        if self._ended_for_good.is_set():
            self._stopping.set()
        stopping = asyncio.create_task(self._stopping.wait())
        self._begin(self._sweep_for_ever())
        self._begin(self._clients.ask_about_parts())
        try:
            while not self._stopping.is_set():
                await self._check_due()
                await self._clients.close_retired(2 * CALL_S)
                waking = asyncio.create_task(self._wake.wait())
                await asyncio.wait({stopping, waking}, timeout=self._pause_s(), return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
                self._wake.clear()
                if self._bug is not None:
                    raise self._bug
        finally:
            stopping.cancel()
            for call in self._calls:
                call.cancel()
            await asyncio.gather(*self._calls, return_exceptions=True)
            await self._clients.close()

    def _pause_s(self) -> float:
        pause_ms = self._schedule.pause_ms()
        return LONGEST_SLEEP_S if pause_ms is None else min(LONGEST_SLEEP_S, pause_ms / 1000)

    async def _schedule_all(self, partitions: Sequence[int]) -> None:
        """Schedule every order with obligations, a few at a time, so that calls and new orders continue meanwhile."""
        count = 0
        for partition in partitions:
            for order_id, due in self._book_of(partition).owing(partition):
                self._wake_if(self._schedule.at(partition, order_id, due))
                count += 1
                if count % SOME_ROWS == 0:
                    await asyncio.sleep(0)

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        if self._closing:
            work.close()
            return
        task = self._loop.create_task(work)
        self._calls.add(task)
        task.add_done_callback(self._ended)

    def _changed(self, orders: Iterable[Order]) -> None:
        for order in orders:
            if self._partition_of(order.order_id) in self._owned:
                self._check_order(order.order_id, order)

    def _asked(self, order_ids: Sequence[str]) -> None:
        """Restart the back-off of the failing obligations that a customer waits for."""
        for order_id in order_ids:
            _, order = self._read(order_id)
            if order is None:
                continue
            tries = self._tries.get(order_id, {})
            for key in tries.keys() & {o.key for o in self._owed(order) if o.kind in WAITED_FOR}:
                tries[key].ask()
            self._check_order(order_id, order)

    def _wake_if(self, earlier: bool) -> None:
        if earlier:
            self._wake.set()

    async def _check_due(self) -> None:
        for checks, order_id in enumerate(self._schedule.due(), 1):
            self._check(order_id)
            if checks % SOME_CHECKS == 0:
                await asyncio.sleep(0)
            if self._stopping.is_set():
                return

    def _check(self, order_id: str) -> None:
        is_read, order = self._read(order_id)
        if is_read:
            self._check_order(order_id, order)

    def _read(self, order_id: str) -> tuple[bool, Order | None]:
        """Whether the order could be read, and it. A failure costs this order alone, which is checked again after a pause."""
        try:
            return True, self._order(order_id)
        except Exception as exc:
            self.done["order not read"] += 1
            log.error("order could not be read", order_id=order_id, why=in_short(exc))
            self._wake_if(self._schedule.after(order_id, self._clock.monotonic_ms() + UNREAD_PAUSE_MS))
            return False, None

    def _check_order(self, order_id: str, order: Order | None) -> None:
        """Start the due obligations of one order, and schedule the others."""
        owed = self._owed(order) if order is not None else ()
        tries = self._tries.get(order_id, {})
        wanted = {o.key for o in owed}
        left = {key: t for key, t in tries.items() if key in wanted or t.calling}
        partition, now = self._partition_of(order_id), self._clock.monotonic_ms()
        for obligation in owed:
            t = left.setdefault(obligation.key, Tries(obligation.kind))
            if t.calling:
                continue
            if obligation.not_before > self._clock.latest_ms(partition):
                self._wake_if(self._schedule.at(partition, order_id, obligation.not_before))
                continue
            at_ms = now + MINUTE_MS if self._is_early(obligation, partition) else t.next_at
            if at_ms > now:
                self._wake_if(self._schedule.after(order_id, at_ms))
                continue
            if take_each(places := self._places(obligation, partition), order_id):
                t.calling = True
                self._begin(self._meet(order_id, obligation, t, places))
        if left:
            self._tries[order_id] = left
        else:
            self._tries.pop(order_id, None)

    def _order(self, order_id: str) -> Order | None:
        """The order; None if it is unknown, not decided here, or frozen."""
        partition = self._partition_of(order_id)
        return self._book_of(partition).order(partition, order_id) if partition in self._owned else None

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        if not call.cancelled() and (exc := call.exception()) is not None:
            self._bug = exc
            self._wake.set()

    # ---- one obligation

    def _is_early(self, obligation: Obligation, partition: int) -> bool:
        """Whether it may not be due yet, as the clocks are now. A flag for staff cannot be taken back: it waits for certainty."""
        earliest_ms, latest_ms = self._clock.bounds_ms(partition)
        return obligation.not_before > (earliest_ms if obligation.kind is Kind.CALL_PERSON else latest_ms)

    def _places(self, obligation: Obligation, partition: int) -> list[Place]:
        """While the log's clock is uncertain, orders of a partition expire in turn, too: the answer to the first is the time."""
        places = [(self._backlog, self._clients.ports.name_of(obligation))]
        in_turn = obligation.kind is Kind.EXPIRE and not self._clock.is_certain(partition)
        return [(self._turns, str(partition)), *places] if in_turn else places

    async def _meet(self, order_id: str, obligation: Obligation, t: Tries, places: list[Place]) -> None:
        partition, port = self._partition_of(order_id), places[-1][1]
        slots = self._slots.setdefault(port, asyncio.Semaphore(MAX_CALLS_PER_PORT))
        try:
            async with slots:
                # Waiting took time: the order and its obligations may have changed, or the clock is known better.
                _, order = self._read(order_id)
                current = next((o for o in self._owed(order) if o.key == obligation.key), None) if order else None
                is_due = current is not None and not self._is_early(current, partition)
                if order and current and is_due and len(self._places(current, partition)) <= len(places):
                    with following(order_id, str(current.kind), port) as span:
                        if not await self._call(current, order, t, port):
                            span.fail("not met")
        finally:
            t.calling = False
            for backlog, name in places:
                backlog.done(name)
        self._check(order_id)
        for backlog, name in places:
            while (waiting := backlog.next(name)) is not None:
                self._check(waiting)
                await asyncio.sleep(0)

    async def _call(self, obligation: Obligation, order: Order, t: Tries, port: str) -> bool:
        log_ms, clock = self._clock.latest_ms(self._partition_of(order.order_id)), self._clock.monotonic_ms
        began_ms = clock()
        try:
            async with asyncio.timeout(CALL_S):
                report = await perform(obligation, order, self._clients.ports, log_ms)
        except TimeoutError:
            log.error("a port exceeded its time-out", key=obligation.key)
            report = CallReport(failed="no answer in time", answered=False)
        except Exception as exc:  # a bug here, or an unexpected answer: it affects only this obligation
            log.error("obligation raised", order_id=order.order_id, key=obligation.key, why=in_short(exc))
            self.done[f"{obligation.kind} raised"] += 1
            report = CallReport(failed=type(exc).__name__)
        self.done[f"{obligation.kind} {'failed' if report.failed else 'done'}"] += 1
        self.calls.note(port, obligation.kind, report, (clock() - began_ms) / 1000)
        if obligation.args is not None:
            self._clients.heard(port, report.answered, clock())
        commands = report.commands
        if report.failed is not None:
            log.warning("obligation not met", order_id=order.order_id, key=obligation.key, why=report.failed, tries=t.failed + 1)
            t.fail(obligation.kind, clock(), report)
            if t.is_stuck(clock()):
                commands = stuck(obligation, order, log_ms)
        elif not commands:
            t.nothing_new(obligation.kind, clock())
        if commands and not await self._reports.send(commands):
            t.fail(obligation.kind, clock())
            if t.is_stuck(clock()):
                await self._reports.send(stuck(obligation, order, log_ms))
        elif commands and report.failed is None:
            t.report(clock())
        return report.failed is None

    # ---- the daily sweep

    async def _sweep_for_ever(self) -> None:
        await asyncio.sleep(FIRST_SWEEP_S)
        while True:
            if self._owned:  # each process: facts about an order are reported by the owner of its partition
                await self.sweep()
            await asyncio.sleep(SWEEP_EVERY_S)

    async def sweep(self) -> None:
        """Report refunds and disputes of the last days that no webhook reported, if they belong to orders decided here."""
        since_ms = self._clock.machine_ms() - SWEEP_BACK_MS
        await sweep(self._clients.ports.payments, since_ms, self._report_sighting, self.done)

    async def _report_sighting(self, sighting: Sighting) -> int | None:
        """Number of new facts; None if it belongs to no order of this ledger."""
        partition = self._partition_of(sighting.order_id)
        if partition not in self._owned:
            return 0  # its owner sweeps, too; this process may not follow the partition
        order = self._book_of(partition).order(partition, sighting.order_id) if sighting.order_id else None
        if order is None:
            log.warning("payment belongs to no known order", provider_ref=sighting.provider_ref, order_id=sighting.order_id)
            return None
        commands = report_of(sighting.facts, order, self._clients.ports.payments.name, self._clock.latest_ms(partition))
        await self._reports.send(commands)
        return len(commands)
