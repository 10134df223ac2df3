"""What orders owe, in every reachable class of orders: compared with the table of `order_owed`, and the five laws.

Histories are those of `order_space`; their times are close together, so whatever has a time of its own is asked after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from commands.decide import decide
from commands.decisions import Refusal
from commands.messages import (
    CancelOrder,
    OrderCommand,
    RaiseAttention,
    RecordDispute,
    RecordPayment,
    RecordRefund,
    RecordStock,
)
from commands.obligations import (
    TABLE,
    Args,
    AttentionArgs,
    Kind,
    Obligation,
    PartArgs,
    PaymentArgs,
    RefundArgs,
    StockArgs,
    due_at,
    obligations,
)
from commands.reconciler.answers import Fact, command_of
from ledger import events as e
from ledger.evolve import evolve
from ledger.order import Order, display, owed_back_minor
from ledger.transitions import Code, Operation
from tests.support import order_model as model
from tests.support import order_owed
from tests.support.order_space import Reached, reach, state_of
from tests.support.order_universes import (
    DESK_UNIVERSES,
    IMPORTED_UNIVERSES,
    LARGE_DESK_UNIVERSES,
    LARGE_PAYMENT_UNIVERSES,
    LARGE_UNIVERSES,
    OWING_UNIVERSES,
    SMALL_UNIVERSES,
    Universe,
)

in_both = pytest.mark.parametrize(
    "universe",
    [*OWING_UNIVERSES, *(pytest.param(u, marks=pytest.mark.campaign) for u in LARGE_UNIVERSES)],
    ids=lambda u: u.name,
)


# ---- the table ------------------------------------------------------------------------------------------------------


@in_both
def test_every_order_owes_what_the_table_says_and_nothing_else(universe: Universe) -> None:
    for state, reached in reach(universe).items():
        owed_now = [(str(x.kind), x.key, x.not_before) for x in obligations(reached.order)]
        # The class counts failures to three only; numbers and amounts are those of the order.
        assert set(owed_now) == order_owed.expected(state, reached.order), state
        assert len(owed_now) == len(set(owed_now)), state
        assert len({key for _, key, _ in owed_now}) == len(owed_now), state
        assert due_at(reached.order) == min((at for _, _, at in owed_now), default=None)
        assert all(x.kind is row.kind for row in TABLE for x in row.owed(reached.order)), state
        check_contents(state, reached.order)


@pytest.mark.parametrize("universe", IMPORTED_UNIVERSES, ids=lambda u: u.name)
def test_an_order_of_an_older_service_owes_nothing(universe: Universe) -> None:
    for state, reached in reach(universe).items():
        assert obligations(reached.order) == (), state
        assert order_owed.expected(state, reached.order) == set(), state


def check_contents(state: model.State, o: Order) -> None:
    """What is to be given back, captured and refunded, to the unit and the cent."""
    args = {x.key: x.args for x in obligations(o)}
    for key, part in order_owed.parts(state, o).items():
        units = tuple(e.Units(part.service, sku, quantity) for sku, quantity in part.units)
        assert args[key] == PartArgs(part.service, int(key.rpartition(":")[2]), units)
    for key, amount in order_owed.captures(state, o).items():
        capture = args[key]
        assert isinstance(capture, PaymentArgs)
        assert capture.amount_minor == amount
    for key, refund in args.items():
        if isinstance(refund, RefundArgs) and key.startswith("ref:"):
            assert 0 < refund.amount_minor <= model.next_refund(state)
            if sum(a.captured > 0 for a in state.attempts) == 1:
                assert refund.amount_minor == model.next_refund(state)


# ---- the answers of a port ------------------------------------------------------------------------------------------


def outcomes(o: Obligation, order: Order) -> Iterator[tuple[Fact, ...]]:
    """Every possible outcome of meeting an obligation, its own first."""
    args = o.args
    match o.kind:
        case Kind.RESERVE:
            assert isinstance(args, StockArgs)
            yield (RecordStock(e.STOCK_RESERVED, args.service, reservation_ref="res_1"),)
            yield (RecordStock(e.STOCK_REJECTED, args.service, reason="out_of_stock"),)
            yield (RecordStock(e.STOCK_RELEASED, args.service),)
        case Kind.RELEASE:
            assert isinstance(args, StockArgs)
            yield (RecordStock(e.STOCK_RELEASED, args.service),)
        case Kind.RELEASE_PART:
            assert isinstance(args, PartArgs)
            yield (RecordStock(e.STOCK_RELEASED, args.service, part=args.part),)
        case Kind.CREATE_PAYMENT | Kind.CAPTURE | Kind.VOID | Kind.LOOK_AT_PAYMENT:
            assert isinstance(args, PaymentArgs)
            yield from _payment_outcomes(o.kind, args)
        case Kind.LOOK_AT_DISPUTE:
            for dispute in order.disputes:
                for outcome in ("won", "lost", "withdrawn"):
                    yield (RecordDispute(e.DISPUTE_CLOSED, dispute.provider_ref, outcome=outcome),)
        case Kind.REFUND | Kind.LOOK_AT_REFUND:
            assert isinstance(args, RefundArgs)
            ref = args.provider_ref if o.kind is Kind.LOOK_AT_REFUND else f"re_{args.refund_no}"
            for kind in (e.REFUND_SETTLED, e.REFUND_FAILED, e.REFUND_SUBMITTED):
                yield (RecordRefund(kind, args.refund_no, ref, args.amount_minor),)
            if o.kind is Kind.REFUND:
                yield (RecordRefund(e.REFUND_FAILED, args.refund_no, amount_minor=args.amount_minor, code="refused"),)


def _payment_outcomes(kind: Kind, a: PaymentArgs) -> Iterator[tuple[Fact, ...]]:
    no, ref = a.attempt, a.provider_ref or f"pi_{a.attempt}"
    captured = RecordPayment(e.PAYMENT_CAPTURED, no, a.amount_minor, ref)
    voided = RecordPayment(e.PAYMENT_VOIDED, no, provider_ref=ref, code="canceled")
    opened = RecordPayment(e.PAYMENT_OPENED, no, provider_ref=ref)
    # A payment without a name is searched for, and its name is reported before anything else.
    first = () if a.provider_ref or kind is Kind.CREATE_PAYMENT else (opened,)
    yield {Kind.CREATE_PAYMENT: (opened,), Kind.CAPTURE: (*first, captured)}.get(kind, (*first, voided))
    yield (*first, captured)
    yield (*first, voided)
    if kind is not Kind.VOID:
        yield (*first, RecordPayment(e.PAYMENT_AUTHORISED, no, a.amount_minor, ref, capture_before=7))
    if kind is Kind.LOOK_AT_PAYMENT:
        yield (*first, RecordPayment(e.PAYMENT_PENDING, no, provider_ref=ref, waiting_for="customer_action"))
        yield (*first, RecordPayment(e.PAYMENT_DECLINED, no, provider_ref=ref, code="card_declined"))


def own_command(o: Obligation, order: Order) -> OrderCommand | None:
    base = {"command_id": "cmd_own", "order_id": order.order_id, "fingerprint": bytes(16), "actor": "reconciler"}
    match o.kind:
        case Kind.CANCEL:
            return OrderCommand(**base, operation=Operation.CANCEL_ORDER, cancel=CancelOrder("out_of_stock"))
        case Kind.EXPIRE:
            return OrderCommand(**base, operation=Operation.EXPIRE_ORDER)
        case Kind.CALL_PERSON:
            assert isinstance(o.args, AttentionArgs)
            return OrderCommand(**base, operation=Operation.RAISE_ATTENTION, raise_attention=RaiseAttention(o.args.code, o.key))
    return None


def results(o: Obligation, order: Order) -> Iterator[list[e.OrderEvent | Refusal]]:
    """The processor's decision on each outcome, met when it is due and a moment later than anything before."""
    at_ms = max(order.updated_at, o.not_before) + 1
    if (own := own_command(o, order)) is not None:
        yield [decide(own, order, at_ms)]
        return
    for facts in outcomes(o, order):
        after, said = order, []
        for fact in facts:
            decision = decide(command_of(fact, order.order_id, "cmd_x", "port"), after, at_ms)
            said.append(decision)
            if isinstance(decision, e.OrderEvent):
                after = evolve(after, decision)
        yield said


def moved(order: Order, decisions: list[e.OrderEvent | Refusal]) -> Order:
    for decision in decisions:
        if isinstance(decision, e.OrderEvent):
            order = evolve(order, decision)
    return order


# ---- the laws -------------------------------------------------------------------------------------------------------


@in_both
def test_law_1_whatever_a_port_says_is_accepted_or_known_in_every_state(universe: Universe) -> None:
    """Late answers too: the call that any state owes may be answered when the order is in any other."""
    said: dict[str, Fact] = {}
    for reached in reach(universe).values():
        for o in obligations(reached.order):
            for facts in outcomes(o, reached.order) if own_command(o, reached.order) is None else ():
                said |= {repr(fact): fact for fact in facts}
    assert said
    for state, reached in reach(universe).items():
        for fact in said.values():
            if _is_about(fact, reached.order):
                command = command_of(fact, reached.order.order_id, "cmd_x", "port")
                decision = decide(command, reached.order, reached.order.updated_at)
                assert isinstance(decision, e.OrderEvent) or decision.code is Code.ALREADY_KNOWN, (state, fact, decision)


def _is_about(fact: Fact, o: Order) -> bool:
    """Attempts and disputes never disappear: before they exist, there can be no fact about them."""
    match fact:
        case RecordPayment():
            return fact.attempt <= len(o.attempts)
        case RecordDispute():
            return any(d.provider_ref == fact.provider_ref for d in o.disputes)
    return True


@in_both
def test_law_2_an_accepted_outcome_ends_the_obligation_or_makes_it_another_one(universe: Universe) -> None:
    for state, reached in reach(universe).items():
        for o in obligations(reached.order):
            accepted = 0
            for decisions in results(o, reached.order):
                if not any(isinstance(d, e.OrderEvent) for d in decisions):
                    continue
                accepted += 1
                after = moved(reached.order, decisions)
                left = {(x.key, x.not_before) for x in obligations(after)}
                assert (o.key, o.not_before) not in left or _still_to_do(o, decisions), (state, o, decisions)
            assert accepted, (state, o, "none of its outcomes is news")


def _still_to_do(o: Obligation, decisions: list[e.OrderEvent | Refusal]) -> bool:
    """A read before an act showed a payment in progress: the act is still to be done, to a payment that is now known."""
    news = {d.type for d in decisions if isinstance(d, e.OrderEvent)}
    return o.kind in (Kind.CAPTURE, Kind.VOID) and news <= {e.PAYMENT_AUTHORISED, e.PAYMENT_OPENED}


@in_both
def test_law_3_an_order_that_owes_nothing_is_final_or_waits_for_a_person(universe: Universe) -> None:
    for state, reached in reach(universe).items():
        if not obligations(reached.order):
            assert final(reached.order) or waits_for_a_person(reached.order), state


def final(o: Order) -> bool:
    if display(o) == "delivered":
        return True
    no_stock = all(s.state in ("released", "rejected") for s in o.stock)
    no_money = owed_back_minor(o) <= 0 and all(a.state in ("captured", "voided") for a in o.attempts)
    return display(o) == "cancelled" and no_stock and no_money


def waits_for_a_person(o: Order) -> bool:
    return bool(o.attention) or display(o) in ("paid", "processing", "shipped")


@pytest.mark.parametrize(
    "universe",
    [
        pytest.param(u, marks=[pytest.mark.campaign] * (u not in SMALL_UNIVERSES))
        for u in dict.fromkeys((*SMALL_UNIVERSES, *OWING_UNIVERSES, *LARGE_PAYMENT_UNIVERSES))
    ],
    ids=lambda u: u.name,
)
@pytest.mark.timeout(1800)
def test_law_4_whatever_the_ports_say_the_end_keeps_no_money_and_no_stock_of_a_cancelled_order(universe: Universe) -> None:
    """From every state along every outcome until nothing is owed; and some path always leads there."""
    known: dict[object, Order] = {}
    leads_to: dict[object, set[object]] = {}
    queue: deque[object] = deque()

    def meet(order: Order) -> object:
        order = replace(order, updated_at=min(order.updated_at, order.expires_at))  # time has no further meaning
        name = (state_of(order), frozenset(order.resolved))
        if name not in known:
            known[name] = order
            queue.append(name)
        return name

    for reached in reach(universe).values():
        meet(reached.order)
    while queue:
        name = queue.popleft()
        order = known[name]
        leads_to[name] = {
            meet(moved(order, decisions))
            for o in obligations(order)
            for decisions in results(o, order)
            if any(isinstance(d, e.OrderEvent) and not (universe.at_once and d.type == e.REFUND_SUBMITTED) for d in decisions)
        }
    quiet = {name for name, next_ones in leads_to.items() if not next_ones}
    for name in quiet:
        o = known[name]
        assert not obligations(o)
        returned = o.refunded_minor + o.lost_minor
        if o.lifecycle == "cancelled":
            assert all(s.state in ("released", "rejected") for s in o.stock), o
            assert returned >= o.captured_minor or o.attention, o
        else:
            check_quiet(o)
        if returned > o.captured_minor:
            assert o.attention or o.resolved, o  # a person was called because too much went back
    reaches = set(quiet)
    before: dict[object, set[object]] = {}
    for name, next_ones in leads_to.items():
        for next_one in next_ones:
            before.setdefault(next_one, set()).add(name)
    back = deque(quiet)
    while back:
        for name in before.get(back.popleft(), ()):
            if name not in reaches:
                reaches.add(name)
                back.append(name)
    assert reaches == set(leads_to)


def check_quiet(o: Order) -> None:
    """An open order that owes nothing more: its services hold what is left of it, and what was to go back went back."""
    state = state_of(o)
    assert model.owed_back(state) <= 0 or o.attention, o
    for service, held in state.stock:
        assert not model.is_cut(state, service) or held in ("released", "rejected"), o
        if held == "reserved":
            assert all(part.done for part in state.parts if part.service == service), o


@pytest.mark.parametrize(
    "universe",
    [*DESK_UNIVERSES, *(pytest.param(u, marks=pytest.mark.campaign) for u in LARGE_DESK_UNIVERSES)],
    ids=lambda u: u.name,
)
def test_law_5_no_key_means_two_things_over_any_history(universe: Universe) -> None:
    """A call may have been made under it at any moment: what it asked for is what it asks for ever after.

    But what is left to refund changes if money moves otherwise than it was asked for (`outside`). Then only the number that no
    refund has yet may ask for another amount; what a provider answers to that is in `test_refused_refunds.py`.
    """
    compared = 0
    meant: dict[int, dict[str, tuple[object, ...]]] = {}
    for reached in reach(universe).values():
        before = meant.get(id(reached.parent), {})
        now = {o.key: means(o) for o in obligations(reached.order)}
        meant[id(reached)] = before | now
        if outside(reached):
            meant[id(reached)] = {
                key: asked for key, asked in meant[id(reached)].items() if key != next_refund_key(reached)
            } | now
            continue
        for key in before.keys() & now.keys():
            assert before[key] == now[key], (key, reached.command, reached.order)
            compared += 1
    assert compared > 20


def next_refund_key(reached: Reached) -> str:
    """The key of the number after all that refunds of the order have, whoever made them and however they ended."""
    return f"ref:{reached.order.order_id}:{1 + max((refund.no for refund in reached.order.refunds), default=0)}"


def outside(reached: Reached) -> bool:
    """Money moved otherwise than it was asked for: by hand, by a bank, or a refund that was on its way failed after all."""
    event = reached.event
    if event.refund is None or reached.parent is None:
        return event.dispute is not None or event.attention is not None
    asked = {o.args.refund_no: o.args.amount_minor for o in obligations(reached.parent.order) if isinstance(o.args, RefundArgs)}
    return event.type == e.REFUND_FAILED or asked.get(event.refund.refund_no) != event.refund.amount_minor


def means(o: Obligation) -> tuple[object, ...]:
    """What is asked for under its key, except for names and times that are only learnt later."""
    args: Args = o.args
    match args:
        case PaymentArgs():
            return (o.kind, args.attempt, args.amount_minor)
        case RefundArgs():
            return (o.kind, args.refund_no, args.amount_minor)
    return (o.kind, args)
