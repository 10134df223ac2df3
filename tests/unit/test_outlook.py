"""What staff may do with an order: exactly what `decide` accepts, in every reachable state; since when it owes what it owes."""

from __future__ import annotations

import pytest

from commands.decide import decide
from commands.decisions import Refusal
from commands.obligations import FROZEN_BY_OPERATOR, obligations
from commands.outlook import allowed, since_when
from ledger import events as e
from ledger.events import Attention
from ledger.evolve import evolve
from ledger.transitions import REQUESTS, Operation
from tests.support.moves import COMMANDS
from tests.support.order_commands import ACTORS, at_ms
from tests.support.order_space import history, reach
from tests.support.order_universes import UNIVERSES, Universe
from tests.support.story import (
    NOON,
    OPENED,
    PAID,
    RESERVED,
    SHIP,
    START,
    given,
    order_of,
    place,
    request_payment,
    ship_parcel,
    staff,
)

in_quick = pytest.mark.parametrize("universe", UNIVERSES, ids=lambda u: u.name)
BY_THE_DESK = {*REQUESTS, Operation.RESOLVE_ATTENTION} - {Operation.EXPIRE_ORDER, Operation.REQUEST_PAYMENT}


@in_quick
def test_in_every_state_staff_may_do_what_is_accepted_and_nothing_else(universe: Universe) -> None:
    """Every command of the alphabet that is accepted is of an operation that the outlook has, with enough units and money."""
    orders = [reached.order for reached in reach(universe).values()]
    for order in orders:
        actions = {action.operation: action for action in allowed(order, order.updated_at)}
        accepted = set()
        for c, command in COMMANDS:
            if (
                command.actor != ACTORS["admin"]
                or command.operation not in BY_THE_DESK
                or {"stale", "full", "matching"} & c.keys()
            ):
                continue
            decision = decide(command, order, at_ms(c))
            if isinstance(decision, Refusal):
                continue
            accepted.add(Operation(command.operation))
            action = actions[Operation(command.operation)]
            if isinstance(decision.detail, e.RefundRequest):
                assert action.amount_minor is not None
                assert decision.detail.amount_minor <= action.amount_minor
        known_only_here = actions.keys() - accepted
        # Of these the alphabet has commands about certain lines, parcels or flags only.
        assert known_only_here <= {
            Operation.RESOLVE_ATTENTION,
            Operation.CONFIRM_PARCEL,
            Operation.CHANGE_METADATA,
            Operation.CANCEL_LINES,
            Operation.SHIP_PARCEL,
            Operation.REQUEST_REFUND,
        }


def names(*commands: object) -> list[str]:
    return [action.operation.value for action in allowed(order_of(given(*commands)), NOON)]  # type: ignore[arg-type]


def test_the_life_of_an_order_from_the_desk() -> None:
    assert names(place()) == ["CancelLines", "CancelOrder", "ChangeMetadata"]
    paid = names(*PAID)
    assert paid[:3] == ["StartFulfilment", "ShipParcel", "ShipOrder"]
    assert {"RequestRefund", "CancelLines", "CancelOrder"} <= set(paid)
    assert names(*PAID, START)[:2] == ["ShipParcel", "ShipOrder"]
    assert names(*PAID, START, SHIP) == ["ConfirmParcel", "ConfirmDelivery", "RequestRefund", "ChangeMetadata"]


def test_a_parcel_and_the_units_that_are_left_are_named() -> None:
    order = order_of(given(*PAID, ship_parcel(TEA=1)))
    actions = {action.operation: action for action in allowed(order, NOON)}
    assert actions[Operation.CONFIRM_PARCEL].parcel == 1
    left = {(u.service, u.quantity) for u in actions[Operation.SHIP_PARCEL].lines}
    assert left == {(u.service, u.quantity) for u in actions[Operation.CANCEL_LINES].lines}
    assert Operation.CANCEL_ORDER not in actions, "a parcel is gone"


def test_an_order_that_an_operator_froze_accepts_only_that_the_flag_is_resolved() -> None:
    flag = Attention(FROZEN_BY_OPERATOR, "att:ord_1:frozen")
    held = staff("RaiseAttention", raise_attention=flag)
    order = order_of(given(*PAID, held))
    assert [action.operation for action in allowed(order, NOON)] == [Operation.RESOLVE_ATTENTION]


def test_what_is_owed_is_owed_since_the_event_that_began_it() -> None:
    story = given(place())
    story.given(RESERVED[0], at=NOON + 1_000)
    story.given(request_payment(), at=NOON + 2_000)
    story.given(OPENED, at=NOON + 3_000)
    order, since = None, {}
    for event in story.events:
        order = evolve(order, event)
        since = since_when(order, event.occurred_at, since)
    by_kind = {owed.kind.value: since[owed.key] - NOON for owed in obligations(order_of(story))}
    assert by_kind == {"reserve": 0, "look_at_payment": 3_000, "expire": 0}


@in_quick
def test_everything_that_is_owed_has_its_time(universe: Universe) -> None:
    for reached in list(reach(universe).values())[::7]:
        order, since = None, {}
        for event in history(reached):
            order = evolve(order, event)
            since = since_when(order, event.occurred_at, since)
        assert since.keys() == {owed.key for owed in obligations(reached.order)}
