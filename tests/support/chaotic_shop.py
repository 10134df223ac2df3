"""A shop whose customers pay while the world outside fails in every way and the processor is killed.

The sandbox's journal says what happened outside, the topic says what the ledger knows; `world_checker` compares the two and
imports no rule of the product.
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from commands.sandbox import SECRET_KEY
from commands.sandbox.cards import NO_FUNDS, THREE_D_SECURE, VISA
from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.ports import free_port
from ledger.rocks_store import RocksStore
from ledger.topics import Topics
from tests.support import checker, loopback, world_checker
from tests.support.checker import read_topic
from tests.support.harness import order_body
from tests.support.processes import TOKENS, Killer, LedgerNode
from tests.support.sandboxed import WEBHOOK_SECRET, RunningSandbox, running_sandbox

CHAOS = {"timeout": 0.25, "error": 0.10, "too_many": 0.05, "conflict": 0.05, "reset": 0.05, "reset_after": 0.05}
STOCK_CHAOS = {"timeout": 0.10, "error": 0.10, "too_many": 0.02, "reset": 0.05, "reset_after": 0.05}
AT_ONCE = 24
PATIENCE_S = 600.0  # usually all done within half a minute
LIVES = ("paid",) * 6 + ("declined first", "3-D Secure", "cancelled before", "cancelled at the same time")


class Customers(threading.Thread):
    """Place, pay, sometimes cancel, until each order's customer is done. A request without an answer is sent again."""

    def __init__(self, node: LedgerNode, sandbox: RunningSandbox, orders: int, deadline_s: float) -> None:
        super().__init__(name="customers")
        self.error: BaseException | None = None
        self.answers: Counter[int] = Counter()
        self.orders: dict[str, str] = {}
        self.ids: dict[int, str] = {}
        self.secrets: list[str] = []
        self._node, self._sandbox, self._count, self._deadline = node, sandbox, orders, time.monotonic() + deadline_s
        self._choice = random.Random(7)

    def run(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as exc:
            self.error = exc

    async def _run(self) -> None:
        headers = {"Authorization": f"Bearer {TOKENS['gateway']}", "Customer-Id": "c-1"}
        browser = {"Authorization": self._sandbox.browser.headers["Authorization"]}
        async with (
            loopback.async_client(base_url=self._node.url, headers=headers, timeout=15) as self._shop,
            loopback.async_client(base_url=self._sandbox.url, headers=browser, limits=loopback.EACH_ALONE) as self._browser,
        ):
            left = iter(range(self._count))

            async def worker() -> None:
                for number in left:
                    await self._buy(number, LIVES[number % len(LIVES)])

            await asyncio.gather(*(worker() for _ in range(AT_ONCE)))

    async def _final(
        self, method: str, path: str, body: dict[str, Any] | None, key: str | None, role: str = "gateway"
    ) -> httpx.Response:
        headers = {"Prefer": "wait=5", "Authorization": f"Bearer {TOKENS[role]}"} | ({"Idempotency-Key": key} if key else {})
        while True:
            assert time.monotonic() < self._deadline, f"{method} {path} has no answer"
            try:
                answer = await self._shop.request(method, path, json=body, headers=headers)
            except httpx.TransportError:
                await asyncio.sleep(0.2)
                continue
            self.answers[answer.status_code] += 1
            if answer.status_code not in (202, 429, 503):
                return answer
            await asyncio.sleep(0.1)

    def _body(self, number: int) -> dict[str, Any]:
        """What is ordered, by whom."""
        return order_body()

    async def _buy(self, number: int, life: str) -> None:
        """One customer's way, and whatever the desk does about the order."""
        placed = await self._final("POST", "/orders", self._body(number), f"cart-{number}")
        assert placed.status_code == 201, placed.text
        order = placed.json()
        order_id = order["order_id"]
        self.orders[order_id], self.ids[number] = life, order_id
        path = f"/orders/{order_id}"
        if life == "cancelled before":
            await self._final("POST", f"{path}/cancel", {}, f"cancel-{number}")
            return
        body = {"total_minor": order["total_minor"], "currency": order["currency"]}
        opened = await self._final("POST", f"{path}/payment", body, f"pay-{number}")
        if opened.status_code != 201:  # nothing left to pay: the order was cancelled meanwhile
            assert opened.json()["code"] == "order-cancelled", opened.text
            return
        payment = opened.json()
        if payment["client_secret"] is None:  # cancelled meanwhile, and voided
            return
        self.secrets.append(payment["client_secret"])
        cancelling: asyncio.Task[httpx.Response] | None = None
        if life == "cancelled at the same time":
            cancelling = asyncio.create_task(self._final("POST", f"{path}/cancel", {}, f"cancel-{number}"))
            await asyncio.sleep(self._choice.uniform(0, 0.2))
        cards = {"declined first": (NO_FUNDS, VISA), "3-D Secure": (THREE_D_SECURE,)}.get(life, (VISA,))
        for card in cards:
            await asyncio.to_thread(self._sandbox.pay, payment, card)
        if life == "3-D Secure":
            await self._browser.post(f"/sandbox/payments/{payment['provider_ref']}/authenticate", data={"outcome": "success"})
        if self._choice.random() < 0.7:  # the others close the page immediately
            await self._final("POST", f"{path}/payment", {"action": "confirm"}, None)
        if cancelling is not None:
            await cancelling


def _prepare(sandbox: RunningSandbox, orders: int, lost: float) -> dict[tuple[str, str], int]:
    """Put in stock for nearly all `orders`, by service and SKU, and start the chaos, with this share of webhooks `lost`."""
    stock = {("product", "espresso-1kg"): int(orders * 2 * 0.95), ("merch", "mug"): orders}
    for (service, sku), units in stock.items():
        sandbox.sandbox.rooms.put(service, sku, units, {"espresso-1kg": 1200, "mug": 900}[sku])
    sandbox.chaos(
        seed=11,
        ports={"payments": CHAOS, "product": STOCK_CHAOS, "merch": STOCK_CHAOS},
        hold_timeout_ms=1_500,
        webhook_copies=3,
        webhook_delay_ms=400,
        webhook_lost=lost,
    )
    return stock


def run_chaos(
    folder: Path,
    kafka: KafkaSettings,
    topics: Topics,
    orders: int,
    kills: int,
    lost: float,
    settle_s: float,
    kind: type[Customers] = Customers,
) -> Counter[str]:
    """Returns how many orders ended in each status. `kind`: who buys."""
    log = KafkaLog(kafka)
    log.ensure_topics(topics.specs(4, 1), PATIENCE_S)
    choice = random.Random(3)
    with running_sandbox(folder) as sandbox:
        stock = _prepare(sandbox, orders, lost)
        node = _node(folder, kafka, topics, sandbox)
        sandbox.sandbox.webhooks.send_to(f"{node.url}/webhooks/stripe", WEBHOOK_SECRET)
        try:
            processor, serve = node.child("commands"), node.child("serve")
            processor.start()
            serve.start()
            node.wait_ready()
            began = time.monotonic()
            customers = kind(node, sandbox, orders, PATIENCE_S + orders)
            killer = Killer(processor, [choice.uniform(3.0, 6.0) for _ in range(kills)])
            customers.start()
            killer.start()
            customers.join(PATIENCE_S + 80 + orders)
            killer.join(PATIENCE_S + 15 * kills)
            assert not customers.is_alive()
            assert not killer.is_alive()
            if customers.error is not None:
                raise customers.error
            assert killer.unexpected == [], node.tails()
            # Obligations that failed often are tried later, unless the process that remembers that dies.
            sandbox.chaos()
            processor.kill()
            processor.start()
            wrong, ledger, world = _settled(kafka, topics, sandbox, stock, settle_s)
            assert wrong == [], checker.describe(wrong) + node.tails()
            assert ledger.problems == [], checker.describe(ledger.problems)
            assert set(customers.orders) == set(ledger.orders)
            assert serve.stop() == 0
            assert processor.stop() == 0, node.tails()
            _check_secrets(node, log, [*customers.secrets, SECRET_KEY, WEBHOOK_SECRET, VISA])
        finally:
            node.end()
    states = Counter(order.status for order in ledger.orders.values())
    fates: Counter[str] = Counter()
    for (_, _, fate), count in world.calls.items():
        fates[fate] += count
    assert all(fates[fate] for fate in CHAOS)
    print(f"\n{orders} orders, {kills + 1} kills, {time.monotonic() - began:.0f} s: {dict(states)}; {world.sums()}")
    print(f"calls {dict(fates)}; {len(ledger.events)} events; {dict(customers.answers)} answers")
    return states


def _node(folder: Path, kafka: KafkaSettings, topics: Topics, sandbox: RunningSandbox) -> LedgerNode:
    env = {
        "SANDBOX_URL": sandbox.url,
        "PAYMENT_GATEWAY_WEBHOOK_SECRETS": WEBHOOK_SECRET,
        "OUTSIDE_TIMEOUT_MS": "1000",
        "OUTBOX_DIR": str(folder / "outbox"),
    }
    return LedgerNode(folder, kafka.bootstrap_servers, topics, port=free_port(), env=env)


def _settled(
    kafka: KafkaSettings, topics: Topics, sandbox: RunningSandbox, stock: dict[tuple[str, str], int], settle_s: float
) -> tuple[list[str], checker.Ledger, world_checker.World]:
    """Everything that is still wrong once all is quiet, at the latest after `settle_s`."""
    deadline = time.monotonic() + settle_s
    while True:
        world = world_checker.read_journal(sandbox.database)
        ledger = checker.read_ledger(kafka.bootstrap_servers, topics.prefix)
        wrong = world_checker.unresolved(ledger) + world_checker.judge(ledger, world, stock)
        if not wrong or time.monotonic() > deadline:
            return wrong, ledger, world
        time.sleep(2)


def _check_secrets(node: LedgerNode, log: KafkaLog, secrets: list[str]) -> None:
    """The secrets that were used are in no topic, no database, no log and no argument of a process."""
    assert len(secrets) > 10
    wanted = re.compile("|".join(map(re.escape, secrets)).encode())
    places = {child.log_file.name: child.log_file.read_bytes() for child in node.children}
    places |= {"arguments": "\n".join(f"{child.process.args!r}" for child in node.children if child.process).encode()}
    topics = node.topics
    for topic in (topics.commands, topics.events, topics.refusals, topics.contacts):
        raw = read_topic(node.bootstrap, topic)
        assert raw, topic
        places[topic] = b"\n".join((record.key or b"") + (record.value or b"") for record in raw)
    state = node.state_dir("one")
    for folder in sorted((*(state / "commands").iterdir(), *(state / "projections").glob("g*/*"))):
        if folder.is_file():
            places[str(folder)] = folder.read_bytes()
            continue
        store = RocksStore(folder)
        places[str(folder)] = b"\n".join(key + value for key, value in store.scan(b""))
        store.close()
    assert [name for name, content in places.items() if wanted.search(content)] == []
    assert len(places) > 8
