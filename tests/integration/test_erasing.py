"""The erasure of a customer with many contacts: in pieces, shown while it runs, finished by any node, exact."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from api.context import AppContext
from api.services import erasure
from api.services.audit import By
from ledger.audit import DONE
from ledger.contacts import Address, OrderContact, contact_key, erased_contact
from ledger.erasures import Erasure, KeptErasure, decode_erasure, is_erasure
from ledger.log import Acked, NewRecord
from ledger.memory.log import MemoryLog
from ledger.memory.store import MemoryStore
from ledger.schemas.codec import contact_codec
from ledger.topics import Topics
from ledger.turns import in_one_go
from projections.bulk import BulkFold
from projections.databases import Databases
from tests.support.harness import RunningLedger, key, order_body, running_ledger
from tests.support.patience import PATIENCE_S, until

PARTITIONS = 4


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningLedger]:
    monkeypatch.setattr(erasure, "SLICE_CONTACTS", 7)
    monkeypatch.setattr(erasure, "PAUSE_S", 0.0)
    monkeypatch.setattr(erasure, "RETRY_S", 0.02)
    with running_ledger(MemoryLog(), Topics()) as running:
        yield running


def on_loop(ledger: RunningLedger, coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run_coroutine_threadsafe(coroutine, ledger.loop).result(PATIENCE_S)


@contextmanager
def held_up(ledger: RunningLedger) -> Iterator[None]:
    """Erasures are promised, and wait there until the block ends."""
    erasures, released = ledger.context.erasures, threading.Event()
    work = erasures._erase

    async def work_when_let(promised: Erasure) -> int:
        await asyncio.to_thread(released.wait)
        return await work(promised)

    erasures._erase = work_when_let  # type: ignore[method-assign]
    try:
        yield
    finally:
        erasures._erase = work  # type: ignore[method-assign]
        released.set()


def write_contacts(ledger: RunningLedger, customer: str, count: int, first: int = 0, value: bytes | None = None) -> list[bytes]:
    """Write contacts that no order names yet, like those of undecided commands; folded on return. Returns their keys."""
    address = Address("1 Mill Lane", "Leeds", "LS1 1AA", "GB")
    contact = value or contact_codec().encode(OrderContact(customer, "Ada", "ada@example.org", address))
    keys, acks = [], list[Acked | None]()
    for number in range(first, first + count):
        order_id = f"ord_{customer}_{number}"
        name = contact_key(order_id, b"d" * 32)
        record = NewRecord(ledger.topics.contacts, ledger.context.partition_of(order_id), name, contact)
        ledger.context.sender.send(record, lambda acked, error: acks.append(acked))
        keys.append(name)
    until(lambda: len(acks) == count)
    assert None not in acks
    until(lambda: all(ledger.context.projector.contacts.written_at(name) is not None for name in keys))
    return keys


def left(ledger: RunningLedger) -> set[bytes | None]:
    """Keys of the contacts that compaction will leave."""
    last = {r.key: r.value for r in ledger.records(ledger.topics.contacts)}
    return {k for k, value in last.items() if value is not None and k and not is_erasure(k) and not erased_contact(k)}


def kept(ledger: RunningLedger) -> set[bytes]:
    """Keys of the contacts that this node has."""
    return set(in_one_go(ledger.context.projector.contacts.keys(b"", 10_000)))


def erase(ledger: RunningLedger, customer: str, prefer: str = "wait=10") -> Any:
    return ledger.client("operator").post(f"/customers/{customer}/erasure", headers={"Prefer": prefer})


def state(ledger: RunningLedger, customer: str) -> dict[str, Any]:
    answer: dict[str, Any] = ledger.client("operator").get(f"/customers/{customer}/erasure").json()
    return answer


def test_many_contacts_go_in_pieces_and_no_others(ledger: RunningLedger) -> None:
    mine, others = write_contacts(ledger, "c-9", 60), write_contacts(ledger, "c-99", 5)
    answer = erase(ledger, "c-9")
    assert (answer.status_code, answer.json()) == (200, {"contacts_deleted": len(mine)})
    assert answer.headers["preference-applied"] == "wait=10"
    assert set(others) <= left(ledger)
    assert not set(mine) & left(ledger)
    until(lambda: not set(mine) & kept(ledger))
    assert set(others) <= kept(ledger)


def test_an_erasure_that_takes_longer_is_promised_and_its_progress_is_shown(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "NOTE_S", 0.0)
    mine = write_contacts(ledger, "c-9", 60)
    with held_up(ledger):
        answer = erase(ledger, "c-9", "respond-async")
        assert (answer.status_code, answer.headers["location"]) == (202, "/customers/c-9/erasure")
        assert answer.json()["state"] == "running"
        assert state(ledger, "c-9") == answer.json() | {"contacts_deleted": 0, "done_at": None}
        assert set(mine) <= left(ledger)
    until(lambda: state(ledger, "c-9")["state"] == "done")
    done = state(ledger, "c-9")
    assert (done["contacts_deleted"], done["requested_at"]) == (60, answer.json()["requested_at"])
    assert done["done_at"] >= done["requested_at"]
    assert not set(mine) & left(ledger)
    noted = [r for r in ledger.records(ledger.topics.contacts) if is_erasure(r.key or b"")]
    assert len(noted) > 5, "progress was noted meanwhile"


def test_an_order_undecided_when_its_customer_is_erased_loses_its_contact(ledger: RunningLedger) -> None:
    """Its command is durable and undecided, so no order names the contact."""
    ledger.stop_deciding()
    before = left(ledger)
    client = ledger.client(customer="c-9")
    assert client.post("/orders", json=order_body(), headers=key() | {"Prefer": "respond-async"}).status_code == 202
    assert len(left(ledger) - before) == 1
    assert erase(ledger, "c-9").json() == {"contacts_deleted": 1}
    assert left(ledger) == before


def test_contacts_that_arrive_meanwhile_go_too(ledger: RunningLedger) -> None:
    before = write_contacts(ledger, "c-9", 20)
    with held_up(ledger):
        assert erase(ledger, "c-9", "respond-async").status_code == 202
        after = write_contacts(ledger, "c-9", 20, first=20)
        assert erase(ledger, "c-9", "respond-async").status_code == 202, "again, while the first one runs"
    until(lambda: state(ledger, "c-9")["state"] == "done")
    assert not set(before + after) & left(ledger)
    assert state(ledger, "c-9")["contacts_deleted"] == 40
    last = write_contacts(ledger, "c-9", 20, first=40)
    assert set(last) <= left(ledger), "it is over"


@contextmanager
def finishing(ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The next erasure waits, with all its work done, until the block ends; the event is set when it does."""
    reached, released = threading.Event(), threading.Event()
    keep = ledger.context.audit.keep

    async def keep_when_let(by: By, action: str, outcome: str, **about: Any) -> None:
        if outcome == DONE:
            reached.set()
            await asyncio.to_thread(released.wait)
        await keep(by, action, outcome, **about)

    monkeypatch.setattr(ledger.context.audit, "keep", keep_when_let)
    try:
        yield reached
    finally:
        released.set()


def test_an_erasure_that_is_requested_while_an_earlier_one_finishes_is_performed_too(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "NOTE_S", 10 * PATIENCE_S)
    before = write_contacts(ledger, "c-9", 3)
    with finishing(ledger, monkeypatch) as reached:
        first = erase(ledger, "c-9", "respond-async")
        until(reached.is_set)
        after = write_contacts(ledger, "c-9", 3, first=3)
        second = erase(ledger, "c-9", "respond-async")
        assert (first.status_code, second.status_code) == (202, 202)
    until(lambda: state(ledger, "c-9")["state"] == "done")
    assert not set(before + after) & left(ledger)
    noted = [decode_erasure(r.value or b"") for r in ledger.records(ledger.topics.contacts) if is_erasure(r.key or b"")]
    times = sorted({one.requested_at for one in noted})
    assert [(times.index(one.requested_at), one.done_at is not None) for one in noted] == [
        (0, False),
        (1, False),
        (0, True),
        (1, False),  # repeated: compaction keeps only the last record
        (1, True),
    ]


def test_while_the_broker_is_unreachable_it_waits_and_then_resumes(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(ledger.log, MemoryLog)
    mine, log = write_contacts(ledger, "c-9", 60), ledger.log
    slices, send_all = 0, ledger.context.submissions.send_all

    async def send_and_lose_the_broker(records: Any) -> list[Acked]:
        nonlocal slices
        acks = await send_all(records)
        slices += any(erased_contact(record.key) for record in records)
        if slices == 3:
            log.away(True)
            asyncio.get_running_loop().call_later(0.2, log.away, False)
        return acks

    monkeypatch.setattr(ledger.context.submissions, "send_all", send_and_lose_the_broker)
    assert erase(ledger, "c-9", "respond-async").status_code == 202
    until(lambda: state(ledger, "c-9")["state"] == "done")
    assert slices > 3
    assert not set(mine) & left(ledger)


# ---- who resumes ----------------------------------------------------------------------------------------------------


async def stop_in_the_middle(context: AppContext, customer: str, slices: int) -> Erasure:
    """Promise, do some of the work, and stop as a killed process does: nothing more is written or done."""
    send_all, done = context.submissions.send_all, asyncio.Event()
    count = 0

    async def send_some(records: Any) -> list[Acked]:
        nonlocal count
        count += any(erased_contact(record.key) for record in records)
        if count > slices:
            done.set()
            await asyncio.Event().wait()
        return await send_all(records)

    context.submissions.send_all = send_some  # type: ignore[method-assign]
    promised = await context.erasures.promise(customer)
    await done.wait()
    return promised


@pytest.mark.parametrize("other_node", [False, True])
def test_a_node_that_was_killed_or_another_one_finishes_it(monkeypatch: pytest.MonkeyPatch, other_node: bool) -> None:
    monkeypatch.setattr(erasure, "SLICE_CONTACTS", 7)
    monkeypatch.setattr(erasure, "PAUSE_S", 0.0)
    monkeypatch.setattr(erasure, "RESUME_EVERY_S", 0.02)
    log = MemoryLog()
    with running_ledger(log, Topics()) as ledger:
        mine = write_contacts(ledger, "c-9", 60)
        promised = on_loop(ledger, stop_in_the_middle(ledger.context, "c-9", 4))
        some = left(ledger)
        assert 0 < len(set(mine) & some) < len(mine), "it is in the middle"
    with running_ledger(log, Topics()) as ledger:
        erasures = ledger.context.erasures
        until(lambda: erasures.last("c-9") is not None)
        if other_node:
            erasures._node = "another"
        contacts = ledger.context.projector.contacts
        reads, erasures_in_progress = 0, contacts.erasures_in_progress

        def counted_read() -> list[KeptErasure]:
            nonlocal reads
            reads += 1
            return erasures_in_progress()

        contacts.erasures_in_progress = counted_read  # type: ignore[method-assign]
        working = asyncio.run_coroutine_threadsafe(erasures.go_on_for_ever(), ledger.loop)
        try:
            if other_node:
                seen = reads
                until(lambda: reads > seen + 3)
                assert set(mine) & left(ledger) == set(mine) & some, "the first node may come back"
                monkeypatch.setattr(erasure, "TAKE_OVER_MS", 0)
            until(lambda: state(ledger, "c-9")["state"] == "done")
        finally:
            working.cancel()
        assert not set(mine) & left(ledger)
        last = erasures.last("c-9")
        assert last is not None
        assert last.requested_at == promised.requested_at
        assert last.node == ("another" if other_node else promised.node)


def test_it_continues_in_databases_that_are_taken_over_meanwhile(ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, others = write_contacts(ledger, "c-9", 60), write_contacts(ledger, "c-99", 5)
    projector, send_all = ledger.context.projector, ledger.context.submissions.send_all
    taken_over = 0

    async def send_and_take_over(records: Any) -> list[Acked]:
        nonlocal taken_over
        acks = await send_all(records)
        if taken_over < 3:
            other = Databases(lambda name: MemoryStore(), ledger.topics, range(PARTITIONS), PARTITIONS)
            bulk = BulkFold(ledger.log, other, "other")
            bulk.run(bulk.ends())
            bulk.close()
            projector.take_over(other).close()  # nothing is awaited after the fold to the end, so no chunk comes between
            taken_over += 1
        return acks

    monkeypatch.setattr(ledger.context.submissions, "send_all", send_and_take_over)
    assert erase(ledger, "c-9", "respond-async").status_code == 202
    until(lambda: state(ledger, "c-9")["state"] == "done")
    assert taken_over == 3
    assert not set(mine) & left(ledger)
    assert set(others) <= left(ledger)
