"""Commands as services put them on `order-commands`: new orders, facts, cancellations, duplicates, reused ids and junk."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Iterator

from commands import messages as m
from commands.idempotency import canonical, command_id_of, fresh_command_id, order_id_of
from commands.sandbox.catalogue import order_body
from ledger import events as e
from ledger.errors import LogError
from ledger.kafka.log import KafkaLog
from ledger.log import Acked, NewRecord, Sender
from ledger.topics import Topics
from tests.support import checker
from tests.support.patience import PATIENCE_S


def _fingerprint(body: object) -> bytes:
    return hashlib.sha256(canonical(body)).digest()[:16]


def place(number: int, customer: str) -> m.OrderCommand:
    """A new order; the same for the same number."""
    body = order_body(number)
    command_id = command_id_of("web", customer, "PlaceOrder", "-", f"cart-{number}")
    return m.OrderCommand(
        command_id=command_id,
        order_id=order_id_of(command_id),
        fingerprint=_fingerprint(body),
        operation="PlaceOrder",
        actor="gateway:web",
        customer_id=customer,
        place=m.PlaceOrder(
            currency=body["currency"],
            total_minor=body["total_minor"],
            lines=tuple(e.Line(**line) for line in body["lines"]),
            adjustments=tuple(e.Adjustment(**adjustment) for adjustment in body["adjustments"]),
            contact_digest=hashlib.sha256(command_id.encode()).digest(),
            payment_window_ms=30 * 60 * 1000,
            reference=body["reference"],
        ),
    )


def _fact(order: m.OrderCommand, operation: str, actor: str, **payload: object) -> m.OrderCommand:
    return m.OrderCommand(
        command_id=fresh_command_id(),
        order_id=order.order_id,
        fingerprint=bytes(16),
        operation=operation,
        actor=actor,
        **payload,  # type: ignore[arg-type]
    )


def life(order: m.OrderCommand, choice: random.Random) -> Iterator[m.OrderCommand]:
    """What happens to an order after it was placed: paid and shipped, or cancelled, with facts reported twice."""
    place_order = order.place
    assert place_order is not None
    if choice.random() < 0.2:
        yield m.OrderCommand(
            command_id=command_id_of("web", order.customer_id, "CancelOrder", order.order_id, "cancel"),
            order_id=order.order_id,
            fingerprint=_fingerprint({}),
            operation="CancelOrder",
            actor="gateway:web",
            customer_id=order.customer_id,
            cancel=m.CancelOrder("customer_request"),
        )
    amount = place_order.total_minor
    yield m.OrderCommand(
        command_id=command_id_of("web", order.customer_id, "RequestPayment", order.order_id, "pay"),
        order_id=order.order_id,
        fingerprint=_fingerprint({"amount": amount}),
        operation="RequestPayment",
        actor="gateway:web",
        customer_id=order.customer_id,
        request_payment=m.RequestPayment(amount, place_order.currency),
    )
    for fact in (e.PAYMENT_OPENED, e.PAYMENT_AUTHORISED, e.PAYMENT_CAPTURED):
        for _ in range(choice.choice((1, 1, 2))):
            payment = m.RecordPayment(fact, 1, amount, f"pi_{order.order_id}")
            yield _fact(order, "RecordPayment", "stripe", record_payment=payment)
    for service in dict.fromkeys(line.service for line in place_order.lines):
        stock = m.RecordStock(e.STOCK_RESERVED, service, f"res_{order.order_id}")
        yield _fact(order, "RecordStock", f"{service}-service", record_stock=stock)
    yield _fact(order, "StartFulfilment", "admin:desk")
    yield _fact(order, "ShipOrder", "admin:desk", ship=m.ShipOrder("DHL", "0034"))


class TopicLoad(threading.Thread):
    """Sends `orders` lives at `per_s` commands a second; repeats what is not known to be durable until everything is.

    `first` is the number of the first order: the same number is the same order.
    """

    def __init__(
        self, log: KafkaLog, topics: Topics, partitions: int, orders: int, per_s: float, seed: int, first: int = 0
    ) -> None:
        super().__init__(name="topic-load", daemon=True)
        self._log, self._topics, self._partitions = log, topics, partitions
        self._orders, self._per_s, self._choice, self._first = orders, per_s, random.Random(seed), first
        self._codec = m.command_codec()
        self.durable: list[m.OrderCommand] = []
        self.duplicates = self.sent = self.resent = 0
        self.error: BaseException | None = None
        self._lock = threading.Lock()
        self._open = 0

    def run(self) -> None:
        try:
            self._run()
        except BaseException as exc:
            self.error = exc
            raise

    def _run(self) -> None:
        sender = self._log.sender("topic-load")
        began = time.monotonic()
        try:
            for record, command in self._stream():
                self._send(sender, record, command)
                self.sent += 1
                ahead_s = self.sent / self._per_s - (time.monotonic() - began)
                if ahead_s > 0.005:
                    time.sleep(ahead_s)
            deadline = time.monotonic() + PATIENCE_S
            while self._open:
                assert time.monotonic() < deadline, f"{self._open} commands are not durable"
                time.sleep(0.02)
        finally:
            sender.close()

    def _stream(self) -> Iterator[tuple[NewRecord, m.OrderCommand | None]]:
        """Lives interleaved, so that a batch holds commands of many orders."""
        alive: list[Iterator[m.OrderCommand]] = []
        placed = 0
        while placed < self._orders or alive:
            if placed < self._orders and (len(alive) < 20 or self._choice.random() < 0.3):
                number = self._first + placed
                command = place(number, f"c-{number % 17}")
                placed += 1
                alive.append(life(command, self._choice))
            else:
                index = self._choice.randrange(len(alive))
                following = next(alive[index], None)
                if following is None:
                    alive.pop(index)
                    continue
                command = following
            yield self._record(command), command
            dice = self._choice.random()
            if dice < 0.1:  # a retry of a sender that got no answer
                self.duplicates += 1
                yield self._record(command), None
            elif dice < 0.13:
                other = m.OrderCommand(
                    **{name: getattr(command, name) for name in command.__struct_fields__} | {"fingerprint": bytes([255]) * 16}
                )
                yield self._record(other), None
            elif dice < 0.14:
                key = command.order_id.encode()
                junk = NewRecord(self._topics.commands, self._log.partition_for(key, self._partitions), key, b"\0junk")
                yield junk, None

    def _record(self, command: m.OrderCommand) -> NewRecord:
        key = command.order_id.encode()
        return NewRecord(self._topics.commands, self._log.partition_for(key, self._partitions), key, self._codec.encode(command))

    def _send(self, sender: Sender, record: NewRecord, command: m.OrderCommand | None) -> None:
        def acked(ack: Acked | None, error: LogError | None) -> None:
            if ack is None:
                self.resent += 1
                sender.send(record, acked)  # send the same command again: its id makes that safe
                return
            with self._lock:
                self._open -= 1
                if command is not None:
                    self.durable.append(command)

        with self._lock:
            self._open += 1
        sender.send(record, acked)


def wait_answered(bootstrap: str, prefix: str, timeout_s: float = PATIENCE_S, copied_from: bytes | None = None) -> checker.Ledger:
    """The ledger once every command on the topic has its answer, or as it is when the time is over."""
    deadline = time.monotonic() + timeout_s
    while True:
        ledger = checker.read_ledger(bootstrap, prefix, copied_from=copied_from)
        if not any("no answer" in p or "not kept" in p for p in ledger.problems) or time.monotonic() > deadline:
            return ledger
        time.sleep(0.3)
