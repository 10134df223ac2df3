"""Performs commands: returns a known outcome, or sends the command and waits. Answers come from this node's fold.

Knows no HTTP: errors are `NotDurable`, `Overloaded`, `DecisionsBehind`, `NotCaughtUp`, `NotUpgraded`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import structlog
from msgspec import Struct

from api.services.in_flight import SentBatch, SentCommand
from api.services.look_ups import LookUps
from commands.messages import OrderCommand, command_codec
from ledger.contacts import OrderContact, contact_key
from ledger.errors import DecisionsBehind, LedgerError, NotCaughtUp, NotDurable, NotUpgraded, Overloaded, TooNew
from ledger.log import Acked, Headers, NewRecord, Sender
from ledger.log_clock import LogClock
from ledger.outcomes import Outcome
from ledger.schemas.codec import Codec, contact_codec
from ledger.topics import Topics
from projections.feed import FoldStatus
from projections.projector import Projector
from projections.queries import Queries
from projections.waiters import Waiter, Waiters

T = TypeVar("T", bound=Struct)

log = structlog.get_logger(__name__)

MEET_S = 1.0  # how long an answer waits for the order version that a refused command refers to
ACK_S = 3.0  # a command that is not durable by then is answered as not durable, unless the request waits longer
STOPPING_DECISION_S, STOPPING_ACK_S = 0.5, 1.0  # well within the two seconds for open requests when the process stops
LAGGING_MS = 15_000  # a healthy fold is at the end of the log at least every five seconds
MAX_WAITING = 2_000
# With so many durable commands of one partition without an outcome for so long, its writer makes no progress, and more would not
# help.
BEHIND_COMMANDS, BEHIND_S = 50, 10.0
FORGET_S = 600.0


class Pending(Struct, frozen=True):
    """The command is durable at `offset` of its partition of `order-commands`, and not decided yet."""

    partition: int
    offset: int


class Decided(Struct, frozen=True):
    """The outcome of a command. `replayed`: it was already known. `contact`: the one just written with it."""

    outcome: Outcome
    replayed: bool = False
    contact: OrderContact | None = None


class Submissions:
    """Sends the commands of this node. Used only on the event loop."""

    def __init__(
        self,
        sender: Sender,
        projector: Projector,
        queries: Queries,
        topics: Topics,
        look_ups: LookUps,
        partition_of: Callable[[str], int],
        status: Callable[[], FoldStatus],
        answers: Counter[str],
        *,
        clock: LogClock,
    ) -> None:
        """`partition_of`: by order id. `status`: of this node's fold; must be cheap, because each new command calls it.

        `answers` counts answers: `replayed`, `undecided`, `accepted`, or the code of a refusal. `clock` is measured.
        """
        self._sender, self._projector, self._queries, self._topics = sender, projector, queries, topics
        self._look_ups, self._partition_of, self._status = look_ups, partition_of, status
        self._codec, self._contact_codec = command_codec(), contact_codec()
        self._answers, self._clock = answers, clock
        # By partition: a stuck writer must not affect commands of others.
        self._undecided: defaultdict[int, dict[Waiter, tuple[str, float]]] = defaultdict(dict)
        self._in_progress: set[SentCommand] = set()
        self._stopping = False
        self.waiting = 0
        self.sent = 0

    @property
    def _waiters(self) -> Waiters:
        return self._projector.waiters

    @property
    def undecided(self) -> int:
        """Number of durable commands answered with 202 that have no outcome yet."""
        return sum(map(len, self._undecided.values()))

    def stop(self) -> None:
        """The process is stopping: waiting requests get half a second more, and then an answer."""
        self._stopping = True
        for sent in self._in_progress:
            sent.wake()

    async def perform(
        self, command: OrderCommand, wait_s: float, contact: OrderContact | None = None, traceparent: bytes | None = None
    ) -> Decided | Pending:
        """Perform `command`: return the outcome if this node knows it, else send the command.

        `contact` becomes durable before the command of a new order, unless it was erased. Returns `Pending` if the command is
        durable but not decided within `wait_s`. Raises `NotDurable`, `Overloaded`, `DecisionsBehind`, `NotCaughtUp`,
        `NotUpgraded`.
        """
        partition = self._partition_of(command.order_id)
        first = self._queries.outcome(partition, command.command_id)
        known = first
        if first is not None and first.fingerprint != command.fingerprint:
            known = self._queries.outcome(partition, command.command_id, command.fingerprint)
        if known is not None:
            self._answers["replayed"] += 1
            await self.folded_as_met(known)
            return Decided(known, replayed=True)
        self.refuse_overload(command.order_id)
        record = None
        if contact is not None and (content := command.content) is not None:
            key = contact_key(command.order_id, content.contact_digest)
            if self._projector.contacts.is_erased(key):
                contact = None
            elif first is None:  # a reused key will be refused: then do not write a contact that no event would name
                record = NewRecord(self._topics.contacts, partition, key, _encoded(self._contact_codec, contact))
        result = await self.submit(command, wait_s, record, traceparent)
        if isinstance(result, Pending):
            self._answers["undecided"] += 1
            return result
        self._answers[result.code or "accepted"] += 1
        await self.folded_as_met(result)
        return Decided(result, contact=contact)

    async def folded_as_met(self, outcome: Outcome) -> None:
        """Wait until this node has folded the order version that a refusal refers to: the two topics arrive in any order.

        Raises `NotCaughtUp` if that takes too long.
        """
        if outcome.code is None or outcome.version is None:
            return
        partition, loop = self._partition_of(outcome.order_id), asyncio.get_running_loop()
        deadline = loop.time() + MEET_S
        while self._queries.frozen(partition, outcome.order_id) is None:
            order = self._queries.order(partition, outcome.order_id)
            if order is not None and order.version >= outcome.version:
                return
            if not await self._projector.waiters.news(outcome.order_id, max(0.0, deadline - loop.time())):
                raise NotCaughtUp(f"This node has not folded version {outcome.version} of the order yet.")

    def refuse_overload(self, order_id: str) -> None:
        """Raises if a new command about the order would only wait, or if this node is not able to send it.

        `NotDurable`, `NotCaughtUp`, `Overloaded`, `DecisionsBehind`.
        """
        status, partition = self._status(), self._partition_of(order_id)
        if not status.connected:
            raise NotDurable("the log does not answer")
        staleness_ms = status.staleness_ms if status.is_leaderless(partition) else status.led_staleness_ms
        if staleness_ms is None or staleness_ms > LAGGING_MS:
            if status.is_leaderless(partition):
                raise NotDurable(f"no broker leads partition {partition}")
            raise NotCaughtUp("This node has not folded the whole log; another node may have.")
        if self.waiting >= MAX_WAITING:
            raise Overloaded(f"{self.waiting} commands are waiting for their outcome")
        if len(self._undecided[partition]) >= BEHIND_COMMANDS and self._oldest_s(partition) > BEHIND_S:
            raise DecisionsBehind(f"partition {partition}: {len(self._undecided[partition])} commands are not decided")

    def record_of(self, command: OrderCommand, headers: Headers = ()) -> NewRecord:
        """The record of `order-commands` for `command`. Raises `NotUpgraded`."""
        partition = self._partition_of(command.order_id)
        return NewRecord(self._topics.commands, partition, command.order_id.encode(), _encoded(self._codec, command), 0, headers)

    async def submit(
        self, command: OrderCommand, wait_s: float, contact: NewRecord | None = None, traceparent: bytes | None = None
    ) -> Outcome | Pending:
        """Make `contact`, then `command` durable. Returns the outcome, or `Pending` if it is not decided within `wait_s`.

        Raises `NotDurable` if durability is unknown; both records may still become durable, so a retry must have the same key.
        """
        record = self.record_of(command, (("traceparent", traceparent),) if traceparent else ())
        waiter = self._waiters.outcome(command.command_id, command.fingerprint)
        sent = SentCommand(self._sender, record, contact, waiter, self._clock)
        self.waiting += 1
        self._in_progress.add(sent)
        try:
            sent.wants_ack = wait_s <= 0
            try:
                sent.send()
            except LedgerError as exc:
                sent.error = exc
            self.sent += 1
            result = await self._result(command, record.partition, sent, wait_s)
        finally:
            self.waiting -= 1
            self._in_progress.discard(sent)
            self._waiters.forget(command.command_id, sent.waiter)
        if contact is not None and sent.contact_acked is not None:
            self._projector.remember([(contact, sent.contact_acked)])
        if isinstance(result, Pending):
            self._look_ups.note(result.partition, result.offset, command)
            self._note_undecided(command, result.partition)
        return result

    async def _result(self, command: OrderCommand, partition: int, sent: SentCommand, wait_s: float) -> Outcome | Pending:
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
            # Both sides write first and check afterwards, so an ack in between is seen here or wakes the waiter.
            if sent.error is not None:
                log.warning("command not sent", command_id=command.command_id, error=sent.error.code, why=str(sent.error))
                raise NotDurable(str(sent.error), command.command_id)
            if sent.wants_ack:
                if sent.acked is not None:
                    return Pending(partition, sent.acked.offset)
                if now >= ack_at:
                    raise NotDurable("not acknowledged in time", command.command_id)
            if sent.waiter.done():  # woken for another reason: continue waiting
                self._waiters.forget(command.command_id, sent.waiter)
                sent.waiter = self._waiters.outcome(command.command_id, command.fingerprint)
            timer = loop.call_at(ack_at if sent.wants_ack else decision_at, sent.wake)
            try:
                await sent.waiter
            finally:
                timer.cancel()
            outcome = self._queries.outcome(partition, command.command_id, command.fingerprint)
            if outcome is not None:
                return outcome

    def remind(self, command: OrderCommand) -> None:
        """Send a command that is already decided, to tell the processor that a request is waiting.

        It changes nothing and leaves no record. If it is lost, that is harmless.
        """

        def on_ack(acked: Acked | None, error: LedgerError | None) -> None:
            if acked is None:
                log.warning("reminder not sent", command_id=command.command_id, why=str(error))

        try:
            self._sender.send(self.record_of(command), on_ack)
        except LedgerError as exc:
            on_ack(None, exc)

    async def send_all(self, records: Sequence[NewRecord]) -> list[Acked]:
        """Make all records durable. Raises `NotDurable` if one is not known to be."""
        batch = SentBatch(len(records))
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
            raise NotDurable(str(error))
        return acks

    async def keep(self, records: Sequence[NewRecord]) -> None:
        """Make records of `order-contacts` durable, and readable here immediately. Raises like `send_all`."""
        self._projector.remember(zip(records, await self.send_all(records), strict=True))

    # ---- durable commands without an outcome

    def _note_undecided(self, command: OrderCommand, partition: int) -> None:
        waiter = self._waiters.outcome(command.command_id, command.fingerprint)
        self._undecided[partition][waiter] = (command.command_id, time.monotonic())
        waiter.add_done_callback(lambda waiter: self._decided(waiter, partition))

    def _decided(self, waiter: Waiter, partition: int) -> None:
        if (noted := self._undecided[partition].pop(waiter, None)) is not None:
            self._waiters.forget(noted[0], waiter)

    def _oldest_s(self, partition: int) -> float:
        """Age of the oldest undecided command of the partition. Forgets those that were abandoned long ago."""
        now, undecided = time.monotonic(), self._undecided[partition]
        while undecided:
            waiter, (_, since) = next(iter(undecided.items()))
            if now - since < FORGET_S:
                return now - since
            self._decided(waiter, partition)
        return 0.0


def _encoded(codec: Codec[T], value: T) -> bytes:
    try:
        return codec.encode(value)
    except TooNew as exc:
        raise NotUpgraded(str(exc)) from None
