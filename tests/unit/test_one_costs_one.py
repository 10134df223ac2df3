"""An exception about one order, message or answer affects only that one: work beside the writers continues."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import structlog

from commands.messages import RecordStock, command_codec
from commands.reconciler import loop as reconciler
from commands.reconciler.answers import Answer, Done, Unknown
from ledger import events as e
from ledger.events import Line
from ledger.partitioner import partition_for
from tests.support.order_commands import WINDOW_MS
from tests.support.small_shop import RESERVED, Shop, Stock

SECRET = "ada@example.org"
HOUR_MS = 3_600_000


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as logged:
        yield logged


def raising(order_id: str) -> Answer:
    if order_id == "ord_bad":
        raise KeyError(SECRET)
    return RESERVED


def test_an_obligation_that_raises_costs_its_order_and_a_person_is_called(lines: list[Any]) -> None:
    with Shop(["ord_bad", "ord_good"], raising) as shop:
        shop.until(lambda: [c.order_id for c in shop.sent()] == ["ord_good"])
        shop.until(lambda: shop.reconciler.done["reserve raised"] >= 3, step_ms=500)
        shop.until(lambda: "RaiseAttention" in [c.operation for c in shop.sent()], step_ms=HOUR_MS // 10)
        said = {(c.order_id, c.operation) for c in shop.sent() if c.operation != "ExpireOrder"}  # the clock has passed that too
        assert said == {("ord_bad", "RaiseAttention"), ("ord_good", "RecordStock")}
    assert SECRET not in str(lines)
    assert any("KeyError at test_one_costs_one.py" in str(line.get("why")) for line in lines)


@pytest.mark.parametrize(
    "fact",
    [
        RecordStock(e.STOCK_REJECTED, "product", reason="out_of_stock", items=(e.StockItem("mug", 2**31),)),
        RecordStock(e.STOCK_RESERVED, "product", "r" * 300_000),
        RecordStock("StockVanished", "product"),
    ],
    ids=["a number that no record takes", "a name that no record takes", "a fact that nobody knows"],
)
def test_an_answer_that_cannot_be_reported_costs_its_order(fact: RecordStock) -> None:
    with Shop(["ord_bad", "ord_good"], lambda order_id: Done((fact,)) if order_id == "ord_bad" else RESERVED) as shop:
        shop.until(lambda: "ord_good" in [c.order_id for c in shop.sent()])
        shop.until(lambda: "RaiseAttention" in [c.operation for c in shop.sent()], step_ms=HOUR_MS // 10)


def test_a_port_that_answers_nothing_for_a_minute_gets_a_new_client_and_an_old_one_is_closed() -> None:
    answering = threading.Event()

    def says(order_id: str) -> Answer:
        return RESERVED if answering.is_set() else Unknown("time-out")

    with Shop([f"ord_{n}" for n in range(8)], says) as shop:
        shop.until(lambda: len(shop.stocks) == 2, step_ms=2_000)
        assert not shop.stocks[1].closed
        answering.set()
        shop.until(lambda: len({c.order_id for c in shop.sent() if c.record_stock}) == 8, step_ms=1_000)
        assert len(shop.stocks) == 2
    assert [stock.closed for stock in shop.stocks] == [True, True]


def test_many_orders_that_are_due_together_wait_as_ids_and_all_get_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a service comes back, or a process starts, a hundred thousand may be due: not each gets a call, and none starves."""
    monkeypatch.setattr(reconciler, "MAX_TASKS_PER_PORT", 10)
    monkeypatch.setattr(reconciler, "SOME_ROWS", 7)
    monkeypatch.setattr(reconciler, "SOME_CHECKS", 3)
    orders = [f"ord_{n}" for n in range(300)]
    with Shop(orders, lambda order_id: RESERVED) as shop:
        most = 0

        def all_are_reserved() -> bool:
            nonlocal most
            most = max(most, len(shop.reconciler._calls))
            return len({c.order_id for c in shop.sent() if c.record_stock}) == len(orders)

        shop.until(all_are_reserved)
        assert most <= 2 * 10 + 5, "a call for every order that waits"
        assert shop.reconciler._backlog.waiting() == 0


def test_a_port_that_hangs_holds_up_no_other_orders_and_keeps_its_own_in_memory_only_by_id() -> None:
    hanging = threading.Event()

    class Hanging(Stock):
        async def reserve(self, order_id: str, currency: str, lines: Sequence[Line], key: str) -> Answer:
            await asyncio.to_thread(hanging.wait)
            return RESERVED

    orders = [f"ord_{n}" for n in range(300)]
    with Shop(orders, lambda order_id: RESERVED, Hanging) as shop:
        shop.until(lambda: shop.reconciler._backlog.waiting() == len(orders) - reconciler.MAX_TASKS_PER_PORT)
        shop.clock.now_ms += WINDOW_MS  # now they must expire too, which needs no port
        shop.until(lambda: len({c.order_id for c in shop.sent() if c.operation == "ExpireOrder"}) == len(orders))
        hanging.set()
        shop.until(lambda: len({c.order_id for c in shop.sent() if c.record_stock}) == len(orders))


def test_a_partition_without_answers_holds_up_no_other_orders_while_the_clock_is_uncertain() -> None:
    """A hundred orders of one partition seem due; the first is asked about, and the others have no place at the port."""
    names = [f"ord_{n}" for n in range(300)]
    silent = [name for name in names if partition_for(name.encode(), 2) == 0][:100]
    rejected = next(name for name in names if partition_for(name.encode(), 2) == 1)
    two: dict[str, Any] = {"partitions": 2, "rejected": [rejected], "silent": 0}
    with Shop([*silent, rejected], lambda _: RESERVED, machine_ahead_ms=2 * HOUR_MS, **two) as shop:

        def expiries() -> list[str]:
            waiting = [command_codec().decode(record.value) for record, _ in shop.sender.waiting]
            return [command.order_id for command in waiting if command.operation == "ExpireOrder"]

        shop.until(expiries)
        shop.reconciler.own([1])
        shop.until(lambda: (rejected, "CancelOrder") in [(c.order_id, c.operation) for c in shop.sent()])
        assert len(expiries()) == 1
        shop.sender.answer()
        shop.clock.now_ms += WINDOW_MS
        shop.until(lambda: {c.order_id for c in shop.sent() if c.operation == "ExpireOrder"} >= set(silent))
