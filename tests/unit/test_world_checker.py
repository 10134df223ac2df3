"""The judge of the two records: equal ones have no disagreement, and each fault that is planted in one of them is named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from tests.support.checker import Ledger
from tests.support.folded import Folded, OfLine
from tests.support.world_checker import Outside, World, judge

TEA, MUG = ("product", "tea"), ("merch", "mug")
STOCK = {TEA: 10, MUG: 10}


def paid() -> Folded:
    """A shipped order of 2 x 250, 1 x 300 and 200 shipping: one tea was cancelled, the other came back, 100 are goodwill."""
    order = Folded("ord_a", "c-1", "EUR", total_minor=750, placed_minor=1000, status="shipped", fulfilment="shipped")
    order.lines = {TEA: OfLine(2, 500, cancelled=1, shipped=1, refunded=1, restocked=1), MUG: OfLine(1, 300, shipped=1)}
    order.captured_minor, order.refunded_minor = 1000, 600
    order.mark, order.asked_back_minor = 600, 350
    return order


def cancelled() -> Folded:
    order = Folded("ord_b", "c-1", "EUR", total_minor=800, placed_minor=800, status="cancelled", cancelled=True)
    order.lines = {TEA: OfLine(2, 500), MUG: OfLine(1, 300)}
    order.captured_minor = order.refunded_minor = 800
    return order


def outside_of_paid() -> Outside:
    return Outside({"pi_1": 1000}, Counter({"pi_1": 1000}), refunded_minor=600, units=Counter({TEA: 0, MUG: 1}))


def outside_of_cancelled() -> Outside:
    return Outside({"pi_2": 800}, Counter({"pi_2": 800}), refunded_minor=800)


class Both:
    """The ledger's record and the world's, of two orders."""

    def __init__(self) -> None:
        self.paid, self.cancelled = paid(), cancelled()
        self.world = World({"ord_a": outside_of_paid(), "ord_b": outside_of_cancelled()}, Counter({MUG: 1}), Counter())

    @property
    def outside(self) -> Outside:
        return self.world.orders["ord_a"]

    def judge(self) -> list[str]:
        return judge(Ledger([], [], [], {"ord_a": self.paid, "ord_b": self.cancelled}), self.world, STOCK)


def test_records_that_agree_have_no_disagreement() -> None:
    assert Both().judge() == []


def test_what_a_bank_took_is_not_to_be_given_back_again() -> None:
    both = Both()
    both.paid.disputes = {"dp_1": ("lost", 700)}
    both.paid.refunded_minor = both.outside.refunded_minor = 300
    assert "lost, the provider 0" in both.judge()[0]
    both.outside.lost_minor = 700
    assert both.judge() == []
    both.cancelled.disputes = {"dp_2": ("lost", 800)}
    both.cancelled.refunded_minor = both.world.orders["ord_b"].refunded_minor = 0
    both.world.orders["ord_b"].lost_minor = 800
    assert both.judge() == []


def test_lines_cancelled_after_a_goodwill_refund_may_leave_nothing_to_keep() -> None:
    both = Both()
    both.paid.total_minor, both.paid.mark, both.paid.asked_back_minor = 300, 1450, 750
    both.paid.refunded_minor = both.outside.refunded_minor = 1000
    assert both.judge() == []
    both.paid.refunded_minor = both.outside.refunded_minor = 999
    assert any("999 of 1000 refunded" in line for line in both.judge())


def test_what_was_refunded_for_cancelled_units_before_they_were_paid_is_not_kept_either() -> None:
    """The tea that was cancelled was refunded before, for 250, and then all but 250 was paid, so that those are still missing."""
    both = Both()
    both.paid.captured_minor, both.paid.ahead_minor = 750, 250
    both.outside.authorised, both.outside.captured = {"pi_1": 750}, Counter({"pi_1": 750})
    both.paid.refunded_minor = both.outside.refunded_minor = 600
    assert both.judge() == []
    both.paid.ahead_minor = 0
    assert both.judge() == ["ord_a: shipped, and 150 kept of 750, of which 350 were asked back"]


def test_nothing_happens_for_an_order_of_an_older_service() -> None:
    both = Both()
    both.paid.old = True
    assert any("ord_a: of an older service" in line for line in both.judge())
    del both.world.orders["ord_a"]
    assert both.judge() == []


def _set(**members: object) -> Callable[[Both], None]:
    """Members of the first order, as the world has it."""

    def change(both: Both) -> None:
        for name, value in members.items():
            setattr(both.outside, name, value)

    return change


def _in_ledger(**members: object) -> Callable[[Both], None]:
    """Members of the first order, as the ledger has it."""

    def change(both: Both) -> None:
        for name, value in members.items():
            setattr(both.paid, name, value)

    return change


def _both_refunded(minor: int) -> Callable[[Both], None]:
    def change(both: Both) -> None:
        both.paid.refunded_minor = both.outside.refunded_minor = minor

    return change


def _more_captured(both: Both) -> None:
    both.paid.captured_minor = 1001
    both.outside.captured = Counter({"pi_1": 1001})


def _less_captured(both: Both) -> None:
    both.paid.captured_minor = 700
    both.outside.captured = Counter({"pi_1": 700})


def _unit_not_cancelled(both: Both) -> None:
    both.paid.lines[TEA].cancelled = 0


def _unit_not_back(both: Both) -> None:
    both.paid.lines[TEA].restocked = 0


def _cancelled_keeps(both: Both) -> None:
    both.cancelled.refunded_minor = both.world.orders["ord_b"].refunded_minor = 799


def _cancelled_holds(both: Both) -> None:
    both.world.orders["ord_b"].units[TEA] = 1


def _cancelled_authorised(both: Both) -> None:
    both.world.orders["ord_b"].authorised["pi_3"] = 800


def _unknown_order(both: Both) -> None:
    both.world.orders["ord_c"] = Outside()


def _oversold(both: Both) -> None:
    both.world.reserved[MUG] = 11


def _more_back(both: Both) -> None:
    both.world.reserved[TEA] = -1


def _fallen_total(both: Both) -> None:
    """One more unit was cancelled, its stock given back, and nobody refunded it."""
    both.paid.total_minor, both.paid.mark = 450, 900


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_set(refunded_minor=599), "ord_a: the ledger says 600 refunded, the provider 599"),
        (_set(captured=Counter({"pi_1": 999})), "ord_a: the ledger says 1000 captured, the provider 999"),
        (_set(captured=Counter({"pi_1": 500, "pi_9": 500})), "charged twice or too much"),
        (_more_captured, "charged twice or too much"),
        (_less_captured, "ord_a: shipped, and 700 of 750 captured"),
        (_set(lost_minor=1), "ord_a: the ledger says 0 lost, the provider 1"),
        (_both_refunded(599), "ord_a: shipped, and 599 of 600 refunded"),
        (_both_refunded(601), "ord_a: shipped, and 601 of 600 refunded"),
        (_fallen_total, "ord_a: shipped, and 600 of 900 refunded"),
        (_in_ledger(asked_back_minor=250), "ord_a: shipped, and 400 kept of 750, of which 250 were asked back"),
        (_in_ledger(total_minor=751), "ord_a: shipped, and 400 kept of 751"),
        (_set(units=Counter({TEA: 1, MUG: 1})), "ord_a: shipped, and holds"),
        (_set(units=Counter()), "ord_a: shipped, and holds {}"),
        (_set(units=Counter({TEA: -1, MUG: 1})), "more came back than went out"),
        (_unit_not_cancelled, "ord_a: shipped, and holds"),
        (_unit_not_back, "ord_a: shipped, and holds"),
        (_set(authorised={"pi_1": 1000, "pi_9": 1000}), "ord_a: shipped, and {'pi_9'} still authorised"),
        (_cancelled_keeps, "ord_b: cancelled, and 1 kept"),
        (_cancelled_holds, "ord_b: cancelled, and holds"),
        (_cancelled_authorised, "ord_b: cancelled, and {'pi_3'} still authorised"),
        (_unknown_order, "ord_c: something happened outside"),
        (_oversold, "oversold, 11 of 10"),
        (_more_back, "1 units more came back than went out"),
    ],
)
def test_each_disagreement_is_named(change: Callable[[Both], None], says: str) -> None:
    both = Both()
    change(both)
    wrong = both.judge()
    assert any(says in line for line in wrong), wrong
