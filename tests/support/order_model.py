"""The rules of orders once more, as tuples and plain functions, to compare `decide` and `evolve` with.

This file has the states, what is derived from them and how events change them; `order_rules` says what is legal when. Both are
written from tables that are older than the code, row by row, and import nothing of the product. A state holds what the rules
depend on and no more: no version, no times but "the time to pay is over", no counters of the log. That makes it the quotient
of the reachable orders too (`order_space`).

A command is a plain dictionary: `op`, `role` (`customer`, `admin` or the name of a part of the system), `late` (it comes at
or after `expires_at`), `foreign`, `stale` (it expects another version), `full` (the order has 1,000 events), and the fields
of its payload.
"""

from __future__ import annotations

from typing import Any, NamedTuple

Command = dict[str, Any]


class Attempt(NamedTuple):
    state: str = "requested"
    ref: str | None = None
    captured: int = 0
    waiting: str | None = None
    code: str | None = None
    charge: str | None = None
    capture_before: int | None = None


class Refund(NamedTuple):
    no: int
    ref: str | None
    state: str
    amount: int


class Dispute(NamedTuple):
    ref: str
    outcome: str
    amount: int


class State(NamedTuple):
    total: int
    stock: tuple[tuple[str, str], ...]
    cancelled: bool = False
    fulfilment: str = "none"
    attempts: tuple[Attempt, ...] = ()
    refunds: tuple[Refund, ...] = ()
    failures: int = 0  # in total; the next refund's number follows from it
    recent: int = 0  # since the last retry
    disputes: tuple[Dispute, ...] = ()
    flags: tuple[tuple[str, str], ...] = ()
    elsewhere: int = 0
    late: bool = False


class Event(NamedTuple):
    """The command is accepted: the event's type, and the fields of its detail that are set."""

    type: str
    detail: dict[str, Any]


class No(NamedTuple):
    code: str


# ---- what follows from a state --------------------------------------------------------------------------------------


def captured(s: State) -> int:
    return sum(a.captured for a in s.attempts)


def refunded(s: State) -> int:
    return s.elsewhere + sum(r.amount for r in s.refunds if r.state == "settled")


def refused(a: Attempt) -> bool:
    """The provider said no to opening it."""
    return a.state == "voided" and a.ref is None and a.code != "never_opened"


def lost(s: State) -> int:
    return sum(d.amount for d in s.disputes if d.outcome == "lost")


def dispute_open(s: State) -> bool:
    return any(d.outcome == "open" for d in s.disputes)


def stock_axis(s: State) -> str:
    states = {state for _, state in s.stock}
    if "rejected" in states:
        return "rejected"
    if s.cancelled and not states & {"owed", "reserved"}:
        return "released"
    return "reserved" if states == {"reserved"} else "pending"


def payment_axis(s: State) -> str:
    money = captured(s)
    if money == 0:
        if s.total == 0:
            return "not_required"
        last = s.attempts[-1].state if s.attempts else "unpaid"
        return "unpaid" if last == "voided" and not s.cancelled else last
    if refunded(s) + lost(s) >= money:
        return "refunded"
    if any(r.state == "submitted" for r in s.refunds):
        return "refunding"
    if s.refunds and s.refunds[-1].state == "failed":
        return "refund_failed"
    if s.cancelled:
        return "refunding"
    return "captured" if money >= s.total else "partly_captured"


def shown(s: State) -> str:
    if s.cancelled:
        return "cancelled"
    if s.fulfilment != "none":
        return s.fulfilment
    return "paid" if stock_axis(s) == "reserved" and captured(s) >= s.total else "pending"


def find_refund(s: State, c: Command) -> Refund | None:
    """One object at the provider is one refund; the ledger's number names it only while one of the two has no reference."""
    if c.get("ref") and (known := [r for r in s.refunds if r.ref == c["ref"]]):
        return known[0]
    numbered = [r for r in s.refunds if r.no and r.no == c["no"] and not (r.ref and c.get("ref"))]
    return numbered[0] if numbered else None


# ---- what an accepted command leads to ------------------------------------------------------------------------------


def after(s: State, c: Command, event: Event) -> State:
    """The state after the accepted command `c`, which led to `event`."""
    s = s._replace(late=s.late or bool(c.get("late")))
    match event.type:
        case "OrderCancelled":
            return s._replace(cancelled=True)
        case "PaymentRequested":
            return s._replace(attempts=(*s.attempts, Attempt()))
        case "FulfilmentStarted":
            return s._replace(fulfilment="processing")
        case "OrderShipped":
            return s._replace(fulfilment="shipped")
        case "OrderDelivered":
            return s._replace(fulfilment="delivered")
        case "AttentionRaised":
            return s._replace(flags=tuple(sorted({*s.flags, (c["code"], c["key"])})))
        case "AttentionResolved":
            s = s._replace(flags=tuple(f for f in s.flags if f != (c["code"], c["key"])))
            if c["action"] == "retry":
                return s._replace(recent=0)
            return s._replace(elsewhere=s.elsewhere + event.detail["amount_minor"])
        case "StockReserved" | "StockRejected" | "StockReleased":
            new = event.type.removeprefix("Stock").lower()
            return s._replace(stock=tuple((n, new if n == c["service"] else state) for n, state in s.stock))
        case "DisputeOpened":
            others = tuple(d for d in s.disputes if d.ref != c["ref"])
            opened = Dispute(c["ref"], "open", c["amount"])
            if len(others) < len(s.disputes):
                return s._replace(disputes=tuple(opened if d.ref == c["ref"] else d for d in s.disputes))
            return s._replace(disputes=(*others, opened))
        case "DisputeClosed":
            return s._replace(disputes=tuple(d._replace(outcome=c["outcome"]) if d.ref == c["ref"] else d for d in s.disputes))
        case "RefundSubmitted" | "RefundSettled" | "RefundFailed":
            return _after_refund(s, c, event.type.removeprefix("Refund").lower())
        case _:
            return _after_payment(s, c, event.type.removeprefix("Payment").lower())


def _after_refund(s: State, c: Command, new: str) -> State:
    old = find_refund(s, c)
    amount = c.get("amount")
    if old is None:
        refunds = (*s.refunds, Refund(c["no"], c.get("ref"), new, amount or 0))
    else:
        entry = Refund(old.no, c.get("ref") or old.ref, new, old.amount if amount is None else amount)
        refunds = tuple(entry if r is old else r for r in s.refunds)
    failed = new == "failed"
    return s._replace(refunds=refunds, failures=s.failures + failed, recent=s.recent + failed)


def _after_payment(s: State, c: Command, new: str) -> State:
    old = s.attempts[c["attempt"] - 1]
    if new == "opened":
        new = "open" if old.state in ("requested", "voided") else old.state
    only_ref = new == old.state and c["fact"] == "PaymentOpened"
    entry = Attempt(
        state=new,
        ref=c.get("ref") or old.ref,
        captured=c["amount"] if c["fact"] == "PaymentCaptured" else old.captured,
        waiting=old.waiting if only_ref else c.get("waiting"),
        code=old.code if only_ref else c.get("code"),
        charge=c.get("charge") or old.charge,
        capture_before=c.get("capture_before") or old.capture_before,
    )
    return s._replace(attempts=tuple(entry if a is old else a for a in s.attempts))
