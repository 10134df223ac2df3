"""Each thread and task of the product that may fail: it restarts, its work is still done, and the count says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commands.reconciler.loop import Reconciler
from ledger import supervision
from ledger.errors import ConfigError, StoreError
from ledger.supervision import workers
from tests.support.patience import PATIENCE_S, until
from tests.support.sandboxed import running_sandbox
from tests.support.small_shop import RESERVED, Shop


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "FIRST_PAUSE_S", 0.01)


def restarts(name: str) -> int:
    return next((worker.restarts for worker in workers() if worker.name == name), 0)


def failing(times: int, then: Callable[..., Any]) -> Callable[..., Any]:
    """`then`, except for the first calls, which raise."""
    left = times

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal left
        if left:
            left -= 1
            raise RuntimeError("a fault of the product")
        return then(*arguments, **named)

    return call


def test_a_reconciler_whose_loop_fails_restarts_and_meets_what_is_owed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It used to end the process, and with it every writer."""
    monkeypatch.setattr(Reconciler, "_check_due", failing(3, Reconciler._check_due))
    with Shop(["ord_1", "ord_2"], lambda order_id: RESERVED) as shop:
        shop.until(lambda: {c.order_id for c in shop.sent() if c.record_stock} == {"ord_1", "ord_2"})
        assert shop.reconciler.restarts == 3
        assert not shop.fatal
        assert all(stock.closed for stock in shop.stocks[:-1])


def test_an_order_that_cannot_be_read_costs_no_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its neighbours were scheduled behind it, and a call that was cancelled before it began was never made again."""
    monkeypatch.setattr("commands.reconciler.loop.UNREAD_PAUSE_MS", 50)
    faults = [True]
    read = Reconciler._order

    def order(self: Reconciler, order_id: str) -> Any:
        if order_id == "ord_2" and faults[0]:
            raise StoreError("a page of the database is damaged")
        return read(self, order_id)

    monkeypatch.setattr(Reconciler, "_order", order)
    orders = [f"ord_{n}" for n in range(1, 5)]
    with Shop(orders, lambda order_id: RESERVED) as shop:
        shop.until(lambda: {c.order_id for c in shop.sent() if c.record_stock} == set(orders) - {"ord_2"})
        shop.until(lambda: shop.reconciler.done["order not read"] > 1, step_ms=100)
        assert shop.reconciler.restarts == 0
        faults[0] = False
        shop.until(lambda: {c.order_id for c in shop.sent() if c.record_stock} == set(orders), step_ms=100)


def test_calls_that_a_restart_cancelled_before_they_began_are_made_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    check, left = Reconciler._check, [2]

    def fails_after_the_first(self: Reconciler, order_id: str) -> None:
        check(self, order_id)
        if left[0]:
            left[0] -= 1
            raise RuntimeError("a fault of the product")  # the call of this order has not begun

    monkeypatch.setattr(Reconciler, "_check", fails_after_the_first)
    with Shop(["ord_1", "ord_2", "ord_3"], lambda order_id: RESERVED) as shop:
        shop.until(lambda: {c.order_id for c in shop.sent() if c.record_stock} == {"ord_1", "ord_2", "ord_3"})
        assert shop.reconciler.restarts == 2


def test_a_reconciler_that_gets_partitions_while_it_restarts_knows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its loop is closed at that moment, and receives nothing."""
    monkeypatch.setattr(supervision, "FIRST_PAUSE_S", 0.3)
    shop = Shop(["ord_1"], lambda order_id: RESERVED)
    monkeypatch.setattr(Reconciler, "_check_due", failing(1, Reconciler._check_due))
    try:
        shop.reconciler.start()
        until(lambda: shop.reconciler.restarts == 1)
        shop.reconciler.own([0])
        shop.until(lambda: [c.order_id for c in shop.sent()] == ["ord_1"])
    finally:
        shop.__exit__()


def test_a_reconciler_stops_while_it_waits_to_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "FIRST_PAUSE_S", 10 * PATIENCE_S)
    monkeypatch.setattr(Reconciler, "_check_due", failing(1, Reconciler._check_due))
    with Shop(["ord_1"], lambda order_id: RESERVED) as shop:
        until(lambda: shop.reconciler.restarts == 1)
    assert not shop.reconciler._thread.is_alive()


@pytest.mark.parametrize("turns", range(6))
def test_a_reconciler_that_gets_partitions_while_its_loop_closes_leaves_no_work_behind(turns: int) -> None:
    """In any of the last turns of its loop; which of them is too late for a new task depends on the loop."""
    with Shop(["ord_1"], lambda order_id: RESERVED) as shop:
        loop = shop.reconciler._loop
        last_step = loop.shutdown_default_executor

        def own_after(turns_left: int) -> None:
            if turns_left:
                loop.call_soon(own_after, turns_left - 1)
            else:
                shop.reconciler.own([0])

        async def with_a_call_from_another_thread(*arguments: Any) -> None:
            own_after(turns)
            await last_step(*arguments)

        loop.shutdown_default_executor = with_a_call_from_another_thread  # type: ignore[method-assign]
    assert asyncio.all_tasks(loop) == set()


def test_a_reconciler_without_ports_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting does not cure settings that contradict each other."""
    shop = Shop([], lambda order_id: RESERVED)

    def ports() -> Any:
        raise ConfigError("an invalid port")

    shop.reconciler._make_ports = ports
    shop.reconciler.start()
    shop.reconciler._thread.join(PATIENCE_S)
    assert [type(exc) for exc in shop.fatal] == [ConfigError]
    shop.__exit__()


def test_the_sandboxes_tasks_restart(tmp_path: Path) -> None:
    """Nobody used to see them end before the sandbox did: refunds never turned, and no more messages came."""
    before = restarts("refunds"), restarts("messages")
    with running_sandbox(tmp_path) as running:
        turned: list[int] = []
        payments, journal = running.sandbox.payments, running.sandbox.journal
        payments.turn_refunds = failing(2, lambda: turned.append(1) or 0)  # type: ignore[method-assign]
        until(lambda: len(turned) > 1)
        assert restarts("refunds") == before[0] + 2
        rows, asked = journal.rows, list[str]()

        def rows_or_error(sql: str, *values: Any) -> Any:
            if "from messages" in sql:
                asked.append(sql)
                if len(asked) == 1:
                    raise RuntimeError("a fault of the product")
            return rows(sql, *values)

        journal.rows = rows_or_error  # type: ignore[method-assign]
        running.sandbox.webhooks.send_to("http://127.0.0.1:1", "whsec_x")
        loop_wakes = running.sandbox.webhooks
        until(lambda: (loop_wakes.wake(), len(asked) > 1)[1])
        assert restarts("messages") == before[1] + 1


def test_a_message_of_the_sandbox_that_raises_stays_to_be_sent_again(tmp_path: Path) -> None:
    with running_sandbox(tmp_path) as running:
        webhooks = running.sandbox.webhooks
        webhooks._chaos.webhook_sends = failing(1, webhooks._chaos.webhook_sends)  # type: ignore[method-assign]
        with running.sandbox.journal.transaction() as db:
            db.execute("insert into messages (id, at_s, body) values ('evt_1', 1, '{}')")
        webhooks.send_to("http://127.0.0.1:1", "whsec_x")
        until(
            lambda: (webhooks.wake(), not webhooks._sending)[1] and running.sandbox.journal.rows("select 1 from messages") != []
        )
        until(lambda: (webhooks.wake(), "evt_1" in webhooks._sending)[1])  # it is tried again
