"""`obligations(order) -> tuple[Obligation, ...]`: what an order still owes the outside world. Pure.

Derived from the state alone: no clock, no memory of calls. The reconciler compares `not_before` with its clock, does what is due
and reports facts. After a crash anywhere, the same obligation is done again under the same key. Compensation needs no second
code path: a cancelled order with captured money simply owes a refund.

`TABLE` lists all obligations except the flag of a call that keeps failing (`STUCK`), which needs the memory of the reconciler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import NamedTuple

from msgspec import Struct

from ledger import transitions
from ledger.durations import DAY_MS, HOUR_MS, MINUTE_MS
from ledger.events import Line, Units
from ledger.order import (
    CANCELLED,
    DISPUTE_OPEN,
    OPEN,
    Attempt,
    Order,
    StockEntry,
    display,
    dispute_state,
    due_back_minor,
    is_cut,
    next_refund_minor,
    owed_back_minor,
    paid_in_part,
    payment_state,
    stock_state,
    submitted_minor,
    was_refused,
)
from ledger.transitions import Status

CHECK_PAYMENT_AFTER_MS = MINUTE_MS  # the reconciler doubles it up to 10 min while there is no news
CHECK_REFUND_AFTER_MS = HOUR_MS  # doubled up to 24 h
REFUND_OVERDUE_MS = 14 * DAY_MS
CHECK_DISPUTE_AFTER_MS = DAY_MS  # disputes take weeks, and the message with the outcome may be lost


class Kind(StrEnum):
    """What to do: at a stock service, at the payment provider, or by a command of the ledger itself."""

    RESERVE = "reserve"
    RELEASE = "release"
    RELEASE_PART = "release_part"

    CREATE_PAYMENT = "create_payment"
    LOOK_AT_PAYMENT = "look_at_payment"
    CAPTURE = "capture"
    VOID = "void"
    REFUND = "refund"
    LOOK_AT_REFUND = "look_at_refund"
    LOOK_AT_DISPUTE = "look_at_dispute"

    CANCEL = "cancel"
    EXPIRE = "expire"
    CALL_PERSON = "call_person"


class StockArgs(Struct, frozen=True):
    """`lines`: only those of this service."""

    service: str
    lines: tuple[Line, ...]


class PartArgs(Struct, frozen=True):
    """Units of one service that go back while the order continues; `part` is their number in the order."""

    service: str
    part: int
    lines: tuple[Units, ...]


class PaymentArgs(Struct, frozen=True):
    """`provider_ref` None: the provider may know the attempt, but its reference is unknown here."""

    attempt: int
    amount_minor: int
    provider_ref: str | None
    since: int


class RefundArgs(Struct, frozen=True):
    """`provider_ref`: of the payment if a refund is to be made, of the refund if it is to be checked."""

    refund_no: int
    amount_minor: int
    provider_ref: str


class AttentionArgs(Struct, frozen=True):
    """The flag to raise."""

    code: str


Args = StockArgs | PartArgs | PaymentArgs | RefundArgs | AttentionArgs | None


class Obligation(Struct, frozen=True):
    """One obligation. `key` identifies it on both sides; `not_before` is ms since the epoch, 0 = now."""

    kind: Kind
    key: str
    not_before: int = 0
    args: Args = None


# Codes of attention flags.
REFUND_FAILED, REFUND_OVERDUE, PAYMENT_REFUSED = "refund_failed", "refund_overdue", "payment_refused"
DISPUTE, AMOUNT_MISMATCH, REFUNDED_OPEN, STUCK = "dispute", "amount_mismatch", "refunded_open_order", "stuck"
FROZEN_BY_OPERATOR = "frozen_by_operator"  # see `commands.holds`


def obligations(order: Order) -> tuple[Obligation, ...]:
    """All obligations, in the order of `TABLE`. Empty: the order is final, waits for staff, is frozen, or of an older service."""
    if order.imported or is_held(order):
        return ()
    return tuple(obligation for row in TABLE for obligation in row.owed(order))


def is_held(order: Order) -> bool:
    """Whether an operator froze the order: nothing is done for it until the flag is resolved."""
    return any(flag.code == FROZEN_BY_OPERATOR for flag in order.attention)


def due_at(order: Order) -> int | None:
    """When the first obligation is due, ms since the epoch; None if there is none."""
    return min((o.not_before for o in obligations(order)), default=None)


def _reserve(o: Order) -> Iterator[Obligation]:
    if o.lifecycle == OPEN:
        for s in _stock(o, transitions.OWED):
            if is_cut(o, s.service):
                continue
            yield Obligation(Kind.RESERVE, f"res:{o.order_id}:{s.service}", args=_stock_args(o, s))


def _cancel(o: Order) -> Iterator[Obligation]:
    if o.lifecycle == OPEN and stock_state(o) == transitions.REJECTED:
        yield Obligation(Kind.CANCEL, f"cancel:{o.order_id}:stock")


def _release(o: Order) -> Iterator[Obligation]:
    for s in _stock(o, transitions.OWED, transitions.RESERVED):
        if o.lifecycle == CANCELLED or is_cut(o, s.service):
            yield Obligation(Kind.RELEASE, f"rel:{o.order_id}:{s.service}:{s.times_reserved}", args=_stock_args(o, s))


def _release_part(o: Order) -> Iterator[Obligation]:
    """Reserving takes what was ordered at first, so that its key never means anything else; then the cancelled units go back."""
    if o.lifecycle == OPEN:
        reserved = {s.service for s in _stock(o, transitions.RESERVED) if not is_cut(o, s.service)}
        for p in o.part_releases:
            if not p.done and p.service in reserved:
                args = PartArgs(p.service, p.no, p.lines)
                yield Obligation(Kind.RELEASE_PART, f"rel:{o.order_id}:{p.service}:part:{p.no}", args=args)


def _create_payment(o: Order) -> Iterator[Obligation]:
    if _paying(o) and o.attempts[-1].state == transitions.REQUESTED:
        a = o.attempts[-1]
        yield Obligation(Kind.CREATE_PAYMENT, f"pi:{o.order_id}:{a.no}", args=_payment_args(a))


def _look_at_payment(o: Order) -> Iterator[Obligation]:
    for a in o.attempts:
        unfinished = (
            _paying(o) and a is o.attempts[-1] and a.state in (transitions.OPEN, transitions.PENDING, transitions.DECLINED)
        )
        # A capture can be refunded only by reference; only a fact without one, which no correct sender creates, leads here.
        nameless = a.state == transitions.CAPTURED and not a.provider_ref and owed_back_minor(o) > 0
        if unfinished or nameless:
            yield Obligation(
                Kind.LOOK_AT_PAYMENT, f"look:{o.order_id}:{a.no}", a.since + CHECK_PAYMENT_AFTER_MS, _payment_args(a)
            )


def _look_at_dispute(o: Order) -> Iterator[Obligation]:
    if dispute_state(o) == DISPUTE_OPEN:
        for a in o.attempts:
            if a.state == transitions.CAPTURED and a.provider_ref:
                key = f"look:{o.order_id}:dispute:{a.no}"
                yield Obligation(Kind.LOOK_AT_DISPUTE, key, o.updated_at + CHECK_DISPUTE_AFTER_MS, _payment_args(a))


def _capture(o: Order) -> Iterator[Obligation]:
    if _capturing(o):
        a = o.attempts[-1]
        # After lines were cancelled less is captured, under another key: the same one must not mean two amounts.
        less = f":{o.total_minor}" if o.total_minor < a.amount_minor else ""
        args = PaymentArgs(a.no, min(a.amount_minor, o.total_minor), a.provider_ref, a.since)
        yield Obligation(Kind.CAPTURE, f"cap:{o.order_id}:{a.no}{less}", args=args)


def _void(o: Order) -> Iterator[Obligation]:
    for a in o.attempts:
        wanted = _paying(o) and a is o.attempts[-1]
        if a.state not in (transitions.CAPTURED, transitions.VOIDED) and not wanted:
            yield Obligation(Kind.VOID, f"void:{o.order_id}:{a.no}", args=_payment_args(a))


def _refund(o: Order) -> Iterator[Obligation]:
    if o.refund_failures_recent >= transitions.REFUND_TRIES or dispute_state(o) == DISPUTE_OPEN:
        return
    if (owed := next_refund_minor(o)) > 0 and (refundable := _refundable(o, owed)) is not None:
        attempt, amount = refundable
        no = 1 + _last_refund_no(o)
        yield Obligation(Kind.REFUND, f"ref:{o.order_id}:{no}", args=RefundArgs(no, amount, attempt.provider_ref or ""))


def _last_refund_no(o: Order) -> int:
    """Number of the last refund. Numbers always increase: after a success another refund may be owed (a second capture).

    A failure in the provider's dashboard must not renumber a call that is in progress.
    """
    return max((r.no for r in o.refunds), default=0)


def _refundable(o: Order, owed: int) -> tuple[Attempt, int] | None:
    """(attempt to refund from, amount): captures in their order, less what is already refunded."""
    gone = o.refunded_minor + o.lost_minor + submitted_minor(o)
    for a in o.attempts:
        left = a.captured_minor - gone
        if left > 0 and a.provider_ref:
            return a, min(left, owed)
        gone = max(0, gone - a.captured_minor)
    return None


def _look_at_refund(o: Order) -> Iterator[Obligation]:
    for r in o.refunds:
        if r.state == transitions.SUBMITTED and r.provider_ref:
            key = f"look:{o.order_id}:refund:{r.provider_ref}"
            yield Obligation(
                Kind.LOOK_AT_REFUND, key, r.since + CHECK_REFUND_AFTER_MS, RefundArgs(r.no, r.amount_minor, r.provider_ref)
            )


def _call_about_refund(o: Order) -> Iterator[Obligation]:
    if o.refund_failures_recent >= transitions.REFUND_TRIES and owed_back_minor(o) > 0:
        yield from _person(o, REFUND_FAILED, f"refund:{_last_refund_no(o)}", again=True)
    for r in o.refunds:
        if r.state == transitions.SUBMITTED:
            yield from _person(o, REFUND_OVERDUE, f"refund:{r.provider_ref or r.no}:overdue", r.since + REFUND_OVERDUE_MS)


def _expire(o: Order) -> Iterator[Obligation]:
    if display(o) is Status.PENDING and not _capturing(o) and not paid_in_part(o):
        yield Obligation(Kind.EXPIRE, f"exp:{o.order_id}", o.expires_at)


def _call_about_the_odd(o: Order) -> Iterator[Obligation]:
    for d in o.disputes:
        if d.outcome == DISPUTE_OPEN:
            again = f":{d.times}" if d.times > 1 else ""  # staff resolved the first dispute, not this one
            yield from _person(o, DISPUTE, f"dispute:{d.provider_ref}{again}")
    if o.lifecycle == OPEN and o.attempts and not o.captured_minor and was_refused(o.attempts[-1]):
        yield from _person(o, PAYMENT_REFUSED, f"payment_refused:{o.attempts[-1].code}")
    back = o.refunded_minor + o.lost_minor
    if (o.lifecycle == OPEN and paid_in_part(o)) or o.captured_minor > o.placed_minor:
        yield from _person(o, AMOUNT_MISMATCH, f"captured:{o.captured_minor}")
    if back > o.captured_minor:
        yield from _person(o, AMOUNT_MISMATCH, f"given_back:{back}")
    elif o.lifecycle == OPEN and o.captured_minor and back == o.captured_minor and due_back_minor(o) < back:
        yield from _person(o, REFUNDED_OPEN, f"refunded:{back}")


def attention_key(o: Order, subject: str) -> str:
    """Key of a flag: the order, and the subject."""
    return f"att:{o.order_id}:{subject}"


def _person(o: Order, code: str, subject: str, not_before: int = 0, again: bool = False) -> Iterator[Obligation]:
    """A flag, unless it is open, or staff resolved exactly this before (`again`: raise it even then)."""
    key = attention_key(o, subject)
    if (again or key not in o.resolved) and all(f.obligation_key != key for f in o.attention):
        yield Obligation(Kind.CALL_PERSON, key, not_before, AttentionArgs(code))


def _paying(o: Order) -> bool:
    """Whether the last attempt may still become the payment of the order."""
    return o.lifecycle == OPEN and bool(o.attempts) and not o.captured_minor and o.total_minor > 0


def _capturing(o: Order) -> bool:
    return _paying(o) and payment_state(o) == transitions.AUTHORISED and stock_state(o) == transitions.RESERVED


def _stock(o: Order, *states: str) -> list[StockEntry]:
    return [s for s in o.stock if s.state in states]


def _stock_args(o: Order, s: StockEntry) -> StockArgs:
    return StockArgs(s.service, tuple(line for line in o.lines if line.service == s.service))


def _payment_args(a: Attempt) -> PaymentArgs:
    return PaymentArgs(a.no, a.amount_minor, a.provider_ref, a.since)


class Row(NamedTuple):
    """A kind of obligation: when it is owed and what it leads to, in words."""

    kind: Kind
    when: str
    action: str
    leads_to: str
    owed: Callable[[Order], Iterator[Obligation]]


TABLE: tuple[Row, ...] = (
    Row(Kind.RESERVE, "open, a service owed", "reserve there", "StockReserved or StockRejected", _reserve),
    Row(Kind.CANCEL, "open, a service rejected", "cancel the order", "OrderCancelled (out_of_stock)", _cancel),
    Row(
        Kind.RELEASE,
        "cancelled as a whole, or every unit of a service: the service owed or reserved",
        "release there",
        "StockReleased",
        _release,
    ),
    Row(
        Kind.RELEASE_PART,
        "open, units cancelled or sent back, their service reserved",
        "release these units there",
        "StockReleased (part)",
        _release_part,
    ),
    Row(
        Kind.CREATE_PAYMENT,
        "open, a payment requested",
        "open a payment intent",
        "PaymentOpened, or PaymentVoided",
        _create_payment,
    ),
    Row(
        Kind.LOOK_AT_PAYMENT,
        "open, a payment open, pending or declined",
        "check after a minute, then less often",
        "any news",
        _look_at_payment,
    ),
    Row(Kind.CAPTURE, "open, authorised, all stock reserved", "capture", "PaymentCaptured, or PaymentVoided", _capture),
    Row(
        Kind.VOID,
        "an unfinished attempt of a cancelled order, not the last or no longer needed",
        "void it",
        "PaymentVoided, or PaymentCaptured",
        _void,
    ),
    Row(
        Kind.REFUND,
        "captured money due back (cancelled, lines cancelled, or requested) and not being refunded, no open dispute, fewer than "
        "3 failures",
        "refund",
        "RefundSubmitted, RefundSettled or RefundFailed",
        _refund,
    ),
    Row(Kind.LOOK_AT_DISPUTE, "a dispute open", "check every day", "DisputeClosed", _look_at_dispute),
    Row(
        Kind.LOOK_AT_REFUND,
        "a refund submitted",
        "check after an hour, then less often",
        "RefundSettled or RefundFailed",
        _look_at_refund,
    ),
    Row(
        Kind.CALL_PERSON, "3 refunds failed, or one submitted for 14 days", "call a person", "AttentionRaised", _call_about_refund
    ),
    Row(
        Kind.EXPIRE,
        "pending, not being captured and not paid in part",
        "expire the order when its time to pay is over",
        "OrderCancelled (unpaid, stock_timeout)",
        _expire,
    ),
    Row(
        Kind.CALL_PERSON,
        "an open dispute, a payment that the provider refused to open, an open order paid in part or refunded in full, amounts "
        "that do not add up",
        "call a person",
        "AttentionRaised, once",
        _call_about_the_odd,
    ),
)
