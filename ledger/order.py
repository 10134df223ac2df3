"""An order as the fold of its events (`ledger.evolve`), and values derived from it. Pure.

Four axes: `lifecycle` open|cancelled, payment, stock, fulfilment. The displayed status is a function of them
(`display`), so is the payment state (`payment_state`); neither is stored twice. Disputes and attention are flags, never states.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from ledger import events, transitions
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
# Two of the displayed axes, functions of the states above.
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
    """An event does not follow from its order. Readers freeze that order; the fault is in the log, not in the reader."""

    code = "fold_error"


class Attempt(Struct, frozen=True, array_like=True):
    """One payment attempt. `captured_minor` is its captured total; `since` the time of its last event."""

    no: int
    amount_minor: int
    state: transitions.AttemptState
    since: int
    provider_ref: str | None = None
    captured_minor: int = 0
    waiting_for: str | None = None
    code: str | None = None
    charge_ref: str | None = None
    capture_before: int | None = None


class RefundEntry(Struct, frozen=True, array_like=True):
    """One refund. `no` 0: made at the provider; then only `provider_ref` identifies it."""

    no: int
    state: transitions.RefundState
    since: int
    amount_minor: int = 0
    provider_ref: str | None = None
    code: str | None = None


class DisputeEntry(Struct, frozen=True, array_like=True):
    """One dispute. `times` counts how often it was opened: banks reopen won disputes."""

    provider_ref: str
    outcome: str  # as in the event, may be a word unknown to this version
    amount_minor: int = 0
    reason: str | None = None
    due_by: int | None = None
    times: int = 1


class StockEntry(Struct, frozen=True, array_like=True):
    """What one service owes or holds for the order. `times_reserved` makes the key of each release unique."""

    service: str
    state: transitions.StockState
    since: int
    times_reserved: int = 0
    reservation_ref: str | None = None
    reason: str | None = None
    items: tuple[events.StockItem, ...] = ()


class LineCount(Struct, frozen=True, array_like=True):
    """Units of one line (`ledger.units`). `refunded` does not count cancelled ones; `restocked` ones came back.

    `withheld_minor`: what the refunds of the `refunded` units did not give back of their price.
    """

    cancelled: int = 0
    shipped: int = 0
    refunded: int = 0
    restocked: int = 0
    withheld_minor: int = 0


class Parcel(Struct, frozen=True, array_like=True):
    """A parcel and what is in it. `no` counts from 1."""

    no: int
    lines: tuple[events.Units, ...]
    carrier: str | None
    tracking: str | None
    shipped_at: int
    delivered_at: int | None = None


class PartRelease(Struct, frozen=True, array_like=True):
    """Units that a stock service gets back while the order continues. `no` counts from 1 in the order."""

    no: int
    service: str
    lines: tuple[events.Units, ...]
    done: bool = False


class Flag(Struct, frozen=True, array_like=True):
    """An attention flag: reason, obligation, time."""

    code: str
    obligation_key: str
    since: int


class Order(Struct, frozen=True, array_like=True):
    """State of one order after `version` events. Times are ms since the epoch, money minor units of `currency`.

    `total_minor` is what it costs now, `placed_minor` what it cost when it was placed. `counts` are by line, in the order of
    `lines`. `refunded_minor` includes what staff settled elsewhere; `refund_failures` counts all failures ever,
    `refund_failures_recent` those since the last `retry`; `resolved` are obligation keys that staff have resolved.
    `return_marks`: up to which amount money is to be returned while the order continues, after each request; increasing.
    `refunded_ahead_minor`: what was refunded for units that are cancelled now and were not paid for; a later payment does not
    return it again. `shipping_withheld_minor`: what the refund of shipping did not give back of its price.
    """

    order_id: str
    version: int
    customer_id: str
    currency: str
    total_minor: int
    placed_minor: int
    placed_at: int
    updated_at: int
    expires_at: int
    lines: tuple[events.Line, ...]
    counts: tuple[LineCount, ...]
    adjustments: tuple[events.Adjustment, ...]
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
    parcels: tuple[Parcel, ...] = ()
    shipped_at: int | None = None
    delivered_at: int | None = None
    resolved: tuple[str, ...] = ()
    part_releases: tuple[PartRelease, ...] = ()
    return_marks: tuple[int, ...] = ()
    refunded_ahead_minor: int = 0
    shipping_cancelled: bool = False
    shipping_refunded: bool = False
    shipping_withheld_minor: int = 0
    metadata: tuple[events.Entry, ...] = ()
    number: str = ""
    imported: bool = False


# ---- derived values --------------------------------------------------------------------------------------


def stock_state(o: Order) -> StockAxis:
    """The stock axis over both services: `rejected`, `released`, `reserved` or `pending`.

    A service of which every unit was cancelled does not count, unless the whole order is cancelled.
    """
    states = [s.state for s in o.stock if o.lifecycle == CANCELLED or not is_cut(o, s.service)]
    if transitions.REJECTED in states:
        return transitions.REJECTED
    if o.lifecycle == CANCELLED and transitions.OWED not in states and transitions.RESERVED not in states:
        return transitions.RELEASED
    if all(s == transitions.RESERVED for s in states):
        return transitions.RESERVED
    return "pending"


def paid_in_full(o: Order) -> bool:
    """Whether the total was captured, even if it was refunded later. True for an order that costs nothing.

    What was refunded for units that were never paid for is lacking, although it was captured.
    """
    return o.captured_minor >= o.total_minor and not o.refunded_ahead_minor


def paid_in_part(o: Order) -> bool:
    """Whether only part of the total was captured."""
    return o.captured_minor > 0 and not paid_in_full(o)


def payment_state(o: Order) -> PaymentAxis:
    """The payment axis: a function of the last attempt and the amounts."""
    if o.total_minor == 0 and not o.captured_minor:
        return "not_required"
    if o.captured_minor:
        if o.refunded_minor + o.lost_minor >= o.captured_minor:
            return "refunded"
        states = [r.state for r in o.refunds]
        if transitions.SUBMITTED in states:
            return "refunding"
        if states and states[-1] == transitions.FAILED:
            return "refund_failed"
        if o.lifecycle == CANCELLED or owed_back_minor(o) > 0:
            return "refunding"
        return "captured" if paid_in_full(o) else PARTLY_CAPTURED
    if not o.attempts:
        return "unpaid"
    state = o.attempts[-1].state
    if state == transitions.VOIDED:
        return "voided" if o.lifecycle == CANCELLED else "unpaid"
    return state


def display(o: Order) -> Status:
    """The displayed status. Cancelled has precedence: a late webhook never revives an order."""
    if o.lifecycle == CANCELLED:
        return Status.CANCELLED
    if o.fulfilment != NONE:
        return Status(o.fulfilment)
    if paid_in_full(o) and stock_state(o) == transitions.RESERVED:
        return Status.PAID
    return Status.PENDING


def dispute_state(o: Order) -> str:
    """`none`, or `open` while any dispute is open, else the outcome of the last one (`won` also if withdrawn)."""
    if not o.disputes:
        return "none"
    if any(d.outcome == DISPUTE_OPEN for d in o.disputes):
        return DISPUTE_OPEN
    return DISPUTE_LOST if o.disputes[-1].outcome == DISPUTE_LOST else DISPUTE_WON


def attempt_no(o: Order, no: int) -> Attempt | None:
    """The attempt with number `no` (from 1), if there is one."""
    return o.attempts[no - 1] if 0 < no <= len(o.attempts) else None


NEVER_OPENED = "never_opened"  # code of an attempt that was given up before the provider was called


def was_refused(a: Attempt) -> bool:
    """Whether the provider refused to open it. That concerns the request itself, so another card does not help."""
    return a.state == transitions.VOIDED and a.provider_ref is None and a.code != NEVER_OPENED


def refund_of(o: Order, no: int, provider_ref: str | None) -> RefundEntry | None:
    """The refund that a fact is about: by the provider's reference if both have one, else by number."""
    if provider_ref:
        for entry in o.refunds:  # by reference first, or a refund might be found under the number of another one
            if entry.provider_ref == provider_ref:
                return entry
    for entry in o.refunds:
        if no and entry.no == no and not (provider_ref and entry.provider_ref):
            return entry
    return None


def dispute_of(o: Order, provider_ref: str) -> DisputeEntry | None:
    """The dispute with this reference, if there is one."""
    return next((d for d in o.disputes if d.provider_ref == provider_ref), None)


def stock_of(o: Order, service: str) -> StockEntry | None:
    """What one service owes or holds, if it is in the order."""
    return next((s for s in o.stock if s.service == service), None)


def is_cut(o: Order, service: str) -> bool:
    """Whether every unit of this service is cancelled."""
    for line, count in zip(o.lines, o.counts, strict=True):  # a loop: this is asked several times about each event
        if count.cancelled < line.quantity and line.service == service:
            return False
    return True


def submitted_minor(o: Order) -> int:
    """What is being refunded."""
    return sum(r.amount_minor for r in o.refunds if r.state == transitions.SUBMITTED)


def overpaid_minor(o: Order) -> int:
    """Captured money that the order no longer costs, because units were cancelled. More than it ever cost is not counted."""
    return max(0, min(o.captured_minor, o.placed_minor) - o.total_minor)


def due_back_minor(o: Order) -> int:
    """Money that is to be returned in all: everything captured if the order is cancelled, else what was requested.

    Money lost in disputes cannot be returned again.
    """
    kept = o.captured_minor - o.lost_minor
    return kept if o.lifecycle == CANCELLED else min(o.return_marks[-1] if o.return_marks else 0, kept)


def unreturned_minor(o: Order) -> int:
    """Money due back that is not refunded; some of it may be being refunded."""
    return due_back_minor(o) - o.refunded_minor


def owed_back_minor(o: Order) -> int:
    """Money due back that is neither refunded nor being refunded."""
    return unreturned_minor(o) - submitted_minor(o)


def refund_room_minor(o: Order) -> int:
    """What can still be requested to be refunded: captured money that is neither given back, nor lost, nor owed already."""
    return o.captured_minor - o.lost_minor - o.refunded_minor - submitted_minor(o) - max(0, owed_back_minor(o))


def next_refund_minor(o: Order) -> int:
    """Amount of the next refund; 0 if nothing is owed. Requests are refunded one after the other, not in one sum.

    So a later request does not change the amount of a refund that may be under way.
    """
    due, returned = due_back_minor(o), o.refunded_minor + submitted_minor(o)
    target = next((mark for mark in o.return_marks if mark > returned), due)
    return max(0, min(target, due) - returned)
