"""Commands in words (see `order_model`) as commands of the product; and alphabets of them, the `WHOLE` one last."""

from __future__ import annotations

from typing import Any

import msgspec

from commands.messages import (
    CancelOrder,
    OrderCommand,
    PlaceOrder,
    RaiseAttention,
    RecordDispute,
    RecordPayment,
    RecordRefund,
    RecordStock,
    RequestPayment,
    ResolveAttention,
    ShipOrder,
)
from ledger.events import Adjustment, Line
from ledger.order import Order
from tests.support.order_model import Command

PLACED_AT = 1_700_000_000_000
WINDOW_MS = 30 * 60 * 1000
TOTAL = 1000
ACTORS = {"customer": "gateway:web", "admin": "admin:desk"}


# ---- a command in words -> the command of the product ---------------------------------------------------------------


def order_command(c: Command, order_id: str = "ord_1", command_id: str = "cmd_x") -> OrderCommand:
    """The `OrderCommand` for `c` (see `order_model`)."""
    role: str = c.get("role", "reconciler")
    customer = {"customer": "c-1"}.get(role, "")
    return OrderCommand(
        command_id=command_id,
        order_id=order_id,
        fingerprint=c.get("fingerprint", bytes(16)),
        operation=c["op"],
        actor=ACTORS.get(role, role),
        customer_id="c-2" if c.get("foreign") else customer,
        expected_version=c.get("expected_version"),
        **_payload(c),
    )


def _payload(c: Command) -> dict[str, Any]:
    match c["op"]:
        case "PlaceOrder":
            return {"place": place_order(c.get("services", ("product",)), c.get("total", TOTAL))}
        case "CancelOrder":
            return {"cancel": CancelOrder(c["reason"])}
        case "RequestPayment":
            return {"request_payment": RequestPayment(c["amount"], c.get("currency", "EUR"))}
        case "ShipOrder":
            return {"ship": ShipOrder(c.get("carrier"), c.get("tracking"))}
        case "RecordPayment":
            return {
                "record_payment": RecordPayment(
                    c["fact"],
                    c["attempt"],
                    c.get("amount"),
                    c.get("ref"),
                    c.get("waiting"),
                    c.get("code"),
                    c.get("charge"),
                    c.get("capture_before"),
                )
            }
        case "RecordRefund":
            return {"record_refund": RecordRefund(c["fact"], c["no"], c.get("ref"), c.get("amount"), c.get("code"))}
        case "RecordDispute":
            return {
                "record_dispute": RecordDispute(
                    c["fact"], c["ref"], c.get("amount"), c.get("reason"), c.get("due_by"), c.get("outcome")
                )
            }
        case "RecordStock":
            return {"record_stock": RecordStock(c["fact"], c["service"], c.get("ref"), c.get("reason"))}
        case "RaiseAttention":
            return {"raise_attention": RaiseAttention(c["code"], c["key"])}
        case "ResolveAttention":
            return {"resolve_attention": ResolveAttention(c["code"], c["key"], c["action"], c.get("amount"), c.get("ticket"))}
    return {}


def place_order(services: tuple[str, ...], total: int) -> PlaceOrder:
    """An order of one line per service; an adjustment makes up the total."""
    lines = tuple(Line(service, f"{service}-1", "A thing", 2, 100) for service in services)
    adjustment = total - 200 * len(services)
    kind = "shipping" if adjustment >= 0 else "discount"
    return PlaceOrder("EUR", total, lines, (Adjustment(kind, kind, adjustment),), bytes(32), WINDOW_MS, "cart-1")


def at_ms(c: Command) -> int:
    """Broker time of `c`: right after the order was placed (so the clock may go back), or when the time to pay is over."""
    return PLACED_AT + WINDOW_MS if c.get("late") else PLACED_AT + 1


def meet(order: Order, c: Command) -> tuple[OrderCommand, Order]:
    """`c` and `order` as they meet: the expected version set, or the order full."""
    if c.get("full"):
        order = msgspec.structs.replace(order, version=1000)
    if c.get("stale"):
        c = c | {"expected_version": order.version - 1}
    elif c.get("matching"):
        c = c | {"expected_version": order.version}
    return order_command(c), order


# ---- alphabets ------------------------------------------------------------------------------------------------------


def payments_of(no: int) -> list[Command]:
    fact = {"op": "RecordPayment", "attempt": no}
    ref = f"pi_{no}"
    return [
        fact | {"fact": "PaymentOpened", "ref": ref},
        fact | {"fact": "PaymentOpened"},
        fact | {"fact": "PaymentPending", "waiting": "customer_action"},
        fact | {"fact": "PaymentPending", "waiting": "provider", "ref": ref},
        fact | {"fact": "PaymentDeclined", "code": "card_declined", "ref": ref},
        fact | {"fact": "PaymentDeclined", "code": "card_declined", "charge": "ch_1"},
        fact | {"fact": "PaymentAuthorised", "ref": ref, "amount": TOTAL, "capture_before": 7},
        fact | {"fact": "PaymentAuthorised", "ref": ref, "amount": TOTAL, "capture_before": 8},
        fact | {"fact": "PaymentCaptured", "ref": ref, "amount": 600},
        fact | {"fact": "PaymentCaptured", "ref": ref, "amount": TOTAL},
        fact | {"fact": "PaymentCaptured", "ref": ref},
        fact | {"fact": "PaymentVoided", "code": "expired"},
    ]


def _refunds(no: int, ref: str, amount: int) -> list[Command]:
    fact: Command = {"op": "RecordRefund", "no": no, "ref": ref, "amount": amount}
    return [fact | {"fact": f} for f in ("RefundSubmitted", "RefundSettled", "RefundFailed")]


def stock_of(service: str) -> list[Command]:
    fact = {"op": "RecordStock", "service": service}
    return [
        fact | {"fact": "StockReserved", "ref": "res_1"},
        fact | {"fact": "StockRejected", "reason": "out_of_stock"},
        fact | {"fact": "StockReleased"},
    ]


CANCELS: list[Command] = [
    {"op": "CancelOrder", "role": "customer", "reason": "customer_request"},
    {"op": "CancelOrder", "role": "admin", "reason": "fraud"},
    {"op": "CancelOrder", "role": "reconciler", "reason": "out_of_stock"},
]
EXPIRES: list[Command] = [{"op": "ExpireOrder"}, {"op": "ExpireOrder", "late": True}]
PAY: Command = {"op": "RequestPayment", "role": "customer", "amount": TOTAL}
FULFIL: list[Command] = [
    {"op": "StartFulfilment", "role": "admin"},
    {"op": "ShipOrder", "role": "admin", "carrier": "DHL", "tracking": "T1"},
    {"op": "ConfirmDelivery", "role": "admin"},
]
REFUNDS = _refunds(1, "re_1", 600) + _refunds(2, "re_2", 400)
BY_HAND = _refunds(0, "re_x", TOTAL)  # in the provider's dashboard
DEFINITE_NO: Command = {"op": "RecordRefund", "fact": "RefundFailed", "no": 1, "code": "account_closed"}
DISPUTES: list[Command] = [
    {"op": "RecordDispute", "fact": "DisputeOpened", "ref": "dp_1", "amount": TOTAL, "reason": "fraudulent", "due_by": 9},
    {"op": "RecordDispute", "fact": "DisputeOpened", "ref": "dp_1", "amount": TOTAL, "outcome": "won"},
    *({"op": "RecordDispute", "fact": "DisputeClosed", "ref": "dp_1", "outcome": o} for o in ("won", "lost", "withdrawn")),
]
SECOND_DISPUTE: list[Command] = [
    {"op": "RecordDispute", "fact": "DisputeOpened", "ref": "dp_2", "amount": 300},
    {"op": "RecordDispute", "fact": "DisputeClosed", "ref": "dp_2", "outcome": "lost"},
]
_FLAG: Command = {"code": "refund_failed", "key": "att:ord_1:refund:1"}
_RESOLVE: Command = {"op": "ResolveAttention", "role": "admin"} | _FLAG
ATTENTION: list[Command] = [
    {"op": "RaiseAttention"} | _FLAG,
    _RESOLVE | {"action": "retry"},
    _RESOLVE | {"action": "settled_elsewhere"},
]

_REQUESTS = [*CANCELS, *EXPIRES, PAY, *FULFIL, *ATTENTION[1:]]
WHOLE: list[Command] = [
    {"op": "PlaceOrder", "role": "customer"},
    *_REQUESTS,
    *(c | {"stale": True} for c in _REQUESTS),
    *(c | {"matching": True} for c in _REQUESTS),
    *(c | {"full": True} for c in _REQUESTS),
    {"op": "CancelOrder", "role": "customer", "reason": "other", "foreign": True},
    PAY | {"late": True},
    PAY | {"amount": TOTAL + 1},
    PAY | {"currency": "USD"},
    *payments_of(1),
    *payments_of(2),
    *(c | {"stale": True, "full": True} for c in payments_of(1)),
    {"op": "RecordPayment", "fact": "PaymentPending", "attempt": 1},
    {"op": "RecordPayment", "fact": "PaymentDeclined", "attempt": 1},
    {"op": "RecordPayment", "fact": "PaymentAuthorised", "attempt": 1},
    {"op": "RecordPayment", "fact": "PaymentAuthorised", "attempt": 1, "ref": "pi_other"},
    {"op": "RecordPayment", "fact": "PaymentCaptured", "attempt": 1, "amount": TOTAL},
    {"op": "RecordPayment", "fact": "PaymentCaptured", "attempt": 9, "ref": "pi_9", "amount": TOTAL},
    {"op": "RecordPayment", "fact": "PaymentOpened", "attempt": 0, "ref": "pi_0"},
    *REFUNDS,
    *BY_HAND,
    DEFINITE_NO,
    {"op": "RecordRefund", "fact": "RefundSettled", "no": 1, "ref": "re_x"},  # known by its reference under another number
    {"op": "RecordRefund", "fact": "RefundSettled", "no": 1},
    *DISPUTES,
    *SECOND_DISPUTE,
    *stock_of("product"),
    *stock_of("merch"),
    {"op": "RecordStock", "service": "gifts", "fact": "StockReserved"},
    *ATTENTION[:1],
    {"op": "RaiseAttention", "code": "dispute", "key": "att:ord_1:dispute"},
    _RESOLVE | {"action": "settled_elsewhere", "amount": 300, "ticket": "T-1"},
    _RESOLVE | {"action": "retry", "code": "stuck"},
    _RESOLVE | {"action": "retry", "key": "att:ord_1:refund:2"},
    {"op": "RaiseAttention"} | _FLAG | {"key": "att:ord_1:refund:2"},
]
