"""The end of contacts: those that no event names go after a day, those of ended orders when the settings say so, no others."""

from __future__ import annotations

import asyncio
import time

import pytest

from api.processes.contact_expiry import is_unnamed, let_the_log_compact, sweep
from ledger.contacts import BARRIER_KEY, Address, OrderContact, contact_key
from ledger.errors import NotCaughtUp, NotDurable
from ledger.log import Acked, NewRecord
from ledger.memory.log import MemoryLog
from ledger.schemas.codec import contact_codec
from ledger.topics import DAY_MS
from projections.read_models import Frozen, encode
from tests.support.everybodys_orders import raise_attention
from tests.support.harness import RunningLedger, another_node, key, order_body
from tests.support.patience import PATIENCE_S, until
from tests.support.serving import AdjustableStatus

HOUR_MS = DAY_MS // 24
ADA = contact_codec().encode(OrderContact("c-1", "Ada", "ada@example.org", Address("1 Mill Lane", "Leeds", "LS1 1AA", "GB")))


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def swept(ledger: RunningLedger, at_ms: int) -> int:
    return asyncio.run_coroutine_threadsafe(sweep(ledger.context, at_ms), ledger.loop).result(PATIENCE_S)


def left_in_log(ledger: RunningLedger) -> dict[bytes | None, bytes | None]:
    """The contacts that compaction will leave: the last value of every key."""
    return {r.key: r.value for r in ledger.records(ledger.topics.contacts)}


def write_contact(ledger: RunningLedger, order_id: str, written_at: int, value: bytes = ADA) -> bytes:
    """A contact without a command, as a crash between the two leaves it; folded when this returns."""
    name = contact_key(order_id, b"d" * 32)
    acks: list[Acked | None] = []
    record = NewRecord(ledger.topics.contacts, ledger.context.partition_of(order_id), name, value, written_at)
    ledger.context.sender.send(record, lambda acked, error: acks.append(acked))
    deadline = time.monotonic() + PATIENCE_S
    while ledger.context.projector.contacts.written_at(name) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return name


def placed(ledger: RunningLedger, in_partition_of: str | None = None) -> str:
    """A new order's id; with `in_partition_of`, the first of several that is in that order's partition."""
    while True:
        order_id = str(ledger.client().post("/orders", json=order_body(), headers=key()).json()["order_id"])
        if in_partition_of is None or ledger.context.partition_of(order_id) == ledger.context.partition_of(in_partition_of):
            return order_id


def has_contact(ledger: RunningLedger, order_id: str) -> bool:
    return ledger.client().get(f"/orders/{order_id}").json()["contact"] is not None


def test_a_contact_that_no_event_names_goes_after_a_day_and_not_before(ledger: RunningLedger) -> None:
    old = write_contact(ledger, "ord_old", now_ms() - DAY_MS)
    unreadable = write_contact(ledger, "ord_old2", now_ms() - DAY_MS, b"junk")
    young = write_contact(ledger, "ord_young", now_ms() - DAY_MS + HOUR_MS)
    named = [placed(ledger, gone) for gone in ("ord_old", "ord_old2")]
    assert swept(ledger, now_ms()) == 2
    last = left_in_log(ledger)
    assert (last[old], last[unreadable], last[young]) == (None, None, ADA)
    assert all(has_contact(ledger, order_id) for order_id in named)
    assert swept(ledger, now_ms()) == 0, "gone here immediately"


def test_a_contact_of_an_order_that_has_another_one_is_not_named(ledger: RunningLedger) -> None:
    order_id = placed(ledger)
    other = write_contact(ledger, order_id, now_ms() - 2 * DAY_MS)
    assert swept(ledger, now_ms()) == 1
    assert left_in_log(ledger)[other] is None
    assert has_contact(ledger, order_id)


def test_a_contact_whose_command_may_still_be_waiting_stays() -> None:
    written = 1_800_000_000_000
    assert is_unnamed(written, written + HOUR_MS, written + DAY_MS)
    assert not is_unnamed(written, written + HOUR_MS - 1, written + DAY_MS), "not decided yet"
    assert not is_unnamed(written, written + HOUR_MS, written + DAY_MS - 1), "not a day"


def test_contacts_of_ended_orders_go_only_when_the_settings_say_so(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, still_open = placed(ledger), placed(ledger)
    assert ledger.client().post(f"/orders/{ended}/cancel", headers=key()).status_code == 200
    swept(ledger, now_ms() + 400 * DAY_MS)
    assert has_contact(ledger, ended)
    monkeypatch.setattr(ledger.context.settings, "contact_retention_days", 30)
    swept(ledger, now_ms() + 29 * DAY_MS)
    assert has_contact(ledger, ended)
    swept(ledger, now_ms() + 30 * DAY_MS)
    assert (has_contact(ledger, ended), has_contact(ledger, still_open)) == (False, True)


@pytest.mark.parametrize("staleness_ms", [None, 60_000])
def test_a_node_that_is_behind_deletes_nothing(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch, staleness_ms: int | None
) -> None:
    monkeypatch.setattr(ledger.context.settings, "contact_retention_days", 30)
    ended = placed(ledger)
    assert ledger.client().post(f"/orders/{ended}/cancel", headers=key()).status_code == 200
    with monkeypatch.context() as behind:
        behind.setattr(ledger.context, "status", AdjustableStatus(staleness_ms=staleness_ms))
        with pytest.raises(NotCaughtUp):
            swept(ledger, now_ms() + 31 * DAY_MS)
    assert has_contact(ledger, ended)
    swept(ledger, now_ms() + 31 * DAY_MS)
    assert not has_contact(ledger, ended)


def test_a_node_that_does_not_know_yet_that_an_ended_order_needs_a_person_keeps_its_contact(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger.context.settings, "contact_retention_days", 30)
    ended = placed(ledger)
    assert ledger.client().post(f"/orders/{ended}/cancel", headers=key()).status_code == 200
    with another_node(ledger) as node:
        until(lambda: node.client("reader").get(f"/orders/{ended}").json().get("status") == "cancelled")
        node.folding.pause()
        raise_attention(ledger, ended, "att:x")
        monkeypatch.setattr(node.context, "status", AdjustableStatus(staleness_ms=60_000))
        with pytest.raises(NotCaughtUp):
            swept(node, now_ms() + 31 * DAY_MS)
    swept(ledger, now_ms() + 31 * DAY_MS)
    assert has_contact(ledger, ended)


def test_a_machine_whose_clock_is_a_month_ahead_of_the_logs_deletes_no_contact_early(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger.context.settings, "contact_retention_days", 30)
    monkeypatch.setattr(ledger.context.clock, "machine_ms", lambda: now_ms() + 31 * DAY_MS)
    ended = placed(ledger)
    assert ledger.client().post(f"/orders/{ended}/cancel", headers=key()).status_code == 200
    swept(ledger, now_ms() + 31 * DAY_MS)
    assert has_contact(ledger, ended)
    swept(ledger, now_ms() + 62 * DAY_MS)
    assert not has_contact(ledger, ended)


def test_more_contacts_than_one_slice_are_all_checked(ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [write_contact(ledger, f"ord_many{n}", now_ms() - 2 * DAY_MS) for n in range(30)]
    for n in range(30):
        if ledger.context.projector.log_time(ledger.context.partition_of(f"ord_many{n}")) == 0:
            placed(ledger, f"ord_many{n}")
    monkeypatch.setattr("api.processes.contact_expiry.SLICE_ROWS", 7)
    assert swept(ledger, now_ms()) == 30
    last = left_in_log(ledger)
    assert [last[name] for name in names] == [None] * 30


def test_a_partition_that_is_quiet_for_a_day_gets_a_record_that_lets_it_be_compacted(ledger: RunningLedger) -> None:
    order_id = placed(ledger)
    partition = ledger.context.partition_of(order_id)

    def barriers() -> list[int]:
        return sorted({r.partition for r in ledger.records(ledger.topics.contacts) if r.key == BARRIER_KEY})

    ledger.run(let_the_log_compact(ledger.context, now_ms() + DAY_MS // 2))
    assert barriers() == []
    contacts = ledger.context.projector.contacts
    used = [p for p in range(ledger.context.partitions) if contacts.last_written_at(p)]
    assert partition in used
    ledger.run(let_the_log_compact(ledger.context, now_ms() + DAY_MS + HOUR_MS))
    assert barriers() == used
    assert has_contact(ledger, order_id)


def test_a_frozen_order_keeps_its_contact(ledger: RunningLedger) -> None:
    name = write_contact(ledger, "ord_frozen", now_ms() - 2 * DAY_MS)
    placed(ledger, "ord_frozen")
    partition = ledger.context.partition_of("ord_frozen")
    store = ledger.context.projector.store(partition)

    async def freeze(row: bytes | None) -> None:
        store.write({b"f/ord_frozen": row})

    asyncio.run_coroutine_threadsafe(freeze(encode(Frozen("ord_frozen", 7, "junk"))), ledger.loop).result(PATIENCE_S)
    assert swept(ledger, now_ms()) == 0
    asyncio.run_coroutine_threadsafe(freeze(None), ledger.loop).result(PATIENCE_S)
    assert swept(ledger, now_ms()) == 1
    assert left_in_log(ledger)[name] is None


def test_while_the_broker_is_unreachable_nothing_is_deleted(ledger: RunningLedger) -> None:
    if not isinstance(ledger.log, MemoryLog):
        pytest.skip("the outages of a real broker are in test_http_outage")
    name = write_contact(ledger, "ord_away", now_ms() - 2 * DAY_MS)
    placed(ledger, "ord_away")
    ledger.log.away(True)
    try:
        with pytest.raises(NotDurable):
            swept(ledger, now_ms())
    finally:
        ledger.log.away(False)
    assert ledger.context.projector.contacts.written_at(name) is not None
    assert swept(ledger, now_ms()) == 1
