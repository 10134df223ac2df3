"""The desk's day under chaos: parcels, cancelled lines and refunds while everything fails and the processor is killed."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ledger.kafka.settings import KafkaSettings
from ledger.topics import Topics
from tests.support.chaotic_shop import PATIENCE_S, Customers, run_chaos

pytestmark = pytest.mark.kafka

# The desk's answers to a request that another request, a customer or a dispute made impossible.
NO = frozenset(
    {
        "already-shipped",
        "dispute-open",
        "nothing-to-refund",
        "not-paid",
        "not-shipped",
        "order-cancelled",
        "quantity-exceeded",
        "refund-exceeds-payment",
        "shipment-not-found",
        "stock-not-reserved",
        "too-late-to-cancel",
    }
)
UNTIL_SETTLED_S = 120.0


class CustomersAndDesk(Customers):
    """Each order is bought, and then the desk does some things with it, in an order that only chance knows."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.asked: Counter[str] = Counter()

    async def _buy(self, number: int, life: str) -> None:
        chance = random.Random(number)
        await super()._buy(number, life)
        order = await self._settled(self.ids[number])
        if order["status"] != "paid" and chance.random() < 0.5:
            return
        for step in range(chance.randint(1, 5)):
            await self._do(chance, order, f"{number}-{step}")
            if chance.random() < 0.3:
                await asyncio.sleep(chance.uniform(0, 0.3))

    async def _do(self, chance: random.Random, order: dict[str, Any], key: str) -> None:
        path = f"/orders/{order['order_id']}"
        line = chance.choice(order["lines"])
        units = {"service": line["service"], "sku": line["sku"], "quantity": chance.randint(1, line["quantity"])}
        match chance.choice(("cut", "parcel", "parcel", "arrived", "refund", "price", "all")):
            case "cut":
                await self._ask(f"{path}/lines/cancel", {"lines": [units], "shipping": chance.random() < 0.2}, key)
            case "parcel":
                await self._ask(f"{path}/shipments", {"lines": [units], "tracking": key}, key)
            case "arrived":
                await self._ask(f"{path}/shipments/{chance.randint(1, 3)}/delivered", {}, key)
            case "refund":
                amount = chance.randint(1, order["total_minor"])
                await self._ask(f"{path}/refunds", {"amount_minor": amount, "reason": "goodwill"}, key)
            case "price":
                await self._ask(f"{path}/refunds", {"lines": [units], "reason": "damaged"}, key)
            case "all":
                await self._ask(f"{path}/status", {"status": "shipped"}, key, "PUT")

    async def _ask(self, path: str, body: dict[str, Any], key: str, method: str = "POST") -> None:
        answer = await self._final(method, path, body, f"desk-{key}", "admin")
        code = "done" if answer.status_code == 200 else answer.json()["code"]
        self.asked[code] += 1
        assert code == "done" or code in NO, f"{method} {path} {body}: {answer.text}"

    async def _settled(self, order_id: str) -> dict[str, Any]:
        """The order once it is paid or cancelled, or as it is after a while: nobody waits for a page that was closed."""
        deadline = time.monotonic() + UNTIL_SETTLED_S
        while True:
            order: dict[str, Any] = (await self._final("GET", f"/orders/{order_id}", None, None)).json()
            if order["status"] != "pending" or time.monotonic() > deadline:
                return order
            await asyncio.sleep(0.2)


@pytest.mark.timeout(3 * PATIENCE_S + 700)
def test_forty_orders_of_the_desk_under_chaos_and_three_kills_end_with_equal_sums(
    tmp_path: Path, kafka: KafkaSettings, topics: Topics
) -> None:
    run_chaos(tmp_path, kafka, topics, orders=40, kills=3, lost=0.0, settle_s=PATIENCE_S, kind=CustomersAndDesk)


@pytest.mark.campaign
@pytest.mark.timeout(5000)
def test_two_thousand_orders_of_the_desk_under_chaos_and_fifty_kills_end_with_equal_sums(
    tmp_path: Path, kafka: KafkaSettings, topics: Topics
) -> None:
    run_chaos(tmp_path, kafka, topics, orders=2_000, kills=50, lost=0.1, settle_s=900, kind=CustomersAndDesk)
