"""Erasure of personal data over HTTP: the contacts go, the ledger stays."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from api.processes.contact_expiry import sweep, tend
from ledger.clock import now_ms
from ledger.contacts import Address, OrderContact, contact_key, erased_contact
from ledger.erasures import is_erasure
from ledger.kafka.log import KafkaLog
from ledger.log import Acked, EventLog, NewRecord
from ledger.memory.log import MemoryLog
from ledger.schemas.codec import contact_codec
from ledger.topics import DAY_MS, Topics
from tests.support.harness import RunningLedger, another_node, deciding_again, key, order_body, running_ledger
from tests.support.patience import PATIENCE_S, until

pytestmark = pytest.mark.usefixtures("acks_without_hurry")


def placed(client: httpx.Client) -> str:
    return str(client.post("/orders", json=order_body(), headers=key()).json()["order_id"])


def erase(ledger: RunningLedger, customer: str, **body: Any) -> httpx.Response:
    return ledger.client("operator").post(f"/customers/{customer}/erasure", json=body or None)


def contacts_in_log(ledger: RunningLedger) -> dict[bytes | None, bytes | None]:
    """The last value of every key, except the keys of promised erasures."""
    return {r.key: r.value for r in ledger.records(ledger.topics.contacts) if not is_erasure(r.key or b"")}


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


def test_all_contacts_of_the_customer_go_and_no_others(ledger: RunningLedger) -> None:
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
    last = contacts_in_log(ledger)
    assert {k.split(b"/")[0].decode() for k, v in last.items() if k is not None and v is None} >= set(orders)
    assert [r.value for r in ledger.records(ledger.topics.events)] == events, "the ledger stays as it is"
    assert erase(ledger, "ann").json() == {"contacts_deleted": 0}, "a second erasure is harmless"
    replay = mine.post("/orders", json=order_body(), headers=headers)
    assert (replay.headers["idempotency-replayed"], replay.json()) == ("true", first.json() | {"contact": None})
    assert contacts_in_log(ledger) == last, "a retry brings nothing back"


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


# ---- the erased stay erased -----------------------------------------------------------------------------------------


def last_of_each(ledger: RunningLedger) -> dict[str, list[bytes | None]]:
    """What compaction leaves of the contacts of each order, except the records that say that they are erased."""
    last = {r.key: r.value for r in ledger.records(ledger.topics.contacts) if r.key is not None}
    values: dict[str, list[bytes | None]] = {}
    for name, value in last.items():
        if b"/" in name and erased_contact(name) is None:
            values.setdefault(name.split(b"/")[0].decode(), []).append(value)
    return values


def until_placed(client: httpx.Client, order_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE_S
    while (answer := client.get(f"/orders/{order_id}")).status_code != 200:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.05)
    order: dict[str, Any] = answer.json()
    return order


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def short_lived(request: pytest.FixtureRequest, topics: Topics) -> Iterator[RunningLedger]:
    log: EventLog = MemoryLog() if request.param == "memory" else KafkaLog(request.getfixturevalue("kafka"))
    with running_ledger(log, topics) as running:
        yield running


def test_an_order_that_is_not_decided_yet_loses_its_contact_too_and_a_retry_brings_nothing_back(
    short_lived: RunningLedger,
) -> None:
    ledger, headers = short_lived, key()
    client = ledger.client(customer="dan")
    ledger.stop_deciding()
    asked = client.post("/orders", json=order_body(), headers=headers | {"Prefer": "respond-async"})
    assert asked.status_code == 202
    order_id = asked.json()["order_id"]
    assert erase(ledger, "dan").json() == {"contacts_deleted": 1}
    assert client.post("/orders", json=order_body(), headers=headers | {"Prefer": "respond-async"}).status_code == 202
    assert last_of_each(ledger)[order_id] == [None]
    with deciding_again(ledger):
        assert until_placed(client, order_id)["contact"] is None
        again = client.post("/orders", json=order_body(), headers=headers)
        assert (again.status_code, again.json()["contact"]) == (201, None)
        new = client.post("/orders", json=order_body(), headers=key() | {"Prefer": "wait=10"})
        assert (new.status_code, new.json()["contact"]) == (201, order_body()["contact"]), "the next order is a new one"
    assert last_of_each(ledger)[order_id] == [None]


def test_a_retry_at_a_node_that_has_folded_neither_order_nor_erasure_leaves_nothing(ledger: RunningLedger) -> None:
    headers = key()
    client = ledger.client(customer="fay")
    order_id = client.post("/orders", json=order_body(), headers=headers).json()["order_id"]
    with another_node(ledger, folding=False) as node:
        assert erase(ledger, "fay", force=True).json() == {"contacts_deleted": 1}
        late = node.client(customer="fay")
        retry = late.post("/orders", json=order_body(), headers=headers | {"Prefer": "respond-async"})
        assert retry.status_code == 202
        assert last_of_each(ledger)[order_id] != [None], "that node could not know"
        node.folding.resume()
        until_placed(late, order_id)
        for each in (node, ledger):
            until(each.context.projector.contacts_late.is_set)
            assert each.client(customer="fay").get(f"/orders/{order_id}").json()["contact"] is None
        node.run(tend(node.context, now_ms()))
    assert last_of_each(ledger)[order_id] == [None]
    assert client.get(f"/orders/{order_id}").json()["contact"] is None


def test_a_contact_that_arrives_after_its_erasure_is_found_by_the_sweep_too(ledger: RunningLedger) -> None:
    client = ledger.client(customer="gus")
    order_id = placed(client)
    kept = next(r for r in ledger.records(ledger.topics.contacts) if (r.key or b"").startswith(order_id.encode()))
    erase(ledger, "gus", force=True)
    write(ledger, NewRecord(kept.topic, kept.partition, kept.key, kept.value))
    contacts = ledger.context.projector.contacts
    deadline = time.monotonic() + PATIENCE_S
    while contacts.written_at(kept.key or b"") is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    contacts.late()
    deleted = ledger.context.metrics.contacts_deleted
    assert ledger.run(sweep(ledger.context, now_ms())) == 1
    assert ledger.context.metrics.contacts_deleted == deleted + 1
    assert last_of_each(ledger)[order_id] == [None]


def write(ledger: RunningLedger, record: NewRecord) -> None:
    acked: list[Acked | None] = []
    ledger.context.sender.send(record, lambda ack, error: acked.append(ack))
    until(lambda: acked)
    assert acked[0] is not None


def test_contacts_are_erased_by_the_customer_they_name_whether_or_not_there_is_an_order(ledger: RunningLedger) -> None:
    address = Address("1 Mill Lane", "Leeds", "LS1 1AA", "GB")
    for n, customer in enumerate(("hal", "hal", "ida")):
        value = contact_codec().encode(OrderContact(customer, "Hal", "hal@example.org", address))
        name = contact_key(f"ord_lost{n}", b"d" * 32)
        write(ledger, NewRecord(ledger.topics.contacts, ledger.context.partition_of(f"ord_lost{n}"), name, value))
    assert erase(ledger, "hal").json() == {"contacts_deleted": 2}
    last = last_of_each(ledger)
    assert (last["ord_lost0"], last["ord_lost1"]) == ([None], [None])
    assert last["ord_lost2"] != [None]


def test_a_contact_that_cannot_be_read_is_erased_with_its_order(ledger: RunningLedger) -> None:
    client = ledger.client(customer="jim")
    order_id = placed(client)
    kept = next(r for r in ledger.records(ledger.topics.contacts) if (r.key or b"").startswith(order_id.encode()))
    write(ledger, NewRecord(kept.topic, kept.partition, kept.key, b"jim@example.org, in no form of ours"))
    assert erase(ledger, "jim", force=True).json() == {"contacts_deleted": 1}
    assert last_of_each(ledger)[order_id] == [None]


def test_the_erasure_of_many_contacts_takes_several_turns(ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.services.erasure.SLICE_CONTACTS", 3)
    client = ledger.client(customer="kim")
    orders = [placed(client) for _ in range(8)]
    assert erase(ledger, "kim", force=True).json() == {"contacts_deleted": 8}
    last = last_of_each(ledger)
    assert [last[order_id] for order_id in orders] == [[None]] * 8


def test_a_node_that_does_not_fold_erases_nothing_and_says_so(ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.services.erasure.FOLD_S", 0.2)
    client = ledger.client(customer="lea")
    order_id = placed(client)
    with another_node(ledger, folding=False) as node:
        answer = erase(node, "lea", force=True)
        assert (answer.status_code, answer.json()["code"]) == (503, "not-caught-up")
    assert client.get(f"/orders/{order_id}").json()["contact"] is not None


@pytest.mark.parametrize("staleness_ms", [None, DAY_MS])
def test_a_node_that_is_not_caught_up_accepts_no_command(ledger: RunningLedger, staleness_ms: int | None) -> None:
    order_id = placed(ledger.client())
    with another_node(ledger, folding=False) as node:
        node.status.staleness_ms = staleness_ms
        before = ledger.count(ledger.topics.commands) + ledger.count(ledger.topics.contacts)
        customer, admin = node.client(), node.client("admin")
        answers = [
            customer.post("/orders", json=order_body(), headers=key()),
            customer.post(f"/orders/{order_id}/cancel", headers=key()),
            admin.put(f"/orders/{order_id}/status", json={"status": "processing"}, headers=key()),
            node.client("operator").post(
                f"/orders/{order_id}/attention", json={"code": "x", "obligation_key": "y", "action": "retry"}, headers=key()
            ),
        ]
        assert [(a.status_code, a.json()["code"], a.headers["retry-after"]) for a in answers] == [(503, "not-caught-up", "1")] * 4
        assert ledger.count(ledger.topics.commands) + ledger.count(ledger.topics.contacts) == before
