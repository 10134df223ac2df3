"""The rules of orders once more, as tuples and plain functions, to compare `decide` and `evolve` with.

This file has the states and what is derived from them; `order_rules` and `desk_rules` say what is legal when, `order_steps` how
an accepted command changes a state. They are written from tables that are older than the code, row by row, and import nothing of
the product. A state holds what the rules depend on and no more: no version, no times but "the time to pay is over", no counters
of the log. That makes it the quotient of the reachable orders too (`order_space`).

A command is a plain dictionary: `op`, `role` (`customer`, `admin` or the name of a part of the system), `late` (it comes at
or after `expires_at`), `foreign`, `stale` (it expects another version), `full` (the order has 1,000 events), and the fields
of its payload.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from tests.support.line_costs import Charge, Item, cost_of_units, line_costs, total_of

Command = dict[str, Any]
Lines = tuple[tuple[str, str, int], ...]  # (service, sku, units), as a command has them


class Line(NamedTuple):
    """A line, what all its units cost, and what became of them. `refunded` are units that are not cancelled, `unpaid` what their
    refunds lacked of their price."""

    service: str
    sku: str
    quantity: int
    cost: int
    cancelled: int = 0
    shipped: int = 0
    refunded: int = 0
    restocked: int = 0
    unpaid: int = 0

    def price(self, before: int, units: int) -> int:
        """Of `units` after the first `before` ones."""
        return cost_of_units(self.cost, self.quantity, before, units)

    @property
    def to_ship(self) -> int:
        return self.quantity - self.cancelled - self.shipped

    @property
    def to_refund(self) -> int:
        return self.quantity - self.cancelled - self.refunded

    @property
    def went_back(self) -> int:
        """What went to the customer for units that were refunded and are not cancelled."""
        return self.price(self.cancelled, self.refunded) - self.unpaid

    def cut(self, units: int) -> Line:
        """Without `units`, first those that were not refunded. The last ones lack what is left, the others their part of it."""
        again = max(0, units - self.to_refund)
        left = self._replace(cancelled=self.cancelled + units, refunded=self.refunded - again)
        price, price_left = self.price(self.cancelled, self.refunded), left.price(left.cancelled, left.refunded)
        part = self.unpaid * again // self.refunded if self.refunded else 0
        part = max(0, min(part, price - price_left))
        return left._replace(unpaid=min(self.unpaid - part, price_left))


class Part(NamedTuple):
    """Units that a service gets back while the order continues; `units` as the command had them: (sku, units)."""

    service: str
    units: tuple[tuple[str, int], ...]
    done: bool = False


class Attempt(NamedTuple):
    amount: int
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
    """`total` is what the order costs now, `placed` what it cost at first. `parcels`: whether each has arrived. `marks`: up to
    which sums money is to go back while the order is open, one for each occasion. `ahead`: what went back for units that are
    cancelled, before they were paid for. `shipping_unpaid`: what its refund lacked of what shipping costs."""

    total: int
    placed: int
    lines: tuple[Line, ...]
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
    parcels: tuple[bool, ...] = ()
    parts: tuple[Part, ...] = ()
    marks: tuple[int, ...] = ()
    shipping_cancelled: bool = False
    shipping_refunded: bool = False
    shipping_unpaid: int = 0
    ahead: int = 0
    metadata: tuple[tuple[str, str], ...] = ()
    imported: bool = False
    old_captured: int = 0  # by an older service, which refunds it too


def placed_state(items: Sequence[Item], charges: Sequence[Charge]) -> State:
    """An order that was just placed."""
    costs = line_costs(tuple(items), tuple(charges))
    lines = tuple(Line(item.service, item.sku, item.quantity, cost) for item, cost in zip(items, costs, strict=True))
    total = total_of(items, charges)
    return State(total, total, lines, tuple((service, "owed") for service in dict.fromkeys(item.service for item in items)))


def imported_state(items: Sequence[Item], charges: Sequence[Charge], c: Command) -> State:
    """An order of an older service, as it was there: it waits for no payment and no stock."""
    s = placed_state(items, charges)._replace(stock=(), imported=True, late=True)
    s = s._replace(old_captured=c["captured"], elsewhere=c["refunded"], cancelled=c["status"] == "cancelled")
    if c["status"] in ("shipped", "delivered"):
        all_sent = tuple(line._replace(shipped=line.quantity) for line in s.lines)
        return s._replace(lines=all_sent, parcels=(c["status"] == "delivered",), fulfilment=c["status"])
    return s._replace(fulfilment="processing") if c["status"] == "processing" else s


class Event(NamedTuple):
    """The command is accepted: the event's type, and the fields of its detail that are set."""

    type: str
    detail: dict[str, Any]


class No(NamedTuple):
    code: str


def fields_set(c: Command, *names: str) -> dict[str, Any]:
    """The fields of `c` that are set, under the event's names: `name` or `name in c:name in the event`."""
    pairs = [(n.split(":")[0], n.split(":")[-1]) for n in names]
    return {theirs: c[ours] for ours, theirs in pairs if c.get(ours) is not None}


# ---- what follows from a state ----------------------------------------------------------------------------------------


def captured(s: State) -> int:
    return s.old_captured + sum(a.captured for a in s.attempts)


def refunded(s: State) -> int:
    return s.elsewhere + sum(r.amount for r in s.refunds if r.state == "settled")


def refused(a: Attempt) -> bool:
    """The provider said no to opening it."""
    return a.state == "voided" and a.ref is None and a.code != "never_opened"


def lost(s: State) -> int:
    return sum(d.amount for d in s.disputes if d.outcome == "lost")


def dispute_open(s: State) -> bool:
    return any(d.outcome == "open" for d in s.disputes)


def submitted(s: State) -> int:
    return sum(r.amount for r in s.refunds if r.state == "submitted")


def returned(s: State) -> int:
    """What went back, or is on its way."""
    return refunded(s) + submitted(s)


def overpaid(s: State) -> int:
    """What was captured for units that are cancelled now."""
    return max(0, min(captured(s), s.placed) - s.total)


def due_back(s: State) -> int:
    """What is to go back in all. Money that a bank took cannot."""
    kept = captured(s) - lost(s)
    return kept if s.cancelled else min(s.marks[-1] if s.marks else 0, kept)


def owed_back(s: State) -> int:
    return due_back(s) - returned(s)


def next_refund(s: State) -> int:
    """One occasion after the other: a later one changes no refund that may be on its way."""
    first = [mark for mark in s.marks if mark > returned(s)]
    return max(0, min(first[0] if first else due_back(s), due_back(s)) - returned(s))


def room(s: State) -> int:
    """What can still be asked back."""
    return captured(s) - lost(s) - returned(s) - max(0, owed_back(s))


def shipping_cost(s: State) -> int:
    return s.placed - sum(line.cost for line in s.lines)


def total_now(s: State) -> int:
    gone = sum(line.price(0, line.cancelled) for line in s.lines)
    return s.placed - gone - (shipping_cost(s) if s.shipping_cancelled else 0)


def is_cut(s: State, service: str) -> bool:
    """Whether no unit of the service is left."""
    return all(line.cancelled == line.quantity for line in s.lines if line.service == service)


def asked(s: State, c: Command) -> list[int] | None:
    """Units that `c` asks for, by line; None if it names a line that the order does not have."""
    wanted = Counter[tuple[str, str]]()
    for service, sku, units in c.get("lines", ()):
        wanted[service, sku] += units
    if wanted.keys() - {(line.service, line.sku) for line in s.lines}:
        return None
    return [wanted[line.service, line.sku] for line in s.lines]


def paid_elsewhere(s: State) -> bool:
    """An older service has money of it: only that one can give it back."""
    return s.imported and captured(s) > refunded(s)


def fall(s: State, units: Sequence[int], shipping: bool) -> tuple[int, int]:
    """By how much the total falls if these units are cancelled, and how much of that was given back before."""
    amount = before = 0
    for line, n in zip(s.lines, units, strict=True):
        amount += line.price(line.cancelled, n)
        before += line.went_back - line.cut(n).went_back
    if shipping and not s.shipping_cancelled:
        amount += shipping_cost(s)
        before += shipping_cost(s) - s.shipping_unpaid if s.shipping_refunded else 0
    return amount, before


def price_of(s: State, units: Sequence[int], shipping: bool) -> tuple[int, ...]:
    """What is refunded for these units of each line, and last for the shipping, if no amount is named."""
    first = shipping and not (s.shipping_cancelled or s.shipping_refunded)
    of_lines = (line.price(line.cancelled + line.refunded, n) for line, n in zip(s.lines, units, strict=True))
    return (*of_lines, shipping_cost(s) if first else 0)


def stock_axis(s: State) -> str:
    states = {state for service, state in s.stock if s.cancelled or not is_cut(s, service)}
    if "rejected" in states:
        return "rejected"
    if s.cancelled and not states & {"owed", "reserved"}:
        return "released"
    return "reserved" if states <= {"reserved"} else "pending"


def fully_paid(s: State) -> bool:
    """All that the order costs is paid. What went back for units that nobody had paid for is not."""
    return captured(s) >= s.total and s.ahead == 0


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
    if s.cancelled or owed_back(s) > 0:
        return "refunding"
    return "captured" if fully_paid(s) else "partly_captured"


def shown(s: State) -> str:
    if s.cancelled:
        return "cancelled"
    if s.fulfilment != "none":
        return s.fulfilment
    return "paid" if stock_axis(s) == "reserved" and fully_paid(s) else "pending"


def find_refund(s: State, c: Command) -> Refund | None:
    """One object at the provider is one refund; the ledger's number names it only while one of the two has no reference."""
    if c.get("ref") and (known := [r for r in s.refunds if r.ref == c["ref"]]):
        return known[0]
    numbered = [r for r in s.refunds if r.no and r.no == c["no"] and not (r.ref and c.get("ref"))]
    return numbered[0] if numbered else None
