"""Domain values as the answers that clients get (`contract.responses`). Pure."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any, cast

import msgspec
from msgspec.structs import asdict

from api.contract import desk_responses, responses
from api.contract.webhook_responses import WebhookMessageOut
from commands.obligations import obligations
from commands.outlook import Action
from ledger.bounds import MAX_LINES
from ledger.contacts import Address, Note, OrderContact
from ledger.erasures import Erasure
from ledger.events import OrderEvent
from ledger.order import (
    CANCELLED,
    LineCount,
    Order,
    Parcel,
    display,
    owed_back_minor,
    payment_state,
    refund_room_minor,
    stock_state,
)
from ledger.rfc3339 import format_ms
from ledger.transitions import Operation
from projections.queries import Past
from projections.read_models import DailyTotals, Frozen

to_json = msgspec.json.Encoder().encode

_EPOCH = date(1970, 1, 1)
_TIMES = frozenset({"expires_at", "capture_before", "due_by"})  # members of event details that are ms since the epoch


def day(number: int) -> str:
    """The date of a UTC day counted from the epoch."""
    return (_EPOCH + timedelta(days=number)).isoformat()


def day_number(of: date) -> int:
    """The UTC day as a number counted from the epoch."""
    return (of - _EPOCH).days


def etag(version: int) -> str:
    """The version as a strong entity tag."""
    return f'"{version}"'


def shown_status(order: Order) -> responses.Status:
    """The status that clients see."""
    return display(order).value


def order_summary(order: Order, frozen: responses.FrozenOut | None) -> responses.OrderSummaryOut:
    """An order without lines, adjustments and contact."""
    last = order.attempts[-1] if order.attempts else None
    payment = payment_state(order)
    return responses.OrderSummaryOut(
        order_id=order.order_id,
        number=order.number,
        version=order.version,
        status=shown_status(order),
        axes=responses.AxesOut(order.lifecycle, payment, stock_state(order), order.fulfilment),
        cancel_reason=order.cancel_reason if order.lifecycle == CANCELLED else None,
        attention=[responses.AttentionOut(f.code, f.obligation_key, format_ms(f.since)) for f in order.attention],
        frozen=frozen,
        customer_id=order.customer_id,
        currency=order.currency,
        total_minor=order.total_minor,
        captured_minor=order.captured_minor,
        refunded_minor=order.refunded_minor,
        reference=order.reference,
        placed_at=format_ms(order.placed_at),
        updated_at=format_ms(order.updated_at),
        expires_at=format_ms(order.expires_at),
        payment=responses.PaymentSummaryOut(last.no, last.state) if last else responses.PaymentSummaryOut(0, payment),
        shipped_at=_time(order.shipped_at),
        delivered_at=_time(order.delivered_at),
    )


def whole_order(order: Order, frozen: responses.FrozenOut | None, contact: OrderContact | None) -> responses.OrderOut:
    """One order, whole."""
    return responses.OrderOut(
        **asdict(order_summary(order, frozen)),
        lines=_lines(order),
        # The very members of the answer's: a copy would cost a tenth of all this.
        adjustments=cast("list[responses.OrderAdjustmentOut]", order.adjustments),
        shipments=[shipment(parcel) for parcel in order.parcels],
        metadata={entry.name: entry.text for entry in order.metadata},
        contact=None if contact is None else contact_shown(contact),
    )


_NO_COUNTS = (LineCount(),) * MAX_LINES


def _lines(order: Order) -> list[responses.OrderLineOut]:
    if order.counts == _NO_COUNTS[: len(order.lines)]:
        return cast("list[responses.OrderLineOut]", order.lines)  # as for the adjustments
    return [
        responses.OrderLineOut(
            service=cast("responses.Service", line.service),
            sku=line.sku,
            name=line.name,
            quantity=line.quantity,
            unit_price_minor=line.unit_price_minor,
            cancelled_quantity=count.cancelled,
            shipped_quantity=count.shipped,
            refunded_quantity=count.refunded,
        )
        for line, count in zip(order.lines, order.counts, strict=True)
    ]


def refund_list(order: Order) -> responses.RefundListOut:
    """The refunds of an order."""
    return responses.RefundListOut(
        owed_minor=max(0, owed_back_minor(order)),
        refunded_minor=order.refunded_minor,
        refundable_minor=max(0, refund_room_minor(order)) if order.lifecycle != CANCELLED else 0,
        data=[
            responses.RefundOut(r.no, r.state or "submitted", r.amount_minor, r.provider_ref, r.code, format_ms(r.since))
            for r in order.refunds
        ],
    )


# The operation of the API, and the status that it sets, for each request of the desk.
_CALLS: dict[Operation, tuple[str, responses.Status | None]] = {
    Operation.START_FULFILMENT: ("setOrderStatus", "processing"),
    Operation.SHIP_ORDER: ("setOrderStatus", "shipped"),
    Operation.CONFIRM_DELIVERY: ("setOrderStatus", "delivered"),
    Operation.SHIP_PARCEL: ("createShipment", None),
    Operation.CONFIRM_PARCEL: ("confirmShipment", None),
    Operation.REQUEST_REFUND: ("requestRefund", None),
    Operation.CANCEL_LINES: ("cancelLines", None),
    Operation.CANCEL_ORDER: ("cancelOrder", None),
    Operation.RESOLVE_ATTENTION: ("resolveAttention", None),
    Operation.CHANGE_METADATA: ("changeMetadata", None),
}


def outlook(order: Order, since: dict[str, int], actions: tuple[Action, ...], notes: bool) -> desk_responses.OutlookOut:
    """What an order owes, and what can be done with it. `since`: since when, by key, ms since the epoch."""
    owes = [
        desk_responses.OwedOut(owed.kind.value, owed.key, format_ms(since[owed.key]), _time(owed.not_before or None))
        for owed in obligations(order)
    ]
    shown = [_action(action) for action in actions]
    return desk_responses.OutlookOut(order.version, owes, [*shown, desk_responses.ActionOut("addNote")] if notes else shown)


def _action(action: Action) -> desk_responses.ActionOut:
    operation, status = _CALLS[action.operation]
    return desk_responses.ActionOut(
        operation=operation,
        status=status,
        number=action.parcel,
        lines=cast("list[responses.ShipmentLineOut]", list(action.lines)),
        amount_minor=action.amount_minor,
        code=action.flag.code if action.flag else None,
        obligation_key=action.flag.obligation_key if action.flag else None,
    )


def note_shown(note_id: str, note: Note) -> responses.NoteOut:
    """One note."""
    return responses.NoteOut(note_id, note.text, note.by, format_ms(note.at))


def shipment(parcel: Parcel) -> responses.ShipmentOut:
    """One parcel."""
    return responses.ShipmentOut(
        number=parcel.no,
        lines=cast("list[responses.ShipmentLineOut]", parcel.lines),
        carrier=parcel.carrier,
        tracking=parcel.tracking,
        shipped_at=format_ms(parcel.shipped_at),
        delivered_at=_time(parcel.delivered_at),
    )


def _time(at_ms: int | None) -> str | None:
    return None if at_ms is None else format_ms(at_ms)


def contact_shown(contact: OrderContact) -> responses.OrderContactOut:
    """A contact as it was sent; its customer is a member of the order."""
    return responses.OrderContactOut(
        name=contact.name,
        email=contact.email,
        phone=contact.phone,
        shipping_address=_address(contact.shipping_address),
        billing_address=None if contact.billing_address is None else _address(contact.billing_address),
        delivery_note=contact.delivery_note,
        locale=contact.locale,
    )


def _address(address: Address) -> responses.OrderAddressOut:
    return responses.OrderAddressOut(
        line1=address.line1,
        line2=address.line2,
        city=address.city,
        region=address.region,
        postcode=address.postcode,
        country=address.country,
    )


def erasure_state(erasure: Erasure) -> responses.ErasureStateOut:
    """The progress of an erasure."""
    return responses.ErasureStateOut(
        state="running" if erasure.done_at is None else "done",
        contacts_deleted=erasure.contacts_deleted,
        requested_at=format_ms(erasure.requested_at),
        done_at=None if erasure.done_at is None else format_ms(erasure.done_at),
    )


def frozen_shown(frozen: Frozen | None, partition: int) -> responses.FrozenOut | None:
    """Why and where the fold of an order stopped."""
    return None if frozen is None else responses.FrozenOut(frozen.reason, partition, frozen.offset)


def event_row(past: Past) -> responses.EventOut:
    """One event with its position in the log."""
    event = past.event
    detail: dict[str, Any] = msgspec.to_builtins(event.detail, builtin_types=(bytes,)) if event.detail is not None else {}
    return responses.EventOut(
        version=event.version,
        type=event.type,
        occurred_at=format_ms(event.occurred_at),
        actor=event.actor,
        status=event.status,
        detail={name: _detail_member(name, value) for name, value in detail.items()},
        partition=past.partition,
        offset=past.offset,
    )


def feed_row(past: Past) -> responses.FeedEventOut:
    """One event of the feed."""
    event = past.event
    return responses.FeedEventOut(
        **asdict(event_row(past)),
        event_id=f"{event.order_id}/{event.version}",
        order_id=event.order_id,
        customer_id=event.customer_id,
        payment_state=event.payment_state,
        currency=event.currency,
        total_minor=event.total_minor,
        captured_minor=event.captured_minor,
        refunded_minor=event.refunded_minor,
    )


def webhook_body(event: OrderEvent, partition: int, offset: int) -> bytes:
    """The body of a message to a webhook endpoint, as Standard Webhooks recommends: type, time, and the event as in the feed."""
    row = feed_row(Past(event, partition, offset))
    return to_json(WebhookMessageOut(event.type, row.occurred_at, row))


def _detail_member(name: str, value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if name in _TIMES and value is not None:
        return format_ms(value)
    return value


def daily_row(number: int, currency: str, totals: DailyTotals) -> responses.DailyOut:
    """One day in one currency."""
    return responses.DailyOut(
        day=day(number),
        currency=currency,
        placed=totals.placed,
        placed_minor=totals.placed_minor,
        cancelled=totals.cancelled,
        shipped=totals.shipped,
        delivered=totals.delivered,
        captured_minor=totals.captured_minor,
        refunded_minor=totals.refunded_minor,
    )
