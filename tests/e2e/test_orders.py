"""Orders through the whole path, as their gateway and the readers of the topic see them."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from api.cli.demo import plain_consumer
from commands.sandbox.catalogue import order_body
from tests.support import checker, loopback
from tests.support.gateway import Gateway
from tests.support.harness import decided
from tests.support.patience import PATIENCE_S
from tests.support.up_process import PROCESSES, UpProcess

ORDERS = 2000
pytestmark = pytest.mark.kafka


def headers(up: UpProcess, customer: str, key: str | None = None) -> dict[str, str]:
    sent = {"Authorization": f"Bearer {up.token('gateway')}", "Customer-Id": customer}
    return sent if key is None else sent | {"Idempotency-Key": key}


async def place_all(up: UpProcess) -> tuple[Gateway, set[str]]:
    """Every tenth order is posted twice at the same time, and once more afterwards."""
    answers: dict[int, httpx.Response] = {}
    twice: dict[int, httpx.Response] = {}
    async with Gateway(up.url, up.token("gateway"), connections=32) as gateway:

        async def place(number: int) -> None:
            customer = f"many-{number % 50}"
            answers[number] = await gateway.place(number, customer)
            if number % 10 == 0:
                await gateway.again(number, customer, answers[number])

        async def place_another(number: int) -> None:
            twice[number] = await gateway.place(number, f"many-{number % 50}")

        await asyncio.gather(*(place(n) for n in range(ORDERS)), *(place_another(n) for n in range(0, ORDERS, 10)))
        assert all(answer.content == answers[number].content for number, answer in twice.items())
        return gateway, {answer.json()["order_id"] for answer in answers.values()}


def test_two_thousand_orders_with_retries_are_two_thousand_orders_each_readable_immediately(up: UpProcess) -> None:
    gateway, order_ids = asyncio.run(place_all(up))
    assert gateway.never == [], checker.describe(gateway.never)
    assert gateway.unexpected() == [], gateway.seen
    assert len(order_ids) == ORDERS
    ledger = checker.read_settled_ledger(up.bootstrap_servers)
    assert ledger.problems == [], checker.describe(ledger.problems)
    mine = {order_id for order_id, order in ledger.orders.items() if order.customer_id.startswith("many-")}
    assert mine == order_ids
    p50, p99 = (sorted(gateway.latencies_s)[len(gateway.latencies_s) * share // 100] * 1000 for share in (50, 99))
    print(f"{ORDERS} orders at 32 connections: POST to 201 p50 {p50:.0f} ms, p99 {p99:.0f} ms")


async def cancel_together(gateway: Gateway, number: int) -> list[str]:
    """Four cancellations of one order, each in two equal requests at the same time, and all of them again afterwards."""
    placed = await gateway.final("POST", "/orders", "hasty", f"hasty-{number}", order_body(number))
    path = f"/orders/{placed.json()['order_id']}/cancel"

    async def cancel(key: str) -> httpx.Response:
        return await gateway.final("POST", path, "hasty", key, {})

    keys = [f"cancel-{n}" for n in range(4) for _ in range(2)]
    first = await asyncio.gather(*(cancel(key) for key in keys))
    again = await asyncio.gather(*(cancel(key) for key in keys))
    wrong = [answer.text for answer in (*first, *again) if (answer.status_code, answer.json()["status"]) != (200, "cancelled")]
    wrong += [f"{a.text} then {b.text}" for a, b in zip(first, again, strict=True) if a.content != b.content]
    outcomes = [answer.headers["Ledger-Outcome"] for answer in again]
    return wrong if sorted(outcomes) == ["changed"] * 2 + ["unchanged"] * 6 else [*wrong, str(outcomes)]


def test_of_four_simultaneous_cancellations_one_changes_the_order_and_all_show_it_cancelled(up: UpProcess) -> None:
    async def run() -> list[str]:
        async with Gateway(up.url, up.token("gateway"), connections=16) as gateway:
            results = await asyncio.gather(*(cancel_together(gateway, number) for number in range(60)))
        assert gateway.unexpected() == [], gateway.seen
        return [*gateway.never, *(line for lines in results for line in lines)]

    wrong = asyncio.run(run())
    assert wrong == [], checker.describe(wrong)


def test_two_customers_of_one_gateway_with_the_same_key_never_see_each_others_order(up: UpProcess) -> None:
    with loopback.client(base_url=up.url, timeout=PATIENCE_S) as client:
        mine = decided(client, "/orders", order_body(1), **headers(up, "ann", "the-same-key"))
        first = client.post("/orders", json=order_body(1), headers=headers(up, "bob", "the-same-key"))
        assert "Idempotency-Replayed" not in first.headers
        other = decided(client, "/orders", order_body(1), **headers(up, "bob", "the-same-key"))
        assert (mine.status_code, other.status_code) == (201, 201)
        assert mine.json()["order_id"] != other.json()["order_id"]
        missing = client.get("/orders/ord_aaaaaaaaaaaaaaaaaaaaaaaaaa", headers=headers(up, "ann"))
        for path in ("", "/events"):
            foreign = client.get(f"/orders/{other.json()['order_id']}{path}", headers=headers(up, "ann"))
            assert (foreign.status_code, foreign.json()["code"]) == (404, "order-not-found")
            assert foreign.json()["detail"] == missing.json()["detail"]
        cancelled = decided(client, f"/orders/{other.json()['order_id']}/cancel", {}, **headers(up, "ann", "cancel"))
        assert (cancelled.status_code, cancelled.json()["code"]) == (404, "order-not-found")
        listed = client.get("/orders", headers=headers(up, "ann")).json()["data"]
        assert [order["order_id"] for order in listed] == [mine.json()["order_id"]]


def test_anyone_can_read_the_topic_with_plain_kafka_and_avro_tools(up: UpProcess) -> None:
    """The schemas come from the API's registry paths, the values from Confluent's own deserialiser."""
    from confluent_kafka.schema_registry import SchemaRegistryClient
    from confluent_kafka.schema_registry.avro import AvroDeserializer

    with loopback.client(base_url=up.url, timeout=PATIENCE_S) as client:
        answer = decided(client, "/orders", order_body(2), **headers(up, "reader-test", "k"))
        assert answer.status_code == 201
    ledger = checker.read_settled_ledger(up.bootstrap_servers, schemas=checker.RegistrySchemas(up.url, up.token("reader")))
    assert ledger.problems == [], checker.describe(ledger.problems)
    with SchemaRegistryClient({"url": up.url, "basic.auth.user.info": f"analytics:{up.token('reader')}"}) as registry:
        deserialize = AvroDeserializer(registry)
        for event in ledger.events[-50:]:
            assert deserialize(event.raw.value, None) == event.fields
    placed = ledger.orders[answer.json()["order_id"]]
    assert (placed.types[0], placed.status, placed.total_minor) == ("OrderPlaced", "pending", order_body(2)["total_minor"])


@pytest.mark.parametrize("registry_client", [True, False])
def test_the_plain_consumer_finds_the_same_with_and_without_confluents_deserialiser(
    up: UpProcess, tmp_path: Path, registry_client: bool
) -> None:
    with loopback.client(base_url=up.url, timeout=PATIENCE_S) as client:
        assert decided(client, "/orders", order_body(5), **headers(up, "plain", "k")).status_code == 201
    environment = os.environ | {"REGISTRY_TOKEN": up.token("reader")}
    if not registry_client:
        (tmp_path / "authlib.py").write_text("raise ImportError('as if it were not installed')")
        environment["PYTHONPATH"] = str(tmp_path)
    arguments = [sys.executable, plain_consumer.__file__, up.bootstrap_servers, "order-events", up.url]
    before = checker.read_settled_ledger(up.bootstrap_servers)
    ran = subprocess.run(
        arguments, stdin=subprocess.DEVNULL, capture_output=True, env=environment, cwd=tmp_path, timeout=PATIENCE_S, check=False
    )
    assert ran.returncode == 0, ran.stderr.decode()
    report = json.loads(ran.stdout)
    assert report["decoder"].startswith("confluent_kafka" if registry_client else "fastavro")
    assert report["problems"] == []
    after = checker.read_settled_ledger(up.bootstrap_servers)
    # The ledger may record an event at any time, such as stock that is reserved for an order of another test.
    assert len(before.events) <= report["events"] <= len(after.events)
    versions = {order_id: order["version"] for order_id, order in report["orders"].items()}
    assert report["events"] == sum(versions.values())
    assert all(versions[order_id] >= order.version for order_id, order in before.orders.items())
    status_at = {(event.fields["order_id"], event.fields["version"]): event.fields["status"] for event in after.events}
    assert {order_id: order["status"] for order_id, order in report["orders"].items()} == {
        order_id: status_at[order_id, version] for order_id, version in versions.items()
    }


def read_stream(client: httpx.Client, path: str, sent: dict[str, str], count: int) -> list[dict[str, str]]:
    """The first `count` events of a stream; then the client hangs up."""
    events: list[dict[str, str]] = []
    event: dict[str, str] = {}
    with client.stream("GET", path, headers=sent | {"Accept": "text/event-stream"}) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith(":"):
                continue
            if line:
                name, _, value = line.partition(":")
                event[name] = value.strip()
            elif event:
                events.append(event)
                event = {}
                if len(events) == count:
                    break
    return events


def test_an_event_stream_resumes_where_its_client_left_it(up: UpProcess) -> None:
    with loopback.client(base_url=up.url, timeout=PATIENCE_S) as client:
        placed = decided(client, "/orders", order_body(3), **headers(up, "watcher", "k")).json()
        path = f"/orders/{placed['order_id']}"
        first = read_stream(client, f"{path}/events", headers(up, "watcher"), 1)
        assert [(e["id"], e["event"]) for e in first] == [("1", "OrderPlaced")]
        assert decided(client, f"{path}/cancel", {}, **headers(up, "watcher", "c")).status_code == 200
        rows = client.get(f"{path}/events", headers=headers(up, "watcher")).json()["data"]
        resumed = read_stream(client, f"{path}/events", headers(up, "watcher") | {"Last-Event-ID": "1"}, len(rows) - 1)
        assert [(e["id"], e["event"]) for e in resumed] == [(str(row["version"]), row["type"]) for row in rows[1:]]
        assert "OrderCancelled" in {e["event"] for e in resumed}


def test_an_event_reaches_an_open_stream_as_it_happens(up: UpProcess) -> None:
    async def watch() -> list[str]:
        async with (
            Gateway(up.url, up.token("gateway")) as gateway,
            loopback.async_client(base_url=up.url, timeout=PATIENCE_S) as client,
        ):
            placed = await gateway.final("POST", "/orders", "watcher", "live", order_body(4))
            path = f"/orders/{placed.json()['order_id']}"
            sent = headers(up, "watcher") | {"Accept": "text/event-stream"}
            seen: list[str] = []
            async with client.stream("GET", f"{path}/events", headers=sent) as answer:
                async for line in answer.aiter_lines():
                    if line.startswith("event:"):
                        seen.append(line.removeprefix("event:").strip())
                        if len(seen) == 1:
                            await gateway.final("POST", f"{path}/cancel", "watcher", "live-cancel", {})
                        elif seen[-1] == "OrderCancelled":
                            return seen
            return seen

    seen = asyncio.run(asyncio.wait_for(watch(), PATIENCE_S))
    assert (seen[0], seen[-1]) == ("OrderPlaced", "OrderCancelled")
    assert set(seen[1:-1]) <= {"StockReserved"}


def test_files_about_a_running_up_are_for_its_owner_only_and_true(up: UpProcess) -> None:
    run = up.data / "run"
    for private in (run / "up.json", up.data / "keys.json", up.data / "tokens.json"):
        assert stat.S_IMODE(private.stat().st_mode) == 0o600, private
    names = {up.pid(name): name for name in PROCESSES}
    running = {process.pid: " ".join(process.cmdline()) for process in up.processes()}
    assert names.keys() <= running.keys()
    for pid, name in names.items():
        assert ("kafka.Kafka" if name == "broker" else name) in running[pid]
    assert not any(up.token("gateway") in line for line in running.values())
