"""What `verify` says of events that no correct writer writes: each forged detail of the desk is found; a whole day is well."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from ledger import events as e
from ledger.envelope import EventHeaders, Written, seal
from ledger.evolve import evolve
from ledger.log import Record
from ledger.order import FoldError, Order
from ledger.order_numbers import candidate, place_of
from ledger.schemas.codec import event_codec, link_of
from ledger.walk import Fault, Walk
from tests.support.story import (
    PAID,
    cancel_lines,
    change_metadata,
    delivered,
    given,
    refund,
    request_refund,
    ship_parcel,
    stock,
    units,
)

STORY = given(
    *PAID,
    cancel_lines(TEA=1),
    stock("StockReleased", "product", part=1),
    ship_parcel(TEA=1),
    request_refund(TEA=1, restock=True),
    refund("RefundSettled", amount=450),
    ship_parcel(MUG=1),
    delivered(2),
    stock("StockReleased", "product", part=2),
    change_metadata(till="7", shelf="b"),
    delivered(1),
).events
PLACED = STORY[0].placed
assert PLACED is not None
DAY = [replace(STORY[0], placed=replace(PLACED, number=candidate("ord_1", place_of(0, 1), 0))), *STORY[1:]]

HEADERS = EventHeaders("order-events")


def walked(events: list[e.OrderEvent]) -> list[Fault]:
    """Faults of these events, sealed as a writer would that believes in them."""
    walk = Walk(0, 1, lambda order_id: None, lambda command_id: False)
    order: Order | None = None
    faults: list[Fault] = []
    link = e.NO_HASH
    for offset, event in enumerate(events):
        try:
            order = evolve(order, event)
        except FoldError:
            assert order is not None
        sealed = seal(replace(event, command_id=f"cmd_{offset}"), order, Written(bytes(16), offset, 1), offset, link)
        value = event_codec().encode(sealed)
        faults += walk.check(Record("order-events", 0, offset, event.occurred_at, b"ord_1", value, HEADERS.of(sealed)))
        link = link_of(value)
    return faults


def test_a_whole_day_has_no_fault() -> None:
    assert walked(DAY) == []


def test_the_room_for_a_refund_shrinks_by_what_is_due_for_cancelled_units_that_were_refunded_for_less() -> None:
    story = given(*PAID, request_refund(50, TEA=2), cancel_lines(TEA=2), request_refund(1300)).events
    less = [DAY[0], *story[1:]]
    assert walked(less) == []
    request = less[-1].refund_request
    assert request is not None
    (fault,) = walked([*less[:-1], replace(less[-1], refund_request=replace(request, amount_minor=1301))])
    assert (fault.field, fault.message) == ("refund_request", "1301 of 1300 that can be refunded")


def _detail(kind: str, nth: int = 0, **members: Any) -> list[e.OrderEvent]:
    """The day, with these members in the detail of the nth event of a kind."""
    at = [n for n, event in enumerate(DAY) if event.type == kind][nth]
    detail = DAY[at].detail
    assert detail is not None
    forged = replace(DAY[at], **{e.DETAIL_OF[kind]: replace(detail, **members)})
    return [*DAY[:at], forged, *DAY[at + 1 :]]


def _kind(kind: str, other: str, nth: int = 0) -> list[e.OrderEvent]:
    """The day, where the nth event of a kind is of another one with the same detail."""
    at = [n for n, event in enumerate(DAY) if event.type == kind][nth]
    return [*DAY[:at], replace(DAY[at], type=other), *DAY[at + 1 :]]


def _cancelled(kind: str) -> list[e.OrderEvent]:
    """The day, until in the place of the first event of a kind the whole order is cancelled."""
    at = next(n for n, event in enumerate(DAY) if event.type == kind)
    own: dict[str, Any] = {e.DETAIL_OF[kind]: None, "cancel": e.Cancel("fraud", "admin")}
    return [*DAY[:at], replace(DAY[at], type=e.ORDER_CANCELLED, **own)]


@pytest.mark.parametrize(
    ("events", "field", "says"),
    [
        (_detail(e.ORDER_PLACED, number=candidate("ord_2", place_of(0, 1), 0)), "placed", "does not belong to this order"),
        (_detail(e.LINES_CANCELLED, amount_minor=451), "cut", "says 451, the units cost 450"),
        (_detail(e.LINES_CANCELLED, shipping=True), "cut", "says 450, the units cost 850"),
        (_detail(e.LINES_CANCELLED, lines=units(TEA=3)), "type", "LinesCancelled of more units than line 1 has"),
        (_detail(e.LINES_CANCELLED, lines=units(TEA=2, MUG=1)), "type", "LinesCancelled of all that was left"),
        (_detail(e.LINES_CANCELLED, lines=(e.Units("gifts", "none", 1),)), "version", "UnknownLine"),
        (_detail(e.REFUND_REQUESTED, amount_minor=2000), "refund_request", "2000 of 1750 that can be refunded"),
        (_detail(e.REFUND_REQUESTED, amount_minor=0), "refund_request", "0 of 1750 that can be refunded"),
        (_detail(e.REFUND_REQUESTED, lines=units(TEA=2)), "type", "RefundRequested of more units than line 1 has"),
        (_detail(e.REFUND_REQUESTED, lines=units(MUG=1)), "type", "RefundRequested of more units than line 2 has"),
        (_detail(e.PARCEL_SHIPPED, lines=units(TEA=2)), "type", "ParcelShipped of more units than line 1 has"),
        (_detail(e.PARCEL_SHIPPED, parcel=2), "type", "ParcelShipped of parcel 2, the next one is 1"),
        (_detail(e.ORDER_SHIPPED, parcel=None), "type", "OrderShipped of parcel None, the next one is 2"),
        (_kind(e.PARCEL_SHIPPED, e.ORDER_SHIPPED), "type", "OrderShipped, and the order is processing then"),
        (_kind(e.ORDER_SHIPPED, e.PARCEL_SHIPPED), "type", "ParcelShipped, and the order is shipped then"),
        (_detail(e.PARCEL_DELIVERED, parcel=3), "type", "ParcelDelivered of parcel 3, which is not on its way"),
        (_detail(e.PARCEL_DELIVERED, parcel=None), "type", "ParcelDelivered of parcel None, which is not on its way"),
        (_detail(e.ORDER_DELIVERED, parcel=2), "type", "OrderDelivered of parcel 2, which is not on its way"),
        (_kind(e.PARCEL_DELIVERED, e.ORDER_DELIVERED), "type", "OrderDelivered, and the order is shipped then"),
        (_kind(e.ORDER_DELIVERED, e.PARCEL_DELIVERED), "type", "ParcelDelivered, and the order is delivered then"),
        (_detail(e.STOCK_RELEASED, part=2), "type", "StockReleased of an object that the order does not have"),
        (_detail(e.STOCK_RELEASED, service="merch"), "type", "StockReleased of an object that the order does not have"),
        (_detail(e.STOCK_RELEASED, nth=1, part=1), "type", "StockReleased of an object that the order does not have"),
        (_cancelled(e.REFUND_REQUESTED), "type", "OrderCancelled of an order with a shipped parcel"),
        (_detail(e.METADATA_CHANGED, entries=(e.Entry("b", ""), e.Entry("a", ""))), "metadata", "not unique and sorted"),
        (_detail(e.METADATA_CHANGED, entries=(e.Entry("a", ""), e.Entry("a", ""))), "metadata", "not unique and sorted"),
        (_detail(e.ORDER_PLACED, metadata=(e.Entry("b", ""), e.Entry("a", ""))), "metadata", "not unique and sorted"),
    ],
)
def test_a_forged_detail_is_found(events: list[e.OrderEvent], field: str, says: str) -> None:
    faults = walked(events)
    assert any(fault.field == field and says in fault.message for fault in faults), [str(fault) for fault in faults]
