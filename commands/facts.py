"""Observed facts (payment, refund, dispute, stock) and attention flags: what `decide` makes of them. Pure.

A fact is never refused because of state: it is recorded, or `already_known`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from commands.decisions import Decision, MalformedCommand, Refusal, event_of, need
from commands.messages import OrderCommand, RecordStock
from commands.obligations import REFUND_FAILED, REFUND_OVERDUE
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
    dispute_of,
    refund_of,
    stock_of,
    unreturned_minor,
)
from ledger.transitions import Code, Operation


def _known(message: str) -> Refusal:
    return Refusal(Code.ALREADY_KNOWN, message)


State = TypeVar("State", bound=str)


def _row(table: Mapping[str, dict[State, State | Code]], fact: str, command: OrderCommand) -> dict[State, State | Code]:
    if fact not in table:
        raise MalformedCommand(f"{command.operation} cannot report {fact!r}")
    return table[fact]


def _record_payment(command: OrderCommand, order: Order, at_ms: int) -> Decision:
    fact = need(command.record_payment, command)
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
    return event_of(command, order, at_ms, fact.fact, detail)


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
    fact = need(command.record_refund, command)
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
    return event_of(command, order, at_ms, fact.fact, detail)


def _record_dispute(command: OrderCommand, order: Order, at_ms: int) -> Decision:
    fact = need(command.record_dispute, command)
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
    return event_of(command, order, at_ms, fact.fact, detail)


def _record_stock(command: OrderCommand, order: Order, at_ms: int) -> Decision:
    fact = need(command.record_stock, command)
    row = _row(transitions.STOCK_FACTS, fact.fact, command)
    entry = stock_of(order, fact.service)
    if entry is None:
        return _known(f"the order has no lines of {fact.service}")
    if fact.part is not None:
        return _record_part(command, fact, order, at_ms)
    if row[entry.state] is transitions.KNOWN:
        return _known(f"stock at {fact.service} is {entry.state}")
    detail = events.Stock(service=fact.service, reservation_ref=fact.reservation_ref, reason=fact.reason, items=fact.items)
    return event_of(command, order, at_ms, fact.fact, detail)


def _record_part(command: OrderCommand, fact: RecordStock, order: Order, at_ms: int) -> Decision:
    """A part of the order was released, while the order continues."""
    if fact.fact != events.STOCK_RELEASED:
        raise MalformedCommand(f"a part of an order cannot be {fact.fact!r}")
    part = next((p for p in order.part_releases if p.no == fact.part and p.service == fact.service), None)
    if part is None or part.done:
        return _known(f"part {fact.part} at {fact.service} is released, or was never to be")
    return event_of(command, order, at_ms, fact.fact, events.Stock(service=fact.service, part=fact.part))


def _flagged(order: Order, code: str, key: str) -> bool:
    return any(f.code == code and f.obligation_key == key for f in order.attention)


def _raise_attention(command: OrderCommand, order: Order, at_ms: int) -> Decision:
    flag = need(command.raise_attention, command)
    if _flagged(order, flag.code, flag.obligation_key):
        return _known(f"attention {flag.code} is open")
    return event_of(command, order, at_ms, events.ATTENTION_RAISED, events.Attention(flag.code, flag.obligation_key))


def resolve_attention(command: OrderCommand, order: Order, at_ms: int) -> Decision:
    """What staff did about a flag. Not a fact: it may be refused."""
    flag = need(command.resolve_attention, command)
    if flag.action not in ("retry", "settled_elsewhere"):
        raise MalformedCommand(f"attention cannot be resolved by {flag.action!r}")
    if not _flagged(order, flag.code, flag.obligation_key):
        return Refusal(Code.NO_SUCH_ATTENTION, f"no attention {flag.code} is open for this obligation")
    if (flag.amount_minor or 0) < 0:
        raise MalformedCommand("the amount settled elsewhere is below zero")
    amount = None
    if flag.action == "settled_elsewhere":
        # Without an amount: everything still to be refunded. Other flags of an open order say nothing about its refunds.
        about_refunds = order.lifecycle == CANCELLED or flag.code in (REFUND_FAILED, REFUND_OVERDUE)
        owed = max(0, unreturned_minor(order)) if about_refunds else 0
        amount = flag.amount_minor if flag.amount_minor is not None else owed
    detail = events.Attention(flag.code, flag.obligation_key, flag.action, amount, flag.ticket)
    return event_of(command, order, at_ms, events.ATTENTION_RESOLVED, detail)


FACTS: dict[Operation, Callable[[OrderCommand, Order, int], Decision]] = {
    Operation.RECORD_PAYMENT: _record_payment,
    Operation.RECORD_REFUND: _record_refund,
    Operation.RECORD_DISPUTE: _record_dispute,
    Operation.RECORD_STOCK: _record_stock,
    Operation.RAISE_ATTENTION: _raise_attention,
}
