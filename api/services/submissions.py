"""Sending a command and waiting for what becomes of it (ARCHITECTURE, Reading).

    event loop                          sender's thread                     event loop
    waiter, then send(contact) ───────► contact durable: send(command) ───► the fold meets the outcome: waiter done
                                        command durable: noted only

Nobody is woken when a record becomes durable, unless somebody waits for just that: the outcome comes a few milliseconds later
anyway. Its position is noted for the 202.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Protocol

import structlog
from msgspec import Struct

from api.problems import Problem
from api.services.look_ups import LookUps
from commands.messages import OrderCommand, command_codec
from ledger.errors import LedgerError
from ledger.log import Acked, Headers, NewRecord, Sender
from ledger.outcomes import Outcome
from ledger.topics import Topics
from projections.projector import Projector, Waiter
from projections.queries import Queries

log = structlog.get_logger(__name__)

ACK_S = 3.0  # a command that is not durable by then, and is not waited for longer, is answered as not known to be durable
STOPPING_DECISION_S, STOPPING_ACK_S = 0.5, 1.0  # well within the two seconds that open requests get when the process stops
LAGGING_MS = 15_000  # a healthy fold is seen to be at the log's end every five seconds
MAX_WAITING = 2_000
# So many durable commands of one partition without an outcome for so long: its writer makes no progress, and more of them help
# nobody.
BEHIND_COMMANDS, BEHIND_S = 50, 10.0
FORGET_S = 600.0


class FoldStatus(Protocol):
    """How the fold of this node stands. See `projections.feed.FoldStatus`."""

    @property
    def begun(self) -> bool: ...

    @property
    def folding(self) -> bool: ...

    @property
    def connected(self) -> bool: ...

    @property
    def connecting(self) -> bool: ...

    @property
    def caught_up(self) -> bool: ...

    @property
    def behind(self) -> int | None: ...

    @property
    def staleness_ms(self) -> int | None: ...

    @property
    def held_back_s(self) -> float: ...


class Pending(Struct, frozen=True):
    """The command is durable at `offset` of its partition of `order-commands`, and not decided yet."""

    partition: int
    offset: int


class _Sent:
    """One command on its way. The loop writes `waiter` and `wants_ack`, the sender's thread the rest."""

    __slots__ = ("acked", "command", "contact", "contact_acked", "error", "loop", "sender", "waiter", "wants_ack")

    def __init__(self, sender: Sender, command: NewRecord, contact: NewRecord | None, waiter: Waiter) -> None:
        self.sender, self.command, self.contact = sender, command, contact
        self.loop = asyncio.get_running_loop()
        self.waiter = waiter
        self.wants_ack = False
        self.acked: Acked | None = None
        self.contact_acked: Acked | None = None
        self.error: LedgerError | None = None

    def send(self) -> None:
        """Raises `LedgerError` when nothing could be handed over."""
        if self.contact is None:
            self.sender.send(self.command, self._command_acked)
        else:
            self.sender.send(self.contact, self._contact_acked)

    def _contact_acked(self, acked: Acked | None, error: LedgerError | None) -> None:
        if acked is None:
            self._fail(error)
            return
        self.contact_acked = acked
        try:
            self.sender.send(self.command, self._command_acked)
        except LedgerError as exc:
            self._fail(exc)

    def _command_acked(self, acked: Acked | None, error: LedgerError | None) -> None:
        if acked is None:
            self._fail(error)
            return
        self.acked = acked
        if self.wants_ack:
            self._wake_from_thread()

    def _fail(self, error: LedgerError | None) -> None:
        self.error = error or LedgerError("neither acknowledged nor refused")
        self._wake_from_thread()

    def _wake_from_thread(self) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.wake)

    def wake(self) -> None:
        """Let whoever awaits `waiter` look again."""
        if not self.waiter.done():
            self.waiter.set_result(None)


class Submissions:
    """Commands of this node on their way. Used on the event loop only."""

    def __init__(self, sender: Sender, projector: Projector, queries: Queries, topics: Topics, look_ups: LookUps) -> None:
        self._sender, self._projector, self._queries, self._topics = sender, projector, queries, topics
        self._look_ups = look_ups
        self._codec = command_codec()
        # By partition: a writer that is stuck must not refuse what others decide.
        self._undecided: defaultdict[int, dict[Waiter, tuple[str, float]]] = defaultdict(dict)
        self._under_way: set[_Sent] = set()
        self._stopping = False
        self.waiting = 0
        self.sent = 0

    @property
    def undecided(self) -> int:
        """Durable commands that were answered 202 and have no outcome yet."""
        return sum(map(len, self._undecided.values()))

    def stop(self) -> None:
        """The process stops: whoever waits for an outcome has half a second more, and then the answer that is true by then."""
        self._stopping = True
        for sent in self._under_way:
            sent.wake()

    def refuse_overload(self, status: FoldStatus, partition: int) -> None:
        """Raises `Problem` when a new command would only wait, or when this node does not know enough to send it:
        `ledger-unavailable`, `not-caught-up`, `too-many-requests`, `decisions-behind`."""
        if not status.connected:
            raise Problem("ledger-unavailable")
        if status.staleness_ms is None or status.staleness_ms > LAGGING_MS:
            raise Problem("not-caught-up", "This node has not folded what is in the log; another one may have.")
        if self.waiting >= MAX_WAITING:
            raise Problem("too-many-requests")
        if len(self._undecided[partition]) >= BEHIND_COMMANDS and self._oldest_s(partition) > BEHIND_S:
            raise Problem("decisions-behind")

    def record_of(self, command: OrderCommand, partition: int, headers: Headers = ()) -> NewRecord:
        """The record of `order-commands` that says `command`."""
        return NewRecord(self._topics.commands, partition, command.order_id.encode(), self._codec.encode(command), 0, headers)

    async def submit(
        self,
        command: OrderCommand,
        partition: int,
        wait_s: float,
        contact: NewRecord | None = None,
        traceparent: bytes | None = None,
    ) -> Outcome | Pending:
        """Make `contact`, then `command` durable; its outcome, or `Pending` when it is not decided within `wait_s`.

        Raises `Problem` `ledger-unavailable` when nothing is known to be durable; both records may still come to be, so a retry
        must carry the same key.
        """
        record = self.record_of(command, partition, (("traceparent", traceparent),) if traceparent else ())
        sent = _Sent(self._sender, record, contact, self._projector.outcome_waiter(command.command_id, command.fingerprint))
        self.waiting += 1
        self._under_way.add(sent)
        try:
            sent.wants_ack = wait_s <= 0
            try:
                sent.send()
            except LedgerError as exc:
                sent.error = exc
            self.sent += 1
            result = await self._result(command, partition, sent, wait_s)
        finally:
            self.waiting -= 1
            self._under_way.discard(sent)
            self._projector.forget(command.command_id, sent.waiter)
        if contact is not None and sent.contact_acked is not None:
            self._projector.remember([(contact, sent.contact_acked)])
        if isinstance(result, Pending):
            self._look_ups.note(result.partition, result.offset, command)
            self._note_undecided(command, partition)
        return result

    async def _result(self, command: OrderCommand, partition: int, sent: _Sent, wait_s: float) -> Outcome | Pending:
        loop = sent.loop
        began = loop.time()
        decision_at, ack_at = began + wait_s, began + max(wait_s, ACK_S)
        hurried = False
        while True:
            now = loop.time()
            if self._stopping and not hurried:
                hurried = True
                decision_at, ack_at = min(decision_at, now + STOPPING_DECISION_S), min(ack_at, now + STOPPING_ACK_S)
            sent.wants_ack = now >= decision_at
            # Both sides write first and look afterwards, so an ack that comes meanwhile is seen here or wakes the waiter.
            if sent.error is not None:
                log.warning("command not sent", command_id=command.command_id, error=sent.error.code, why=str(sent.error))
                raise Problem("ledger-unavailable", members={"command_id": command.command_id})
            if sent.wants_ack:
                if sent.acked is not None:
                    return Pending(partition, sent.acked.offset)
                if now >= ack_at:
                    raise Problem("ledger-unavailable", members={"command_id": command.command_id})
            if sent.waiter.done():  # woken for nothing of the above: wait on
                self._projector.forget(command.command_id, sent.waiter)
                sent.waiter = self._projector.outcome_waiter(command.command_id, command.fingerprint)
            timer = loop.call_at(ack_at if sent.wants_ack else decision_at, sent.wake)
            try:
                await sent.waiter
            finally:
                timer.cancel()
            outcome = self._queries.outcome(partition, command.command_id, command.fingerprint)
            if outcome is not None:
                return outcome

    def remind(self, command: OrderCommand, partition: int) -> None:
        """Send a command that was decided before: it changes nothing and leaves no record, and the processor hears that somebody
        waits. One that does not arrive is a reminder less."""

        def on_ack(acked: Acked | None, error: LedgerError | None) -> None:
            if acked is None:
                log.warning("not reminded", command_id=command.command_id, why=str(error))

        try:
            self._sender.send(self.record_of(command, partition), on_ack)
        except LedgerError as exc:
            on_ack(None, exc)

    async def send_all(self, records: Sequence[NewRecord]) -> list[Acked]:
        """Make every record durable. Raises `Problem` `ledger-unavailable` when one is not known to be."""
        batch = _Batch(len(records))
        for number, record in enumerate(records):
            try:
                self._sender.send(record, partial(batch.settle, number))
            except LedgerError as exc:
                batch.settle(number, None, exc)
        await batch.settled
        acks = [acked for acked in batch.acks if acked is not None]
        if len(acks) < len(records):
            error = batch.error or LedgerError("neither acknowledged nor refused")
            log.warning("record not sent", error=error.code, why=str(error))
            raise Problem("ledger-unavailable")
        return acks

    async def keep(self, records: Sequence[NewRecord]) -> None:
        """Make records of `order-contacts` durable, and readable here at once. Raises as `send_all`, which keeps some of them."""
        self._projector.remember(zip(records, await self.send_all(records), strict=True))

    # ---- durable, but without an outcome

    def _note_undecided(self, command: OrderCommand, partition: int) -> None:
        waiter = self._projector.outcome_waiter(command.command_id, command.fingerprint)
        self._undecided[partition][waiter] = (command.command_id, time.monotonic())
        waiter.add_done_callback(lambda waiter: self._decided(waiter, partition))

    def _decided(self, waiter: Waiter, partition: int) -> None:
        if (noted := self._undecided[partition].pop(waiter, None)) is not None:
            self._projector.forget(noted[0], waiter)

    def _oldest_s(self, partition: int) -> float:
        """Age of the oldest undecided command there. One that was given up long ago is forgotten."""
        now, undecided = time.monotonic(), self._undecided[partition]
        while undecided:
            waiter, (_, since) = next(iter(undecided.items()))
            if now - since < FORGET_S:
                return now - since
            self._decided(waiter, partition)
        return 0.0


class _Batch:
    """Acknowledgements of several records. The loop hears of the last one only: a wake for each costs more than sending it."""

    def __init__(self, count: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._left, self._lock = count, threading.Lock()
        self.settled: asyncio.Future[None] = self._loop.create_future()
        self.acks: list[Acked | None] = [None] * count
        self.error: LedgerError | None = None
        if count == 0:
            self._end()

    def settle(self, number: int, acked: Acked | None, error: LedgerError | None) -> None:
        """From any thread, once for each."""
        self.acks[number], self.error = acked, error or self.error
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        if not self.settled.done():
            self.settled.set_result(None)
