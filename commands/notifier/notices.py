"""Which events lead to a message to the customer. Pure.

    placed           OrderPlaced
    paid             the capture, or the last reservation, that makes the order paid
    confirmed        the last reservation of an order that costs nothing
    part_paid        a capture of less than the order costs
    lines_cancelled  LinesCancelled: the order continues with less
    shipped          ParcelShipped, and OrderShipped: the last parcel
    delivered        OrderDelivered
    cancelled        OrderCancelled
    refunded         every refund that was settled, also one that staff settled elsewhere

The event itself leads to the message, without comparing states: the capture or reservation with status `paid` is the one that
completed the payment, because the processor records neither twice. Except a late reservation of a service whose units are all
cancelled (`completes_nothing`). The key of a message is (order, version, channel).
"""

from __future__ import annotations

from ledger import events
from ledger.events import OrderEvent
from ledger.order import PARTLY_CAPTURED, Order, is_cut
from ledger.transitions import Status

EMAIL, SMS = "email", "sms"
NOTICES = ("placed", "paid", "confirmed", "part_paid", "lines_cancelled", "shipped", "delivered", "cancelled", "refunded")
_ALWAYS = {
    events.ORDER_PLACED: "placed",
    events.LINES_CANCELLED: "lines_cancelled",
    events.PARCEL_SHIPPED: "shipped",
    events.ORDER_SHIPPED: "shipped",
    events.ORDER_DELIVERED: "delivered",
    events.ORDER_CANCELLED: "cancelled",
    events.REFUND_SETTLED: "refunded",
}


def notice_of(event: OrderEvent) -> str | None:
    """The notice for `event`; None for most events."""
    if event.type in (events.PAYMENT_CAPTURED, events.STOCK_RESERVED):
        if event.status == Status.PAID:
            return "paid" if event.total_minor else "confirmed"
        return "part_paid" if event.type == events.PAYMENT_CAPTURED and event.payment_state == PARTLY_CAPTURED else None
    if event.attention is not None and event.attention.action == "settled_elsewhere":
        return "refunded" if event.attention.amount_minor != 0 else None
    return _ALWAYS.get(event.type)


def completes_nothing(event: OrderEvent, order: Order) -> bool:
    """Whether `event` reserves a service of which all units were cancelled before: the order was paid, or confirmed, without it.

    `order` is as of now: units that were cancelled after the event lower its total.
    """
    stock = event.stock
    if event.type != events.STOCK_RESERVED or stock is None or not is_cut(order, stock.service):
        return False
    return order.version == event.version or 0 < event.total_minor == order.total_minor
