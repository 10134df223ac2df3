"""Commands in words (see `order_model`) as commands of the product; and alphabets of them, the `WHOLE` one last."""

from __future__ import annotations

from typing import Any

import msgspec

from commands.messages import (
    CancelLines,
    CancelOrder,
    ChangeMetadata,
    DeliverParcel,
    EntryChange,
    ImportOrder,
    OrderCommand,
    PlaceOrder,
    RaiseAttention,
    RecordDispute,
    RecordPayment,
    RecordRefund,
    RecordStock,
    RequestPayment,
    RequestRefund,
    ResolveAttention,
    ShipOrder,
)
from ledger.events import Adjustment, Line, Units
from ledger.order import Order
from tests.support.line_costs import Charge, Item, total_of
from tests.support.order_model import Command

PLACED_AT = 1_700_000_000_000
WINDOW_MS = 30 * 60 * 1000
OLD_AT = PLACED_AT - 10 * 24 * 60 * 60 * 1000  # when an older service took an order
TOTAL = 1000
ACTORS = {"customer": "gateway:web", "admin": "admin:desk"}


# ---- a command in words -> the command of the product ---------------------------------------------------------------


def order_command(c: Command, order_id: str = "ord_1", command_id: str = "cmd_x") -> OrderCommand:
    """The `OrderCommand` for `c` (see `order_model`)."""
    role: str = c.get("role", "reconciler")
    customer = "c-1" if role == "customer" or c["op"] == "ImportOrder" else ""
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
            return {"place": place_order(*cart_of(c))}
        case "ImportOrder":
            return {"import_order": _import_order(c)}
        case "CancelOrder":
            return {"cancel": CancelOrder(c["reason"])}
        case "CancelLines":
            return {"cancel_lines": CancelLines(_units(c), c["reason"], c["shipping"])}
        case "RequestPayment":
            return {"request_payment": RequestPayment(c["amount"], c.get("currency", "EUR"))}
        case "RequestRefund":
            wanted = RequestRefund(c["reason"], _units(c), c.get("amount"), c["shipping"], c["restock"])
            return {"request_refund": wanted}
        case "ShipOrder" | "ShipParcel":
            return {"ship": ShipOrder(c.get("carrier"), c.get("tracking"), _units(c))}
        case "ConfirmParcel":
            return {"deliver": DeliverParcel(c["parcel"])}
        case "ChangeMetadata":
            return {"change_metadata": ChangeMetadata(tuple(EntryChange(*entry) for entry in c["entries"]))}
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
            stock = RecordStock(c["fact"], c["service"], c.get("ref"), c.get("reason"), part=c.get("part"))
            return {"record_stock": stock}
        case "RaiseAttention":
            return {"raise_attention": RaiseAttention(c["code"], c["key"])}
        case "ResolveAttention":
            return {"resolve_attention": ResolveAttention(c["code"], c["key"], c["action"], c.get("amount"), c.get("ticket"))}
    return {}


def _units(c: Command) -> tuple[Units, ...]:
    return tuple(Units(*units) for units in c.get("lines", ()))


# Two lines that cost 165 (own 185, tax 18, voucher -38; one unit 82, two 165) and 267 (300, 29, -62), and shipping 568.
TWO_AND_ONE = (
    (Item("product", "product-1", 2, 100), Item("merch", "merch-1", 1, 300)),
    (
        Charge("discount", -15, ("product", "product-1")),
        Charge("shipping", 568),
        Charge("tax", 47),
        Charge("discount", -100),
    ),
)


def cart_of(c: Command) -> tuple[tuple[Item, ...], tuple[Charge, ...]]:
    """The lines and charges of PlaceOrder: `TWO_AND_ONE`, or two units of a thing per service, adjusted to make up the total."""
    if c.get("cart") == "two and one":
        return TWO_AND_ONE
    items = tuple(Item(service, f"{service}-1", 2, 100) for service in c.get("services", ("product",)))
    adjustment = c.get("total", TOTAL) - total_of(items, ())
    return items, (Charge("shipping" if adjustment >= 0 else "discount", adjustment),)


def place_order(items: tuple[Item, ...], charges: tuple[Charge, ...]) -> PlaceOrder:
    lines = tuple(Line(item.service, item.sku, "A thing", item.quantity, item.unit_price) for item in items)
    adjustments = tuple(Adjustment(c.kind, c.kind, c.amount, *(c.line or ())) for c in charges)
    return PlaceOrder("EUR", total_of(items, charges), lines, adjustments, bytes(32), WINDOW_MS, "cart-1")


def _import_order(c: Command) -> ImportOrder:
    sent, delivered = c["status"] in ("shipped", "delivered"), c["status"] == "delivered"
    return ImportOrder(
        place_order(*cart_of(c)),
        "old-1",
        OLD_AT,
        c["status"],
        c["captured"],
        c["refunded"],
        shipped_at=OLD_AT + 1000 if sent else None,
        delivered_at=OLD_AT + 2000 if delivered else None,
    )


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


def cut(*lines: tuple[str, str, int], role: str = "admin", shipping: bool = False) -> Command:
    return {"op": "CancelLines", "role": role, "lines": lines, "reason": "other", "shipping": shipping}


def ask_back(*lines: tuple[str, str, int], amount: int | None = None, shipping: bool = False, restock: bool = False) -> Command:
    asked: Command = {"op": "RequestRefund", "role": "admin", "lines": lines, "reason": "damaged"}
    return asked | {"amount": amount, "shipping": shipping, "restock": restock}


def parcel(*lines: tuple[str, str, int]) -> Command:
    return {"op": "ShipParcel", "role": "admin", "lines": lines, "carrier": "UPS"}


def arrived(parcel_no: int) -> Command:
    return {"op": "ConfirmParcel", "role": "admin", "parcel": parcel_no}


def notes(**entries: str | None) -> Command:
    return {"op": "ChangeMetadata", "role": "admin", "entries": tuple(entries.items())}


def part_back(service: str, part: int) -> Command:
    return {"op": "RecordStock", "fact": "StockReleased", "service": service, "part": part}


P1, P2, M1 = ("product", "product-1", 1), ("product", "product-1", 2), ("merch", "merch-1", 1)
PAY_LESS = [PAY | {"amount": amount} for amount in (918, 733, 651)]  # without a product, the merch, or both
MANY_NOTES = notes(**{f"k{n}": "v" for n in range(20)})
_FLAG: Command = {"code": "refund_failed", "key": "att:ord_1:refund:1"}
_RESOLVE: Command = {"op": "ResolveAttention", "role": "admin"} | _FLAG
ATTENTION: list[Command] = [
    {"op": "RaiseAttention"} | _FLAG,
    _RESOLVE | {"action": "retry"},
    _RESOLVE | {"action": "settled_elsewhere"},
]

# The desk's own requests; the first of each kind also comes to orders that are full or at another version.
DESK: list[list[Command]] = [
    [cut(P1), cut(P1, role="customer"), cut(M1, P1), cut(P2, shipping=True), cut(P1, P1), cut(P2, M1)],
    [
        ask_back(P1),
        ask_back(amount=300),
        ask_back(M1, shipping=True),
        ask_back(P1, restock=True),
        ask_back(P1, P1, amount=1),
        ask_back(P2, M1, shipping=True),
        ask_back(amount=0),
    ],
    [parcel(P1), parcel(M1), parcel(P2, M1), parcel(P2)],
    [arrived(1), arrived(2), arrived(0)],
    [notes(till="7"), notes(till=None, shelf="b"), MANY_NOTES, notes(till="8", **dict.fromkeys(f"k{n}" for n in range(20)))],
]
_PARTS = [part_back("product", 1), part_back("product", 2), part_back("merch", 1), part_back("product", 0)]

_REQUESTS = [*CANCELS, *EXPIRES, PAY, *FULFIL, *ATTENTION[1:]]
IMPORT: Command = {
    "op": "ImportOrder",
    "role": "admin",
    "cart": "two and one",
    "status": "paid",
    "captured": TOTAL,
    "refunded": 0,
}
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
    *(c for kind in DESK for c in kind),
    *(kind[0] | how for kind in DESK for how in ({"stale": True}, {"matching": True}, {"full": True})),
    cut(P2, M1) | {"full": True},
    *_PARTS,
    PAY_LESS[0],
    IMPORT,
]
