"""A provider that refuses a refund: its number is used up, whatever the reason, and the next one is for what is left."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from commands.decide import decide
from commands.messages import OrderCommand, RecordRefund
from commands.obligations import REFUND_FAILED, AttentionArgs, Kind, Obligation, RefundArgs, obligations
from commands.reconciler.answers import Answer, Done, No, Unknown
from commands.reconciler.payment_port import KEY_REUSED
from commands.reconciler.performing import CallReport, Ports, perform
from ledger import events as e
from ledger.evolve import evolve
from ledger.order import Order, owed_back_minor
from tests.support.order_space import reach
from tests.support.order_universes import OWING_UNIVERSES, Universe
from tests.support.story import PAID, cancel, given, order_of


class Provider:
    """A payment provider that knows no refund by its number, refuses to make one, and answers `shown` when it is read."""

    name = "stripe"

    def __init__(self, code: str, shown: Answer) -> None:
        self._code, self._shown = code, shown

    async def find_refund(self, provider_ref: str, refund_no: int) -> Answer:
        return No("no_such_refund")

    async def refund(
        self, provider_ref: str, order_id: str, refund_no: int, amount_minor: int, currency: str, key: str
    ) -> Answer:
        return No(self._code)

    async def fetch(self, provider_ref: str) -> Answer:
        return self._shown


def owed(order: Order) -> list[Obligation]:
    return [o for o in obligations(order) if o.kind is Kind.REFUND]


async def attempt(order: Order, code: str, shown: Answer) -> CallReport:
    """The result of the refund that `order` owes."""
    (obligation,) = owed(order)
    ports = Ports(Provider(code, shown), {})  # type: ignore[arg-type]  # only what a refund needs
    return await perform(obligation, order, ports, order.updated_at)


def tried(order: Order, code: str, shown: Answer) -> CallReport:
    return asyncio.run(attempt(order, code, shown))


def after(order: Order, commands: tuple[OrderCommand, ...]) -> Order:
    for command in commands:
        event = decide(command, order, order.updated_at)
        assert isinstance(event, e.OrderEvent), event
        order = evolve(order, event)
    return order


def by_hand(amount_minor: int) -> RecordRefund:
    return RecordRefund(e.REFUND_SETTLED, 0, "re_by_hand", amount_minor)


def refunds_in(report: CallReport) -> list[tuple[str, int, int | None]]:
    facts = [command.record_refund for command in report.commands]
    return [(fact.fact, fact.refund_no, fact.amount_minor) for fact in facts if fact is not None]


@pytest.mark.parametrize("code", ["amount_too_large", KEY_REUSED])
def test_a_refund_in_the_dashboard_and_the_failure_are_reported_and_the_rest_has_the_next_number(code: str) -> None:
    """The provider keeps its no under the key for a day: the same key with what is left would get an error all day."""
    order = order_of(given(*PAID, cancel()))
    report = tried(order, code, Done((by_hand(700),)))
    assert refunds_in(report) == [(e.REFUND_SETTLED, 0, 700), (e.REFUND_FAILED, 1, 2200)]
    (now,) = owed(after(order, report.commands))
    assert (now.key, now.args) == ("ref:ord_1:2", RefundArgs(2, 1500, "pi_1"))


def test_three_refusals_call_a_person_also_if_each_had_a_reason_that_was_news() -> None:
    order = order_of(given(*PAID, cancel()))
    for no in (1, 2, 3):
        hand = replace(by_hand(100), provider_ref=f"re_hand_{no}")
        order = after(order, tried(order, "amount_too_large", Done((hand,))).commands)
    assert (order.refunded_minor, owed(order)) == (300, [])
    flags = [o.args for o in obligations(order) if o.kind is Kind.CALL_PERSON]
    assert flags == [AttentionArgs(REFUND_FAILED)]


def test_a_refund_that_the_search_missed_and_the_read_shows_is_no_failure() -> None:
    order = order_of(given(*PAID, cancel()))
    for code in ("charge_already_refunded", KEY_REUSED):
        report = tried(order, code, Done((RecordRefund(e.REFUND_SETTLED, 1, "re_1", 2200),)))
        assert refunds_in(report) == [(e.REFUND_SETTLED, 1, 2200)]


@pytest.mark.parametrize("shown", [Unknown("time-out"), No("resource_missing")], ids=["no answer", "no payment"])
def test_without_a_read_a_no_is_a_failure_and_a_key_of_another_amount_is_tried_again(shown: Answer) -> None:
    order = order_of(given(*PAID, cancel()))
    assert refunds_in(tried(order, "charge_disputed", shown)) == [(e.REFUND_FAILED, 1, 2200)]
    report = tried(order, KEY_REUSED, shown)
    assert (report.commands, report.reachable) == ((), True)
    assert report.failed


@pytest.mark.parametrize("universe", OWING_UNIVERSES, ids=lambda u: u.name)
def test_no_order_ever_owes_a_refund_under_a_number_that_was_refused(universe: Universe) -> None:
    async def refuse_all() -> None:
        for reached in reach(universe).values():
            for obligation in owed(reached.order):
                args = obligation.args
                assert isinstance(args, RefundArgs)
                part, whole = by_hand(max(1, args.amount_minor // 3)), by_hand(args.amount_minor)
                for shown in (Unknown("time-out"), Done(()), Done((part,)), Done((whole,))):
                    order = after(reached.order, (await attempt(reached.order, "refused", shown)).commands)
                    assert all(o.key != obligation.key for o in owed(order)), (reached.order, shown)
                    if order.refund_failures_recent >= 3 and owed_back_minor(order) > 0:
                        flagged = {f.code for f in order.attention}
                        flagged |= {o.args.code for o in obligations(order) if isinstance(o.args, AttentionArgs)}
                        assert REFUND_FAILED in flagged, (reached.order, shown)

    asyncio.run(refuse_all())
