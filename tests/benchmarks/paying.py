"""Orders paid through the sandbox, as a share of orders that are only accepted; what one costs; how long it takes.

The same client drives both sides, in turns: a ledger without outside services accepts orders, one with the sandbox (no delays,
no failures) has them reserved, paid by card and captured. The client and the sandbox use the same two CPUs. Before anything is
measured the second ledger is warm: the broker's CPU for an order no longer falls, because Java has compiled its code.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import httpx

from commands.sandbox import PUBLISHABLE_KEY
from commands.sandbox.cards import VISA, confirm_form
from commands.sandbox.catalogue import order_body
from tests.benchmarks.bench import Bench, Incorrect
from tests.benchmarks.jobs import cpu_s
from tests.benchmarks.rows import Row, at_least, at_most
from tests.benchmarks.spread import Spread, percentile, ratios
from tests.benchmarks.system import PROCESSES, System
from tests.benchmarks.workload import customer_of
from tests.support import checker

CONNECTIONS, CALM_CONNECTIONS = 48, 2
GOAL, GOAL_CPU_MS, GOAL_MS = 0.12, 20.0, 150.0
WARM_ROUND_S, WARM_ROUNDS, WARM_CHANGE = 6.0, 12, 0.1
_numbers = itertools.count(1)


class _Shop:
    """Customers of one system; with `pays` they pay each order. `cpu_ms` is of an order, by process, one per run."""

    def __init__(self, system: System, pays: bool) -> None:
        self._system, self._pays = system, pays
        self.placed: list[str] = []
        self.cpu_ms: dict[str, list[float]] = {name: [] for name in PROCESSES}

    def run(self, connections: int, seconds: float) -> float:
        """Orders per second, by `connections` customers at the same time. Raises `Incorrect`."""
        orders, before = len(self.placed), cpu_s(self._system.pids())
        rate = asyncio.run(self._run(connections, seconds))
        for name, was, now in zip(PROCESSES, before, cpu_s(self._system.pids()), strict=True):
            self.cpu_ms[name].append((now - was) / (len(self.placed) - orders) * 1000)
        return rate

    def warm_up(self, seconds: float) -> None:
        """Run at least for `seconds`, and until the broker's code is compiled."""
        began, broker = time.monotonic(), self.cpu_ms["broker"]
        for _ in range(WARM_ROUNDS):
            self.run(CONNECTIONS, WARM_ROUND_S)
            falls = len(broker) < 2 or broker[-1] < broker[-2] * (1 - WARM_CHANGE)
            if not falls and time.monotonic() - began >= seconds:
                break
        for samples in self.cpu_ms.values():
            samples.clear()

    async def _run(self, connections: int, seconds: float) -> float:
        headers = {"Authorization": f"Bearer {self._system.token('gateway')}", "Customer-Id": customer_of(0), "Prefer": "wait=10"}
        browser = {"Authorization": f"Bearer {PUBLISHABLE_KEY}"}
        async with (
            httpx.AsyncClient(base_url=self._system.info["url"], headers=headers, timeout=20) as shop,
            httpx.AsyncClient(base_url=self._system.info["sandbox_url"] or "", headers=browser, timeout=20) as page,
        ):
            began = time.monotonic()
            done = 0

            async def customer() -> None:
                nonlocal done
                while time.monotonic() - began < seconds:
                    await self._buy(shop, page)
                    done += 1

            await asyncio.gather(*(customer() for _ in range(connections)))
            return done / (time.monotonic() - began)

    async def _buy(self, shop: httpx.AsyncClient, page: httpx.AsyncClient) -> None:
        number = next(_numbers)
        order = await _must(shop.post("/orders", json=order_body(number), headers={"Idempotency-Key": f"bench-{number}"}), 201)
        self.placed.append(order["order_id"])
        if not self._pays:
            return
        path = f"/orders/{order['order_id']}"
        body = {"total_minor": order["total_minor"], "currency": order["currency"]}
        payment = await _must(shop.post(f"{path}/payment", json=body, headers={"Idempotency-Key": f"pay-{number}"}), 201)
        form = confirm_form(payment["client_secret"], VISA)
        await _must(page.post(f"/v1/payment_intents/{payment['provider_ref']}/confirm", data=form), 200)
        deadline = time.monotonic() + 30
        while (await _must(shop.get(path), 200))["status"] != "paid":
            if time.monotonic() > deadline:
                raise Incorrect(f"{order['order_id']} was not paid in 30 s")
            await asyncio.sleep(0.4)  # more frequent requests would measure the requests


async def _must(asked: Any, status: int) -> dict[str, Any]:
    answer: httpx.Response = await asked
    if answer.status_code != status:
        raise Incorrect(f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text[:200]}")
    body: dict[str, Any] = answer.json()
    return body


def measure(bench: Bench) -> list[Row]:
    """Rows of this benchmark. It brings up a second ledger beside the bench's own, which is idle meanwhile."""
    folder = bench.system.folder / "paying"
    folder.mkdir()
    accepted, paid = [], []
    with System(folder, sandbox=True) as system:
        accepting, paying = _Shop(bench.system, pays=False), _Shop(system, pays=True)
        bench.report("paying: warming up")
        paying.warm_up(bench.form.warm_up_s)
        for pair, accept_first in bench.pairs():
            bench.report(f"orders paid, pair {pair + 1} of {bench.form.pairs}")
            for accept in (accept_first, not accept_first):
                rate = (accepting if accept else paying).run(CONNECTIONS, bench.form.open_s)
                (accepted if accept else paid).append(rate)
        bench.orders += [(0, order_id) for order_id in accepting.placed]  # checked with everything else
        cpu_ms = {name: Spread.of(samples) for name, samples in paying.cpu_ms.items()}
        bench.report("paying: how long it takes")
        before = len(paying.placed)
        paying.run(CALM_CONNECTIONS, bench.form.open_s)
        times_ms = _paid_after_ms(system, set(paying.placed[before:]))
    name = "paying"
    ours = Spread.of([sum(pair) for pair in zip(cpu_ms["commands"].samples, cpu_ms["serve"].samples, strict=True)])
    share, took = ratios(paid, accepted), Spread.of([percentile(times_ms, 50)])
    return [
        Row(name, f"orders paid : orders accepted, {CONNECTIONS} customers", "ratio", share, at_least(GOAL)),
        Row(name, "  placed, reserved, authorised, captured", "1/s", Spread.of(paid)),
        Row(name, "  accepted only, same client", "1/s", Spread.of(accepted)),
        Row(name, "CPU of a paid order, commands + serve", "ms", ours, at_most(GOAL_CPU_MS)),
        *(Row(name, f"  {process}", "ms", cpu_ms[process]) for process in PROCESSES),
        Row(name, f"authorised to paid, p50, {CALM_CONNECTIONS} customers", "ms", took, at_most(GOAL_MS)),
        Row(name, "  p99", "ms", Spread.of([percentile(times_ms, 99)])),
    ]


def _paid_after_ms(system: System, orders: set[str]) -> list[float]:
    """Milliseconds from the authorisation of each of `orders` to the event that made it paid, by the log's own clock."""
    ledger = checker.read_ledger(system.bootstrap_servers)
    if ledger.problems:
        raise Incorrect(checker.describe(ledger.problems))
    authorised: dict[str, int] = {}
    took_ms = []
    for fields in (event.fields for event in ledger.events if event.fields["order_id"] in orders):
        if fields["type"] == "PaymentAuthorised":
            authorised[fields["order_id"]] = fields["occurred_at"]
        elif fields["status"] == "paid" and (at := authorised.pop(fields["order_id"], None)) is not None:
            took_ms.append(float(fields["occurred_at"] - at))
    if not took_ms:
        raise Incorrect("nothing was paid")
    return took_ms
