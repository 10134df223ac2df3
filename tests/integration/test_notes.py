"""Notes of the desk: free text about an order, beside the contact, never in the log, gone with an erasure."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from api.processes.contact_expiry import UNNAMED_MS, sweep
from ledger.clock import now_ms
from ledger.log import Acked, NewRecord
from ledger.memory.log import MemoryLog
from ledger.topics import Topics
from tests.support.harness import RunningLedger, key, order_body, running_ledger
from tests.support.patience import until

CANARY = "Kanarienvogel"


@pytest.fixture
def ledger() -> Iterator[RunningLedger]:
    with running_ledger(MemoryLog(), Topics()) as running:
        yield running


def notes_of(ledger: RunningLedger) -> str:
    """The path of the notes of a new order."""
    answer = ledger.client().post("/orders", json=order_body(), headers=key() | {"Prefer": "wait=10"})
    assert answer.status_code == 201, answer.text
    return f"/orders/{answer.json()['order_id']}/notes"


def listed(ledger: RunningLedger, path: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = ledger.client("admin").get(path).json()["data"]
    return rows


def added(ledger: RunningLedger, path: str, text: str, headers: dict[str, str] | None = None) -> httpx.Response:
    return ledger.client("admin").post(path, json={"text": text}, headers=headers or key())


def test_notes_are_listed_oldest_first_and_a_retry_adds_none(ledger: RunningLedger) -> None:
    path, headers = notes_of(ledger), key()
    first = added(ledger, path, f"{CANARY} one", headers)
    assert (first.status_code, first.json()["by"]) == (201, "admin:admin")
    again = added(ledger, path, f"{CANARY} one", headers)
    assert (again.content, again.headers["idempotency-replayed"]) == (first.content, "true")
    other = added(ledger, path, f"{CANARY} two", headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")
    added(ledger, path, f"{CANARY} three")
    assert [row["text"] for row in listed(ledger, path)] == [f"{CANARY} one", f"{CANARY} three"]
    assert listed(ledger, notes_of(ledger)) == []


def test_a_note_is_never_in_the_log_of_orders(ledger: RunningLedger) -> None:
    path = notes_of(ledger)
    assert added(ledger, path, CANARY).status_code == 201
    topics = ledger.topics
    for topic in (topics.events, topics.commands, topics.refusals, topics.audit):
        assert all(CANARY.encode() not in (record.value or b"") for record in ledger.records(topic)), topic


@pytest.mark.parametrize("role", ["gateway", "reader", "operator"])
def test_only_the_desk_reads_and_writes_notes(ledger: RunningLedger, role: str) -> None:
    path, client = notes_of(ledger), ledger.client(role)
    for answer in (client.get(path), client.post(path, json={"text": "x"}, headers=key()), client.delete(f"{path}/x")):
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


def test_a_note_can_be_deleted_and_an_erasure_deletes_all(ledger: RunningLedger) -> None:
    path = notes_of(ledger)
    note = added(ledger, path, f"{CANARY} one").json()
    added(ledger, path, f"{CANARY} two")
    desk = ledger.client("admin")
    assert desk.delete(f"{path}/{note['note_id']}").status_code == 204
    assert desk.delete(f"{path}/{note['note_id']}").status_code == 404
    assert [row["text"] for row in listed(ledger, path)] == [f"{CANARY} two"]
    erased = ledger.client("operator").post("/customers/c-1/erasure", json={"force": True}, headers={"Prefer": "wait=10"})
    assert erased.status_code in (200, 202), erased.text
    until(lambda: listed(ledger, path) == [])


def with_canary(ledger: RunningLedger) -> int:
    """How many records of contacts have it."""
    return sum(CANARY.encode() in (record.value or b"") for record in ledger.records(ledger.topics.contacts))


@pytest.mark.parametrize("gone_by", ["deletion", "erasure"])
def test_a_retry_of_a_note_that_is_gone_does_not_bring_it_back(ledger: RunningLedger, gone_by: str) -> None:
    path, headers, desk = notes_of(ledger), key(), ledger.client("admin")
    note = added(ledger, path, CANARY, headers).json()
    if gone_by == "deletion":
        assert desk.delete(f"{path}/{note['note_id']}").status_code == 204
    else:
        ledger.client("operator").post("/customers/c-1/erasure", json={"force": True}, headers={"Prefer": "wait=10"})
    until(lambda: listed(ledger, path) == [])
    before = with_canary(ledger)
    again = added(ledger, path, CANARY, headers)
    assert (again.status_code, again.json()["code"]) == (422, "idempotency-key-reused")
    assert again.json()["detail"] == "The note that was added with this key is deleted."
    assert (listed(ledger, path), with_canary(ledger)) == ([], before)
    assert added(ledger, path, "Another").status_code == 201
    assert [row["text"] for row in listed(ledger, path)] == ["Another"]
    order = ledger.client().get(path.removesuffix("/notes")).json()
    assert (order["contact"] is not None) == (gone_by == "deletion"), "a deleted note costs the contact nothing"


def test_a_sweep_keeps_the_notes_of_an_order_that_is_not_over(ledger: RunningLedger) -> None:
    path = notes_of(ledger)
    added(ledger, path, CANARY)
    assert ledger.run(sweep(ledger.context, now_ms() + 3 * UNNAMED_MS)) == 0
    assert [row["text"] for row in listed(ledger, path)] == [CANARY]


def test_an_order_has_a_largest_number_of_notes(ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.routes.notes.MAX_NOTES", 3)
    path, headers = notes_of(ledger), [key() for _ in range(3)]
    notes = [added(ledger, path, f"{CANARY} {n}", headers[n]).json() for n in range(3)]
    refused = added(ledger, path, f"{CANARY} 3")
    assert (refused.status_code, refused.json()["code"]) == (422, "limit-exceeded")
    assert added(ledger, path, f"{CANARY} 2", headers[2]).status_code == 201, "a retry of the last one"
    assert added(ledger, notes_of(ledger), CANARY).status_code == 201, "another order has its own"
    assert ledger.client("admin").delete(f"{path}/{notes[0]['note_id']}").status_code == 204
    assert added(ledger, path, f"{CANARY} 3").status_code == 201
    assert [row["text"] for row in listed(ledger, path)] == [f"{CANARY} {n}" for n in (1, 2, 3)]


def test_notes_that_are_added_at_the_same_time_do_not_exceed_that_number(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.routes.notes.MAX_NOTES", 1)
    path, sending, released = notes_of(ledger), list[object](), threading.Event()
    send_all = ledger.context.submissions.send_all

    async def send_when_let(records: Sequence[NewRecord]) -> list[Acked]:
        sending.append(records)
        await asyncio.to_thread(released.wait)
        return await send_all(records)

    def both_came_as_far_as_they_may() -> bool:
        waiting = "waiters:1" in repr(ledger.context.note_lock(path.split("/")[2]))
        return len(sending) + waiting == 2

    monkeypatch.setattr(ledger.context.submissions, "send_all", send_when_let)
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(added, ledger, path, f"{CANARY} {n}") for n in range(2)]
        try:
            until(both_came_as_far_as_they_may)
        finally:
            released.set()
        assert sorted(answer.result().status_code for answer in answers) == [201, 422]
    assert len(listed(ledger, path)) == 1


@pytest.mark.parametrize("text", ["", "x" * 1001, "4111 1111 1111 1111"])
def test_a_note_has_its_bounds(ledger: RunningLedger, text: str) -> None:
    assert added(ledger, notes_of(ledger), text).status_code == 422
