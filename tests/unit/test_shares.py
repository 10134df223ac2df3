"""What lines cost: shares add up to the unit, none is below zero, and units of a line add up to the line."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.events import Adjustment, Line
from ledger.money import total_of
from ledger.shares import line_values, of_units, own_values, shares
from tests.support.line_costs import Charge, Item, cost_of_units, line_costs

MINOR = st.integers(0, 10**9)


@given(MINOR, st.lists(st.integers(0, 10**9), min_size=1, max_size=20).filter(any))
def test_shares_add_up_to_the_unit_and_each_is_its_quota_rounded(amount: int, weights: list[int]) -> None:
    parts = shares(amount, weights)
    assert sum(parts) == amount
    for part, weight in zip(parts, weights, strict=True):
        quota, remainder = divmod(amount * weight, sum(weights))
        assert quota <= part <= quota + bool(remainder)
    assert shares(-amount, weights) == [-part for part in parts]


@pytest.mark.parametrize(
    ("amount", "weights", "parts"),
    [
        (100, [1, 1, 1], [34, 33, 33]),  # of equal remainders the first is rounded up
        (100, [1, 2, 1], [25, 50, 25]),
        (-100, [1, 1, 1], [-34, -33, -33]),
        (1, [1, 3, 2], [0, 1, 0]),
        (5, [0, 7], [0, 5]),
        (0, [3, 4], [0, 0]),
    ],
)
def test_the_largest_remainder_is_rounded_up(amount: int, weights: list[int], parts: list[int]) -> None:
    assert shares(amount, weights) == parts


LINES = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 5000)), min_size=1, max_size=6).map(
    lambda rows: tuple(Line("product", f"s-{i}", "Thing", quantity, price) for i, (quantity, price) in enumerate(rows))
)
Content = tuple[tuple[Line, ...], tuple[Adjustment, ...]]


@st.composite
def orders(draw: st.DrawFn) -> Content:
    """Orders whose lines and total are not below zero, with adjustments of lines and of the order."""
    lines = draw(LINES)
    adjustments: list[Adjustment] = []
    for line in lines:
        value = line.quantity * line.unit_price_minor
        if draw(st.booleans()):
            adjustments.append(Adjustment("discount", "of a line", -draw(st.integers(0, value)), line.service, line.sku))
        if draw(st.booleans()):
            adjustments.append(Adjustment("tax", "of a line", draw(st.integers(0, 500)), line.service, line.sku))
    for kind in draw(st.lists(st.sampled_from(["tax", "fee", "shipping"]), max_size=4)):
        adjustments.append(Adjustment(kind, kind, draw(st.integers(0, 2000))))
    for _ in range(draw(st.integers(0, 2))):
        adjustments.append(Adjustment("discount", "voucher", -draw(st.integers(0, max(0, total_of(lines, adjustments))))))
    return lines, tuple(draw(st.permutations(adjustments)))


@given(orders())
def test_lines_never_cost_less_than_nothing_and_the_remainder_is_shipping(order: Content) -> None:
    lines, adjustments = order
    values, total = line_values(lines, adjustments), total_of(lines, adjustments)
    assert all(value >= 0 for value in values)
    assert 0 <= total - sum(values) <= sum(a.amount_minor for a in adjustments if a.kind == "shipping")
    if not any(a.service is None for a in adjustments):
        assert values == own_values(lines, adjustments)


@given(orders(), st.data())
def test_lines_and_their_units_cost_what_an_independent_reading_says(order: Content, data: st.DataObject) -> None:
    lines, adjustments = order
    items = tuple(Item(line.service, line.sku, line.quantity, line.unit_price_minor) for line in lines)
    charges = tuple(
        Charge(a.kind, a.amount_minor, None if a.service is None or a.sku is None else (a.service, a.sku)) for a in adjustments
    )
    costs = line_values(lines, adjustments)
    assert tuple(costs) == line_costs(items, charges)
    for item, cost in zip(items, costs, strict=True):
        before = data.draw(st.integers(0, item.quantity))
        units = data.draw(st.integers(0, item.quantity - before))
        ours = of_units(cost, item.quantity, before + units) - of_units(cost, item.quantity, before)
        assert ours == cost_of_units(cost, item.quantity, before, units)


@given(MINOR, st.integers(1, 999), st.data())
def test_the_units_of_a_line_add_up_to_it_however_they_are_taken(value: int, quantity: int, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, quantity), max_size=6)) | {0, quantity})
    parts = [of_units(value, quantity, b) - of_units(value, quantity, a) for a, b in pairwise(cuts)]
    assert sum(parts) == value
    assert all(part >= 0 for part in parts)


def test_an_order_is_shared_as_its_documentation_says() -> None:
    lines = (
        Line("product", "tea", "Tea", 2, 1000),
        Line("merch", "mug", "Mug", 1, 500),
        Line("product", "sample", "Sample", 1, 0),
    )
    adjustments = (
        Adjustment("shipping", "Parcel", 400),
        Adjustment("discount", "tea week", -200, "product", "tea"),
        Adjustment("tax", "VAT", 230),
        Adjustment("discount", "voucher", -500),
    )
    # Own: 1800, 500, 0. Tax 230 by these: 180, 50, 0. Then -500 by 1980, 550, 0: -391.3, -108.7.
    assert line_values(lines, adjustments) == [1980 - 391, 550 - 109, 0]
    assert total_of(lines, adjustments) - (1589 + 441) == 400


def test_a_discount_beyond_the_lines_reduces_what_shipping_costs() -> None:
    lines = (Line("product", "tea", "Tea", 1, 1000),)
    adjustments = (Adjustment("shipping", "Parcel", 400), Adjustment("discount", "voucher", -1100))
    assert line_values(lines, adjustments) == [0]
    assert total_of(lines, adjustments) == 300


def test_a_fee_of_lines_that_cost_nothing_is_shared_by_their_units() -> None:
    lines = (Line("product", "a", "A", 1, 0), Line("product", "b", "B", 3, 0))
    assert line_values(lines, (Adjustment("fee", "handling", 100),)) == [25, 75]
