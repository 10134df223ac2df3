"""The fold: `evolve(order, event) -> order`, one step per type of event. Pure.

`evolve` never raises on a fact, however late or odd: facts from outside are recorded, and an amount that does not add up
becomes an obligation (`amount_mismatch`), not an exception. It raises `FoldError` only for what no correct writer can have
written: an unknown type, a version out of sequence, a first event that is not OrderPlaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from msgspec.structs import replace

from ledger import events, transitions, units
from ledger.order import (
    CANCELLED,
    DELIVERED,
    DISPUTE_LOST,
    DISPUTE_OPEN,
    DISPUTE_WON,
    PROCESSING,
    SHIPPED,
    Attempt,
    DisputeEntry,
    Flag,
    FoldError,
    LineCount,
    Order,
    Parcel,
    PartRelease,
    RefundEntry,
    StockEntry,
    attempt_no,
    dispute_of,
    overpaid_minor,
    refund_of,
    stock_of,
    submitted_minor,
)


def evolve(order: Order | None, event: events.OrderEvent) -> Order:
    """The order after `event`. Raises `FoldError`; never on a fact about payment, refund, dispute or stock."""
    if order is None:
        if event.type not in (events.ORDER_PLACED, events.ORDER_IMPORTED) or event.version != 1:
            raise FoldError(f"{event.order_id} begins with {event.type} version {event.version}")
        return _imported(event) if event.type == events.ORDER_IMPORTED else _placed(event, event.placed)
    if event.version != order.version + 1:
        raise FoldError(f"{event.order_id} version {event.version} does not follow version {order.version}")
    step = _STEPS.get(event.type)
    if step is None:
        raise FoldError(f"{event.order_id} version {event.version}: unknown type {event.type!r}")
    try:
        changed = step(order, event)
    except FoldError:
        raise
    except Exception as exc:  # a bug triggered by this event: it must affect only this order
        raise FoldError(f"{event.order_id} version {event.version}: {event.type}: {type(exc).__name__}") from exc
    changed["version"] = event.version
    changed["updated_at"] = event.occurred_at
    return replace(order, **changed)


Changes = dict[str, object]


D = TypeVar("D")


def _placed(event: events.OrderEvent, placed: events.Placed | None) -> Order:
    if placed is None:
        raise FoldError(f"{event.order_id} version 1 has no `placed`")
    services = dict.fromkeys(line.service for line in placed.lines)
    return Order(
        order_id=event.order_id,
        version=1,
        customer_id=event.customer_id,
        currency=event.currency,
        total_minor=event.total_minor,
        placed_minor=event.total_minor,
        placed_at=event.occurred_at,
        updated_at=event.occurred_at,
        expires_at=placed.expires_at,
        lines=placed.lines,
        counts=(LineCount(),) * len(placed.lines),
        adjustments=placed.adjustments,
        reference=placed.reference,
        contact_digest=placed.contact_digest,
        stock=tuple(StockEntry(service, transitions.OWED, event.occurred_at) for service in services),
        metadata=placed.metadata,
        number=placed.number,
    )


def _imported(event: events.OrderEvent) -> Order:
    """An order as it was in the older service: nothing is owed for it, to no one."""
    old = event.imported
    if old is None:
        raise FoldError(f"{event.order_id} version 1 has no `imported`")
    order = replace(
        _placed(event, old.placed),
        placed_at=old.placed_at,
        captured_minor=old.captured_minor,
        refunded_minor=old.refunded_minor,
        stock=(),
        imported=True,
    )
    if old.status == transitions.Status.CANCELLED:
        return replace(order, lifecycle=CANCELLED, cancel_reason=old.cancel_reason)
    if old.status == transitions.Status.PROCESSING:
        return replace(order, fulfilment=PROCESSING)
    if old.shipped_at is None:
        return order
    parcel = Parcel(1, units.to_ship(order), old.carrier, old.tracking, old.shipped_at, old.delivered_at)
    return replace(
        order,
        counts=units.shipped(order, parcel.lines),
        parcels=(parcel,),
        fulfilment=SHIPPED if old.delivered_at is None else DELIVERED,
        shipped_at=old.shipped_at,
        delivered_at=old.delivered_at,
    )


def _cancelled(o: Order, event: events.OrderEvent) -> Changes:
    cancel = _detail(event.cancel, event)
    return {"lifecycle": CANCELLED, "cancel_reason": cancel.reason, "cancelled_by": cancel.by}


def _lines_cancelled(o: Order, event: events.OrderEvent) -> Changes:
    cut = _detail(event.cut, event)
    taken = units.cancelled(o, cut.lines, cut.shipping)
    total = o.total_minor - taken.amount_minor
    owed = overpaid_minor(replace(o, total_minor=total)) - overpaid_minor(o) - taken.repaid_minor
    return {
        "total_minor": total,
        "shipping_cancelled": o.shipping_cancelled or cut.shipping,
        "shipping_withheld_minor": taken.shipping_withheld_minor,
        "part_releases": _part_releases(o, cut.lines),
        **_overpaid(o, owed),
        **_fulfilled(o, taken.counts, o.parcels, event.occurred_at),
    }


def _refund_requested(o: Order, event: events.OrderEvent) -> Changes:
    request = _detail(event.refund_request, event)
    taken = units.refunded(o, request.lines, request.shipping, request.restock, request.amount_minor)
    return {
        "counts": taken.counts,
        "shipping_refunded": o.shipping_refunded or request.shipping,
        "shipping_withheld_minor": taken.shipping_withheld_minor,
        "part_releases": _part_releases(o, request.lines) if request.restock else o.part_releases,
        "return_marks": _to_return(o, request.amount_minor),
    }


def _part_releases(o: Order, lines: Iterable[events.Units]) -> tuple[PartRelease, ...]:
    first = len(o.part_releases) + 1
    new = (PartRelease(no, service, some) for no, (service, some) in enumerate(units.by_service(lines), first))
    return (*o.part_releases, *new)


def _to_return(o: Order, amount_minor: int) -> tuple[int, ...]:
    """The marks after `amount_minor` more is to be returned: on top of what was returned before, requested or not."""
    if amount_minor <= 0:
        return o.return_marks
    returned = o.refunded_minor + submitted_minor(o)
    return (*o.return_marks, max(o.return_marks[-1] if o.return_marks else 0, returned) + amount_minor)


def _overpaid(o: Order, amount_minor: int) -> Changes:
    """`amount_minor` more is overpaid, and not refunded before. Negative: so much was refunded before it was paid."""
    owed = amount_minor - o.refunded_ahead_minor
    return {"return_marks": _to_return(o, owed), "refunded_ahead_minor": max(0, -owed)}


def _metadata_changed(o: Order, event: events.OrderEvent) -> Changes:
    return {"metadata": _detail(event.metadata, event).entries}


def _payment_requested(o: Order, event: events.OrderEvent) -> Changes:
    payment = _detail(event.payment, event)
    attempt = Attempt(payment.attempt, payment.amount_minor or 0, transitions.REQUESTED, event.occurred_at)
    return {"attempts": (*o.attempts, attempt)}


def _payment_fact(o: Order, event: events.OrderEvent) -> Changes:
    payment = _detail(event.payment, event)
    before = attempt_no(o, payment.attempt)
    if before is None:
        return {}
    now = transitions.ATTEMPT_FACTS[event.type][before.state]
    state = before.state if isinstance(now, transitions.Code) else now
    only_ref = event.type == events.PAYMENT_OPENED and state == before.state
    captured = before.captured_minor
    if event.type == events.PAYMENT_CAPTURED:
        captured = max(captured, payment.amount_minor or 0)
    after = replace(
        before,
        state=state,
        since=event.occurred_at,
        provider_ref=payment.provider_ref or before.provider_ref,
        captured_minor=captured,
        waiting_for=before.waiting_for if only_ref else payment.waiting_for,
        code=before.code if only_ref else payment.code,
        charge_ref=payment.charge_ref or before.charge_ref,
        capture_before=payment.capture_before or before.capture_before,
    )
    attempts = tuple(after if a is before else a for a in o.attempts)
    changed: Changes = {"attempts": attempts}
    if captured != before.captured_minor:
        total = o.captured_minor + captured - before.captured_minor
        overpaid = overpaid_minor(replace(o, captured_minor=total)) - overpaid_minor(o)
        changed |= {"captured_minor": total, **_overpaid(o, overpaid)}
    return changed


def _refund_fact(o: Order, event: events.OrderEvent) -> Changes:
    refund = _detail(event.refund, event)
    before = refund_of(o, refund.refund_no, refund.provider_ref)
    was: transitions.RefundState = before.state if before else ""
    now = transitions.REFUND_FACTS[event.type][was]
    state = was if isinstance(now, transitions.Code) else now
    amount = refund.amount_minor if refund.amount_minor is not None else (before.amount_minor if before else 0)
    after = RefundEntry(
        no=before.no if before else refund.refund_no,
        state=state,
        since=event.occurred_at,
        amount_minor=amount,
        provider_ref=refund.provider_ref or (before.provider_ref if before else None),
        code=refund.code,
    )
    refunds = tuple(after if r is before else r for r in o.refunds) if before else (*o.refunds, after)
    change = (amount if state == transitions.SETTLED else 0) - (
        before.amount_minor if before and was == transitions.SETTLED else 0
    )
    failed = int(state == transitions.FAILED and was != transitions.FAILED)
    return {
        "refunds": refunds,
        "refunded_minor": o.refunded_minor + change,
        "refund_failures": o.refund_failures + failed,
        "refund_failures_recent": o.refund_failures_recent + failed,
    }


def _dispute_opened(o: Order, event: events.OrderEvent) -> Changes:
    dispute = _detail(event.dispute, event)
    entry = DisputeEntry(dispute.provider_ref, DISPUTE_OPEN, dispute.amount_minor or 0, dispute.reason, dispute.due_by)
    if (before := dispute_of(o, dispute.provider_ref)) is None:
        return {"disputes": (*o.disputes, entry)}
    again = replace(entry, times=before.times + 1)
    return _disputed(tuple(again if d is before else d for d in o.disputes))


def _dispute_closed(o: Order, event: events.OrderEvent) -> Changes:
    dispute = _detail(event.dispute, event)
    before = dispute_of(o, dispute.provider_ref)
    if before is None:
        return {}
    after = replace(before, outcome=dispute.outcome or DISPUTE_WON)
    return _disputed(tuple(after if d is before else d for d in o.disputes))


def _disputed(disputes: tuple[DisputeEntry, ...]) -> Changes:
    return {"disputes": disputes, "lost_minor": sum(d.amount_minor for d in disputes if d.outcome == DISPUTE_LOST)}


def _stock_fact(o: Order, event: events.OrderEvent) -> Changes:
    stock = _detail(event.stock, event)
    before = stock_of(o, stock.service)
    if before is None:
        return {}
    if stock.part is not None:
        done = (replace(part, done=True) if part.no == stock.part else part for part in o.part_releases)
        return {"part_releases": tuple(done)}
    now = transitions.STOCK_FACTS[event.type][before.state]
    state = before.state if isinstance(now, transitions.Code) else now
    after = StockEntry(
        service=before.service,
        state=state,
        since=event.occurred_at,
        times_reserved=before.times_reserved + (event.type == events.STOCK_RESERVED),
        reservation_ref=stock.reservation_ref or before.reservation_ref,
        reason=stock.reason,
        items=stock.items,
    )
    return {"stock": tuple(after if s is before else s for s in o.stock)}


def _fulfilment_started(o: Order, event: events.OrderEvent) -> Changes:
    return {"fulfilment": PROCESSING}


def _shipped(o: Order, event: events.OrderEvent) -> Changes:
    shipment = _detail(event.shipment, event)
    parcel = Parcel(len(o.parcels) + 1, shipment.lines, shipment.carrier, shipment.tracking, event.occurred_at)
    return _fulfilled(o, units.shipped(o, shipment.lines), (*o.parcels, parcel), event.occurred_at)


def _delivered(o: Order, event: events.OrderEvent) -> Changes:
    """One parcel, or all that were not delivered yet."""
    no, at = _detail(event.shipment, event).parcel, event.occurred_at
    parcels = (replace(p, delivered_at=at) if p.delivered_at is None and no in (None, p.no) else p for p in o.parcels)
    return _fulfilled(o, o.counts, tuple(parcels), at)


def _fulfilled(o: Order, counts: tuple[LineCount, ...], parcels: tuple[Parcel, ...], at: int) -> Changes:
    after = units.fulfilment_of(o, counts, parcels)
    changed: Changes = {"counts": counts, "parcels": parcels, "fulfilment": after}
    if after in (SHIPPED, DELIVERED) and o.shipped_at is None:
        changed["shipped_at"] = at
    if after == DELIVERED and o.delivered_at is None:
        changed["delivered_at"] = at
    return changed


def _attention_raised(o: Order, event: events.OrderEvent) -> Changes:
    attention = _detail(event.attention, event)
    return {"attention": (*o.attention, Flag(attention.code, attention.obligation_key, event.occurred_at))}


def _attention_resolved(o: Order, event: events.OrderEvent) -> Changes:
    attention = _detail(event.attention, event)
    left = tuple(f for f in o.attention if (f.code, f.obligation_key) != (attention.code, attention.obligation_key))
    changed: Changes = {"attention": left}
    if attention.obligation_key not in o.resolved:
        changed["resolved"] = (*o.resolved, attention.obligation_key)
    if attention.action == "settled_elsewhere":
        return changed | {"refunded_minor": o.refunded_minor + (attention.amount_minor or 0)}
    return changed | {"refund_failures_recent": 0}


def _detail(detail: D | None, event: events.OrderEvent) -> D:
    if detail is None:
        raise FoldError(f"{event.order_id} version {event.version}: {event.type} lacks its detail")
    return detail


_STEPS: dict[str, Callable[[Order, events.OrderEvent], Changes]] = {
    events.ORDER_CANCELLED: _cancelled,
    events.LINES_CANCELLED: _lines_cancelled,
    events.PAYMENT_REQUESTED: _payment_requested,
    **dict.fromkeys(transitions.ATTEMPT_FACTS, _payment_fact),
    events.REFUND_REQUESTED: _refund_requested,
    **dict.fromkeys(transitions.REFUND_FACTS, _refund_fact),
    events.DISPUTE_OPENED: _dispute_opened,
    events.DISPUTE_CLOSED: _dispute_closed,
    **dict.fromkeys(transitions.STOCK_FACTS, _stock_fact),
    events.FULFILMENT_STARTED: _fulfilment_started,
    events.PARCEL_SHIPPED: _shipped,
    events.ORDER_SHIPPED: _shipped,
    events.PARCEL_DELIVERED: _delivered,
    events.ORDER_DELIVERED: _delivered,
    events.ATTENTION_RAISED: _attention_raised,
    events.ATTENTION_RESOLVED: _attention_resolved,
    events.METADATA_CHANGED: _metadata_changed,
}
