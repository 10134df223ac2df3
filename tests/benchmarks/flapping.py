"""How long a customer waits for a payment to be opened while more than half of all calls to the provider fail.

A second ledger whose sandbox fails as in the campaign of payments under chaos, drawn with a seed; a call may take a second.
Customers ask again, under the same key, as long as the answer is to wait. No message is lost: nothing here depends on one.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import defaultdict
from contextlib import closing
from typing import Any

import httpx

from commands.sandbox import SECRET_KEY
from commands.sandbox.catalogue import order_body
from tests.benchmarks.bench import Bench, Incorrect
from tests.benchmarks.rows import Row, at_most
from tests.benchmarks.spread import Spread, percentile
from tests.benchmarks.system import System
from tests.benchmarks.workload import customer_of
from tests.support import checker

PAYMENTS, AT_ONCE = 200, 24
GOAL_P50_S, GOAL_P99_S, GOAL_LAST_S = 2.0, 20.0, 60.0
PATIENCE_S = 600.0
TIMEOUT_MS = 1_000
PROVIDER = {"timeout": 0.25, "error": 0.10, "too_many": 0.05, "conflict": 0.05, "reset": 0.05, "reset_after": 0.05}
STOCK = {"timeout": 0.10, "error": 0.10, "too_many": 0.02, "reset": 0.05, "reset_after": 0.05}
CHAOS = {"seed": 11, "hold_timeout_ms": 1_500, "ports": {"payments": PROVIDER, "product": STOCK, "merch": STOCK}}


class _Customers:
    """`waited_s` is the time from the first request for a payment to its secret; `asked` is the number of requests."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.waited_s: list[float] = []
        self.asked = 0
        self.orders: set[str] = set()

    async def run(self) -> None:
        headers = {"Authorization": f"Bearer {self._system.token('gateway')}", "Customer-Id": customer_of(0)}
        numbers = iter(range(PAYMENTS))
        async with httpx.AsyncClient(base_url=self._system.info["url"], headers=headers, timeout=30) as shop:

            async def customer() -> None:
                for number in numbers:
                    await self._open_one(shop, number)

            await asyncio.gather(*(customer() for _ in range(AT_ONCE)))

    async def _open_one(self, shop: httpx.AsyncClient, number: int) -> None:
        sent = {"Idempotency-Key": f"flapping-{number}", "Prefer": "wait=10"}
        order = (await shop.post("/orders", json=order_body(number), headers=sent)).raise_for_status().json()
        self.orders.add(order["order_id"])
        body = {"total_minor": order["total_minor"], "currency": order["currency"]}
        began = time.monotonic()
        while True:
            self.asked += 1
            answer = await shop.post(f"/orders/{order['order_id']}/payment", json=body, headers=sent | {"Prefer": "wait=5"})
            if answer.status_code == 201:
                break
            if answer.status_code not in (202, 503) or time.monotonic() - began > PATIENCE_S:
                raise Incorrect(f"{order['order_id']} after {time.monotonic() - began:.0f} s: {answer.status_code} {answer.text}")
            await asyncio.sleep(0.1)
        self.waited_s.append(time.monotonic() - began)


def measure(bench: Bench) -> list[Row]:
    """Rows of this benchmark."""
    folder = bench.system.folder / "flapping"
    folder.mkdir()
    with System(folder, sandbox=True, settings={"OUTSIDE_TIMEOUT_MS": str(TIMEOUT_MS)}) as system:
        page = {"Authorization": f"Bearer {SECRET_KEY}"}
        httpx.put(f"{system.info['sandbox_url']}/sandbox/chaos", json=CHAOS, headers=page).raise_for_status()
        bench.report(f"opening {PAYMENTS} payments while most calls fail")
        customers = _Customers(system)
        asyncio.run(customers.run())
        opened_s = _opened_after_s(system, customers.orders)
    calls, failed = _check_keys(next(folder.rglob("sandbox.db")))
    name, waited = "flapping", customers.waited_s
    return [
        Row(name, "payment asked for to its secret, p50", "s", Spread.of([percentile(waited, 50)]), at_most(GOAL_P50_S)),
        Row(name, "  p99", "s", Spread.of([percentile(waited, 99)]), at_most(GOAL_P99_S)),
        Row(name, "  the last", "s", Spread.of([max(waited)]), at_most(GOAL_LAST_S)),
        Row(name, "  requested to opened by the log, p50", "s", Spread.of([percentile(opened_s, 50)])),
        Row(name, "  the last", "s", Spread.of([max(opened_s)])),
        Row(name, "  requests of a customer for a payment", "", Spread.of([customers.asked / PAYMENTS])),
        Row(name, f"  of {calls:,} calls failed", "%", Spread.of([100 * failed / calls])),
    ]


def _opened_after_s(system: System, orders: set[str]) -> list[float]:
    """Seconds from the first command for each payment to the event that it was opened, by the log's own clock."""
    ledger = checker.read_ledger(system.bootstrap_servers)
    if ledger.problems:
        raise Incorrect(checker.describe(ledger.problems))
    at: dict[str, dict[str, int]] = defaultdict(dict)
    for fields in (event.fields for event in ledger.events if event.fields["order_id"] in orders):
        at[fields["type"]].setdefault(fields["order_id"], fields["occurred_at"])
    if at["PaymentOpened"].keys() != orders:
        raise Incorrect(f"{len(at['PaymentOpened'])} of {len(orders)} payments were opened")
    return [(opened - at["PaymentRequested"][order_id]) / 1000 for order_id, opened in at["PaymentOpened"].items()]


def _check_keys(database: Any) -> tuple[int, int]:
    """(calls, failed calls) by the sandbox's journal. Raises `Incorrect` for a key that was used for two things."""
    uses: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
    with closing(sqlite3.connect(database)) as db:
        # For a call that gets its earlier answer again, the journal does not know the order.
        for port, verb, key, request in db.execute("select port, verb, key, request from calls where key <> ''"):
            uses[port, key].add((verb.removesuffix(" replayed"), request))
        misused = db.execute("select count(*) from calls where response like '%idempotency_error%'").fetchone()[0]
        calls, failed = db.execute("select count(*), sum(fate not in ('none', 'slow')) from calls").fetchone()
    twice = [key for key, things in uses.items() if len(things) > 1]
    if twice or misused or not uses:
        raise Incorrect(f"keys that were used for two things: {twice[:5]}, {misused} answers say so")
    return calls, failed
