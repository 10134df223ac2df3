"""Every order that can be reached, up to what the rules cannot distinguish: breadth first over evolve∘decide.

The quotient is `order_model.State`: dropped are version, times (but whether the time to pay is over), actors, amounts that
only repeat the fact, reservation references, carriers, `times_reserved` and who cancelled why; failures of refunds count to
three. `decide` passes the dropped parts on without reading them, except the version (`stale`, `full` are part of the
command), so one order represents its class; `test_decide_exhaustive.py` checks this claim too.

The axes multiply, so there are several universes, each complete under its own alphabet of facts and requests. In the test,
every reached state then meets the *whole* alphabet.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from commands.decide import decide
from commands.messages import OrderCommand
from ledger.events import OrderEvent
from ledger.evolve import evolve
from ledger.order import Order
from tests.support import order_model as model
from tests.support.order_commands import (
    ATTENTION,
    BY_HAND,
    CANCELS,
    DEFINITE_NO,
    DISPUTES,
    EXPIRES,
    FULFIL,
    PAY,
    PLACED_AT,
    REFUNDS,
    SECOND_DISPUTE,
    TOTAL,
    at_ms,
    order_command,
    payments_of,
    stock_of,
)
from tests.support.order_model import Command, State

# ---- the quotient ---------------------------------------------------------------------------------------------------


def state_of(o: Order) -> State:
    """The class of `o`."""
    settled = sum(r.amount_minor for r in o.refunds if r.state == "settled")
    return State(
        total=o.total_minor,
        stock=tuple((s.service, s.state) for s in o.stock),
        cancelled=o.lifecycle == "cancelled",
        fulfilment=o.fulfilment,
        attempts=tuple(
            model.Attempt(a.state, a.provider_ref, a.captured_minor, a.waiting_for, a.code, a.charge_ref, a.capture_before)
            for a in o.attempts
        ),
        refunds=tuple(model.Refund(r.no, r.provider_ref, r.state, r.amount_minor) for r in o.refunds),
        failures=min(o.refund_failures, 3),
        recent=min(o.refund_failures_recent, 3),
        disputes=tuple(model.Dispute(d.provider_ref, d.outcome, d.amount_minor) for d in o.disputes),
        flags=tuple(sorted((f.code, f.obligation_key) for f in o.attention)),
        elsewhere=o.refunded_minor - settled,
        late=o.updated_at >= o.expires_at,
    )


def quotient(s: State) -> State:
    return s._replace(failures=min(s.failures, 3), recent=min(s.recent, 3))


# ---- universes ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Universe:
    """Orders of one kind, and what happens to them. `head` comes first, so that the axis of interest has room.

    Alphabets are numbers into `KNOWN`: commands are dictionaries, which cannot be hashed.
    """

    name: str
    alphabet: tuple[int, ...]
    services: tuple[str, ...] = ("product",)
    total: int = TOTAL
    head: tuple[int, ...] = ()
    attempts: int = 1


class Reached(NamedTuple):
    """An order that represents its class, and how it was reached."""

    order: Order
    parent: Reached | None
    command: Command
    event: OrderEvent


KNOWN: list[Command] = []


def _words(commands: list[Command]) -> tuple[int, ...]:
    for c in commands:
        if c not in KNOWN:
            KNOWN.append(c)
    return tuple(KNOWN.index(c) for c in commands)


_P1, _P2, _SP, _SM = payments_of(1), payments_of(2), stock_of("product"), stock_of("merch")
_OPENED, _AUTHORISED, _CAPTURED, _VOIDED = _P1[0], _P1[6], _P1[9], _P1[11]
_SECOND = [_P2[0], _P2[2], _P2[6], _P2[8], _P2[9], _P2[11]]
_PAID = _words([PAY, _OPENED, _CAPTURED, _SP[0]])
_NAMELESS = _words([PAY, {"op": "RecordPayment", "fact": "PaymentCaptured", "attempt": 1, "amount": TOTAL}, _SP[0]])
_PART_PAID = _words([PAY, _OPENED, _P1[8], _SP[0]])

UNIVERSES = (
    Universe(
        "two services from cart to door",
        _words([*CANCELS, *EXPIRES, PAY, _OPENED, _AUTHORISED, _CAPTURED, _VOIDED, *_SP, *_SM, *FULFIL]),
        services=("product", "merch"),
    ),
    Universe("every turn of a payment attempt", _words([PAY, *_P1, CANCELS[0], EXPIRES[1], *_SP])),
    Universe(
        "a second payment attempt",
        _words([PAY, _OPENED, _AUTHORISED, _CAPTURED, _VOIDED, *_SECOND, CANCELS[0], EXPIRES[1], _SP[0]]),
        attempts=2,
    ),
    Universe(
        "money given back",
        _words([CANCELS[1], *REFUNDS, DEFINITE_NO, *ATTENTION]),
        head=_PAID,
    ),
    Universe(
        "money taken back in the dashboard and disputed",
        _words([CANCELS[1], *REFUNDS[:3], *BY_HAND, *DISPUTES]),
        head=_PAID,
    ),
    Universe(
        "part of the money captured",
        _words([CANCELS[1], _CAPTURED, *REFUNDS[:3], *DISPUTES[:3:2], *ATTENTION]),
        head=_PART_PAID,
    ),
    Universe("captured under an unknown name", _words([CANCELS[1], *_P1, *REFUNDS[:3], *_SP]), head=_NAMELESS),
    Universe("two disputes on the way to the door", _words([CANCELS[1], *FULFIL, *DISPUTES, *SECOND_DISPUTE, *_SP]), head=_PAID),
    Universe(
        "nothing to pay",
        _words([*CANCELS, *EXPIRES, PAY, *_SP, *_SM, *FULFIL, ATTENTION[0]]),
        services=("product", "merch"),
        total=0,
    ),
)

# Fewer states, because the ports themselves lead to the others: for tests that continue from each state to its end.
SMALL_UNIVERSES = (
    *UNIVERSES[:2],
    Universe("one refund given back", _words([CANCELS[1], *REFUNDS[:3], DEFINITE_NO, *ATTENTION]), head=_PAID),
    Universe("money taken back in the dashboard or disputed", _words([CANCELS[1], *BY_HAND, *DISPUTES]), head=_PAID),
    Universe(
        "part of the money captured and given back", _words([CANCELS[1], _CAPTURED, *REFUNDS[:3], *ATTENTION]), head=_PART_PAID
    ),
    Universe("part of the money captured and disputed", _words([CANCELS[1], _CAPTURED, *DISPUTES[:3:2]]), head=_PART_PAID),
    *UNIVERSES[6:],
)

# The same questions with more events together: minutes, for the campaign.
LARGE_UNIVERSES = (
    Universe(
        "refunds, disputes and attention together",
        _words([CANCELS[1], *REFUNDS, *BY_HAND, *DISPUTES, *ATTENTION]),
        head=_PAID,
    ),
    Universe(
        "part of the money captured, and everything after",
        _words([CANCELS[1], _CAPTURED, *REFUNDS[:3], *BY_HAND[1:], *DISPUTES[:3], *ATTENTION]),
        head=_PART_PAID,
    ),
    Universe("every turn of two payment attempts", _words([PAY, *_P1, *_P2, CANCELS[0], EXPIRES[1], _SP[0]]), attempts=2),
    Universe(
        "two payment attempts and two services",
        _words([PAY, *_P1, *_SECOND, CANCELS[0], EXPIRES[1], *_SP, *_SM]),
        services=("product", "merch"),
        attempts=2,
    ),
)


def placed(universe: Universe) -> tuple[OrderCommand, OrderEvent]:
    """The command and event that open `universe`."""
    command = order_command({"op": "PlaceOrder", "role": "customer", "services": universe.services, "total": universe.total})
    event = decide(command, None, PLACED_AT)
    assert isinstance(event, OrderEvent)
    return command, event


@cache
def reach(universe: Universe) -> dict[State, Reached]:
    """Every class of `universe`, in the order of discovery."""
    _, event = placed(universe)
    first = Reached(evolve(None, event), None, {"op": "PlaceOrder"}, event)
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
            if state not in states and len(state.attempts) <= universe.attempts:
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
