"""The fold: `evolve(order, event) -> order`, one step per type of event. Pure.

`evolve` never raises on a fact, however late or odd it is: what the outside world says is recorded, and an amount that does
not add up becomes an obligation (`amount_mismatch`), not an exception. It raises `FoldError` only for what no correct
writer can have written: an unknown type, a version that does not follow, a first event that is not OrderPlaced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from msgspec.structs import replace

from ledger import events as e
from ledger import transitions as t
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
    Order,
    RefundEntry,
    StockEntry,
    attempt_no,
    dispute_of,
    refund_of,
    stock_of,
)


def evolve(order: Order | None, event: e.OrderEvent) -> Order:
    """The order after `event`. Raises `FoldError`; never on a fact about payment, refund, dispute or stock."""
    if order is None:
        if event.type != e.ORDER_PLACED or event.version != 1:
            raise FoldError(f"{event.order_id} begins with {event.type} version {event.version}")
        return _placed(event)
    if event.version != order.version + 1:
        raise FoldError(f"{event.order_id} version {event.version} does not follow version {order.version}")
    step = _STEPS.get(event.type)
    if step is None:
        raise FoldError(f"{event.order_id} version {event.version}: unknown type {event.type!r}")
    try:
        changed = step(order, event)
    except FoldError:
        raise
    except Exception as exc:  # a bug of ours met by this event: it must cost this order alone
        raise FoldError(f"{event.order_id} version {event.version}: {event.type}: {type(exc).__name__}") from exc
    changed["version"] = event.version
    changed["updated_at"] = event.occurred_at
    return replace(order, **changed)


Changes = dict[str, object]


D = TypeVar("D")


def _placed(event: e.OrderEvent) -> Order:
    placed = event.placed
    if placed is None:
        raise FoldError(f"{event.order_id} version 1 has no `placed`")
    services = dict.fromkeys(line.service for line in placed.lines)
    return Order(
        order_id=event.order_id,
        version=1,
        customer_id=event.customer_id,
        currency=event.currency,
        total_minor=event.total_minor,
        placed_at=event.occurred_at,
        updated_at=event.occurred_at,
        expires_at=placed.expires_at,
        lines=placed.lines,
        adjustments=placed.adjustments,
        reference=placed.reference,
        contact_digest=placed.contact_digest,
        stock=tuple(StockEntry(service, t.OWED, event.occurred_at) for service in services),
    )


def _cancelled(o: Order, event: e.OrderEvent) -> Changes:
    cancel = _detail(event.cancel, event)
    return {"lifecycle": CANCELLED, "cancel_reason": cancel.reason, "cancelled_by": cancel.by}


def _payment_requested(o: Order, event: e.OrderEvent) -> Changes:
    payment = _detail(event.payment, event)
    attempt = Attempt(payment.attempt, payment.amount_minor or 0, t.REQUESTED, event.occurred_at)
    return {"attempts": (*o.attempts, attempt)}


def _payment_fact(o: Order, event: e.OrderEvent) -> Changes:
    payment = _detail(event.payment, event)
    before = attempt_no(o, payment.attempt)
    if before is None:
        return {}
    now = t.ATTEMPT_FACTS[event.type][before.state]
    state = before.state if isinstance(now, t.Code) else now
    only_ref = event.type == e.PAYMENT_OPENED and state == before.state
    captured = before.captured_minor
    if event.type == e.PAYMENT_CAPTURED:
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
    return {"attempts": attempts, "captured_minor": o.captured_minor + captured - before.captured_minor}


def _refund_fact(o: Order, event: e.OrderEvent) -> Changes:
    refund = _detail(event.refund, event)
    before = refund_of(o, refund.refund_no, refund.provider_ref)
    was: t.RefundState = before.state if before else ""
    now = t.REFUND_FACTS[event.type][was]
    state = was if isinstance(now, t.Code) else now
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
    given = (amount if state == t.SETTLED else 0) - (before.amount_minor if before and was == t.SETTLED else 0)
    failed = int(state == t.FAILED and was != t.FAILED)
    return {
        "refunds": refunds,
        "refunded_minor": o.refunded_minor + given,
        "refund_failures": o.refund_failures + failed,
        "refund_failures_recent": o.refund_failures_recent + failed,
    }


def _dispute_opened(o: Order, event: e.OrderEvent) -> Changes:
    dispute = _detail(event.dispute, event)
    entry = DisputeEntry(dispute.provider_ref, DISPUTE_OPEN, dispute.amount_minor or 0, dispute.reason, dispute.due_by)
    if (before := dispute_of(o, dispute.provider_ref)) is None:
        return {"disputes": (*o.disputes, entry)}
    again = replace(entry, times=before.times + 1)
    return _disputed(tuple(again if d is before else d for d in o.disputes))


def _dispute_closed(o: Order, event: e.OrderEvent) -> Changes:
    dispute = _detail(event.dispute, event)
    before = dispute_of(o, dispute.provider_ref)
    if before is None:
        return {}
    after = replace(before, outcome=dispute.outcome or DISPUTE_WON)
    return _disputed(tuple(after if d is before else d for d in o.disputes))


def _disputed(disputes: tuple[DisputeEntry, ...]) -> Changes:
    return {"disputes": disputes, "lost_minor": sum(d.amount_minor for d in disputes if d.outcome == DISPUTE_LOST)}


def _stock_fact(o: Order, event: e.OrderEvent) -> Changes:
    stock = _detail(event.stock, event)
    before = stock_of(o, stock.service)
    if before is None:
        return {}
    now = t.STOCK_FACTS[event.type][before.state]
    state = before.state if isinstance(now, t.Code) else now
    after = StockEntry(
        service=before.service,
        state=state,
        since=event.occurred_at,
        times_reserved=before.times_reserved + (event.type == e.STOCK_RESERVED),
        reservation_ref=stock.reservation_ref or before.reservation_ref,
        reason=stock.reason,
        items=stock.items,
    )
    return {"stock": tuple(after if s is before else s for s in o.stock)}


def _fulfilment_started(o: Order, event: e.OrderEvent) -> Changes:
    return {"fulfilment": PROCESSING}


def _shipped(o: Order, event: e.OrderEvent) -> Changes:
    shipment = _detail(event.shipment, event)
    return {"fulfilment": SHIPPED, "carrier": shipment.carrier, "tracking": shipment.tracking, "shipped_at": event.occurred_at}


def _delivered(o: Order, event: e.OrderEvent) -> Changes:
    return {"fulfilment": DELIVERED, "delivered_at": event.occurred_at}


def _attention_raised(o: Order, event: e.OrderEvent) -> Changes:
    attention = _detail(event.attention, event)
    return {"attention": (*o.attention, Flag(attention.code, attention.obligation_key, event.occurred_at))}


def _attention_resolved(o: Order, event: e.OrderEvent) -> Changes:
    attention = _detail(event.attention, event)
    left = tuple(f for f in o.attention if (f.code, f.obligation_key) != (attention.code, attention.obligation_key))
    changed: Changes = {"attention": left}
    if attention.obligation_key not in o.resolved:
        changed["resolved"] = (*o.resolved, attention.obligation_key)
    if attention.action == "settled_elsewhere":
        return changed | {"refunded_minor": o.refunded_minor + (attention.amount_minor or 0)}
    return changed | {"refund_failures_recent": 0}


def _detail(detail: D | None, event: e.OrderEvent) -> D:
    if detail is None:
        raise FoldError(f"{event.order_id} version {event.version}: {event.type} without its detail")
    return detail


_STEPS: dict[str, Callable[[Order, e.OrderEvent], Changes]] = {
    e.ORDER_CANCELLED: _cancelled,
    e.PAYMENT_REQUESTED: _payment_requested,
    **dict.fromkeys(t.ATTEMPT_FACTS, _payment_fact),
    **dict.fromkeys(t.REFUND_FACTS, _refund_fact),
    e.DISPUTE_OPENED: _dispute_opened,
    e.DISPUTE_CLOSED: _dispute_closed,
    **dict.fromkeys(t.STOCK_FACTS, _stock_fact),
    e.FULFILMENT_STARTED: _fulfilment_started,
    e.ORDER_SHIPPED: _shipped,
    e.ORDER_DELIVERED: _delivered,
    e.ATTENTION_RAISED: _attention_raised,
    e.ATTENTION_RESOLVED: _attention_resolved,
}
