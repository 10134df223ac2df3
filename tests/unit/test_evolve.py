"""The fold of an order: when it raises, when it never does, and that its value survives a store."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger import events as e
from ledger.envelope import summary
from ledger.evolve import evolve
from ledger.order import FoldError, Order, display
from ledger.transitions import ATTEMPT_FACTS, KNOWN, REFUND_FACTS, STOCK_FACTS
from tests.support.order_space import placed, reach, reachable
from tests.support.order_universes import UNIVERSES

FACTS = (*ATTEMPT_FACTS, *REFUND_FACTS, e.DISPUTE_OPENED, e.DISPUTE_CLOSED, *STOCK_FACTS)
ORDERS = [reached.order for reached in list(reachable().values())[::11]]
FIRST = evolve(None, placed(UNIVERSES[0])[1])

number = st.one_of(st.sampled_from([-1, 0, 1, 2, 3, 11, 2**31 - 1, -(2**31)]), st.integers(-5, 15))
money = st.one_of(st.none(), st.sampled_from([-1000, 0, 1, 600, 1000, 2**62, -(2**62)]))
name = st.one_of(st.none(), st.sampled_from(["pi_1", "re_1", "re_x", "", "x" * 300]))
word = st.sampled_from(["product", "merch", "gifts", "dp_1", "dp_2", ""])
outcome = st.one_of(st.none(), st.sampled_from(["won", "lost", "withdrawn", "draw", "open"]))
items = st.lists(st.builds(e.StockItem, word, number), max_size=2).map(tuple)

DETAILS: dict[str, st.SearchStrategy[Any]] = {
    "payment": st.builds(e.Payment, number, money, name, name, name, name, money),
    "refund": st.builds(e.Refund, number, name, money, name),
    "dispute": st.builds(e.Dispute, word, money, name, money, outcome),
    "stock": st.builds(e.Stock, word, name, name, items, st.one_of(st.none(), number)),
}
facts = st.sampled_from(FACTS).flatmap(lambda kind: st.tuples(st.just(kind), DETAILS[e.DETAIL_OF[kind]]))


def event_after(order: Order, kind: str, detail: e.Detail | None) -> e.OrderEvent:
    return e.OrderEvent(
        order_id=order.order_id,
        version=order.version + 1,
        type=kind,
        occurred_at=order.updated_at,
        customer_id=order.customer_id,
        currency=order.currency,
        total_minor=order.total_minor,
        actor="stripe",
        command_id="fct_1",
        fingerprint=bytes(16),
        **({} if detail is None else {e.DETAIL_OF[kind]: detail}),
    )


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(ORDERS), st.lists(facts, min_size=1, max_size=6))
def test_no_fact_however_odd_stops_the_fold(order: Order, odd: list[tuple[str, e.Detail]]) -> None:
    shown, elsewhere = display(order), order.captured_minor if order.imported else 0
    for kind, detail in odd:
        order = evolve(order, event_after(order, kind, detail))
        captured = elsewhere + sum(a.captured_minor for a in order.attempts)
        assert summary(order)["captured_minor"] == order.captured_minor == captured
        assert order.lost_minor == sum(d.amount_minor for d in order.disputes if d.outcome == "lost")
        if shown in ("cancelled", "delivered"):
            assert display(order) == shown


@pytest.mark.parametrize("kind", [k for k in e.EVENT_TYPES if k != e.FULFILMENT_STARTED])
def test_an_event_without_its_detail_does_not_follow(kind: str) -> None:
    if kind in (e.ORDER_PLACED, e.ORDER_IMPORTED):
        with pytest.raises(FoldError, match=r"placed|imported"):
            evolve(None, replace(placed(UNIVERSES[0])[1], type=kind, placed=None))
    else:
        with pytest.raises(FoldError, match=kind):
            evolve(FIRST, event_after(FIRST, kind, None))


def test_an_order_begins_with_order_placed_version_one_and_nothing_else() -> None:
    opening = placed(UNIVERSES[0])[1]
    with pytest.raises(FoldError, match="begins"):
        evolve(None, replace(opening, version=2))
    with pytest.raises(FoldError, match="begins"):
        evolve(None, event_after(FIRST, e.PAYMENT_REQUESTED, e.Payment(1, 1000)))
    with pytest.raises(FoldError, match="unknown type"):
        evolve(FIRST, replace(opening, version=2))


@pytest.mark.parametrize("step", [-1, 0, 2])
def test_a_version_that_does_not_follow_is_not_folded(step: int) -> None:
    event = event_after(FIRST, e.STOCK_RESERVED, e.Stock("product"))
    with pytest.raises(FoldError, match="does not follow"):
        evolve(FIRST, replace(event, version=FIRST.version + step))


@pytest.mark.parametrize(
    ("kind", "detail"),
    [
        (e.LINES_CANCELLED, e.Cut((e.Units("gifts", "none", 1),), 1, "other", "admin")),
        (e.REFUND_REQUESTED, e.RefundRequest(1, "other", (e.Units("gifts", "none", 1),))),
        (e.PARCEL_SHIPPED, e.Shipment(lines=(e.Units("gifts", "none", 1),), parcel=1)),
        (e.ORDER_SHIPPED, e.Shipment(lines=(e.Units("product", "merch-1", 1),), parcel=1)),
    ],
)
def test_units_of_a_line_that_the_order_does_not_have_do_not_follow(kind: str, detail: e.Detail) -> None:
    with pytest.raises(FoldError, match=f"{kind}: UnknownLine"):
        evolve(FIRST, event_after(FIRST, kind, detail))


def test_a_type_of_a_later_version_of_the_ledger_is_an_error_that_names_it() -> None:
    with pytest.raises(FoldError, match="unknown type 'OrderRevised'"):
        evolve(FIRST, replace(event_after(FIRST, e.STOCK_RESERVED, e.Stock("product")), type="OrderRevised"))


def test_the_fold_knows_every_event_type() -> None:
    types = {r.event.type for r in reachable().values()} | {placed(u)[1].type for u in UNIVERSES}
    assert types == set(e.EVENT_TYPES)


def test_every_reachable_order_is_the_same_after_the_store() -> None:
    encode, decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(Order).decode
    for reached in reachable().values():
        row = encode(reached.order)
        again = decode(row)
        assert again == reached.order
        assert encode(again) == row


def test_folding_twice_gives_the_same_bytes() -> None:
    encode = msgspec.msgpack.Encoder().encode
    for reached in list(reachable().values())[::5]:
        if reached.parent is not None:
            assert encode(evolve(reached.parent.order, reached.event)) == encode(reached.order)


def test_parts_that_an_event_is_not_about_stay_as_they_were() -> None:
    """Identity, prices and deadline never change; each event touches its own axis only. The total falls with cancelled lines."""
    fixed = (
        "order_id",
        "customer_id",
        "currency",
        "placed_minor",
        "placed_at",
        "expires_at",
        "lines",
        "adjustments",
        "reference",
    )
    back = {"return_marks", "refunded_ahead_minor"}
    progress = {"fulfilment", "counts", "shipped_at", "delivered_at"}
    own = {
        "cancel": {"lifecycle", "cancel_reason", "cancelled_by"},
        "cut": {"total_minor", *back, "part_releases", "shipping_cancelled", "shipping_withheld_minor", *progress},
        "refund_request": {"counts", "return_marks", "part_releases", "shipping_refunded", "shipping_withheld_minor"},
        "payment": {"attempts", "captured_minor", *back},
        "refund": {"refunds", "refunded_minor", "refund_failures", "refund_failures_recent"},
        "dispute": {"disputes", "lost_minor"},
        "stock": {"stock", "part_releases"},
        "shipment": {"parcels", *progress},
        "attention": {"attention", "resolved", "refunded_minor", "refund_failures_recent"},
        "metadata": {"metadata"},
    }
    always = {"version", "updated_at"}
    for reached in reachable().values():
        if reached.parent is None:
            continue
        before, after = msgspec.structs.asdict(reached.parent.order), msgspec.structs.asdict(reached.order)
        changed = {field for field in before if before[field] != after[field]}
        assert not changed & {*fixed, "contact_digest"}
        assert changed <= always | own[e.DETAIL_OF[reached.event.type]], reached.event.type


def test_each_reservation_of_a_service_is_counted_so_that_its_release_has_its_own_key() -> None:
    order, counted = FIRST, []
    for kind in (e.STOCK_RESERVED, e.STOCK_RELEASED, e.STOCK_RESERVED, e.STOCK_RELEASED, e.STOCK_RESERVED):
        order = evolve(order, event_after(order, kind, e.Stock("merch")))
        counted.append(next(s.times_reserved for s in order.stock if s.service == "merch"))
    assert counted == [1, 1, 2, 2, 3]


def test_times_and_words_of_the_last_event_are_kept_where_readers_look() -> None:
    order = reach(UNIVERSES[0])[next(s for s in reach(UNIVERSES[0]) if s.fulfilment == "delivered")].order
    (parcel,) = order.parcels
    assert (parcel.no, parcel.carrier, parcel.tracking, parcel.shipped_at) == (1, "DHL", "T1", order.shipped_at)
    assert parcel.delivered_at == order.delivered_at
    assert order.shipped_at is not None
    assert order.delivered_at is not None
    cancelled = reach(UNIVERSES[0])[next(s for s in reach(UNIVERSES[0]) if s.cancelled)].order
    assert (cancelled.cancel_reason, cancelled.cancelled_by) == ("customer_request", "customer")


def test_a_fact_that_adds_nothing_moves_nothing_even_if_it_is_in_the_log() -> None:
    """`already_known` loses nothing: `evolve` would have ignored what `decide` refuses with it."""
    moved = 0
    for order in ORDERS:
        for attempt in order.attempts:
            for kind, row in ATTEMPT_FACTS.items():
                if row[attempt.state] is KNOWN and kind != e.PAYMENT_CAPTURED:
                    after = evolve(order, event_after(order, kind, e.Payment(attempt.no, 1, "pi_other"))).attempts[attempt.no - 1]
                    assert (after.state, after.captured_minor) == (attempt.state, attempt.captured_minor)
                    moved += 1
        for refund in order.refunds:
            for kind, row in REFUND_FACTS.items():
                if row[refund.state] is KNOWN and refund.provider_ref:
                    after_all = evolve(order, event_after(order, kind, e.Refund(refund.no, refund.provider_ref)))
                    assert (after_all.refunds, after_all.refund_failures) == (
                        tuple(replace(r, since=order.updated_at, code=None) if r is refund else r for r in order.refunds),
                        order.refund_failures,
                    )
                    moved += 1
        for held in order.stock:
            for kind, row in STOCK_FACTS.items():
                if row[held.state] is KNOWN:
                    assert evolve(order, event_after(order, kind, e.Stock(held.service))).stock[0].state == order.stock[0].state
                    moved += 1
    assert moved > 1000
