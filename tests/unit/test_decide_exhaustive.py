"""Every reachable class of orders meets every command: `decide` and `evolve` against the tables of `order_model`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from commands.decide import decide
from commands.decisions import Refusal
from commands.messages import PAYLOAD_OF, OrderCommand
from ledger import events as e
from ledger.envelope import Written, seal, summary
from ledger.evolve import evolve
from ledger.order import (
    Order,
    display,
    due_back_minor,
    next_refund_minor,
    owed_back_minor,
    refund_room_minor,
    stock_state,
    submitted_minor,
)
from ledger.schemas.codec import event_codec, link_of
from ledger.transitions import Code, Operation
from tests.support import order_model as model
from tests.support import order_rules as rules
from tests.support import order_steps as steps
from tests.support.moves import COMMANDS, MOVES, moves
from tests.support.order_commands import WHOLE, at_ms, meet, order_command
from tests.support.order_space import Reached, history, placed, quotient, reach, state_of
from tests.support.order_universes import KNOWN, LARGE_UNIVERSES, MOVING_UNIVERSES, PAYMENT_UNIVERSES, UNIVERSES, Universe

in_quick = pytest.mark.parametrize("universe", UNIVERSES, ids=lambda u: u.name)
in_both = pytest.mark.parametrize(
    "universe",
    [*UNIVERSES, *(pytest.param(u, marks=pytest.mark.campaign) for u in LARGE_UNIVERSES)],
    ids=lambda u: u.name,
)


def detail_fields(event: e.OrderEvent) -> dict[str, Any]:
    """The fields that are set in the event's one detail, with units and entries as tuples."""
    fields = {k: v for k, v in msgspec.structs.asdict(event.detail).items() if v is not None and v != ()}
    return {k: tuple(map(msgspec.structs.astuple, v)) if isinstance(v, tuple) else v for k, v in fields.items()}


def check(state: model.State, order: Order, c: model.Command, command: OrderCommand) -> None:
    if c.get("stale") or c.get("matching") or c.get("full"):
        command, order = meet(order, c)
    expected = rules.expect(state, c)
    decision = decide(command, order, at_ms(c))
    if isinstance(expected, model.No):
        assert isinstance(decision, Refusal), (state, c, expected, decision)
        assert decision.code == expected.code, (state, c)
        assert decision.code in rules.CODES[c["op"]] | ({"order_not_found"} if c.get("foreign") else set()), (state, c)
        assert decision.detail, (state, c)
        return
    assert isinstance(decision, e.OrderEvent), (state, c, expected, decision)
    assert (decision.type, detail_fields(decision)) == (expected.type, expected.detail), (state, c)
    check_envelope(order, command, decision, at_ms(c))
    after = evolve(order, decision)
    assert state_of(after) == quotient(steps.after(state, c, expected)), (state, c)
    assert (after.version, after.updated_at) == (decision.version, decision.occurred_at)


def check_envelope(order: Order, command: OrderCommand, event: e.OrderEvent, at: int) -> None:
    assert event.version == order.version + 1
    assert event.occurred_at == max(at, order.updated_at)
    assert (event.order_id, event.customer_id) == (order.order_id, order.customer_id)
    assert (event.currency, event.total_minor) == (order.currency, order.total_minor)
    assert (event.command_id, event.fingerprint, event.actor) == (command.command_id, command.fingerprint, command.actor)
    assert [d for d in set(e.DETAIL_OF.values()) if getattr(event, d) is not None] == [e.DETAIL_OF[event.type]]


@in_both
def test_every_command_in_every_state_ends_as_the_contract_says(universe: Universe) -> None:
    for state, reached in reach(universe).items():
        for c, command in COMMANDS:
            check(state, reached.order, c, command)


@in_both
def test_every_state_is_shown_as_the_contract_says(universe: Universe) -> None:
    for state, reached in reach(universe).items():
        o = reached.order
        assert summary(o) == {
            "status": model.shown(state),
            "payment_state": model.payment_axis(state),
            "total_minor": model.total_now(state),
            "captured_minor": model.captured(state),
            "refunded_minor": model.refunded(state),
        }, state
        assert stock_state(o) == model.stock_axis(state), state
        assert o.lost_minor == model.lost(state), state
        assert (due_back_minor(o), owed_back_minor(o)) == (model.due_back(state), model.owed_back(state)), state
        assert (next_refund_minor(o), refund_room_minor(o)) == (model.next_refund(state), model.room(state)), state


def test_the_alphabet_knows_every_operation_and_leads_to_every_event_type() -> None:
    assert {c["op"] for c in WHOLE} == set(Operation) == set(rules.CODES) == set(PAYLOAD_OF)
    types = {r.event.type for u in UNIVERSES for r in reach(u).values()} | {e.ORDER_PLACED}
    assert types == set(e.EVENT_TYPES)


def test_every_code_of_decide_occurs_somewhere() -> None:
    met = {
        answer.code
        for universe in UNIVERSES
        for state in reach(universe)
        for c, _ in COMMANDS
        if isinstance(answer := rules.expect(state, c), model.No)
    }
    only_after_ten_attempts, only_at_the_desk = {"too_many_attempts"}, {"order_frozen", "could_not_decide", "undecodable"}
    only_without_an_order = {"payment_window_not_allowed", "number_in_use"}
    only_in_some_currencies = {"amount_not_payable"}
    never = only_after_ten_attempts | only_at_the_desk | only_without_an_order | only_in_some_currencies
    assert met == set(Code) - never


@in_quick
def test_no_command_distinguishes_orders_of_one_class(universe: Universe) -> None:
    """The quotient is sound: another path to a class, with other versions and times, leads to the same answers."""
    compared = 0
    enough, limit = (200, 600) if universe in PAYMENT_UNIVERSES else (30, 150)
    for first, second in other_paths(universe, limit):
        for c, command in COMMANDS[compared % 3 :: 3] if compared > enough else COMMANDS:
            answers = []
            for order in (first, second):
                decision = decide(command, order, at_ms(c)) if not c.get("full") else None
                if isinstance(decision, e.OrderEvent):
                    answers.append((decision.type, decision.detail, state_of(evolve(order, decision))))
                else:
                    answers.append(decision and decision.code)
            assert answers[0] == answers[1], (state_of(first), c)
        compared += 1
    assert compared > 20, "no class was reached by two paths: nothing was compared"


def other_paths(universe: Universe, limit: int) -> Iterator[tuple[Order, Order]]:
    """Pairs of different orders of one class."""
    states = reach(universe)
    for reached in states.values():
        for number in universe.alphabet:
            c, command = ALPHABET[number]
            event = decide(command, reached.order, at_ms(c))
            if not isinstance(event, e.OrderEvent):
                continue
            after = evolve(reached.order, event)
            first = states.get(state_of(after))
            if first is not None and first.order != after and first.order.version != after.version:
                yield first.order, after
                if (limit := limit - 1) == 0:
                    return


ALPHABET = [(c, order_command(c)) for c in KNOWN]


@in_quick
def test_every_event_reached_survives_its_bytes_and_folds_back_to_its_order(universe: Universe) -> None:
    codec, written = event_codec(), Written(bytes(range(16)), 7, 3)
    _, opening = placed(universe)
    for reached in [Reached(evolve(None, opening), None, {}, opening), *reach(universe).values()]:
        sealed = seal(reached.event, reached.order, written, 9, bytes(32))
        data = codec.encode(sealed)
        assert codec.decode(data) == sealed
        assert len(link_of(data)) == 32


@in_quick
def test_a_history_is_dense_never_goes_back_in_time_and_folds_to_its_order(universe: Universe) -> None:
    for reached in list(reach(universe).values())[::7]:
        events = history(reached)
        order: Order | None = None
        for event in events:
            order = evolve(order, event)
        assert order == reached.order
        assert [event.version for event in events] == list(range(1, len(events) + 1))
        assert [event.occurred_at for event in events] == sorted(event.occurred_at for event in events)


def test_the_shown_status_moves_only_as_the_contract_says() -> None:
    assert moves(MOVING_UNIVERSES) == MOVES


@in_quick
def test_facts_alone_never_move_an_order_out_of_a_final_status(universe: Universe) -> None:
    final = {state: r.order for state, r in reach(universe).items() if model.shown(state) in ("cancelled", "delivered")}
    for order in final.values():
        for c, command in COMMANDS:
            event = decide(command, order, at_ms(c))
            if isinstance(event, e.OrderEvent):
                assert display(evolve(order, event)) == display(order), c


@in_quick
def test_money_adds_up_unless_a_fact_itself_says_otherwise(universe: Universe) -> None:
    """refunded + lost <= captured <= total as placed, as long as refunds, disputes and settlements claim no more than was there.

    And an open order keeps what it costs, except what was asked back of it; a cancelled one keeps nothing.
    """
    for state, reached in reach(universe).items():
        o = reached.order
        claimed = sum(r.amount_minor for r in o.refunds if r.state != "failed") + sum(d.amount_minor for d in o.disputes)
        settled_elsewhere = o.refunded_minor - sum(r.amount_minor for r in o.refunds if r.state == "settled")
        if len(o.attempts) < 2:
            assert o.captured_minor <= o.placed_minor
        if claimed + settled_elsewhere <= o.captured_minor:
            assert o.refunded_minor + o.lost_minor <= o.captured_minor
            assert o.captured_minor - o.lost_minor - o.refunded_minor - submitted_minor(o) >= 0
        if not o.disputes and len(o.attempts) < 2 and (o.lifecycle == "cancelled" or o.captured_minor >= o.total_minor):
            costs = 0 if o.lifecycle == "cancelled" else o.total_minor
            assert o.captured_minor - due_back_minor(o) <= costs, state


@in_quick
def test_units_add_up(universe: Universe) -> None:
    """No unit is both shipped and cancelled, refunded after it was cancelled, or back in stock without having left."""
    for reached in reach(universe).values():
        o = reached.order
        for line, n in zip(o.lines, o.counts, strict=True):
            assert min(n.cancelled, n.shipped, n.refunded, n.restocked) >= 0
            assert n.cancelled + n.shipped <= line.quantity
            assert n.cancelled + n.refunded <= line.quantity
            assert n.restocked <= n.shipped
            packed = [u.quantity for p in o.parcels for u in p.lines if (u.service, u.sku) == (line.service, line.sku)]
            assert sum(packed) == n.shipped
            back = [u.quantity for p in o.part_releases for u in p.lines if (u.service, u.sku) == (line.service, line.sku)]
            assert sum(back) == n.cancelled + n.restocked
        assert [p.no for p in o.parcels] == list(range(1, len(o.parcels) + 1))
        assert [p.no for p in o.part_releases] == list(range(1, len(o.part_releases) + 1))
