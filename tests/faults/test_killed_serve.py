"""Serving processes and processors killed under load: what was acknowledged is there, once, and the read models are the fold."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable
from pathlib import Path

import checker
import httpx
import pytest
from folds import desk_differences, projection_differences
from gateway import Gateway
from processes import TOKENS, Killer, LedgerNode

from ledger.config import KafkaSettings
from ledger.kafka_log import KafkaLog
from ledger.topics import Topics

pytestmark = pytest.mark.kafka
PARTITIONS = 4


async def load(gateway: Gateway, killers: list[Killer], most_orders: int) -> int:
    """Sessions for as long as somebody is killed, at least a hundred more after it; how many there were."""
    number = 0
    running: set[asyncio.Task[None]] = set()
    after = 100
    while number < most_orders and after:
        if not any(k.is_alive() for k in killers):
            after -= 1
        number += 1
        running.add(asyncio.create_task(gateway.session(number, f"c-{number % 23}")))
        if len(running) >= 16:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    for task in running:
        await task
    return number


def check_acknowledged(gateway: Gateway, ledger: checker.Ledger) -> None:
    """Every final 2xx stands in the log: that order, that customer, that version, that status."""
    events = {(e.fields["order_id"], e.fields["version"]): e.fields for e in ledger.events}
    for ack in gateway.acknowledged:
        event = events.get((ack.order_id, ack.version))
        assert event is not None, f"lost: {ack}"
        assert (event["customer_id"], event["status"], event["total_minor"]) == (ack.customer, ack.status, ack.total_minor)


async def read_all(url: str, order_ids: list[str]) -> dict[str, dict[str, object]]:
    """Every order as staff read it."""
    limits = httpx.Limits(max_connections=8)
    async with httpx.AsyncClient(base_url=url, limits=limits, headers={"Authorization": f"Bearer {TOKENS['admin']}"}) as client:

        async def read(order_id: str) -> dict[str, object]:
            answer = await client.get(f"/orders/{order_id}")
            assert answer.status_code == 200, f"{order_id}: {answer.status_code} {answer.text}"
            order: dict[str, object] = answer.json()
            return order

        reads: list[Awaitable[dict[str, object]]] = [read(order_id) for order_id in order_ids]
        return dict(zip(order_ids, await asyncio.gather(*reads), strict=True))


def check_reads(url: str, ledger: checker.Ledger) -> None:
    """What the API shows of each order is what an independent fold of the topic shows."""
    for order_id, shown in asyncio.run(read_all(url, list(ledger.orders))).items():
        folded = ledger.orders[order_id]
        for name in ("version", "status", "customer_id", "currency", "total_minor", "captured_minor", "refunded_minor"):
            assert shown[name] == getattr(folded, name), f"{order_id}: {name}"


async def under_load(node: LedgerNode, killers: list[Killer], most_orders: int) -> tuple[Gateway, int]:
    async with Gateway(node.url, TOKENS["gateway"], connections=16) as gateway:
        for killer in killers:
            killer.start()
        number = await load(gateway, killers, most_orders)
        return gateway, number


def run_kills(
    folder: Path, kafka: KafkaSettings, topics: Topics, kills: tuple[int, int], pauses_s: tuple[float, float], writers: int
) -> None:
    """`kills` of (commands, serve), each after a random pause."""
    node = LedgerNode(folder, kafka.bootstrap_servers, topics, writers, PARTITIONS)
    choice = random.Random(10)
    try:
        processor, serve = node.child("commands"), node.child("serve")
        processor.start()
        serve.start()
        node.wait_ready()
        killers = [
            Killer(child, [choice.uniform(*pauses_s) for _ in range(count)])
            for child, count in zip((processor, serve), kills, strict=True)
        ]
        began = time.monotonic()
        gateway, orders = asyncio.run(under_load(node, killers, most_orders=200_000))
        took_s = time.monotonic() - began
        for killer in killers:
            killer.join(60)
            assert killer.unexpected == [], node.tails()
        assert gateway.never == [], checker.describe(gateway.never) + node.tails()
        node.wait_ready()
        ledger = checker.read_ledger(kafka.bootstrap_servers, topics.prefix)
        assert ledger.problems == [], checker.describe(ledger.problems) + node.tails()
        assert len(ledger.orders) == orders
        check_acknowledged(gateway, ledger)
        check_reads(node.url, ledger)
        assert (processor.stop(), serve.stop()) == (0, 0), node.tails()
        rows = desk_differences(
            node.state_dir("one"), kafka.bootstrap_servers, KafkaLog(kafka), topics, writers, PARTITIONS
        ) + projection_differences(node.state_dir("one"), kafka.bootstrap_servers, topics, PARTITIONS)
        assert rows == [], checker.describe(rows)
        print(
            f"{kills} kills in {took_s:.0f} s: {orders} orders, {len(ledger.events)} events, {len(ledger.refusals)} refusals, "
            f"{len(gateway.acknowledged)} acknowledged, {gateway.retries} retries, answers {dict(gateway.seen)}"
        )
    finally:
        node.end()


def test_killed_processors_and_serving_processes_lose_nothing_that_was_acknowledged(
    tmp_path: Path, kafka: KafkaSettings, topics: Topics
) -> None:
    run_kills(tmp_path, kafka, topics, kills=(4, 3), pauses_s=(2.0, 4.0), writers=1)


@pytest.mark.campaign
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("writers", [1, 2])
def test_twenty_killed_processors_and_ten_killed_serving_processes_lose_nothing_that_was_acknowledged(
    tmp_path: Path, kafka: KafkaSettings, topics: Topics, writers: int
) -> None:
    run_kills(tmp_path, kafka, topics, kills=(20, 10), pauses_s=(2.0, 6.0), writers=writers)
