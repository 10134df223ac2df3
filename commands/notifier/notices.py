"""Which events lead to a message, and its text. Pure, except that the templates are read once.

    placed      OrderPlaced
    paid        the capture, or the last reservation, that makes the order paid
    confirmed   the last reservation of an order that costs nothing
    part_paid   a capture of less than the order costs
    shipped     OrderShipped
    delivered   OrderDelivered
    cancelled   OrderCancelled
    refunded    the refund that completes the refunding of everything captured, or staff settled it elsewhere

The event itself leads to the message, without comparing states: the capture or reservation with status `paid` is the one that
completed the payment, because the processor records neither twice. The key of a message is (order, version, channel).
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from string import Template

from commands.notifier.message_port import OutMessage
from commands.phone_numbers import dialled
from ledger import events
from ledger.contacts import OrderContact
from ledger.events import OrderEvent
from ledger.money import in_words
from ledger.order import PARTLY_CAPTURED
from ledger.transitions import Status

EMAIL, SMS = "email", "sms"
_ALWAYS = {
    events.ORDER_PLACED: "placed",
    events.ORDER_SHIPPED: "shipped",
    events.ORDER_DELIVERED: "delivered",
    events.ORDER_CANCELLED: "cancelled",
}
_REASONS = {
    "customer_request": " as you asked",
    "out_of_stock": ", because an item is sold out",
    "unpaid": ", because it was not paid in time",
    "stock_timeout": ", because we could not reserve everything in time",
}


def notice_of(event: OrderEvent) -> str | None:
    """The notice for `event`; None for most events."""
    if event.type in (events.PAYMENT_CAPTURED, events.STOCK_RESERVED):
        if event.status == Status.PAID:
            return "paid" if event.total_minor else "confirmed"
        return "part_paid" if event.type == events.PAYMENT_CAPTURED and event.payment_state == PARTLY_CAPTURED else None
    if event.type == events.REFUND_SETTLED or (event.attention is not None and event.attention.action == "settled_elsewhere"):
        return "refunded" if event.payment_state == "refunded" else None
    return _ALWAYS.get(event.type)


def messages_of(event: OrderEvent, notice: str, contact: OrderContact, channels: frozenset[str]) -> list[OutMessage]:
    """One message per channel on which the contact can be reached."""
    messages = []
    for channel, to in ((EMAIL, contact.email), (SMS, _number_of(contact))):
        if channel in channels and to:
            subject, text = _text(event, notice, contact, channel)
            messages.append(OutMessage(f"{event.order_id}:{event.version}:{channel}", channel, to, subject, text))
    return messages


def _number_of(contact: OrderContact) -> str | None:
    """The number in E.164, or as it was sent if it is invalid: the door will refuse it."""
    if contact.phone is None:
        return None
    try:
        return dialled(contact.phone, contact.shipping_address.country)
    except ValueError:
        return contact.phone


def _text(event: OrderEvent, notice: str, contact: OrderContact, channel: str) -> tuple[str, str]:
    text = _template(notice, channel).substitute(
        order=event.order_id,
        name=contact.name,
        lines="\n".join(f"  {x.quantity} x {x.name}" for x in event.placed.lines) if event.placed else "",
        total=in_words(event.total_minor, event.currency),
        captured=in_words(event.captured_minor, event.currency),
        refunded=in_words(event.refunded_minor, event.currency),
        shipment=_shipment(event),
        reason=_REASONS.get(event.cancel.reason, "") if event.cancel else "",
    )
    if channel == SMS:
        return "", text.strip()
    head, _, body = text.partition("\n")
    return head.removeprefix("Subject: "), body


def _shipment(event: OrderEvent) -> str:
    if event.shipment is None or not event.shipment.carrier:
        return ""
    tracking = f", number {event.shipment.tracking}" if event.shipment.tracking else ""
    return f" with {event.shipment.carrier}{tracking}"


@cache
def _template(notice: str, channel: str) -> Template:
    return Template(files("commands.notifier").joinpath("templates", f"{notice}.{channel}.txt").read_text("utf-8"))
