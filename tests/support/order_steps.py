"""The rules of orders once more (see `order_model`): the state after an accepted command."""

from __future__ import annotations

from tests.support.line_costs import shared
from tests.support.order_model import (
    Attempt,
    Command,
    Dispute,
    Event,
    Lines,
    Part,
    Refund,
    State,
    asked,
    fall,
    find_refund,
    overpaid,
    price_of,
    returned,
)


def after(s: State, c: Command, event: Event) -> State:
    """The state after the accepted command `c`, which led to `event`."""
    s = s._replace(late=s.late or bool(c.get("late")))
    match event.type:
        case "OrderCancelled":
            return s._replace(cancelled=True)
        case "PaymentRequested":
            return s._replace(attempts=(*s.attempts, Attempt(event.detail["amount_minor"])))
        case "FulfilmentStarted":
            return s._replace(fulfilment="processing")
        case "LinesCancelled":
            return _after_cut(s, c)
        case "RefundRequested":
            return _after_request(s, c, event.detail["amount_minor"])
        case "ParcelShipped" | "OrderShipped":
            units = asked(s, {"lines": event.detail["lines"]}) or []
            lines = tuple(x._replace(shipped=x.shipped + n) for x, n in zip(s.lines, units, strict=True))
            return _fulfilled(s._replace(lines=lines, parcels=(*s.parcels, False)))
        case "ParcelDelivered" | "OrderDelivered":
            arrived = (old or event.detail.get("parcel") in (None, no) for no, old in enumerate(s.parcels, 1))
            return _fulfilled(s._replace(parcels=tuple(arrived)))
        case "MetadataChanged":
            return s._replace(metadata=event.detail.get("entries", ()))
        case "AttentionRaised":
            return s._replace(flags=tuple(sorted({*s.flags, (c["code"], c["key"])})))
        case "AttentionResolved":
            s = s._replace(flags=tuple(f for f in s.flags if f != (c["code"], c["key"])))
            if c["action"] == "retry":
                return s._replace(recent=0)
            return s._replace(elsewhere=s.elsewhere + event.detail["amount_minor"])
        case "StockReleased" if "part" in event.detail:
            parts = (p._replace(done=True) if no == c["part"] else p for no, p in enumerate(s.parts, 1))
            return s._replace(parts=tuple(parts))
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


def _after_cut(s: State, c: Command) -> State:
    units = asked(s, c) or []
    amount, before = fall(s, units, c["shipping"])
    cut = s._replace(lines=tuple(x.cut(n) for x, n in zip(s.lines, units, strict=True)), total=s.total - amount)
    if c["shipping"]:
        cut = cut._replace(shipping_cancelled=True, shipping_unpaid=0)
    return _fulfilled(_returned(_costs_less(cut, overpaid(cut) - overpaid(s) - before), c["lines"]))


def _after_request(s: State, c: Command, amount: int) -> State:
    again, units = bool(c.get("restock")), asked(s, c) or []
    prices = price_of(s, units, bool(c.get("shipping")))
    *lacks, shipping_lacks = shared(max(0, sum(prices) - amount), prices)
    lines = tuple(
        x._replace(refunded=x.refunded + n, restocked=x.restocked + n * again, unpaid=x.unpaid + lack)
        for x, n, lack in zip(s.lines, units, lacks, strict=True)
    )
    s = _to_return(s, amount)._replace(lines=lines, shipping_refunded=s.shipping_refunded or bool(c.get("shipping")))
    s = s._replace(shipping_unpaid=s.shipping_unpaid + shipping_lacks)
    return _returned(s, c["lines"]) if again else s


def _costs_less(s: State, amount: int) -> State:
    """The order costs `amount` less than was paid and went back; below 0 more went back than was paid, and later payments make
    up for that first."""
    amount -= s.ahead
    return _to_return(s, amount)._replace(ahead=max(0, -amount))


def _to_return(s: State, amount: int) -> State:
    """`amount` more is to go back: on top of what was to go back before, and of what went back without being asked for."""
    if amount <= 0:
        return s
    return s._replace(marks=(*s.marks, max(0, *s.marks[-1:], returned(s)) + amount))


def _returned(s: State, lines: Lines) -> State:
    """Each service gets its part of these units back."""
    services = dict.fromkeys(service for service, _, _ in lines)
    new = (Part(name, tuple((sku, n) for service, sku, n in lines if service == name)) for name in services)
    return s._replace(parts=(*s.parts, *new))


def _fulfilled(s: State) -> State:
    """How far an order with a parcel is."""
    if not s.parcels:
        return s
    if any(line.to_ship for line in s.lines):
        return s._replace(fulfilment="processing")
    return s._replace(fulfilment="delivered" if all(s.parcels) else "shipped")


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
        amount=old.amount,
        state=new,
        ref=c.get("ref") or old.ref,
        captured=c["amount"] if c["fact"] == "PaymentCaptured" else old.captured,
        waiting=old.waiting if only_ref else c.get("waiting"),
        code=old.code if only_ref else c.get("code"),
        charge=c.get("charge") or old.charge,
        capture_before=c.get("capture_before") or old.capture_before,
    )
    paid = s._replace(attempts=tuple(entry if a is old else a for a in s.attempts))
    return _costs_less(paid, overpaid(paid) - overpaid(s))
