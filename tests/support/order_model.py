"""The rules of orders once more, as tuples and plain functions: what the tests hold `decide` and `evolve` against.

Written from tables that are older than the code, row by row; it imports nothing of the project. A state holds what
the rules depend on and no more: no version, no times but "the time to pay is over", no counters of the log. That makes it
the quotient of the reachable orders too (`order_space`).

A command is a plain dictionary: `op`, `role` (`customer`, `admin` or the name of a part of the system), `late` (it comes at
or after `expires_at`), `foreign`, `stale` (it expects another version), `full` (the order has 1,000 events), and the fields
of its payload.
"""

from __future__ import annotations

from typing import Any, NamedTuple

Command = dict[str, Any]
MAX_ATTEMPTS = 10


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
    failures: int = 0  # ever; refunds are numbered by it
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


# ---- what is read off a state (B, "Axes" and `display`) --------------------------------------------------------------


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


# ---- what is legal when (B, third and fourth column; the codes are D's) ----------------------------------------------


def expect(s: State, c: Command) -> Event | No:
    op = c["op"]
    if op == "PlaceOrder":
        return No("idempotency_key_reused")
    if c.get("foreign"):
        return No("order_not_found")
    if op in FACTS:
        return FACTS[op](s, c)
    if c.get("stale"):
        return No("version_conflict")
    answer = REQUESTS[op](s, c)
    if isinstance(answer, Event) and c.get("full") and op == "RequestPayment":
        return No("order_full")
    return answer


def _cancel(s: State, c: Command) -> Event | No:
    if s.cancelled:
        return No("nothing_to_change")
    legal = s.fulfilment == "none" or (s.fulfilment == "processing" and c["role"] == "admin")
    return Event("OrderCancelled", {"reason": c["reason"], "by": c["role"]}) if legal else No("too_late_to_cancel")


def _expire(s: State, c: Command) -> Event | No:
    if s.cancelled:
        return No("nothing_to_change")
    due = (s.late or c.get("late")) and shown(s) == "pending"
    if not due or (payment_axis(s) == "authorised" and stock_axis(s) == "reserved"):
        return No("not_due")
    if 0 < captured(s) < s.total:
        return No("not_due")
    paid = s.total == 0 or captured(s) > 0 or payment_axis(s) == "authorised"
    return Event("OrderCancelled", {"reason": "stock_timeout" if paid else "unpaid", "by": "reconciler"})


def _request_payment(s: State, c: Command) -> Event | No:
    if s.cancelled:
        return No("order_cancelled")
    if s.total == 0:
        return No("nothing_to_pay")
    if captured(s):
        return No("already_paid")
    if payment_axis(s) != "unpaid":
        return No("payment_open")
    if s.late or c.get("late"):
        return No("order_expired")
    if sum(not refused(a) for a in s.attempts) >= MAX_ATTEMPTS:
        return No("too_many_attempts")
    if c["amount"] != s.total or c.get("currency", "EUR") != "EUR":
        return No("amount_differs")
    return Event("PaymentRequested", {"attempt": len(s.attempts) + 1, "amount_minor": s.total})


def _not_ready(s: State) -> No | None:
    """Why a pending order cannot be worked on, or that a dispute holds it up."""
    if shown(s) == "pending":
        return No("stock_not_reserved" if captured(s) >= s.total else "not_paid")
    return No("dispute_open") if dispute_open(s) else None


def _start(s: State, c: Command) -> Event | No:
    by_status = {"cancelled": "order_cancelled", "processing": "nothing_to_change", "shipped": "already_shipped"}
    by_status["delivered"] = "already_shipped"
    if shown(s) in by_status:
        return No(by_status[shown(s)])
    return _not_ready(s) or Event("FulfilmentStarted", {})


def _ship(s: State, c: Command) -> Event | No:
    by_status = {"cancelled": "order_cancelled", "shipped": "nothing_to_change", "delivered": "already_shipped"}
    if shown(s) in by_status:
        return No(by_status[shown(s)])
    return _not_ready(s) or Event("OrderShipped", given(c, "carrier", "tracking"))


def _deliver(s: State, c: Command) -> Event | No:
    by_status = {"shipped": None, "delivered": "nothing_to_change", "cancelled": "order_cancelled"}
    code = by_status.get(shown(s), "not_shipped")
    return No(code) if code else Event("OrderDelivered", {})


def _resolve(s: State, c: Command) -> Event | No:
    if (c["code"], c["key"]) not in s.flags:
        return No("no_such_attention")
    amount = c.get("amount")
    if c["action"] == "settled_elsewhere" and amount is None:
        amount = max(0, captured(s) - refunded(s) - lost(s)) if s.cancelled else 0
    detail = {"code": c["code"], "obligation_key": c["key"], "action": c["action"]} | given(c, "ticket")
    return Event("AttentionResolved", detail | ({"amount_minor": amount} if c["action"] == "settled_elsewhere" else {}))


def _payment(s: State, c: Command) -> Event | No:
    if not 1 <= c["attempt"] <= len(s.attempts):
        return No("unknown_attempt")
    a = s.attempts[c["attempt"] - 1]
    names = ("amount:amount_minor", "ref:provider_ref", "waiting:waiting_for", "code", "charge:charge_ref", "capture_before")
    event = Event(c["fact"], {"attempt": c["attempt"]} | given(c, *names))
    if c["fact"] == "PaymentCaptured":  # always, if more than known
        return event if (c.get("amount") or 0) > a.captured else No("already_known")
    new_ref = bool(c.get("ref")) and a.ref is None
    if a.state == "captured" and not (c["fact"] == "PaymentOpened" and new_ref):  # not captured, but for the name it lacked
        return No("already_known")
    same = {
        "PaymentOpened": a.state != "requested",
        "PaymentPending": a.state == "pending" and a.waiting == c.get("waiting"),
        "PaymentDeclined": a.state == "declined" and a.code == c.get("code") and c.get("charge") in (None, a.charge),
        "PaymentAuthorised": a.state == "authorised"
        and c.get("ref") in (None, a.ref)
        and c.get("capture_before") in (None, a.capture_before),
        "PaymentVoided": a.state == "voided",
    }[c["fact"]]
    if same and not (new_ref and c["fact"] != "PaymentVoided"):
        return No("already_known")
    return event


def find_refund(s: State, c: Command) -> Refund | None:
    """One object at the provider is one refund; our number names it only while one of the two has no reference."""
    if c.get("ref") and (known := [r for r in s.refunds if r.ref == c["ref"]]):
        return known[0]
    numbered = [r for r in s.refunds if r.no and r.no == c["no"] and not (r.ref and c.get("ref"))]
    return numbered[0] if numbered else None


def _refund(s: State, c: Command) -> Event | No:
    known = find_refund(s, c)
    event = Event(c["fact"], {"refund_no": c["no"]} | given(c, "ref:provider_ref", "amount:amount_minor", "code"))
    if known is None:
        return event
    adds = {
        "RefundSubmitted": (),
        "RefundSettled": ("submitted", "failed"),
        "RefundFailed": ("submitted", "settled"),  # also after settled
    }[c["fact"]]
    return event if known.state in adds else No("already_known")


def _dispute(s: State, c: Command) -> Event | No:
    known = next((d for d in s.disputes if d.ref == c["ref"]), None)
    event = Event(c["fact"], {"provider_ref": c["ref"]} | given(c, "amount:amount_minor", "reason", "due_by"))
    if c["fact"] == "DisputeOpened":  # without an outcome it is open now
        return No("already_known") if known and (known.outcome == "open" or c.get("outcome")) else event
    event.detail["outcome"] = c["outcome"]
    if known is None:
        return No("unknown_attempt")
    return No("already_known") if known.outcome == c["outcome"] else event


def _stock(s: State, c: Command) -> Event | No:
    state = dict(s.stock).get(c["service"])
    legal = {
        "StockReserved": ("owed", "released"),  # released late
        "StockRejected": ("owed",),
        "StockReleased": ("owed", "reserved"),
    }[c["fact"]]
    detail = {"service": c["service"]} | given(c, "ref:reservation_ref", "reason")
    return Event(c["fact"], detail) if state in legal else No("already_known")


def _raise(s: State, c: Command) -> Event | No:
    if (c["code"], c["key"]) in s.flags:
        return No("already_known")
    return Event("AttentionRaised", {"code": c["code"], "obligation_key": c["key"]})


REQUESTS = {
    "CancelOrder": _cancel,
    "ExpireOrder": _expire,
    "RequestPayment": _request_payment,
    "StartFulfilment": _start,
    "ShipOrder": _ship,
    "ConfirmDelivery": _deliver,
    "ResolveAttention": _resolve,
}
FACTS = {
    "RecordPayment": _payment,
    "RecordRefund": _refund,
    "RecordDispute": _dispute,
    "RecordStock": _stock,
    "RaiseAttention": _raise,
}

# D, read by operation: what each may end in besides `order_not_found`.
CODES = {
    "PlaceOrder": {"idempotency_key_reused", "amount_differs"},
    "CancelOrder": {"version_conflict", "too_late_to_cancel", "nothing_to_change"},
    "ExpireOrder": {"version_conflict", "not_due", "nothing_to_change"},
    "RequestPayment": {
        "version_conflict",
        "order_cancelled",
        "order_expired",
        "already_paid",
        "payment_open",
        "nothing_to_pay",
        "too_many_attempts",
        "amount_differs",
        "order_full",
    },
    "StartFulfilment": {
        "version_conflict",
        "order_cancelled",
        "not_paid",
        "stock_not_reserved",
        "dispute_open",
        "already_shipped",
        "nothing_to_change",
    },
    "ShipOrder": {
        "version_conflict",
        "order_cancelled",
        "not_paid",
        "stock_not_reserved",
        "dispute_open",
        "already_shipped",
        "nothing_to_change",
    },
    "ConfirmDelivery": {"version_conflict", "order_cancelled", "not_shipped", "nothing_to_change"},
    "RecordPayment": {"already_known", "unknown_attempt"},
    "RecordRefund": {"already_known"},
    "RecordDispute": {"already_known", "unknown_attempt"},
    "RecordStock": {"already_known"},
    "RaiseAttention": {"already_known"},
    "ResolveAttention": {"version_conflict", "no_such_attention"},
}


# ---- what it leads to (B, last column) ------------------------------------------------------------------------------


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


def given(c: Command, *names: str) -> dict[str, Any]:
    """The fields of `c` that are set, under the event's names: `ours` or `ours:theirs`."""
    pairs = [(n.split(":")[0], n.split(":")[-1]) for n in names]
    return {theirs: c[ours] for ours, theirs in pairs if c.get(ours) is not None}
