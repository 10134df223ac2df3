"""The reconciler: does what orders owe the outside world, and reports facts as commands (ARCHITECTURE, What an order owes).

Level-triggered, like a Kubernetes controller. What an order owes is read off its folded state each time; tries and back-off
are kept in memory only, so a restart forgets nothing that matters: the same obligation is met again under the same key.

    woken by      a writer that became ready (everything that owes), a batch that was stored (its orders), a clock, a customer
                  who asks again for a payment that is not open yet
    looks at      `obligations(order)`; one call per key at a time, at most 32 per port
    afterwards    facts -> commands -> the order changes -> woken again. Nothing new, or no answer: later, with back-off
    back-off      what a customer waits for is tried again after 0.2, 0.5, 1, 2 s, the rest after a second; then after twice as
                  long each time, up to five minutes. While looks succeed and only the act fails, 15 s are the longest pause

Only orders of writers that this process owns: two processes that both believe so for a moment make the same calls with the
same keys. It runs on an event loop in a thread of its own and never in the deciding loop.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence

import structlog
from msgspec import Struct

from commands.messages import OrderCommand, command_codec
from commands.obligations import HOUR_MS, MINUTE_MS, Kind, Obligation, obligations
from commands.processor.desk import OrderBook
from commands.reconciler.backlog import Backlog
from commands.reconciler.payment_port import PaymentProvider, ProviderUnavailable, Sighting
from commands.reconciler.performing import RECONCILER, Ports, Report, perform, report_of, stuck
from commands.reconciler.stock_port import StockService
from commands.reconciler.tries import LONGEST_ASKED_PAUSE_S
from ledger.clock import now_ms
from ledger.errors import LedgerError
from ledger.event_loop import new_event_loop
from ledger.faults import in_short
from ledger.log import Acked, NewRecord, Sender
from ledger.order import Order
from ledger.supervision import WorkerThread
from ledger.topics import Topics

MAX_CALLS_PER_PORT = 32
MAX_TASKS_PER_PORT = 2 * MAX_CALLS_PER_PORT  # what is due beyond them waits as an order id
SOME_LOOKS, SOME_ROWS = 20, 200  # in one go: about a millisecond
CALL_S = 60.0  # a port has time-outs of its own, shorter ones: this is against a port that forgot one
FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 1_000, 5 * MINUTE_MS
WAITED_PAUSES_MS = (200, 500, 1_000, 2_000)  # the first pauses of what a customer waits for
WAITED_FOR = frozenset({Kind.RESERVE, Kind.CREATE_PAYMENT, Kind.LOOK_AT_PAYMENT, Kind.CAPTURE})
LONGEST_AFTER_LOOK_MS = 15_000
STUCK_TRIES, STUCK_MS, STUCK_PAUSE_MS = 20, HOUR_MS, 15 * MINUTE_MS
# What was reported changes the order within milliseconds; if it has not after this, the same is done again.
REPORTED_MS = 5_000
# Webhooks can be lost and a refund by hand changes nothing that is looked at: once a day, what the provider has of three days.
FIRST_SWEEP_S, SWEEP_EVERY_S, SWEEP_BACK_MS = 600.0, 86_400.0, 3 * 24 * HOUR_MS
SILENT_MS, SILENT_CALLS = MINUTE_MS, 5  # a port that answers nothing for so long, so often, gets a new client
LOOK_PAUSES_MS = {
    Kind.LOOK_AT_PAYMENT: (MINUTE_MS, 10 * MINUTE_MS),
    Kind.LOOK_AT_REFUND: (HOUR_MS, 24 * HOUR_MS),
    Kind.LOOK_AT_DISPUTE: (24 * HOUR_MS, 24 * HOUR_MS),
}

Client = PaymentProvider | StockService

log = structlog.get_logger(__name__)


class Try(Struct):
    """What is remembered of one obligation. Times are ms of the reconciler's clock."""

    next_at: int = 0
    quiet: int = 0  # answers in a row that brought nothing new
    failed: int = 0  # failures in a row
    blind: int = 0  # those of them in which not even a look was answered
    pauses: int = 0  # taken in a row since it began to fail, or since somebody asked
    failing_since: int = 0
    failed_at: int = 0
    calling: bool = False
    person_called: bool = False


def pause_ms(kind: Kind, pauses: int, looked: bool) -> int:
    """The pause after a failure, when `pauses` were taken before it."""
    if kind not in WAITED_FOR:
        pause = FIRST_PAUSE_MS << min(pauses, 20)
    elif pauses < len(WAITED_PAUSES_MS):
        pause = WAITED_PAUSES_MS[pauses]
    else:
        pause = WAITED_PAUSES_MS[-1] << min(pauses + 1 - len(WAITED_PAUSES_MS), 20)
    return min(pause, LONGEST_AFTER_LOOK_MS if looked else LONGEST_PAUSE_MS)


class Reconciler:
    """One per `commands` process. `book_of(partition)` is the store of the partition's writer; `clock` gives ms since the epoch.

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
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self._make_ports, self._book_of, self._partition_of = ports, book_of, partition_of
        self._sender, self._topics, self._clock = sender, topics, clock
        self._codec = command_codec()
        self._owned: set[int] = set()
        self._tries: dict[str, dict[str, Try]] = {}
        self._due: list[tuple[int, str]] = []
        self._due_at: dict[str, int] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._backlog = Backlog(MAX_TASKS_PER_PORT)
        self._retired: list[tuple[float, Client]] = []
        self._silent_since: dict[str, tuple[int, int]] = {}  # since when a port answered nothing, and to how many calls
        self.done: Counter[str] = Counter()
        self._ended_for_good = threading.Event()
        self._thread = WorkerThread("reconciler", self._run, on_fatal, again=True, stopping=self._ended_for_good)
        self._started = threading.Event()

    # ---- from other threads

    def start(self) -> None:
        self._thread.start()
        self._started.wait()

    def stop(self, timeout_s: float) -> None:
        """Give up the calls under way: whatever they did is found again by the next process."""
        self._ended_for_good.set()
        if self._thread.is_alive():
            self._tell(self._stopping.set)
            self._thread.join(timeout_s)

    def own(self, partitions: Sequence[int]) -> None:
        """These partitions are decided here now: look at all orders that owe something."""
        self._owned.update(partitions)  # not on the loop: one that begins again must know
        self._tell(self._look_at_all, partitions)

    def disown(self, partitions: Sequence[int]) -> None:
        self._owned.difference_update(partitions)

    def changed(self, orders: Sequence[Order]) -> None:
        """These orders were stored as they are here."""
        self._tell(self._changed, orders)

    def asked(self, order_ids: Sequence[str]) -> None:
        """Customers asked again for payments of these orders."""
        self._tell(self._asked, order_ids)

    def look_at_the_clock(self) -> None:
        """The clock was moved: what is due may be another thing than what is waited for."""
        self._tell(self._wake_up)

    def _wake_up(self) -> None:
        self._wake.set()

    def _tell(self, what: Callable[..., object], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(what, *arguments)
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    # ---- the loop

    def _run(self) -> None:
        """One event loop, until stopped. A fault in it is a new loop's: nothing that is owed is only in memory."""
        try:
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                self._loop = runner.get_loop()
                runner.run(self._main())
        finally:
            self._started.set()

    @property
    def restarts(self) -> int:
        """How often its loop had to begin again."""
        return self._thread.restarts

    def counts(self) -> dict[str, int]:
        return dict(self.done)

    def _owed(self, order: Order) -> tuple[Obligation, ...]:
        """What `order` owes. A fault of ours in telling costs this order alone: it is looked at again when it changes."""
        try:
            return obligations(order)
        except Exception as exc:
            self.done["order not understood"] += 1
            log.error("what an order owes cannot be told", order_id=order.order_id, version=order.version, why=in_short(exc))
            return ()

    async def _main(self) -> None:
        self._stopping, self._wake = asyncio.Event(), asyncio.Event()
        self._bug: BaseException | None = None
        self._calls, self._slots, self._due, self._due_at = set(), {}, [], {}  # of an earlier loop
        self._backlog = Backlog(MAX_TASKS_PER_PORT)
        self._ports = self._make_ports()
        self._look_at_all(sorted(self._owned))
        self._started.set()
        if self._ended_for_good.is_set():
            self._stopping.set()
        stopping = asyncio.create_task(self._stopping.wait())
        self._begin(self._sweep_for_ever())
        try:
            while not self._stopping.is_set():
                await self._look_at_due()
                await self._close_retired(2 * CALL_S)
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
            now = self._loop.time()
            clients: list[Client] = [self._ports.payments, *self._ports.stock.values()]
            self._retired += [(now, client) for client in clients]
            await self._close_retired(0)

    def _pause_s(self) -> float | None:
        return max(0.0, (self._due[0][0] - self._clock()) / 1000) if self._due else None

    def _look_at_all(self, partitions: Sequence[int]) -> None:
        self._begin(self._schedule_all(partitions))

    async def _schedule_all(self, partitions: Sequence[int]) -> None:
        """Every order that owes something, some at a time: calls and customers' orders go on meanwhile."""
        count = 0
        for partition in partitions:
            for order_id, due in self._book_of(partition).owing(partition):
                self._schedule(order_id, due)
                count += 1
                if count % SOME_ROWS == 0:
                    await asyncio.sleep(0)

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._calls.add(task)
        task.add_done_callback(self._ended)

    def _changed(self, orders: Iterable[Order]) -> None:
        for order in orders:
            if self._partition_of(order.order_id) in self._owned:
                self._look_at(order.order_id, order)

    def _asked(self, order_ids: Sequence[str]) -> None:
        """Begin again with the first pause of what is waited for and fails."""
        for order_id in order_ids:
            if (order := self._order(order_id)) is None:
                continue
            tries = self._tries.get(order_id, {})
            for key in tries.keys() & {o.key for o in self._owed(order) if o.kind in WAITED_FOR}:
                if (t := tries[key]).failed:
                    t.pauses = 0
                    t.next_at = min(t.next_at, t.failed_at + WAITED_PAUSES_MS[0])
            self._look_at(order_id, order)

    def _schedule(self, order_id: str, at_ms: int) -> None:
        known = self._due_at.get(order_id)
        if known is None or at_ms < known:
            self._due_at[order_id] = at_ms
            heapq.heappush(self._due, (at_ms, order_id))
            self._wake.set()

    async def _look_at_due(self) -> None:
        now, looks = self._clock(), 0
        while self._due and self._due[0][0] <= now and not self._stopping.is_set():
            at_ms, order_id = heapq.heappop(self._due)
            if self._due_at.get(order_id) == at_ms:
                del self._due_at[order_id]
                self._look(order_id)
                looks += 1
                if looks % SOME_LOOKS == 0:
                    await asyncio.sleep(0)

    def _look(self, order_id: str) -> None:
        self._look_at(order_id, self._order(order_id))

    def _look_at(self, order_id: str, order: Order | None) -> None:
        """Start what is due of one order, and note when the rest will be."""
        owed = self._owed(order) if order is not None else ()
        tries = self._tries.get(order_id, {})
        wanted = {o.key for o in owed}
        left = {key: t for key, t in tries.items() if key in wanted or t.calling}
        now = self._clock()
        for obligation in owed:
            t = left.setdefault(obligation.key, Try())
            if t.calling:
                continue
            at_ms = max(obligation.not_before, t.next_at)
            if at_ms > now:
                self._schedule(order_id, at_ms)
                continue
            port = self._ports.name_of(obligation)
            if self._backlog.take(port, order_id):
                t.calling = True
                self._begin(self._meet(order_id, obligation, t, port))
        if left:
            self._tries[order_id] = left
        else:
            self._tries.pop(order_id, None)

    def _order(self, order_id: str) -> Order | None:
        partition = self._partition_of(order_id)
        return self._book_of(partition).order(partition, order_id) if partition in self._owned else None

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        if not call.cancelled() and (exc := call.exception()) is not None:
            self._bug = exc
            self._wake.set()

    # ---- one obligation

    async def _meet(self, order_id: str, obligation: Obligation, t: Try, port: str) -> None:
        slots = self._slots.setdefault(port, asyncio.Semaphore(MAX_CALLS_PER_PORT))
        try:
            async with slots:
                # Waiting for a slot took time: the order may have moved on, and with it what it owes.
                order = self._order(order_id)
                current = next((o for o in self._owed(order) if o.key == obligation.key), None) if order else None
                if order is not None and current is not None:
                    await self._call(current, order, t)
        finally:
            t.calling = False
            self._backlog.done(port)
        self._look(order_id)
        while (waiting := self._backlog.next(port)) is not None:
            self._look(waiting)
            await asyncio.sleep(0)

    async def _call(self, obligation: Obligation, order: Order, t: Try) -> None:
        now = self._clock()
        try:
            async with asyncio.timeout(CALL_S):
                report = await perform(obligation, order, self._ports, now)
        except TimeoutError:
            log.error("a port did not keep its time", key=obligation.key)
            report = Report(failed="no answer in time", answered=False)
        except Exception as exc:  # a fault of ours, or an answer nobody thought of: it costs this obligation
            log.error("obligation raised", order_id=order.order_id, key=obligation.key, why=in_short(exc))
            self.done[f"{obligation.kind} raised"] += 1
            report = Report(failed=type(exc).__name__)
        self.done[f"{obligation.kind} {'failed' if report.failed else 'done'}"] += 1
        if obligation.args is not None:
            self._heard(self._ports.name_of(obligation), report.answered)
        commands = report.commands
        if report.failed is not None:
            log.warning("obligation not met", order_id=order.order_id, key=obligation.key, why=report.failed, tries=t.failed + 1)
            self._failed(obligation, t, report)
            if self._is_stuck(t) and not t.person_called:
                commands = stuck(obligation, order, now)
                t.person_called = True
        elif not commands:
            self._nothing_new(obligation, t)
        if commands and not await self._report(commands):
            self._failed(obligation, t)
            t.person_called = self._is_stuck(t) and await self._report(stuck(obligation, order, now))
        elif commands and report.failed is None:
            t.failed = t.blind = t.pauses = t.quiet = 0
            t.next_at = self._clock() + REPORTED_MS

    def _heard(self, port: str, answered: bool) -> None:
        """Give a port a new client when none of its calls got an answer for a minute: the old one may be what is broken."""
        now = self._clock()
        if answered:
            self._silent_since.pop(port, None)
            return
        since, calls = self._silent_since.get(port, (now, 0))
        self._silent_since[port] = (since, calls + 1)
        if now - since < SILENT_MS or calls < SILENT_CALLS or port == RECONCILER:
            return
        del self._silent_since[port]
        log.warning("no call got an answer: taking a new client", port=port, calls=calls + 1, for_ms=now - since)
        self.done["new client"] += 1
        try:
            old, fresh = self._ports, self._make_ports()
        except LedgerError as exc:
            log.error("no new client", port=port, why=str(exc))
            return
        if port == old.payments.name:
            self._ports = Ports(fresh.payments, old.stock)
            unused: list[Client] = [old.payments, *fresh.stock.values()]
        else:
            self._ports = Ports(old.payments, {**old.stock, port: fresh.stock[port]})
            unused = [old.stock[port], fresh.payments, *(s for name, s in fresh.stock.items() if name != port)]
        self._retired += [(self._loop.time(), client) for client in unused]

    async def _close_retired(self, after_s: float) -> None:
        """Close clients that were replaced so long ago that no call with them can be under way."""
        for at, client in list(self._retired):
            if self._loop.time() - at >= after_s:
                self._retired.remove((at, client))
                await client.close()

    def _failed(self, obligation: Obligation, t: Try, report: Report | None = None) -> None:
        now, looked = self._clock(), report is not None and report.looked
        t.failing_since = t.failing_since if t.failed else now
        t.failed_at = now
        t.failed += 1
        t.blind += not looked
        pause = STUCK_PAUSE_MS if self._is_stuck(t) else pause_ms(obligation.kind, t.pauses, looked)
        t.pauses += 1
        asked_ms = round(1000 * min(report.after_s, LONGEST_ASKED_PAUSE_S)) if report is not None else 0
        t.next_at = now + max(asked_ms, round(pause * random.uniform(0.75, 1.25)))

    def _is_stuck(self, t: Try) -> bool:
        return t.blind > STUCK_TRIES or (t.failed > 0 and self._clock() - t.failing_since > STUCK_MS)

    def _nothing_new(self, obligation: Obligation, t: Try) -> None:
        """A look that found what is known; or an own command that is not legal yet, for clocks differ."""
        t.failed = t.blind = t.pauses = 0
        first, longest = LOOK_PAUSES_MS.get(obligation.kind, (FIRST_PAUSE_MS, LONGEST_PAUSE_MS))
        t.next_at = self._clock() + round(min(first << min(t.quiet + 1, 20), longest) * random.uniform(1.0, 1.1))
        t.quiet += 1

    # ---- the daily sweep

    async def _sweep_for_ever(self) -> None:
        await asyncio.sleep(FIRST_SWEEP_S)
        while True:
            if 0 in self._owned:  # one process is enough: the one that has partition 0
                await self.sweep()
            await asyncio.sleep(SWEEP_EVERY_S)

    async def sweep(self) -> None:
        """Report the refunds and disputes of the last days that no webhook told of. What fails ends this sweep, not the next."""
        found = unknown = 0
        try:
            async for sighting in self._ports.payments.recent(self._clock() - SWEEP_BACK_MS):
                try:
                    facts = await self._report_sighting(sighting)
                except Exception as exc:
                    self.done["sweep raised"] += 1
                    log.error("a payment that cannot be reported", provider_ref=sighting.provider_ref, why=in_short(exc))
                    continue
                found += facts or 0
                unknown += facts is None
        except ProviderUnavailable as exc:
            log.warning("sweep ended early", why=str(exc))
        except Exception as exc:
            self.done["sweep raised"] += 1
            log.error("sweep ended early", why=in_short(exc))
        self.done["sweep found"] += found
        self.done["sweep unknown"] += unknown
        log.info("sweep", facts=found, unknown=unknown)

    async def _report_sighting(self, sighting: Sighting) -> int | None:
        """How many facts of it were news; None when it is of no order of ours."""
        partition = self._partition_of(sighting.order_id)
        order = self._book_of(partition).order(partition, sighting.order_id) if sighting.order_id else None
        if order is None:
            log.warning("money of no order of ours", provider_ref=sighting.provider_ref, order_id=sighting.order_id)
            return None
        commands = report_of(sighting.facts, order, self._ports.payments.name, self._clock())
        await self._report(commands)
        return len(commands)

    async def _report(self, commands: Sequence[OrderCommand]) -> bool:
        """Send in order; whether all of them are durable."""
        acked = [self._send(command) for command in commands]
        return all(await asyncio.gather(*acked))

    def _send(self, command: OrderCommand) -> asyncio.Future[bool]:
        loop = self._loop
        future: asyncio.Future[bool] = loop.create_future()

        def settle(durable: bool) -> None:
            if not future.done():
                future.set_result(durable)

        def on_ack(acked: Acked | None, error: LedgerError | None) -> None:
            if acked is None:
                log.warning("fact not reported", order_id=command.order_id, operation=command.operation, why=str(error))
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, acked is not None)

        partition = self._partition_of(command.order_id)
        try:
            record = NewRecord(self._topics.commands, partition, command.order_id.encode(), self._codec.encode(command))
            self._sender.send(record, on_ack)
        except LedgerError as exc:
            on_ack(None, exc)
        return future
