"""A gateway's load during a fault, and the proof afterwards: topic, API and databases agree, nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from tests.support import checker, loopback
from tests.support.folds import desk_differences, projection_differences
from tests.support.gateway import Acknowledged, Gateway
from tests.support.patience import PATIENCE_S
from tests.support.processes import TOKENS, LedgerNode

AFTERWARDS_ORDERS = 100
SESSIONS = 16
AT_ONCE = 8


async def load_during(
    node: LedgerNode,
    striking: Callable[[], bool],
    first: int = 1,
    url: str | None = None,
    sessions: int = SESSIONS,
    give_up_s: float = PATIENCE_S,
) -> tuple[Gateway, int]:
    """Sessions while `striking()`, and a hundred more. Returns the gateway and the number of sessions.

    `first`: number of the first session; loads that run beside each other need numbers of their own. `url`: of another
    `serve` than the node's. `sessions` run beside each other.
    """
    async with Gateway(url or node.url, TOKENS["gateway"], sessions, give_up_s) as gateway:
        number, after = first - 1, AFTERWARDS_ORDERS
        running: set[asyncio.Task[None]] = set()
        while after:
            if not striking():
                after -= 1
            number += 1
            running.add(asyncio.create_task(gateway.session(number, f"c-{number % 23}")))
            if len(running) >= sessions:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        await asyncio.gather(*running)
        return gateway, number + 1 - first


def lost(acknowledged: Iterable[Acknowledged], ledger: checker.Ledger) -> list[str]:
    """Final 2xx that are not in the log with that order, that customer, that version, that status."""
    events = {(e.fields["order_id"], e.fields["version"]): e.fields for e in ledger.events}
    missing = []
    for ack in acknowledged:
        event = events.get((ack.order_id, ack.version))
        if event is None:
            missing.append(f"lost: {ack}")
        elif (event["customer_id"], event["status"], event["total_minor"]) != (ack.customer, ack.status, ack.total_minor):
            missing.append(f"answered {ack}, and it is {event['customer_id']}, {event['status']}, {event['total_minor']}")
    return missing


async def _read_all(url: str, order_ids: list[str]) -> dict[str, dict[str, object]]:
    turn = asyncio.Semaphore(AT_ONCE)  # httpx looks at all that wait whenever one of them ends
    headers = {"Authorization": f"Bearer {TOKENS['admin']}"}
    async with loopback.async_client(base_url=url, headers=headers, timeout=PATIENCE_S) as client:

        async def read(order_id: str) -> dict[str, object]:
            async with turn:
                answer = await client.get(f"/orders/{order_id}")
            assert answer.status_code == 200, f"{order_id}: {answer.status_code} {answer.text}"
            order: dict[str, object] = answer.json()
            return order

        reads: list[Awaitable[dict[str, object]]] = [read(order_id) for order_id in order_ids]
        return dict(zip(order_ids, await asyncio.gather(*reads), strict=True))


def check_reads(url: str, ledger: checker.Ledger) -> None:
    """The API shows each order as an independent fold of the topic does."""
    for order_id, shown in asyncio.run(_read_all(url, list(ledger.orders))).items():
        folded = ledger.orders[order_id]
        for name in ("version", "status", "customer_id", "currency", "total_minor", "captured_minor", "refunded_minor"):
            assert shown[name] == getattr(folded, name), f"{order_id}: {name}"


def prove(node: LedgerNode, gateway: Gateway, orders: int) -> str:
    """Check everything that must hold after the load; stops the processes. Returns a line about what was proven."""
    assert gateway.never == [], checker.describe(gateway.never) + node.tails()
    node.wait_ready()
    ledger = checker.read_ledger(node.bootstrap, node.topics.prefix)
    assert ledger.problems == [], checker.describe(ledger.problems) + node.tails()
    assert len(ledger.orders) == orders
    assert lost(gateway.acknowledged, ledger) == []
    check_reads(node.url, ledger)
    assert [child.stop() for child in node.children] == [0] * len(node.children), node.tails()
    log = KafkaLog(KafkaSettings(bootstrap_servers=node.bootstrap))
    state_dir = node.state_dir("one")
    rows = desk_differences(state_dir, node.bootstrap, log, node.topics, node.writers, node.partitions)
    rows += projection_differences(state_dir, node.bootstrap, node.topics, node.partitions)
    assert rows == [], checker.describe(rows)
    return (
        f"{orders} orders, {len(ledger.events)} events, {len(ledger.refusals)} refusals, "
        f"{len(gateway.acknowledged)} acknowledged, {gateway.retries} retries, answers {dict(gateway.seen)}"
    )
