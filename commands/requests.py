"""Requests about an order: what `decide` makes of them. Pure.

The answer is looked up in `transitions.REQUESTS` by operation and displayed status. Guards, each beside its operation, check what
a status cannot express: owner, amount, units, due time.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from commands.decisions import Decision, MalformedCommand, Refusal, event_of, need
from commands.messages import ChangeMetadata, OrderCommand, RequestRefund, ShipOrder, who
from ledger import events, transitions, units
from ledger.bounds import MAX_METADATA
from ledger.currencies import payable_step
from ledger.events import Line
from ledger.evolve import evolve
from ledger.order import (
    DISPUTE_OPEN,
    LineCount,
    Order,
    display,
    dispute_state,
    owed_back_minor,
    paid_in_full,
    paid_in_part,
    payment_state,
    refund_room_minor,
    stock_state,
    was_refused,
)
from ledger.transitions import Code, Operation, Status


def answer(operation: Operation, command: OrderCommand, order: Order, at_ms: int) -> Decision:
    """The outcome of a request, by operation and displayed status."""
    status = display(order)
    outcome = transitions.REQUESTS[operation][status]
    guard = _GUARDS[operation](command, order, status, at_ms)
    if guard is not None and not (isinstance(outcome, Code) and outcome in _TABLE_WINS):
        return guard
    if isinstance(outcome, Code):
        return Refusal(outcome, f"the order is {status}")
    if operation in _NOT_WHEN_FULL and order.version >= transitions.MAX_EVENTS:
        return Refusal(Code.ORDER_FULL, f"the order has {order.version} events")
    detail = _DETAILS[operation](command, order)
    if outcome in transitions.COMPLETES and _completes(outcome, detail, order):
        outcome = transitions.COMPLETES[outcome]
    return event_of(command, order, at_ms, outcome, detail)


# Facts also fill an order, and cannot be prevented: a full order still accepts what winds it up, as a whole.
_NOT_WHEN_FULL = frozenset({Operation.REQUEST_PAYMENT, Operation.CANCEL_LINES, Operation.SHIP_PARCEL, Operation.CHANGE_METADATA})

# Codes of a status that take precedence over those of a guard, because they say more.
_TABLE_WINS = frozenset({Code.ORDER_CANCELLED, Code.NOTHING_TO_CHANGE, Code.ALREADY_SHIPPED, Code.TOO_LATE_TO_CANCEL})


def _guard_cancel(command: OrderCommand, order: Order, status: Status, at_ms: int) -> Refusal | None:
    need(command.cancel, command)
    if status is Status.PROCESSING and who(command) != "admin":
        return Refusal(Code.TOO_LATE_TO_CANCEL, "the order is being processed; only staff can cancel it")
    if order.parcels:
        return Refusal(Code.TOO_LATE_TO_CANCEL, "a parcel was shipped; only the remaining lines can be cancelled")
    return _imported(order)


def _imported(order: Order) -> Refusal | None:
    """The money of an order of an older service is not here: its cancellation would owe what nobody pays."""
    if order.imported and order.captured_minor > order.refunded_minor:
        return Refusal(Code.ORDER_IMPORTED, "the payment was made through an older service; refund it there")
    return None


def _guard_cancel_lines(command: OrderCommand, order: Order, status: Status, at_ms: int) -> Refusal | None:
    wanted = need(command.cancel_lines, command)
    if not wanted.lines:
        raise MalformedCommand("CancelLines without lines")
    if status is Status.PROCESSING and who(command) != "admin":
        return Refusal(Code.TOO_LATE_TO_CANCEL, "the order is being processed; only staff can cancel lines")
    return _imported(order) or _unavailable(order, wanted.lines, units.shippable) or _unpayable_cut(command, order, at_ms)


def _unpayable_cut(command: OrderCommand, order: Order, at_ms: int) -> Refusal | None:
    """Why the order cannot be paid without these units, or what was paid for them cannot be refunded; None if both can."""
    if payable_step(order.currency) == 1 or order.imported:
        return None
    detail = _cut(command, order)
    if not isinstance(detail, events.Cut):  # the whole order, of which everything goes back
        return None
    after = evolve(order, event_of(command, order, at_ms, events.LINES_CANCELLED, detail))
    return _unpayable(order, after.total_minor) or _unpayable(order, owed_back_minor(after) - max(0, owed_back_minor(order)))


def _unpayable(order: Order, amount_minor: int) -> Refusal | None:
    step = payable_step(order.currency)
    if amount_minor % step:
        detail = f"{order.currency} is paid and refunded in multiples of {step} minor units, not {amount_minor}"
        return Refusal(Code.AMOUNT_NOT_PAYABLE, detail)
    return None


def _unavailable(order: Order, wanted: tuple[events.Units, ...], left: Callable[[Line, LineCount], int]) -> Refusal | None:
    """Why the order does not have these units left; None if it does."""
    try:
        quantities = units.chosen(order, wanted)
    except units.UnknownLine:
        return Refusal(Code.UNKNOWN_LINE, "the order has no such line")
    for i, quantity in quantities.items():
        available = left(order.lines[i], order.counts[i])
        if quantity > available:
            return Refusal(Code.QUANTITY_EXCEEDED, f"line {i + 1} has {max(0, available)} units left for that, not {quantity}")
    return None


def _guard_expire(command: OrderCommand, order: Order, status: Status, at_ms: int) -> Refusal | None:
    if at_ms < order.expires_at:
        return Refusal(Code.NOT_DUE, "the order has not expired yet")
    if payment_state(order) == transitions.AUTHORISED and stock_state(order) == transitions.RESERVED:
        return Refusal(Code.NOT_DUE, "the payment is being captured")
    if paid_in_part(order):
        return Refusal(Code.NOT_DUE, "part of the amount was captured: staff must decide")
    return None


def _guard_request_payment(command: OrderCommand, order: Order, status: Status, at_ms: int) -> Refusal | None:
    wanted = need(command.request_payment, command)
    if order.total_minor == 0:
        return Refusal(Code.NOTHING_TO_PAY, "the order costs nothing")
    if order.captured_minor:
        part = " in part: the shop must settle the remainder" if paid_in_part(order) else ""
        return Refusal(Code.ALREADY_PAID, f"the order is paid{part}")
    if payment_state(order) != "unpaid":
        return Refusal(Code.PAYMENT_OPEN, f"attempt {len(order.attempts)} is {order.attempts[-1].state}")
    if at_ms >= order.expires_at:
        return Refusal(Code.ORDER_EXPIRED, "the time to pay has expired")
    opened = sum(not was_refused(a) for a in order.attempts)
    if opened >= transitions.MAX_ATTEMPTS:
        return Refusal(Code.TOO_MANY_ATTEMPTS, f"the order already has {opened} attempts")
    if (wanted.amount_minor, wanted.currency) != (order.total_minor, order.currency):
        return Refusal(Code.AMOUNT_DIFFERS, f"the order costs {order.total_minor} {order.currency} (minor units)")
    return None


def _guard_fulfil(command: OrderCommand, order: Order, status: Status, at_ms: int) -> Refusal | None:
    if status is Status.PENDING:
        if paid_in_full(order):
            return Refusal(Code.STOCK_NOT_RESERVED, f"stock is {stock_state(order)}")
        return Refusal(Code.NOT_PAID, "the order is paid in part" if order.captured_minor else "the order is not paid")
    if dispute_state(order) == DISPUTE_OPEN:
        return Refusal(Code.DISPUTE_OPEN, "a dispute about the payment is open")
    return None


def _guard_parcel(command: OrderCommand, order: Order, status: Status, at_ms: int) -> Refusal | None:
    wanted = need(command.ship, command)
    if not wanted.lines:
        raise MalformedCommand("ShipParcel without lines")
    return _guard_fulfil(command, order, status, at_ms) or _unavailable(order, wanted.lines, units.shippable)


def _guard_confirm_parcel(command: OrderCommand, order: Order, status: Status, at_ms: int) -> Refusal | None:
    no = need(command.deliver, command).parcel
    parcel = next((p for p in order.parcels if p.no == no), None)
    if parcel is None:
        return Refusal(Code.UNKNOWN_PARCEL, f"the order has {len(order.parcels)} parcels")
    return Refusal(Code.NOTHING_TO_CHANGE, "the parcel is delivered") if parcel.delivered_at is not None else None


def _guard_refund(command: OrderCommand, order: Order, status: Status, at_ms: int) -> Refusal | None:
    wanted = need(command.request_refund, command)
    amount = refund_amount(wanted, order)
    if (wanted.amount_minor is None and not wanted.lines and not wanted.shipping) or (wanted.amount_minor or 0) < 0:
        raise MalformedCommand("RequestRefund of nothing, or of less")
    if wanted.restock and not wanted.lines:
        raise MalformedCommand("RequestRefund: no lines to put back into the stock")
    if dispute_state(order) == DISPUTE_OPEN:
        return Refusal(Code.DISPUTE_OPEN, "a dispute about the payment is open")
    if flaw := _unavailable(order, wanted.lines, units.refundable):
        return flaw
    if wanted.restock and (flaw := _unavailable(order, wanted.lines, lambda _, count: count.shipped - count.restocked)):
        return Refusal(Code.NOT_SHIPPED, "only shipped units can go back to the stock")
    if order.imported:
        return _imported(order) or Refusal(Code.NOTHING_TO_REFUND, "nothing of the payment is left")
    room = refund_room_minor(order)
    if amount <= 0 or room <= 0:
        return Refusal(Code.NOTHING_TO_REFUND, "nothing was paid for that, or it was refunded")
    if amount > room:
        return Refusal(Code.REFUND_EXCEEDS_PAYMENT, f"{room} {order.currency} (minor units) can still be refunded, not {amount}")
    return _unpayable(order, amount)


def refund_amount(wanted: RequestRefund, order: Order) -> int:
    """What the request asks for; 0 for lines that the order does not have."""
    if wanted.amount_minor is not None:
        return wanted.amount_minor
    try:
        return units.refunded(order, wanted.lines, wanted.shipping).amount_minor
    except units.UnknownLine:
        return 0


def _guard_metadata(command: OrderCommand, order: Order, status: Status, at_ms: int) -> Refusal | None:
    after = _metadata(need(command.change_metadata, command), order)
    if after == order.metadata:
        return Refusal(Code.NOTHING_TO_CHANGE, "the order has these entries")
    if len(after) > MAX_METADATA:
        return Refusal(Code.TOO_MUCH_METADATA, f"an order has at most {MAX_METADATA} entries")
    return None


def _metadata(change: ChangeMetadata, order: Order) -> tuple[events.Entry, ...]:
    merged: dict[str, str | None] = {entry.name: entry.text for entry in order.metadata}
    merged |= {entry.name: entry.text for entry in change.entries}
    return tuple(events.Entry(name, text) for name, text in sorted(merged.items()) if text is not None)


def _guard_none(command: OrderCommand, order: Order, status: Status, at_ms: int) -> Refusal | None:
    return None


Guard = Callable[[OrderCommand, Order, Status, int], Refusal | None]

_GUARDS: dict[Operation, Guard] = {
    Operation.CANCEL_ORDER: _guard_cancel,
    Operation.CANCEL_LINES: _guard_cancel_lines,
    Operation.EXPIRE_ORDER: _guard_expire,
    Operation.REQUEST_PAYMENT: _guard_request_payment,
    Operation.START_FULFILMENT: _guard_fulfil,
    Operation.SHIP_ORDER: _guard_fulfil,
    Operation.SHIP_PARCEL: _guard_parcel,
    Operation.CONFIRM_DELIVERY: _guard_none,
    Operation.CONFIRM_PARCEL: _guard_confirm_parcel,
    Operation.REQUEST_REFUND: _guard_refund,
    Operation.CHANGE_METADATA: _guard_metadata,
}


def _expired(order: Order) -> events.Cancel:
    paid = bool(order.captured_minor) or payment_state(order) in (transitions.AUTHORISED, "not_required")
    return events.Cancel("stock_timeout" if paid else "unpaid", "reconciler")


def _cut(command: OrderCommand, order: Order) -> events.Detail:
    wanted = need(command.cancel_lines, command)
    taken = units.cancelled(order, wanted.lines, wanted.shipping)
    if all(count.cancelled >= line.quantity for line, count in zip(order.lines, taken.counts, strict=True)):
        return events.Cancel(wanted.reason, who(command))
    return events.Cut(wanted.lines, taken.amount_minor, wanted.reason, who(command), wanted.shipping)


def _parcel(command: OrderCommand, order: Order) -> events.Detail:
    ship = command.ship or ShipOrder()
    return events.Shipment(ship.carrier, ship.tracking, ship.lines or units.to_ship(order), len(order.parcels) + 1)


def _refund(command: OrderCommand, order: Order) -> events.Detail:
    wanted = need(command.request_refund, command)
    amount = refund_amount(wanted, order)
    return events.RefundRequest(amount, wanted.reason, wanted.lines, wanted.shipping, wanted.restock)


_DETAILS: dict[Operation, Callable[[OrderCommand, Order], events.Detail]] = {
    Operation.CANCEL_ORDER: lambda c, order: events.Cancel(need(c.cancel, c).reason, who(c)),
    Operation.CANCEL_LINES: _cut,
    Operation.EXPIRE_ORDER: lambda c, order: _expired(order),
    Operation.REQUEST_PAYMENT: lambda c, order: events.Payment(attempt=len(order.attempts) + 1, amount_minor=order.total_minor),
    Operation.START_FULFILMENT: lambda c, order: events.Shipment(),
    Operation.SHIP_ORDER: _parcel,
    Operation.SHIP_PARCEL: _parcel,
    Operation.CONFIRM_DELIVERY: lambda c, order: events.Shipment(),
    Operation.CONFIRM_PARCEL: lambda c, order: events.Shipment(parcel=need(c.deliver, c).parcel),
    Operation.REQUEST_REFUND: _refund,
    Operation.CHANGE_METADATA: lambda c, order: events.MetadataChange(_metadata(need(c.change_metadata, c), order)),
}


def _completes(kind: str, detail: events.Detail, order: Order) -> bool:
    """Whether the request leaves nothing more to do of its kind, so that `COMPLETES` names the event."""
    match detail:
        case events.Cancel():
            return True
        case events.Shipment(lines=lines) if kind == events.PARCEL_SHIPPED:
            return not units.to_ship(replace(order, counts=units.shipped(order, lines)))
        case events.Shipment(parcel=no) if kind == events.PARCEL_DELIVERED:
            others = all(p.delivered_at is not None for p in order.parcels if p.no != no)
            return others and not units.to_ship(order)
    return False
