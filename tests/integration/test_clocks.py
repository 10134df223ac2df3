"""Wrong clocks: of the machine where `commands` runs, and of the brokers. Orders expire by the log's clock, and once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from commands.messages import command_codec
from ledger.memory.log import MemoryLog
from ledger.schemas.codec import refusal_codec
from ledger.topics import Topics
from tests.support.harness import PARTITIONS, Clock, running_ledger
from tests.support.order_commands import WINDOW_MS
from tests.support.paying_shop import Shop
from tests.support.sandboxed import running_sandbox
from tests.support.small_shop import RESERVED
from tests.support.small_shop import Shop as SmallShop

HOUR_MS, MINUTE_MS = 3_600_000, 60_000
WINDOW_S = 1_800


class World:
    """A shop, and how far the log's clock was moved. That of the machine is `shop.ledger.clock`."""

    def __init__(self, shop: Shop, log: MemoryLog, log_clock: Clock) -> None:
        self.shop, self.log, self.log_clock = shop, log, log_clock

    def expiries(self) -> Counter[str]:
        """How many commands to expire an order were sent, and how many of them were refused."""
        ledger, expire = self.shop.ledger, "ExpireOrder"
        sent = [command_codec().decode(r.value) for r in ledger.records(ledger.topics.commands)]
        refused = {refusal_codec().decode(r.value).command_id for r in ledger.records(ledger.topics.refusals)}
        ids = [command.command_id for command in sent if command.operation == expire]
        return Counter(sent=len(ids), refused=len(refused & set(ids)))

    def passes(self, ms: int) -> None:
        """Time passes for everybody."""
        self.log_clock.ahead_ms += ms
        self.shop.later(ms)


@contextmanager
def world(folder: Path, machine_ahead_ms: int = 0) -> Iterator[World]:
    log_clock, machine = Clock(), Clock()
    machine.jump_ms = machine_ahead_ms
    log = MemoryLog(log_clock)
    with (
        running_sandbox(folder) as sandbox,
        running_ledger(log, Topics("clocks."), sandbox=sandbox, payment_window_s=WINDOW_S, clock=machine) as ledger,
    ):
        yield World(Shop(ledger, sandbox), log, log_clock)


@pytest.mark.parametrize("ahead_ms", [2 * HOUR_MS, -2 * HOUR_MS])
def test_a_machine_whose_clock_is_two_hours_off_lets_orders_expire_in_their_time(tmp_path: Path, ahead_ms: int) -> None:
    with world(tmp_path, ahead_ms) as w:
        orders = [w.shop.place() for _ in range(20)]
        for order in orders:
            w.shop.until_axes(order, payment="unpaid", stock="reserved")
        for _ in range(5):
            w.passes(MINUTE_MS)
            time.sleep(0.1)
        assert [w.shop.read(order)["status"] for order in orders] == ["pending"] * 20
        assert w.expiries()["refused"] <= PARTITIONS
        skews_ms = w.shop.ledger.companions.clock.skews_ms()  # type: ignore[union-attr]
        assert all(abs(skew_ms + ahead_ms) < HOUR_MS for skew_ms in skews_ms.values())
        before = w.expiries()["refused"]
        w.passes(WINDOW_S * 1000)
        for order in orders:
            w.shop.until_axes(order, payment="unpaid", stock="released")
        assert w.expiries() == Counter(sent=21 + before, refused=before)  # and the order of the warm-up


def test_the_machines_clock_is_set_ahead_and_back_and_costs_one_refusal_of_each_partition(tmp_path: Path) -> None:
    with world(tmp_path) as w:
        orders = [w.shop.place() for _ in range(20)]
        for order in orders:
            w.shop.until_axes(order, payment="unpaid", stock="reserved")
        machine = w.shop.ledger.clock
        for _ in range(3):
            machine.jump_ms += 2 * HOUR_MS
            w.passes(10_000)
            time.sleep(0.3)
            machine.jump_ms -= 2 * HOUR_MS
            w.passes(10_000)
            time.sleep(0.3)
        assert [w.shop.read(order)["status"] for order in orders] == ["pending"] * 20
        assert w.expiries()["refused"] <= 3 * PARTITIONS


def test_brokers_an_hour_apart_and_one_whose_clock_jumps_ahead_and_back(tmp_path: Path) -> None:
    with world(tmp_path) as w:
        for partition, ms in enumerate((HOUR_MS, -HOUR_MS, 0, HOUR_MS // 2)):
            w.log.skew(partition, ms)
        orders = [w.shop.place() for _ in range(20)]
        for order in orders:
            w.shop.until_axes(order, payment="unpaid", stock="reserved")
        assert w.expiries()["refused"] <= PARTITIONS
        by_partition: dict[int, list[dict[str, object]]] = {}
        for order in orders:
            partition = w.log.partition_for(str(order["order_id"]).encode(), PARTITIONS)
            by_partition.setdefault(partition, []).append(order)
        w.log.skew(0, 0)  # back by an hour: what was placed there has more time
        w.passes(WINDOW_S * 1000)
        for partition in (1, 2, 3):
            for order in by_partition[partition]:
                w.shop.until_axes(order, payment="unpaid", stock="released")
        assert {w.shop.read(order)["status"] for order in by_partition[0]} == {"pending"}
        w.log.skew(0, 3 * HOUR_MS)  # and ahead: known with the next command there
        while w.log.partition_for(w.shop.place()["order_id"].encode(), PARTITIONS) != 0:
            pass
        for order in by_partition[0]:
            w.shop.until_axes(order, payment="unpaid", stock="released")
        assert w.expiries()["refused"] <= 3 * PARTITIONS


def test_twenty_orders_that_seem_due_send_one_command_to_learn_the_time() -> None:
    """Nothing is known of the log's clock yet, and the machine's is two hours ahead."""
    orders = [f"ord_{n}" for n in range(20)]
    with SmallShop(orders, lambda order_id: RESERVED, machine_ahead_ms=2 * HOUR_MS) as shop:

        def expiries() -> list[str]:
            return [c.order_id for c in shop.sent() if c.operation == "ExpireOrder"]

        shop.until(lambda: len({c.order_id for c in shop.sent() if c.record_stock}) == len(orders))
        for _ in range(20):
            shop.clock.now_ms += 5_000
            shop.reconciler.clock_moved()
            time.sleep(0.02)
        assert len(expiries()) <= 1
        shop.clock.now_ms += WINDOW_MS
        shop.until(lambda: set(expiries()) == set(orders))


def test_the_metrics_show_how_far_the_clocks_are_apart(tmp_path: Path) -> None:
    with world(tmp_path) as w:
        w.log_clock.ahead_ms += HOUR_MS
        w.shop.place()
        metrics = w.shop.ledger.client("operator").get("/metrics").text
        skews = [float(line.split()[1]) for line in metrics.splitlines() if line.startswith("ledger_clock_skew_seconds{")]
        assert skews
        assert all(3_500 < skew_s < 3_700 for skew_s in skews if skew_s > 1_000)
        assert max(skews) > 3_500
