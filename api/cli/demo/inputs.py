"""The demo's inputs: carts, cards, the expected end of each order, and requests that must be refused."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from msgspec import Struct

from commands.sandbox.cards import NO_FUNDS, THREE_D_SECURE, VISA
from commands.sandbox.catalogue import CURRENCIES, order_body

CUSTOMERS = 12
SHOP_CURRENCIES = (*CURRENCIES, "JPY")  # the last one has no decimals
SHORT_WINDOW_S = 4  # time to pay of the orders that must expire
USUAL_WINDOW_S = 24 * 60 * 60 - 1  # time to pay of all others: longer than any demo takes


class Life(NamedTuple):
    """The course of an order. `cards`: those the customer tries in turn; `status`: the last one; `reason`: if cancelled."""

    name: str
    status: str
    cards: tuple[str, ...] = ()
    authenticate: bool = False
    reason: str | None = None

    @property
    def paid(self) -> bool:
        return bool(self.cards)


LIVES = (
    Life("cancelled by the customer", "cancelled", reason="customer_request"),
    Life("cancelled after it was paid", "cancelled", (VISA,), reason="other"),
    Life("never paid", "cancelled", reason="unpaid"),
    Life("sold out", "cancelled", reason="out_of_stock"),
    Life("paid with the second card", "paid", (NO_FUNDS, VISA)),
    Life("paid with 3-D Secure", "processing", (THREE_D_SECURE,), authenticate=True),
    Life("paid and shipped", "shipped", (VISA,)),
    Life("sent in a parcel from each service", "delivered", (VISA,)),
    Life("delivered without a unit that was cancelled", "delivered", (VISA,)),
    Life("delivered, and something given back", "delivered", (VISA,)),
)
BY_CUSTOMER, REFUNDED, NEVER_PAID, NOT_THERE = (life.name for life in LIVES[:4])
IN_PARCELS, UNIT_CANCELLED, GOODWILL = (life.name for life in LIVES[7:])


class PlacedOrder(Struct):
    """An order of the demo as its gateway knows it: the cart, the answer, and its expected course. `number`: of the cart."""

    number: int
    body: dict[str, Any]
    order_id: str
    answer: bytes
    total_minor: int

    @property
    def shown_number(self) -> str:
        """Its number for people."""
        return str(json.loads(self.answer)["number"])

    @property
    def customer(self) -> str:
        return customer_of(self.number)

    @property
    def key(self) -> str:
        return key_of(self.number)

    @property
    def life(self) -> Life:
        return life_of(self.number)


def life_of(number: int) -> Life:
    """The course of order `number`."""
    return LIVES[number % len(LIVES)]


def cart_of(number: int) -> dict[str, Any]:
    """The body of its `POST /orders`. An order that must expire sets its own time to pay; the others have the default."""
    life = life_of(number)
    body = order_body(number, life.name == NOT_THERE, SHOP_CURRENCIES)
    return body | {"payment_window_seconds": SHORT_WINDOW_S} if life.name == NEVER_PAID else body


def customer_of(number: int) -> str:
    """The customer of order `number`."""
    return f"customer-{number % CUSTOMERS}"


def key_of(number: int) -> str:
    """The idempotency key of order `number`."""
    return f"cart-{number}"


class Wrong(NamedTuple):
    """A request and the problem that must be its answer."""

    status: int
    code: str
    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


def wrong_requests(mine: PlacedOrder, foreign: PlacedOrder, tokens: dict[str, str]) -> list[Wrong]:
    """Mistakes of gateways, customers and staff. `mine` and `foreign` are unpaid orders of two customers."""
    number = mine.number + 1_000_000
    gateway = {"Authorization": f"Bearer {tokens['gateway']}", "Customer-Id": mine.customer, "Content-Type": "application/json"}
    keyed = gateway | {"Idempotency-Key": f"wrong-{number}"}
    desk = {"Authorization": f"Bearer {tokens['admin']}", "Idempotency-Key": "wrong", "Content-Type": "application/json"}
    cart = cart_of(number)
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
