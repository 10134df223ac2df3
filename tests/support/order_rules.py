"""What is legal when, once more (see `order_model`): the result of a command, by the state it meets."""

from __future__ import annotations

from tests.support import desk_rules
from tests.support.order_model import (
    Command,
    Event,
    No,
    State,
    captured,
    due_back,
    fields_set,
    find_refund,
    fully_paid,
    paid_elsewhere,
    payment_axis,
    refunded,
    refused,
    shown,
    stock_axis,
)

MAX_ATTEMPTS = 10
NOT_WHEN_FULL = ("RequestPayment", "CancelLines", "ShipParcel", "ChangeMetadata")


def expect(s: State, c: Command) -> Event | No:
    op = c["op"]
    if op in ("PlaceOrder", "ImportOrder"):
        return No("idempotency_key_reused")
    if c.get("foreign"):
        return No("order_not_found")
    if op in FACTS:
        return FACTS[op](s, c)
    if c.get("stale"):
        return No("version_conflict")
    answer = REQUESTS[op](s, c)
    if isinstance(answer, Event) and c.get("full") and op in NOT_WHEN_FULL:
        return No("order_full")
    return answer


def _cancel(s: State, c: Command) -> Event | No:
    if s.cancelled:
        return No("nothing_to_change")
    legal = s.fulfilment == "none" or (s.fulfilment == "processing" and c["role"] == "admin" and not s.parcels)
    if legal and paid_elsewhere(s):
        return No("order_imported")
    return Event("OrderCancelled", {"reason": c["reason"], "by": c["role"]}) if legal else No("too_late_to_cancel")


def _expire(s: State, c: Command) -> Event | No:
    if s.cancelled:
        return No("nothing_to_change")
    due = (s.late or c.get("late")) and shown(s) == "pending"
    if not due or (payment_axis(s) == "authorised" and stock_axis(s) == "reserved"):
        return No("not_due")
    if captured(s) and not fully_paid(s):
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


def _resolve(s: State, c: Command) -> Event | No:
    if (c["code"], c["key"]) not in s.flags:
        return No("no_such_attention")
    amount = c.get("amount")
    if c["action"] == "settled_elsewhere" and amount is None:
        about_refunds = s.cancelled or c["code"] in ("refund_failed", "refund_overdue")
        amount = max(0, due_back(s) - refunded(s)) if about_refunds else 0
    detail = {"code": c["code"], "obligation_key": c["key"], "action": c["action"]} | fields_set(c, "ticket")
    return Event("AttentionResolved", detail | ({"amount_minor": amount} if c["action"] == "settled_elsewhere" else {}))


def _payment(s: State, c: Command) -> Event | No:
    if not 1 <= c["attempt"] <= len(s.attempts):
        return No("unknown_attempt")
    a = s.attempts[c["attempt"] - 1]
    names = ("amount:amount_minor", "ref:provider_ref", "waiting:waiting_for", "code", "charge:charge_ref", "capture_before")
    event = Event(c["fact"], {"attempt": c["attempt"]} | fields_set(c, *names))
    if c["fact"] == "PaymentCaptured":  # always, if more than was known
        return event if (c.get("amount") or 0) > a.captured else No("already_known")
    new_ref = bool(c.get("ref")) and a.ref is None
    if a.state == "captured" and not (c["fact"] == "PaymentOpened" and new_ref):  # not captured, unless it lacked a name
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


def _refund(s: State, c: Command) -> Event | No:
    known = find_refund(s, c)
    event = Event(c["fact"], {"refund_no": c["no"]} | fields_set(c, "ref:provider_ref", "amount:amount_minor", "code"))
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
    event = Event(c["fact"], {"provider_ref": c["ref"]} | fields_set(c, "amount:amount_minor", "reason", "due_by"))
    if c["fact"] == "DisputeOpened":  # without an outcome it is open now
        return No("already_known") if known and (known.outcome == "open" or c.get("outcome")) else event
    event.detail["outcome"] = c["outcome"]
    if known is None:
        return No("unknown_attempt")
    return No("already_known") if known.outcome == c["outcome"] else event


def _stock(s: State, c: Command) -> Event | No:
    if "part" in c:
        part = s.parts[c["part"] - 1] if 1 <= c["part"] <= len(s.parts) else None
        # The services know nothing of an order of an older one.
        waits = part is not None and part.service == c["service"] and not part.done and c["service"] in dict(s.stock)
        return Event(c["fact"], {"service": c["service"], "part": c["part"]}) if waits else No("already_known")
    state = dict(s.stock).get(c["service"])
    legal = {
        "StockReserved": ("owed", "released"),  # released late
        "StockRejected": ("owed",),
        "StockReleased": ("owed", "reserved"),
    }[c["fact"]]
    detail = {"service": c["service"]} | fields_set(c, "ref:reservation_ref", "reason")
    return Event(c["fact"], detail) if state in legal else No("already_known")


def _raise(s: State, c: Command) -> Event | No:
    if (c["code"], c["key"]) in s.flags:
        return No("already_known")
    return Event("AttentionRaised", {"code": c["code"], "obligation_key": c["key"]})


REQUESTS = desk_rules.REQUESTS | {
    "CancelOrder": _cancel,
    "ExpireOrder": _expire,
    "RequestPayment": _request_payment,
    "ResolveAttention": _resolve,
}
FACTS = {
    "RecordPayment": _payment,
    "RecordRefund": _refund,
    "RecordDispute": _dispute,
    "RecordStock": _stock,
    "RaiseAttention": _raise,
}

# The codes with which each operation may be refused, besides `order_not_found`.
CODES = desk_rules.CODES | {
    "PlaceOrder": {"idempotency_key_reused", "amount_differs"},
    "ImportOrder": {"idempotency_key_reused", "amount_differs", "number_in_use"},
    "CancelOrder": {"version_conflict", "too_late_to_cancel", "nothing_to_change", "order_imported"},
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
    "RecordPayment": {"already_known", "unknown_attempt"},
    "RecordRefund": {"already_known"},
    "RecordDispute": {"already_known", "unknown_attempt"},
    "RecordStock": {"already_known"},
    "RaiseAttention": {"already_known"},
    "ResolveAttention": {"version_conflict", "no_such_attention"},
}
