"""Erasure of personal data over HTTP: the contacts go, the ledger stays."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from ledger.kafka_log import KafkaLog
from ledger.log import EventLog
from ledger.memory_log import MemoryLog
from ledger.topics import Topics
from tests.harness import RunningLedger, key, order_body, running_ledger


@pytest.fixture(scope="module", params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def ledger(request: pytest.FixtureRequest) -> Iterator[RunningLedger]:
    log: EventLog = MemoryLog() if request.param == "memory" else KafkaLog(request.getfixturevalue("kafka"))
    with running_ledger(log, Topics(f"http-erasure-{time.time_ns()}.")) as running:
        yield running


def placed(client: httpx.Client) -> str:
    return str(client.post("/orders", json=order_body(), headers=key()).json()["order_id"])


def erase(ledger: RunningLedger, customer: str, **body: Any) -> httpx.Response:
    return ledger.client("operator").post(f"/customers/{customer}/erasure", json=body or None)


def test_open_orders_keep_the_contact_unless_forced(ledger: RunningLedger) -> None:
    client = ledger.client(customer="eve")
    order_id = placed(client)
    answer = erase(ledger, "eve")
    assert (answer.status_code, answer.json()["code"]) == (409, "open-orders")
    assert client.get(f"/orders/{order_id}").json()["contact"] is not None
    assert erase(ledger, "eve", force=False).status_code == 409
    answer = erase(ledger, "eve", force=True)
    assert (answer.status_code, answer.json()) == (200, {"contacts_deleted": 1})
    assert client.get(f"/orders/{order_id}").json()["contact"] is None


def test_all_contacts_of_the_customer_go_and_nobody_elses(ledger: RunningLedger) -> None:
    mine, other, headers = ledger.client(customer="ann"), ledger.client(customer="bob"), key()
    first = mine.post("/orders", json=order_body(), headers=headers)
    orders = [first.json()["order_id"], *(placed(mine) for _ in range(4))]
    kept = placed(other)
    for order_id in orders:
        assert mine.post(f"/orders/{order_id}/cancel", headers=key()).status_code == 200
    events = [r.value for r in ledger.records(ledger.topics.events)]
    assert erase(ledger, "ann").json() == {"contacts_deleted": 5}
    for order_id in orders:
        for path in (f"/orders/{order_id}", f"/orders/{order_id}?version=1"):
            assert mine.get(path).json()["contact"] is None
    assert other.get(f"/orders/{kept}").json()["contact"] == order_body()["contact"]
    last = {r.key: r.value for r in ledger.records(ledger.topics.contacts)}
    assert {k.split(b"/")[0].decode() for k, v in last.items() if k is not None and v is None} >= set(orders)
    assert [r.value for r in ledger.records(ledger.topics.events)] == events, "the ledger stays as it is"
    assert erase(ledger, "ann").json() == {"contacts_deleted": 0}, "doing it again is harmless"
    replay = mine.post("/orders", json=order_body(), headers=headers)
    assert (replay.headers["idempotency-replayed"], replay.json()) == ("true", first.json() | {"contact": None})
    assert {r.key: r.value for r in ledger.records(ledger.topics.contacts)} == last, "a retry brings nothing back"


def test_a_customer_without_orders_has_nothing_to_erase(ledger: RunningLedger) -> None:
    assert erase(ledger, "nobody").json() == {"contacts_deleted": 0}


@pytest.mark.parametrize("customer", ["a@example.org", "a%20b", "x" * 65, "%C3%A9"])
def test_a_customer_id_is_a_pseudonym(ledger: RunningLedger, customer: str) -> None:
    answer = erase(ledger, customer)
    assert (answer.status_code, answer.json()["errors"]) == (422, [{"pointer": "/customer_id", "code": "pattern", "in": "path"}])


def test_a_wrong_body_erases_nothing(ledger: RunningLedger) -> None:
    client = ledger.client(customer="carl")
    order_id = placed(client)
    assert client.post(f"/orders/{order_id}/cancel", headers=key()).status_code == 200
    for body in ({"force": "yes"}, {"forced": True}, {"force": 1}):
        assert erase(ledger, "carl", **body).status_code == 422
    assert client.get(f"/orders/{order_id}").json()["contact"] is not None
