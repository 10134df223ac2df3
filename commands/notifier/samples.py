"""Made-up orders for previews and checks of templates: everything that may be in one, and what people write into it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from ledger import events as e
from ledger import units
from ledger.contacts import Address, OrderContact
from ledger.evolve import evolve
from ledger.money import total_of
from ledger.order import Order

ORDER_ID, NUMBER = "ord_2cumvh5jpkvhcxsfqqzwnmx5ei", "K7QM-2F9X-R"
PLACED_AT_MS = 1_896_091_200_000  # 2030-01-31T12:00:00Z
_HOUR_MS = 3_600_000


class Sample(Struct, frozen=True):
    """An event with its order, as of then, and the contact. `name` says what is special about it."""

    name: str
    event: e.OrderEvent
    order: Order
    contact: OrderContact


class _Content(Struct, frozen=True):
    name: str
    currency: str
    lines: tuple[e.Line, ...]
    adjustments: tuple[e.Adjustment, ...] = ()
    reference: str | None = None


_ADA = OrderContact("c-1", "Ada Example", "ada@example.org", Address("1 Mill Lane", "Leeds", "LS1 1AA", "GB"), "+44 113 496 0000")
_ESPRESSO = e.Line("product", "espresso-1kg", "Espresso, 1 kg", 2, 2490)
_MUG = e.Line("merch", "mug", "Mug", 1, 900)
_LONG_WORD = "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichen"
_ORDINARY = _Content(
    "an ordinary order",
    "EUR",
    (_ESPRESSO, _MUG),
    (
        e.Adjustment("shipping", "Parcel", 400),
        e.Adjustment("tax", "VAT", 210),
        e.Adjustment("discount", "Spring", -500),
    ),
    "cart-1017",
)
_CONTENTS = (
    _ORDINARY,
    _Content("one line, nothing else", "EUR", (_MUG,)),
    _Content("a currency without minor units", "JPY", (e.Line("product", "beans", "Beans", 1, 2890),)),
    _Content("a currency with three digits", "KWD", (e.Line("product", "beans", "Beans", 1, 2890),)),
    _Content("many lines", "USD", tuple(e.Line("merch", f"m-{n}", f"Mug {n}", 999, 100_000) for n in range(100))),
)
_HOME = Address("1 Mill Lane", "Leeds", "LS1 1AA", "GB")
_RENO = Address("1 Mill Street", "Reno", "89501", "US", "Flat 2", "NV")
_AMMAN = Address("شارع", "عمان", "11118", "JO")
_CONTACTS = (
    (
        "a contact with everything",
        OrderContact("c-1", "Ada", "a@example.org", _RENO, "1"),
    ),
    ("a contact without a postcode", OrderContact("c-1", "Ada", "a@example.org", Address("1", "Dubai", "", "AE"))),
    ("a name with signs of HTML", OrderContact("c-1", "<b>\"Ada\" & 'Eve'</b>", "a@example.org", _HOME)),
    ("a name with line breaks", OrderContact("c-1", "Ada\r\nBcc: eve@example.org\r\n\r\nEve", "a@example.org", _HOME)),
    (
        "a name from right to left",
        OrderContact("c-1", "\u202eعائشة محمد", "a@example.org", _AMMAN),
    ),
    ("a long word", OrderContact("c-1", _LONG_WORD * 2, "a@example.org", Address(_LONG_WORD, _LONG_WORD, "1", "DE"))),
)
_PARCEL = (e.Units("merch", "mug", 1),)
_TRACKING = "00340434161094015902"
# What may differ in the event of a notice; the first is the ordinary one. Amounts are parts of the total, in percent.
_SHARES = ("captured", "refunded", "refund", "settled")
_EVENTS: dict[str, tuple[tuple[str, str, dict[str, Any]], ...]] = {
    "placed": (("", e.ORDER_PLACED, {}),),
    "paid": (("paid by the capture", e.PAYMENT_CAPTURED, {"captured": 100}),),
    "confirmed": (("confirmed", e.STOCK_RESERVED, {"total": 0}),),
    "part_paid": (("half of it paid", e.PAYMENT_CAPTURED, {"captured": 50}),),
    "lines_cancelled": (
        ("a unit that is sold out", e.LINES_CANCELLED, {"cut": "out_of_stock"}),
        ("a unit that was paid", e.LINES_CANCELLED, {"cut": "customer_request", "captured": 100}),
    ),
    "shipped": (
        ("carrier and tracking", e.ORDER_SHIPPED, {"shipment": e.Shipment("DHL", _TRACKING, parcel=1), "captured": 100}),
        ("no carrier", e.ORDER_SHIPPED, {"shipment": e.Shipment(parcel=1)}),
        ("a carrier alone", e.ORDER_SHIPPED, {"shipment": e.Shipment("DHL", parcel=1)}),
        ("the first of two parcels", e.PARCEL_SHIPPED, {"shipment": e.Shipment("DHL", "0034", _PARCEL, 1)}),
        ("the last of two parcels", e.ORDER_SHIPPED, {"shipment": e.Shipment("DHL", "0034", _PARCEL, 2)}),
    ),
    "delivered": (("delivered", e.ORDER_DELIVERED, {"shipment": e.Shipment(), "captured": 100}),),
    "cancelled": tuple(
        (f"cancelled: {reason}", e.ORDER_CANCELLED, {"cancel": e.Cancel(reason, "customer"), "captured": 100})
        for reason in ("customer_request", "out_of_stock", "unpaid", "stock_timeout", "fraud", "other")
    ),
    "refunded": (
        ("refunded whole", e.REFUND_SETTLED, {"captured": 100, "refunded": 100, "refund": 100}),
        ("the last of several refunds", e.REFUND_SETTLED, {"captured": 100, "refunded": 100, "refund": 40}),
        ("staff settled it elsewhere", e.ATTENTION_RESOLVED, {"captured": 100, "refunded": 100, "settled": 100}),
    ),
}


def sample(notice: str) -> Sample:
    """The ordinary order, at the event that leads to this notice."""
    return _sample(_ORDINARY, _ADA, *_EVENTS[notice][0])


def samples(notice: str) -> Iterator[Sample]:
    """Orders of every kind at this notice: every content, every kind of contact, every kind of event."""
    for content in _CONTENTS:
        yield _sample(content, _ADA, *_EVENTS[notice][0], special=content.name)
    for special, contact in _CONTACTS:
        yield _sample(_ORDINARY, contact, *_EVENTS[notice][0], special=special)
    for special, kind, changes in _EVENTS[notice][1:]:
        yield _sample(_ORDINARY, _ADA, special, kind, changes)
    if notice in ("placed", "cancelled"):
        free = _Content("nothing to pay", "EUR", (e.Line("merch", "sticker", "Sticker", 1, 0),))
        yield _sample(free, _ADA, *_EVENTS[notice][0], special=free.name)


def _sample(content: _Content, contact: OrderContact, name: str, kind: str, changes: dict[str, Any], special: str = "") -> Sample:
    if changes.get("total") == 0:
        content = _Content(content.name, content.currency, tuple(_free(line) for line in content.lines))
    total_minor = total_of(content.lines, content.adjustments)
    placed = _event(content.currency, total_minor, 1, e.ORDER_PLACED, placed=_placed(content))
    order = evolve(None, placed)
    if kind == e.ORDER_PLACED:
        return Sample(special or content.name, placed, order, contact)
    cut = None
    if "cut" in changes:
        some = (e.Units(content.lines[0].service, content.lines[0].sku, 1),)
        taken = units.cancelled(order, some, shipping=False)
        total_minor -= taken.amount_minor
        order = replace(order, counts=taken.counts, total_minor=total_minor)
        cut = e.Cut(some, taken.amount_minor, changes["cut"], "admin")
    shares = {word: changes[word] * total_minor // 100 for word in _SHARES if word in changes}
    details: dict[str, Any] = {word: changes[word] for word in ("shipment", "cancel") if word in changes}
    if "refund" in shares:
        details["refund"] = e.Refund(1, "re_1", shares["refund"])
    if "settled" in shares:
        details["attention"] = e.Attention("refund_failed", f"att:{ORDER_ID}:refund:3", "settled_elsewhere", shares["settled"])
    amounts = {"captured_minor": shares.get("captured", 0), "refunded_minor": shares.get("refunded", 0)}
    event = _event(content.currency, total_minor, 7, kind, cut=cut, **amounts, **details)
    return Sample(special or name, event, order, contact)


def _event(currency: str, total_minor: int, version: int, kind: str, **fields: Any) -> e.OrderEvent:
    return e.OrderEvent(
        order_id=ORDER_ID,
        version=version,
        type=kind,
        occurred_at=PLACED_AT_MS + (version - 1) * _HOUR_MS,
        customer_id="c-1",
        currency=currency,
        total_minor=total_minor,
        actor="sample",
        command_id=f"cmd_{version}",
        fingerprint=bytes(16),
        **fields,
    )


def _placed(content: _Content) -> e.Placed:
    return e.Placed(content.lines, content.adjustments, bytes(32), PLACED_AT_MS + _HOUR_MS, content.reference, number=NUMBER)


def _free(line: e.Line) -> e.Line:
    return e.Line(line.service, line.sku, line.name, line.quantity, 0)
