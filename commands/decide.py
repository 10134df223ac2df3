"""`decide(command, order, at_ms) -> OrderEvent | Refusal`: the outcome of one command. Pure.

`order` is the current fold (None: no events yet), `at_ms` the broker's time of the command. The answer to a request is looked
up in `transitions.REQUESTS` by operation and displayed status. Guards, each beside its operation, check what a status cannot
express: owner, amount, due time. Observed facts are never refused because of state: they are recorded, or `already_known`.

The returned event lacks its envelope (`envelope.seal` adds it). Duplicates by command id never get here (`idempotency`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from msgspec import Struct

from commands.flaws import flaws, malformed
from commands.messages import OrderCommand, who
from ledger import events, transitions
from ledger.order import (
    CANCELLED,
    DISPUTE_LOST,
    DISPUTE_OPEN,
    DISPUTE_WITHDRAWN,
    DISPUTE_WON,
    Attempt,
    Order,
    attempt_no,
    display,
    dispute_of,
    dispute_state,
    paid_in_full,
    paid_in_part,
    payment_state,
    refund_of,
    stock_of,
    stock_state,
    unreturned_minor,
    was_refused,
)
from ledger.transitions import Code, Operation, Status


class Refusal(Struct, frozen=True):
    """The command changed nothing, and why. `detail` is for people; it contains no personal data and no text of the request."""

    code: Code
    detail: str = ""


class MalformedCommand(ValueError):
    """A command that no correct sender creates: unknown operation or fact, missing payload. Becomes `could_not_decide`."""


Decision = events.OrderEvent | Refusal


def decide(command: OrderCommand, order: Order | None, at_ms: int) -> Decision:
    """The outcome of `command`. Raises `MalformedCommand` for a command that no correct sender creates."""
    try:
        operation = Operation(command.operation)
    except ValueError:
        raise MalformedCommand(f"unknown operation {command.operation!r}") from None
    if operation is Operation.PLACE_ORDER:
        return _place(command, order, at_ms)
    if order is None or is_foreign(command, order):
        return Refusal(Code.ORDER_NOT_FOUND, "there is no such order")
    at_ms = max(at_ms, order.updated_at)
    if operation in _FACTS:
        return _FACTS[operation](command, order, at_ms)
    if command.expected_version is not None and command.expected_version != order.version:
        return Refusal(Code.VERSION_CONFLICT, f"the order is at version {order.version}, not {command.expected_version}")
    if operation is Operation.RESOLVE_ATTENTION:
        return _resolve_attention(command, order, at_ms)
    answer = _answer(operation, command, order, at_ms)
    # Facts also fill an order, and cannot be prevented: a full order still accepts what winds it up.
    if (
        isinstance(answer, events.OrderEvent)
        and order.version >= transitions.MAX_EVENTS
        and operation is Operation.REQUEST_PAYMENT
    ):
        return Refusal(Code.ORDER_FULL, f"the order has {order.version} events")
    return answer


def is_foreign(command: OrderCommand, order: Order | None) -> bool:
    """Whether `command` is about an order of another customer, or of no known order.

    The two must look alike. Staff and the ledger's own services act for no customer, so nothing is foreign to them.
    """
    if not command.customer_id or command.operation == Operation.PLACE_ORDER:
        return False
    return order is None or command.customer_id != order.customer_id


def _event(command: OrderCommand, order: Order, at_ms: int, kind: str, detail: events.Detail) -> events.OrderEvent:
    details: dict[str, Any] = {events.DETAIL_OF[kind]: detail}
    return events.OrderEvent(
        order_id=order.order_id,
        version=order.version + 1,
        type=kind,
        occurred_at=at_ms,
        customer_id=order.customer_id,
        currency=order.currency,
        total_minor=order.total_minor,
        actor=command.actor,
        command_id=command.command_id,
        fingerprint=command.fingerprint,
        **details,
    )


def _need(payload: Any, command: OrderCommand) -> Any:
    if payload is None:
        raise MalformedCommand(f"{command.operation} lacks its payload")
    return payload


# ---- requests -------------------------------------------------------------------------------------------------------


def _place(command: OrderCommand, order: Order | None, at_ms: int) -> Decision:
    place = _need(command.place, command)
    if order is not None:
        # The order id derives from the command id, so another command for the same id is the same key with another body.
        return Refusal(Code.IDEMPOTENCY_KEY_REUSED, "an order was already placed with this key")
    if why := malformed(command.customer_id, place):
        raise MalformedCommand(f"PlaceOrder: {why}")
    for flaw in flaws(place):
        if flaw.kind != "total_mismatch":
            raise MalformedCommand(f"PlaceOrder: {flaw.sentence}")
        return Refusal(Code.AMOUNT_DIFFERS, "lines and adjustments do not add up to the total")
    if not 0 < place.payment_window_ms <= transitions.MAX_PAYMENT_WINDOW_S * 1000:
        return Refusal(Code.PAYMENT_WINDOW_NOT_ALLOWED, f"the time to pay must be 1 to {transitions.MAX_PAYMENT_WINDOW_S} s")
    return events.OrderEvent(
        order_id=command.order_id,
        version=1,
        type=events.ORDER_PLACED,
        occurred_at=at_ms,
        customer_id=command.customer_id,
        currency=place.currency,
        total_minor=place.total_minor,
        actor=command.actor,
        command_id=command.command_id,
        fingerprint=command.fingerprint,
        placed=events.Placed(
            lines=place.lines,
            adjustments=place.adjustments,
            contact_digest=place.contact_digest,
            expires_at=at_ms + place.payment_window_ms,
            reference=place.reference,
        ),
    )


def _answer(operation: Operation, command: OrderCommand, order: Order, at_ms: int) -> Decision:
    status = display(order)
    outcome = transitions.REQUESTS[operation][status]
    guard = _GUARDS[operation](command, order, status, at_ms)
    if guard is not None and not (isinstance(outcome, Code) and outcome in _TABLE_WINS):
        return guard
    if isinstance(outcome, Code):
        return Refusal(outcome, f"the order is {status}")
    return _event(command, order, at_ms, outcome, _DETAILS[operation](command, order))


# Codes of a status that take precedence over those of a guard, because they say more.
_TABLE_WINS = frozenset({Code.ORDER_CANCELLED, Code.NOTHING_TO_CHANGE, Code.ALREADY_SHIPPED, Code.TOO_LATE_TO_CANCEL})


def _guard_cancel(command: OrderCommand, order: Order, status: Status, at_ms: int) -> Refusal | None:
    _need(command.cancel, command)
    if status is Status.PROCESSING and who(command) != "admin":
        return Refusal(Code.TOO_LATE_TO_CANCEL, "the order is being processed; only staff can cancel it")
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
    wanted = _need(command.request_payment, command)
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


def _guard_none(command: OrderCommand, order: Order, status: Status, at_ms: int) -> Refusal | None:
    return None


Guard = Callable[[OrderCommand, Order, Status, int], Refusal | None]

_GUARDS: dict[Operation, Guard] = {
    Operation.CANCEL_ORDER: _guard_cancel,
    Operation.EXPIRE_ORDER: _guard_expire,
    Operation.REQUEST_PAYMENT: _guard_request_payment,
    Operation.START_FULFILMENT: _guard_fulfil,
    Operation.SHIP_ORDER: _guard_fulfil,
    Operation.CONFIRM_DELIVERY: _guard_none,
}


def _expired(order: Order) -> events.Cancel:
    paid = bool(order.captured_minor) or payment_state(order) in (transitions.AUTHORISED, "not_required")
    return events.Cancel("stock_timeout" if paid else "unpaid", "reconciler")


_DETAILS: dict[Operation, Callable[[OrderCommand, Order], events.Detail]] = {
    Operation.CANCEL_ORDER: lambda c, order: events.Cancel(_need(c.cancel, c).reason, who(c)),
    Operation.EXPIRE_ORDER: lambda c, order: _expired(order),
    Operation.REQUEST_PAYMENT: lambda c, order: events.Payment(attempt=len(order.attempts) + 1, amount_minor=order.total_minor),
    Operation.START_FULFILMENT: lambda c, order: events.Shipment(),
    Operation.SHIP_ORDER: lambda c, order: events.Shipment(*((c.ship.carrier, c.ship.tracking) if c.ship else ())),
    Operation.CONFIRM_DELIVERY: lambda c, order: events.Shipment(),
}


# ---- observed facts and flags ---------------------------------------------------------------------------------------


def _known(message: str) -> Refusal:
    return Refusal(Code.ALREADY_KNOWN, message)


State = TypeVar("State", bound=str)


def _row(table: Mapping[str, dict[State, State | Code]], fact: str, command: OrderCommand) -> dict[State, State | Code]:
    if fact not in table:
        raise MalformedCommand(f"{command.operation} cannot report {fact!r}")
    return table[fact]


def _record_payment(command: OrderCommand, order: Order, at_ms: int) -> Decision:
    fact = _need(command.record_payment, command)
    row = _row(transitions.ATTEMPT_FACTS, fact.fact, command)
    attempt = attempt_no(order, fact.attempt)
    if attempt is None:
        return Refusal(Code.UNKNOWN_ATTEMPT, f"the order has no payment attempt {fact.attempt}")
    if row[attempt.state] is transitions.KNOWN or _adds_nothing(fact, attempt):
        return _known(f"attempt {attempt.no} is {attempt.state}")
    detail = events.Payment(
        attempt=fact.attempt,
        amount_minor=fact.amount_minor,
        provider_ref=fact.provider_ref,
        waiting_for=fact.waiting_for,
        code=fact.code,
        charge_ref=fact.charge_ref,
        capture_before=fact.capture_before,
    )
    return _event(command, order, at_ms, fact.fact, detail)


def _adds_nothing(fact: Any, attempt: Attempt) -> bool:
    """Whether the attempt is already exactly as the fact says."""
    if fact.fact == events.PAYMENT_CAPTURED:
        return (fact.amount_minor or 0) <= attempt.captured_minor
    if fact.provider_ref and attempt.provider_ref is None:
        return False
    match fact.fact:
        case events.PAYMENT_OPENED:
            return attempt.state != transitions.REQUESTED
        case events.PAYMENT_PENDING:
            return attempt.state == transitions.PENDING and attempt.waiting_for == fact.waiting_for
        case events.PAYMENT_DECLINED:
            return attempt.state == transitions.DECLINED and (attempt.code, attempt.charge_ref) == (
                fact.code,
                fact.charge_ref or attempt.charge_ref,
            )
        case events.PAYMENT_AUTHORISED:
            known = (attempt.provider_ref, attempt.capture_before)
            return attempt.state == transitions.AUTHORISED and known == (
                fact.provider_ref or known[0],
                fact.capture_before or known[1],
            )
    return False


def _record_refund(command: OrderCommand, order: Order, at_ms: int) -> Decision:
    fact = _need(command.record_refund, command)
    row = _row(transitions.REFUND_FACTS, fact.fact, command)
    if not fact.refund_no and not fact.provider_ref:
        raise MalformedCommand("a refund needs its number or the provider's reference")
    entry = refund_of(order, fact.refund_no, fact.provider_ref)
    state: transitions.RefundState = entry.state if entry else ""
    if row[state] is transitions.KNOWN:
        return _known(f"refund {fact.refund_no or fact.provider_ref} is {state}")
    detail = events.Refund(
        refund_no=fact.refund_no, provider_ref=fact.provider_ref, amount_minor=fact.amount_minor, code=fact.code
    )
    return _event(command, order, at_ms, fact.fact, detail)


def _record_dispute(command: OrderCommand, order: Order, at_ms: int) -> Decision:
    fact = _need(command.record_dispute, command)
    entry = dispute_of(order, fact.provider_ref)
    if fact.fact == events.DISPUTE_OPENED:
        if entry is not None and (entry.outcome == DISPUTE_OPEN or fact.outcome is not None):
            return _known(f"dispute {fact.provider_ref} is {entry.outcome}")
    elif fact.fact == events.DISPUTE_CLOSED:
        if fact.outcome not in (DISPUTE_WON, DISPUTE_LOST, DISPUTE_WITHDRAWN):
            raise MalformedCommand(f"a dispute cannot end as {fact.outcome!r}")
        if entry is None:
            return Refusal(Code.UNKNOWN_ATTEMPT, f"the order has no dispute {fact.provider_ref}")
        if entry.outcome == fact.outcome:
            return _known(f"dispute {fact.provider_ref} is {entry.outcome}")
    else:
        raise MalformedCommand(f"RecordDispute cannot report {fact.fact!r}")
    detail = events.Dispute(
        provider_ref=fact.provider_ref,
        amount_minor=fact.amount_minor,
        reason=fact.reason,
        due_by=fact.due_by,
        outcome=fact.outcome if fact.fact == events.DISPUTE_CLOSED else None,
    )
    return _event(command, order, at_ms, fact.fact, detail)


def _record_stock(command: OrderCommand, order: Order, at_ms: int) -> Decision:
    fact = _need(command.record_stock, command)
    row = _row(transitions.STOCK_FACTS, fact.fact, command)
    entry = stock_of(order, fact.service)
    if entry is None:
        return _known(f"the order has no lines of {fact.service}")
    if row[entry.state] is transitions.KNOWN:
        return _known(f"stock at {fact.service} is {entry.state}")
    detail = events.Stock(service=fact.service, reservation_ref=fact.reservation_ref, reason=fact.reason, items=fact.items)
    return _event(command, order, at_ms, fact.fact, detail)


def _flagged(order: Order, code: str, key: str) -> bool:
    return any(f.code == code and f.obligation_key == key for f in order.attention)


def _raise_attention(command: OrderCommand, order: Order, at_ms: int) -> Decision:
    flag = _need(command.raise_attention, command)
    if _flagged(order, flag.code, flag.obligation_key):
        return _known(f"attention {flag.code} is open")
    return _event(command, order, at_ms, events.ATTENTION_RAISED, events.Attention(flag.code, flag.obligation_key))


def _resolve_attention(command: OrderCommand, order: Order, at_ms: int) -> Decision:
    flag = _need(command.resolve_attention, command)
    if flag.action not in ("retry", "settled_elsewhere"):
        raise MalformedCommand(f"attention cannot be resolved by {flag.action!r}")
    if not _flagged(order, flag.code, flag.obligation_key):
        return Refusal(Code.NO_SUCH_ATTENTION, f"no attention {flag.code} is open for this obligation")
    if (flag.amount_minor or 0) < 0:
        raise MalformedCommand("the amount settled elsewhere is below zero")
    amount = None
    if flag.action == "settled_elsewhere":
        # Without an amount: everything that a cancelled order still had to refund. An open order owes no refund.
        owed = max(0, unreturned_minor(order)) if order.lifecycle == CANCELLED else 0
        amount = flag.amount_minor if flag.amount_minor is not None else owed
    detail = events.Attention(flag.code, flag.obligation_key, flag.action, amount, flag.ticket)
    return _event(command, order, at_ms, events.ATTENTION_RESOLVED, detail)


_FACTS: dict[Operation, Callable[[OrderCommand, Order, int], Decision]] = {
    Operation.RECORD_PAYMENT: _record_payment,
    Operation.RECORD_REFUND: _record_refund,
    Operation.RECORD_DISPUTE: _record_dispute,
    Operation.RECORD_STOCK: _record_stock,
    Operation.RAISE_ATTENTION: _raise_attention,
}
