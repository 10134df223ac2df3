"""Every order that can be reached, up to what the rules cannot distinguish: breadth first over evolve∘decide.

The quotient is `order_model.State`: dropped are version, times (but whether the time to pay is over), actors, amounts that
only repeat the fact, reservation references, carriers and contents of parcels, `times_reserved` and who cancelled why; failures
of refunds count to three. `decide` passes the dropped parts on without reading them, except the version (`stale`, `full` are
part of the command), so one order represents its class; `test_decide_exhaustive.py` checks this claim too.

The axes multiply, so there are several universes, each complete under its own alphabet of facts and requests. In the test,
every reached state then meets the *whole* alphabet.
"""

from __future__ import annotations

from collections import deque
from functools import cache
from typing import NamedTuple

from commands.decide import decide
from commands.messages import OrderCommand
from ledger.events import Adjustment, Line, OrderEvent
from ledger.evolve import evolve
from ledger.order import LineCount, Order
from tests.support import order_model as model
from tests.support.line_costs import Charge, Item, line_costs
from tests.support.order_commands import PLACED_AT, at_ms, order_command
from tests.support.order_model import Command, State
from tests.support.order_universes import KNOWN, UNIVERSES, Universe

# ---- the quotient ---------------------------------------------------------------------------------------------------


def state_of(o: Order) -> State:
    """The class of `o`."""
    settled = sum(r.amount_minor for r in o.refunds if r.state == "settled")
    return State(
        total=o.total_minor,
        placed=o.placed_minor,
        lines=tuple(
            _line(line, cost, n) for line, cost, n in zip(o.lines, _costs(o.lines, o.adjustments), o.counts, strict=True)
        ),
        stock=tuple((s.service, s.state) for s in o.stock),
        cancelled=o.lifecycle == "cancelled",
        fulfilment=o.fulfilment,
        attempts=tuple(
            model.Attempt(
                a.amount_minor, a.state, a.provider_ref, a.captured_minor, a.waiting_for, a.code, a.charge_ref, a.capture_before
            )
            for a in o.attempts
        ),
        refunds=tuple(model.Refund(r.no, r.provider_ref, r.state, r.amount_minor) for r in o.refunds),
        failures=min(o.refund_failures, 3),
        recent=min(o.refund_failures_recent, 3),
        disputes=tuple(model.Dispute(d.provider_ref, d.outcome, d.amount_minor) for d in o.disputes),
        flags=tuple(sorted((f.code, f.obligation_key) for f in o.attention)),
        elsewhere=o.refunded_minor - settled,
        late=o.updated_at >= o.expires_at,
        parcels=tuple(p.delivered_at is not None for p in o.parcels),
        parts=tuple(model.Part(p.service, tuple((u.sku, u.quantity) for u in p.lines), p.done) for p in o.part_releases),
        marks=o.return_marks,
        shipping_cancelled=o.shipping_cancelled,
        shipping_refunded=o.shipping_refunded,
        shipping_unpaid=o.shipping_withheld_minor,
        ahead=o.refunded_ahead_minor,
        metadata=tuple((entry.name, entry.text) for entry in o.metadata),
        imported=o.imported,
        old_captured=o.captured_minor - sum(a.captured_minor for a in o.attempts),
    )


@cache
def _costs(lines: tuple[Line, ...], adjustments: tuple[Adjustment, ...]) -> tuple[int, ...]:
    """What each line costs, by the model."""
    items = (Item(line.service, line.sku, line.quantity, line.unit_price_minor) for line in lines)
    charges = (
        Charge(a.kind, a.amount_minor, (a.service, a.sku) if a.service is not None and a.sku is not None else None)
        for a in adjustments
    )
    return line_costs(tuple(items), tuple(charges))


def _line(line: Line, cost: int, n: LineCount) -> model.Line:
    units = (n.cancelled, n.shipped, n.refunded, n.restocked)
    return model.Line(line.service, line.sku, line.quantity, cost, *units, n.withheld_minor)


def quotient(s: State) -> State:
    return s._replace(failures=min(s.failures, 3), recent=min(s.recent, 3))


# ---- universes ------------------------------------------------------------------------------------------------------


class Reached(NamedTuple):
    """An order that represents its class, and how it was reached."""

    order: Order
    parent: Reached | None
    command: Command
    event: OrderEvent


def placed(universe: Universe) -> tuple[OrderCommand, OrderEvent]:
    """The command and event that open `universe`."""
    command = order_command(universe.opening)
    event = decide(command, None, PLACED_AT)
    assert isinstance(event, OrderEvent)
    return command, event


@cache
def reach(universe: Universe) -> dict[State, Reached]:
    """Every class of `universe`, in the order of discovery."""
    _, event = placed(universe)
    first = Reached(evolve(None, event), None, universe.opening, event)
    for number in universe.head:
        step = _step(first, KNOWN[number])
        assert step is not None, f"{universe.name}: {KNOWN[number]} is refused in its head"
        first = step[1]
    states = {state_of(first.order): first}
    queue = deque(states.values())
    while queue:
        reached = queue.popleft()
        for number in universe.alphabet:
            if (step := _step(reached, KNOWN[number])) is None:
                continue
            state, after = step
            within = len(state.attempts) <= universe.attempts and len(state.marks) <= universe.occasions
            if within and state not in states:
                states[state] = after
                queue.append(after)
    return states


def _step(reached: Reached, c: Command) -> tuple[State, Reached] | None:
    event = decide(order_command(c), reached.order, at_ms(c))
    if not isinstance(event, OrderEvent):
        return None
    after = evolve(reached.order, event)
    return state_of(after), Reached(after, reached, c, event)


@cache
def reachable() -> dict[State, Reached]:
    """Every class of every universe."""
    return {state: reached for universe in UNIVERSES for state, reached in reach(universe).items()}


def history(reached: Reached) -> list[OrderEvent]:
    """The events that lead to it, first to last."""
    events: list[OrderEvent] = []
    at: Reached | None = reached
    while at is not None:
        events.append(at.event)
        at = at.parent
    return events[::-1]
