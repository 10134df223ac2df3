"""What the demo sends: requests that must be refused, and the facts that payment provider and stock services report."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from msgspec import Struct

from api.catalogue import order_body
from commands.idempotency import FINGERPRINT_BYTES, command_id_of, fresh_command_id
from commands.messages import OrderCommand, RecordPayment, RecordStock, RequestPayment
from ledger import events as e
from ledger.transitions import Operation

CUSTOMERS = 12
# What becomes of every ten orders: how far each gets; `refunding` is paid and then cancelled by the desk.
LIVES = ("cancelled", "refunding", "pending", "pending", "paid", "processing", "shipped", "delivered", "delivered", "delivered")


class Placed(Struct):
    """An order of the demo as its gateway knows it: the cart, the answer, and what is to become of it."""

    number: int
    body: dict[str, Any]
    order_id: str
    answer: bytes

    @property
    def customer(self) -> str:
        return customer_of(self.number)

    @property
    def key(self) -> str:
        return key_of(self.number)

    @property
    def life(self) -> str:
        return LIVES[self.number % len(LIVES)]

    @property
    def status(self) -> str:
        """The status at the end of its life."""
        return "cancelled" if self.life == "refunding" else self.life


def customer_of(number: int) -> str:
    return f"customer-{number % CUSTOMERS}"


def key_of(number: int) -> str:
    return f"cart-{number}"


class Wrong(NamedTuple):
    """A request and the problem it must be answered with."""

    status: int
    code: str
    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


def wrong_requests(mine: Placed, foreign: Placed, tokens: dict[str, str]) -> list[Wrong]:
    """Mistakes of gateways, customers and staff. `mine` and `foreign` are of two customers and not paid."""
    number = mine.number + 1_000_000
    gateway = {"Authorization": f"Bearer {tokens['gateway']}", "Customer-Id": mine.customer, "Content-Type": "application/json"}
    keyed = gateway | {"Idempotency-Key": f"wrong-{number}"}
    desk = {"Authorization": f"Bearer {tokens['admin']}", "Idempotency-Key": "wrong", "Content-Type": "application/json"}
    cart = order_body(number)
    line = cart["lines"][0]
    path = f"/orders/{mine.order_id}"

    def placed(status: int, code: str, changes: dict[str, Any], headers: dict[str, str] = keyed) -> Wrong:
        return Wrong(status, code, "POST", "/orders", headers, json.dumps(cart | changes).encode())

    return [
        placed(422, "total-mismatch", {"total_minor": cart["total_minor"] + 1}),
        placed(422, "unknown-field", {"coupon": "SPRING"}),
        placed(422, "invalid-field", {"total_minor": cart["total_minor"] + 0.5}),
        placed(422, "invalid-field", {"lines": [line | {"quantity": 0}]}),
        placed(422, "duplicate-line", {"lines": [line, line]}),
        placed(422, "currency-not-supported", {"currency": "XXX"}),
        placed(422, "idempotency-key-reused", {}, gateway | {"Idempotency-Key": mine.key}),
        placed(400, "idempotency-key-required", {}, gateway),
        placed(400, "customer-required", {}, {k: v for k, v in keyed.items() if k != "Customer-Id"}),
        placed(401, "unauthenticated", {}, keyed | {"Authorization": "Bearer not-a-token"}),
        placed(403, "forbidden", {}, keyed | {"Authorization": f"Bearer {tokens['reader']}"}),
        Wrong(400, "malformed-json", "POST", "/orders", keyed, b'{"currency": "EUR", "currency": "USD"}'),
        Wrong(404, "order-not-found", "GET", f"/orders/{foreign.order_id}", gateway),
        Wrong(404, "order-not-found", "POST", f"/orders/{foreign.order_id}/cancel", keyed, b"{}"),
        Wrong(404, "version-not-found", "GET", f"{path}?version=99", gateway),
        Wrong(400, "invalid-cursor", "GET", "/orders?cursor=made-up", gateway),
        Wrong(412, "version-conflict", "POST", f"{path}/cancel", keyed | {"If-Match": '"7"'}, b"{}"),
        Wrong(409, "not-paid", "PUT", f"{path}/status", desk, b'{"status": "shipped"}'),
        Wrong(422, "status-not-settable", "PUT", f"{path}/status", desk, b'{"status": "paid"}'),
        Wrong(403, "forbidden", "PUT", f"{path}/status", keyed, b'{"status": "shipped"}'),
    ]


def facts_of(order: Placed) -> list[OrderCommand]:
    """What the customer, the payment provider and the stock services say about an order until it is paid."""
    amount, ref = order.body["total_minor"], f"pi_{order.order_id}"
    request = OrderCommand(
        command_id=command_id_of("gateway", order.customer, Operation.REQUEST_PAYMENT, order.order_id, "pay-1"),
        order_id=order.order_id,
        fingerprint=bytes(FINGERPRINT_BYTES),
        operation=Operation.REQUEST_PAYMENT.value,
        actor="gateway:gateway",
        customer_id=order.customer,
        request_payment=RequestPayment(amount, order.body["currency"]),
    )
    opened, authorised, captured = (
        _fact(order, Operation.RECORD_PAYMENT, "stripe", record_payment=RecordPayment(kind, 1, amount, ref))
        for kind in (e.PAYMENT_OPENED, e.PAYMENT_AUTHORISED, e.PAYMENT_CAPTURED)
    )
    stock = [
        _fact(
            order,
            Operation.RECORD_STOCK,
            f"{service}-service",
            record_stock=RecordStock(e.STOCK_RESERVED, service, f"res_{order.order_id}_{service}"),
        )
        for service in dict.fromkeys(line["service"] for line in order.body["lines"])
    ]
    return [request, opened, authorised, *stock, captured]


def _fact(order: Placed, operation: Operation, actor: str, **payload: Any) -> OrderCommand:
    return OrderCommand(
        command_id=fresh_command_id(),
        order_id=order.order_id,
        fingerprint=bytes(FINGERPRINT_BYTES),
        operation=operation.value,
        actor=actor,
        **payload,
    )
