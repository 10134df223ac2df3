"""An order as the fold of its events: `evolve(order, event) -> order`, and what is read off it. Pure.

Four axes: `order` open|cancelled, payment, stock, fulfilment. The shown status is a function of them
(`display`), so is the payment state (`payment_state`); neither is stored twice. Disputes and attention are flags, never states.

`evolve` never raises on a fact, however late or odd it is: what the outside world says is recorded, and an amount that does
not add up becomes an obligation (`amount_mismatch`), not an exception. It raises `FoldError` only for what no correct
writer can have written: an unknown type, a version that does not follow, a first event that is not OrderPlaced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from ledger import events as e
from ledger import transitions as t
from ledger.errors import LedgerError
from ledger.transitions import Status

Fulfilment = Literal["none", "processing", "shipped", "delivered"]
NONE: Final = "none"
PROCESSING: Final = "processing"
SHIPPED: Final = "shipped"
DELIVERED: Final = "delivered"
Lifecycle = Literal["open", "cancelled"]
OPEN: Final = "open"
CANCELLED: Final = "cancelled"
DISPUTE_OPEN: Final = "open"
DISPUTE_WON: Final = "won"
DISPUTE_LOST: Final = "lost"
DISPUTE_WITHDRAWN: Final = "withdrawn"
# Two of the shown axes, functions of the states above.
PaymentAxis = Literal[
    "not_required",
    "unpaid",
    "requested",
    "open",
    "pending",
    "declined",
    "authorised",
    "partly_captured",
    "captured",
    "voided",
    "refunding",
    "refunded",
    "refund_failed",
]
PARTLY_CAPTURED: Final = "partly_captured"
StockAxis = Literal["pending", "reserved", "rejected", "released"]


class FoldError(LedgerError):
    """An event does not follow from the order it names. Readers freeze that order; the log, not the reader, is at fault."""

    code = "fold_error"


class Attempt(Struct, frozen=True, array_like=True):
    """One try to pay. `captured_minor` is what this attempt captured in total; `since` its last event's time."""

    no: int
    amount_minor: int
    state: t.AttemptState
    since: int
    provider_ref: str | None = None
    captured_minor: int = 0
    waiting_for: str | None = None
    code: str | None = None
    charge_ref: str | None = None
    capture_before: int | None = None


class RefundEntry(Struct, frozen=True, array_like=True):
    """One refund. `no` 0 = made at the provider; then `provider_ref` alone identifies it."""

    no: int
    state: t.RefundState
    since: int
    amount_minor: int = 0
    provider_ref: str | None = None
    code: str | None = None


class DisputeEntry(Struct, frozen=True, array_like=True):
    """One dispute. `times` counts how often it was opened: banks open again what was won."""

    provider_ref: str
    outcome: str  # a word of the event's, which may say more than we know of
    amount_minor: int = 0
    reason: str | None = None
    due_by: int | None = None
    times: int = 1


class StockEntry(Struct, frozen=True, array_like=True):
    """What one service owes or holds for the order. `times_reserved` makes each release's key its own."""

    service: str
    state: t.StockState
    since: int
    times_reserved: int = 0
    reservation_ref: str | None = None
    reason: str | None = None
    items: tuple[e.StockItem, ...] = ()


class Flag(Struct, frozen=True, array_like=True):
    """Somebody must look: why, at which obligation, since when."""

    code: str
    obligation_key: str
    since: int


class Order(Struct, frozen=True, array_like=True):
    """State of one order after `version` events. Times are ms since the epoch, money minor units of `currency`.

    `refunded_minor` includes what staff settled elsewhere; `refund_failures` counts all failures ever,
    `refund_failures_recent` those since the last `retry`; `resolved` are the obligation keys that a person has dealt with.
    """

    order_id: str
    version: int
    customer_id: str
    currency: str
    total_minor: int
    placed_at: int
    updated_at: int
    expires_at: int
    lines: tuple[e.Line, ...]
    adjustments: tuple[e.Adjustment, ...]
    reference: str | None
    contact_digest: bytes
    lifecycle: Lifecycle = OPEN
    cancel_reason: str | None = None
    cancelled_by: str | None = None
    fulfilment: Fulfilment = NONE
    captured_minor: int = 0
    refunded_minor: int = 0
    lost_minor: int = 0
    refund_failures: int = 0
    refund_failures_recent: int = 0
    attempts: tuple[Attempt, ...] = ()
    refunds: tuple[RefundEntry, ...] = ()
    disputes: tuple[DisputeEntry, ...] = ()
    stock: tuple[StockEntry, ...] = ()
    attention: tuple[Flag, ...] = ()
    carrier: str | None = None
    tracking: str | None = None
    shipped_at: int | None = None
    delivered_at: int | None = None
    resolved: tuple[str, ...] = ()


# ---- what is read off an order --------------------------------------------------------------------------------------


def stock_state(o: Order) -> StockAxis:
    """The stock axis over both services: `rejected`, `released`, `reserved` or `pending`."""
    states = [s.state for s in o.stock]
    if t.REJECTED in states:
        return t.REJECTED
    if o.lifecycle == CANCELLED and t.OWED not in states and t.RESERVED not in states:
        return t.RELEASED
    if all(s == t.RESERVED for s in states):
        return t.RESERVED
    return "pending"


def paid_in_full(o: Order) -> bool:
    """Whether all that the order costs was captured, whatever went back later. True of an order that costs nothing."""
    return o.captured_minor >= o.total_minor


def paid_in_part(o: Order) -> bool:
    """Whether some of what the order costs was captured, and not all."""
    return o.captured_minor > 0 and not paid_in_full(o)


def payment_state(o: Order) -> PaymentAxis:
    """The payment axis: a function of the last attempt and the amounts."""
    if o.total_minor == 0 and not o.captured_minor:
        return "not_required"
    if o.captured_minor:
        if o.refunded_minor + o.lost_minor >= o.captured_minor:
            return "refunded"
        states = [r.state for r in o.refunds]
        if t.SUBMITTED in states:
            return "refunding"
        if states and states[-1] == t.FAILED:
            return "refund_failed"
        if o.lifecycle == CANCELLED:
            return "refunding"
        return "captured" if paid_in_full(o) else PARTLY_CAPTURED
    if not o.attempts:
        return "unpaid"
    state = o.attempts[-1].state
    if state == t.VOIDED:
        return "voided" if o.lifecycle == CANCELLED else "unpaid"
    return state


def display(o: Order) -> Status:
    """The shown status. Cancelled comes first: a late webhook never revives an order."""
    if o.lifecycle == CANCELLED:
        return Status.CANCELLED
    if o.fulfilment != NONE:
        return Status(o.fulfilment)
    if paid_in_full(o) and stock_state(o) == t.RESERVED:
        return Status.PAID
    return Status.PENDING


def dispute_state(o: Order) -> str:
    """`none`, or `open` while any dispute is, else how the last one ended (`won` also when withdrawn)."""
    if not o.disputes:
        return "none"
    if any(d.outcome == DISPUTE_OPEN for d in o.disputes):
        return DISPUTE_OPEN
    return DISPUTE_LOST if o.disputes[-1].outcome == DISPUTE_LOST else DISPUTE_WON


def attempt_no(o: Order, no: int) -> Attempt | None:
    """The attempt numbered `no` (from 1), if there is one."""
    return o.attempts[no - 1] if 0 < no <= len(o.attempts) else None


NEVER_OPENED = "never_opened"  # code of an attempt that was given up before the provider was asked for it


def was_refused(a: Attempt) -> bool:
    """Whether the provider said a definite no to opening it: about our request, so no other card helps."""
    return a.state == t.VOIDED and a.provider_ref is None and a.code != NEVER_OPENED


def refund_of(o: Order, no: int, provider_ref: str | None) -> RefundEntry | None:
    """The refund a fact is about: by the provider's reference when both know one, else by our own number."""
    if provider_ref:
        for entry in o.refunds:  # first, or a refund that is known by both would be found under another one's number
            if entry.provider_ref == provider_ref:
                return entry
    for entry in o.refunds:
        if no and entry.no == no and not (provider_ref and entry.provider_ref):
            return entry
    return None


def dispute_of(o: Order, provider_ref: str) -> DisputeEntry | None:
    return next((d for d in o.disputes if d.provider_ref == provider_ref), None)


def stock_of(o: Order, service: str) -> StockEntry | None:
    return next((s for s in o.stock if s.service == service), None)


def owed_back_minor(o: Order) -> int:
    """Captured money that was neither given back, nor lost, nor is on its way back."""
    submitted = sum(r.amount_minor for r in o.refunds if r.state == t.SUBMITTED)
    return not_given_back_minor(o) - submitted


def not_given_back_minor(o: Order) -> int:
    """Captured money that was neither given back nor lost; some of it may be on its way back."""
    return o.captured_minor - o.refunded_minor - o.lost_minor


# ---- the fold -------------------------------------------------------------------------------------------------------


def evolve(order: Order | None, event: e.OrderEvent) -> Order:
    """The order after `event`. Raises `FoldError` (see the module); never on a fact about payment, refund, dispute or stock."""
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
