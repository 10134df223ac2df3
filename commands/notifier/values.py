"""What a template of a message can use: `README.md` lists the names.

Amounts and dates are texts in the language of the message. A text that came from outside is one line without control characters,
and does not change the direction of what is around it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from datetime import UTC, tzinfo

from msgspec import Struct

from commands.notifier.formats import Language, language_of
from ledger.contacts import Address, OrderContact
from ledger.events import ORDER_SHIPPED, PARCEL_SHIPPED, Adjustment, Line, OrderEvent, Units
from ledger.order import Order

_EMBEDDINGS = dict.fromkeys(map(ord, "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"))
_CONTROLS = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), " ")
_SHIPS = frozenset({ORDER_SHIPPED, PARCEL_SHIPPED})
_ISOLATE, _END = "\u2068", "\u2069"
# Countries whose addresses have the city before the postcode.
_CITY_FIRST = frozenset({"AU", "CA", "GB", "IE", "IN", "NZ", "SG", "US", "ZA"})


class LineValues(Struct, frozen=True):
    """A line of the order, of a parcel, or of what was cancelled. `price` is that of its `quantity`.

    `cancelled`: how many units of an order's line were cancelled; `quantity` still includes them.
    """

    quantity: int
    name: str
    sku: str
    unit_price: str
    price: str
    cancelled: int = 0


class AdjustmentValues(Struct, frozen=True):
    """Shipping, tax, fee or discount."""

    kind: str
    label: str
    amount: str


class OrderValues(Struct, frozen=True):
    """The order. `number` is for people, `date` the day on which it was placed, `pay_by` the end of its time to pay.

    Lines, adjustments and `cancelled` add up to the total: lines are as ordered, and `cancelled` is what the total fell by, with
    a minus; None if nothing was cancelled.
    """

    id: str
    number: str
    reference: str | None
    date: str
    pay_by: str
    lines: tuple[LineValues, ...]
    adjustments: tuple[AdjustmentValues, ...]
    cancelled: str | None
    total: str
    total_minor: int


class CutValues(Struct, frozen=True):
    """Units that were cancelled, and by how much the total fell."""

    lines: tuple[LineValues, ...]
    amount: str


class ShipmentValues(Struct, frozen=True):
    """A parcel. `lines` is empty if it is the only one."""

    carrier: str | None
    tracking: str | None
    lines: tuple[LineValues, ...]


class RefundValues(Struct, frozen=True):
    """`amount` is this refund, `total` everything refunded until now; `is_part` if they differ."""

    amount: str
    total: str
    is_part: bool


class Values(Struct, frozen=True):
    """All values of one message. `direction` is `ltr` or `rtl`, `paid` what was captured, `date` the day of the event."""

    shop: str
    language: str
    direction: str
    name: str
    date: str
    order: OrderValues
    address: tuple[str, ...]
    paid: str
    cut: CutValues
    shipment: ShipmentValues
    cancel_reason: str | None
    refund: RefundValues


class Wording(Struct, frozen=True):
    """How values are written: the tag of the message's language, that of its formats, the time zone."""

    language: str
    formats: str
    zone: tzinfo = UTC


def values_of(event: OrderEvent, order: Order, contact: OrderContact, shop: str, wording: Wording) -> Values:
    """The values of the message about `event`. Amounts and shipment are the event's, lines and dates the order's."""
    write = _Writer(language_of(wording.formats), event.currency)
    language, zone = write.language, wording.zone
    counted = zip(order.lines, order.counts, strict=True)
    fall_minor = order.placed_minor - event.total_minor
    return Values(
        shop=write.text(shop),
        language=wording.language,
        direction="rtl" if language.is_right_to_left else "ltr",
        name=write.text(contact.name),
        date=language.date(event.occurred_at, zone),
        order=OrderValues(
            id=event.order_id,
            number=write.text(order.number or event.order_id),
            reference=write.optional(order.reference),
            date=language.date(order.placed_at, zone),
            pay_by=language.moment(order.expires_at, zone),
            lines=tuple(write.line(line, line.quantity, count.cancelled) for line, count in counted),
            adjustments=tuple(write.adjustment(one) for one in order.adjustments),
            cancelled=write.money(-fall_minor) if fall_minor > 0 else None,
            total=write.money(event.total_minor),
            total_minor=event.total_minor,
        ),
        address=tuple(_address(contact.shipping_address, write)),
        paid=write.money(event.captured_minor),
        cut=_cut(event, order, write),
        shipment=_shipment(event, order, write),
        cancel_reason=event.cancel.reason if event.cancel else order.cancel_reason,
        refund=_refund(event, write),
    )


def _cut(event: OrderEvent, order: Order, write: _Writer) -> CutValues:
    if event.cut is None:
        return CutValues((), write.money(0))
    return CutValues(write.units(event.cut.lines, order), write.money(event.cut.amount_minor))


def _shipment(event: OrderEvent, order: Order, write: _Writer) -> ShipmentValues:
    """The event's parcel; for other events, the last one of the order."""
    if event.shipment is not None and event.type in _SHIPS:
        parcel, only = event.shipment, event.type == ORDER_SHIPPED and event.shipment.parcel in (None, 1)
        lines = () if only else write.units(parcel.lines, order)
        return ShipmentValues(write.optional(parcel.carrier), write.optional(parcel.tracking), lines)
    if not order.parcels:
        return ShipmentValues(None, None, ())
    last = order.parcels[-1]
    return ShipmentValues(write.optional(last.carrier), write.optional(last.tracking), ())


def _refund(event: OrderEvent, write: _Writer) -> RefundValues:
    detail = event.refund or event.attention
    amount_minor = None if detail is None else detail.amount_minor
    if amount_minor is None:  # staff settled everything that was still owed, or the event is no refund
        amount_minor = event.refunded_minor
    return RefundValues(write.money(amount_minor), write.money(event.refunded_minor), amount_minor != event.refunded_minor)


def _address(address: Address, write: _Writer) -> list[str]:
    """The address as lines, without the name."""
    if address.country.upper() in _CITY_FIRST:
        place = [" ".join(part for part in (address.city, address.region, address.postcode) if part)]
    else:
        place = [f"{address.postcode} {address.city}", address.region or ""]
    lines = (address.line1, address.line2 or "", *place)
    return [write.text(line) for line in lines if line.strip()] + [write.language.country(address.country)]


class _Writer:
    """Writes what is in an order, in one language and currency. Texts from outside are made fit for its direction."""

    def __init__(self, language: Language, currency: str) -> None:
        self.language, self._currency = language, currency
        self._odd = frozenset({"L"}) if language.is_right_to_left else frozenset({"R", "AL", "AN"})

    def money(self, amount_minor: int) -> str:
        return self.language.money(amount_minor, self._currency)

    def text(self, text: str) -> str:
        """`text` as one line; isolated if it has letters of the other direction."""
        text = one_line(text)
        if any(unicodedata.bidirectional(letter) in self._odd for letter in text):
            return f"{_ISOLATE}{text}{_END}"
        return text

    def optional(self, text: str | None) -> str | None:
        return self.text(text) if text else None

    def line(self, line: Line, quantity: int, cancelled: int = 0) -> LineValues:
        price = self.money(quantity * line.unit_price_minor)
        return LineValues(
            quantity, self.text(line.name), self.text(line.sku), self.money(line.unit_price_minor), price, cancelled
        )

    def units(self, units: Iterable[Units], order: Order) -> tuple[LineValues, ...]:
        """Some units of the order's lines."""
        known = {(line.service, line.sku): line for line in order.lines}
        pairs = ((known.get((some.service, some.sku)), some.quantity) for some in units)
        return tuple(self.line(line, quantity) for line, quantity in pairs if line is not None)

    def adjustment(self, one: Adjustment) -> AdjustmentValues:
        return AdjustmentValues(one.kind, self.text(one.label), self.money(one.amount_minor))


def one_line(text: str) -> str:
    """`text` without line breaks, control characters and marks that change the direction of what follows."""
    return " ".join(text.translate(_EMBEDDINGS).translate(_CONTROLS).split())
