"""What orders owe, once more: a table over `order_model` that shares nothing with `commands.obligations` but names of kinds."""

from __future__ import annotations

from commands.obligations import REFUND_OVERDUE_MS
from ledger.durations import DAY_MS, HOUR_MS, MINUTE_MS
from ledger.order import Order
from tests.support import order_model as model

IN_PROGRESS = ("open", "pending", "declined")


def expected(s: model.State, o: Order) -> set[tuple[str, str, int]]:
    """(kind, key, not before) of everything owed. `o` has what the class leaves out: times, and what people have settled."""
    if s.imported:
        return set()
    i = o.order_id
    owed = set()
    is_open = not s.cancelled
    times = {x.service: x.times_reserved for x in o.stock}
    for service, state in s.stock:
        wanted = is_open and not model.is_cut(s, service)
        if wanted and state == "owed":
            owed.add(("reserve", f"res:{i}:{service}", 0))
        if not wanted and state in ("owed", "reserved"):
            owed.add(("release", f"rel:{i}:{service}:{times[service]}", 0))
    owed |= {("release_part", key, 0) for key in parts(s, o)}
    if is_open and model.stock_axis(s) == "rejected":
        owed.add(("cancel", f"cancel:{i}:stock", 0))
    owed |= _payments(s, o)
    owed |= _refunds(s, o)
    at_work = is_open and model.payment_axis(s) == "authorised" and model.stock_axis(s) == "reserved"
    in_part = model.captured(s) > 0 and not model.fully_paid(s)
    if model.shown(s) == "pending" and not at_work and not in_part:
        owed.add(("expire", f"exp:{i}", o.expires_at))
    return owed | _people(s, o)


def parts(s: model.State, o: Order) -> dict[str, model.Part]:
    """Parts that services owe taking back, by the key of it: once they hold what was ordered, and while they hold any of it."""
    return {
        f"rel:{o.order_id}:{part.service}:part:{no}": part
        for no, part in enumerate(s.parts, 1)
        if not s.cancelled and not part.done and (part.service, "reserved") in s.stock and not model.is_cut(s, part.service)
    }


def captures(s: model.State, o: Order) -> dict[str, int]:
    """What is to be captured, by the key of it: it has the total in it, if that is not the amount of the attempt."""
    if s.cancelled or model.payment_axis(s) != "authorised" or model.stock_axis(s) != "reserved":
        return {}
    no, amount = len(s.attempts), s.attempts[-1].amount
    if s.total < amount:
        return {f"cap:{o.order_id}:{no}:{s.total}": s.total}
    return {f"cap:{o.order_id}:{no}": amount}


def _payments(s: model.State, o: Order) -> set[tuple[str, str, int]]:
    i, owed = o.order_id, {("capture", key, 0) for key in captures(s, o)}
    # An open order whose last attempt may still pay for it.
    waits = not s.cancelled and model.captured(s) == 0 and s.total > 0
    for n, a in enumerate(s.attempts, 1):
        since = o.attempts[n - 1].since
        last = n == len(s.attempts)
        if waits and last and a.state == "requested":
            owed.add(("create_payment", f"pi:{i}:{n}", 0))
        if waits and last and a.state in IN_PROGRESS:
            owed.add(("look_at_payment", f"look:{i}:{n}", since + MINUTE_MS))
        if a.state not in ("captured", "voided") and not (waits and last):
            owed.add(("void", f"void:{i}:{n}", 0))
        if a.state == "captured" and a.ref is None and model.owed_back(s) > 0:
            owed.add(("look_at_payment", f"look:{i}:{n}", since + MINUTE_MS))  # its name is needed for refunds
        if a.state == "captured" and a.ref and model.dispute_open(s):
            owed.add(("look_at_dispute", f"look:{i}:dispute:{n}", o.updated_at + DAY_MS))  # the bank's message may be lost
    return owed


def _refunds(s: model.State, o: Order) -> set[tuple[str, str, int]]:
    i, owed = o.order_id, set()
    named = any(a.captured and a.ref for a in s.attempts)
    if model.next_refund(s) > 0 and named and not model.dispute_open(s) and s.recent < 3:
        number = 1 + max((r.no for r in s.refunds), default=0)
        owed.add(("refund", f"ref:{i}:{number}", 0))
    for r, entry in zip(s.refunds, o.refunds, strict=True):
        if r.state == "submitted" and r.ref:
            owed.add(("look_at_refund", f"look:{i}:refund:{r.ref}", entry.since + HOUR_MS))
    return owed


def _people(s: model.State, o: Order) -> set[tuple[str, str, int]]:
    """Calls for a person: each once, except for money that still has to go back."""
    i, called = o.order_id, {}
    if s.recent >= 3 and model.owed_back(s) > 0:
        called[f"att:{i}:refund:{max(r.no for r in s.refunds)}"] = (0, True)
    for r, entry in zip(s.refunds, o.refunds, strict=True):
        if r.state == "submitted":
            called[f"att:{i}:refund:{r.ref or r.no}:overdue"] = (entry.since + REFUND_OVERDUE_MS, False)
    for d, opened in zip(s.disputes, o.disputes, strict=True):
        if d.outcome == "open":
            called[f"att:{i}:dispute:{d.ref}" + (f":{opened.times}" if opened.times > 1 else "")] = (0, False)
    back, money = model.refunded(s) + model.lost(s), model.captured(s)
    if money > s.placed or (not s.cancelled and money and not model.fully_paid(s)):
        called[f"att:{i}:captured:{money}"] = (0, False)
    if back > money:
        called[f"att:{i}:given_back:{back}"] = (0, False)
    elif not s.cancelled and money and back == money and model.due_back(s) < back:  # nobody asked for all of it
        called[f"att:{i}:refunded:{back}"] = (0, False)
    if not s.cancelled and s.attempts and not money and model.refused(s.attempts[-1]):
        called[f"att:{i}:payment_refused:{s.attempts[-1].code}"] = (0, False)
    standing = {key for _, key in s.flags}
    return {
        ("call_person", key, at)
        for key, (at, again) in called.items()
        if key not in standing and (again or key not in o.resolved)
    }
