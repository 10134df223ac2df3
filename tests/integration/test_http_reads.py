"""Reading over HTTP: one order, its past, lists, reports, and who may see what."""

from __future__ import annotations

import base64
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from api import call
from commands.idempotency import order_id_of
from ledger.log import NewRecord, Record, TopicPartition
from ledger.memory.log import MemoryLog
from ledger.schemas.codec import event_codec
from ledger.topics import Topics
from tests.support.harness import RunningLedger, key, order_body, running_ledger
from tests.support.patience import PATIENCE_S


@pytest.fixture(scope="module")
def ledger() -> Iterator[RunningLedger]:
    with running_ledger(MemoryLog(), Topics()) as running:
        yield running


def placed(client: httpx.Client, **changes: Any) -> dict[str, Any]:
    answer = client.post("/orders", json=order_body(**changes), headers=key())
    assert answer.status_code == 201, answer.text
    order: dict[str, Any] = answer.json()
    return order


def cancelled(client: httpx.Client, order: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(f"/orders/{order['order_id']}/cancel", headers=key())
    assert answer.status_code == 200, answer.text
    after: dict[str, Any] = answer.json()
    return after


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


# ---- one order ------------------------------------------------------------------------------------------------------


def test_an_order_is_read_as_of_a_version_and_as_of_a_time(ledger: RunningLedger) -> None:
    client = ledger.client()
    first = placed(client)
    time.sleep(0.005)
    second = cancelled(client, first)
    path = f"/orders/{first['order_id']}"
    assert client.get(path).json() == second
    old = client.get(f"{path}?version=1")
    assert (old.json(), old.headers["etag"]) == (first, '"1"')
    assert client.get(f"{path}?version=2").json() == second
    assert client.get(path, params={"at": first["updated_at"]}).json() == first
    assert client.get(path, params={"at": second["updated_at"]}).json() == second
    assert client.get(path, params={"at": "2999-01-01T00:00:00+01:00"}).json() == second
    assert code(client.get(path, params={"at": "2000-01-01T00:00:00Z"})) == (404, "version-not-found")
    assert code(client.get(f"{path}?version=3")) == (404, "version-not-found")


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("version=0", "invalid-field"),
        ("version=one", "invalid-field"),
        ("version=1&version=2", "invalid-field"),
        ("at=yesterday", "invalid-field"),
        ("version=1&at=2030-01-01T00:00:00Z", "invalid-field"),
        ("vresion=1", "unknown-field"),
    ],
)
def test_a_wrong_question_about_an_order_is_422(ledger: RunningLedger, query: str, wanted: str) -> None:
    client = ledger.client()
    answer = client.get(f"/orders/{placed(client)['order_id']}?{query}")
    assert code(answer) == (422, wanted)
    assert answer.json()["errors"][0]["in"] == "query"


@pytest.mark.parametrize(
    ("tag", "status"), [('"1"', 304), ('W/"1"', 304), ('"7", "1"', 304), ("*", 304), ('"2"', 200), ("1", 200)]
)
def test_a_version_the_client_has_is_not_sent_again(ledger: RunningLedger, tag: str, status: int) -> None:
    client = ledger.client()
    answer = client.get(f"/orders/{placed(client)['order_id']}", headers={"If-None-Match": tag})
    assert (answer.status_code, answer.headers["etag"], bool(answer.content)) == (status, '"1"', status == 200)


def test_a_read_waits_for_the_position_and_says_when_it_is_not_reached(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = ledger.client()
    order = placed(client)
    path = f"/orders/{order['order_id']}"
    partition, offset = client.get(path).headers["ledger-position"].split("-")
    began = time.monotonic()
    with monkeypatch.context() as much_longer:
        much_longer.setattr(call, "CATCH_UP_S", 2 * PATIENCE_S)
        behind = client.get(path, headers={"Ledger-Position": f"{partition}-{int(offset) + 99}", "Prefer": "wait=0"})
    assert code(behind) == (503, "not-caught-up")
    assert behind.headers["retry-after"] == "1"
    assert time.monotonic() - began < PATIENCE_S
    began = time.monotonic()
    assert code(client.get(path, headers={"Ledger-Position": f"{partition}-{int(offset) + 99}"})) == (503, "not-caught-up")
    assert 0.9 < time.monotonic() - began < PATIENCE_S
    assert client.get(path, headers={"Ledger-Position": f"{partition}-{offset}"}).status_code == 200
    for wrong in ("x", "1", "-1-1", "4-0", "1-1-1", "1-9999999999999999999", "१-१"):
        answer = client.get(path, headers={"Ledger-Position": wrong.encode()})  # type: ignore[dict-item]
        assert code(answer) == (422, "invalid-field"), wrong
        assert answer.json()["errors"] == [{"pointer": "/Ledger-Position", "code": "invalid-position", "in": "header"}]


def test_the_contact_is_for_the_owner_and_staff_but_not_for_readers(ledger: RunningLedger) -> None:
    owner = ledger.client()
    order = placed(owner)
    path = f"/orders/{order['order_id']}"
    assert owner.get(path).json()["contact"] == ledger.client("admin").get(path).json()["contact"] == order_body()["contact"]
    assert ledger.client("reader").get(path).json()["contact"] is None
    assert ledger.client("reader").get(f"{path}?version=1").json()["contact"] is None
    assert "ada@" not in ledger.client("reader").get("/orders").text


@pytest.mark.parametrize("order_id", ["nothing", "ord_" + "a" * 26, "x" * 65, "a%00b", "a.b", "%2e%2e", "ord_%F0%9F%98%80"])
def test_an_id_of_no_order_is_404(ledger: RunningLedger, order_id: str) -> None:
    for path in (f"/orders/{order_id}", f"/orders/{order_id}/events"):
        assert code(ledger.client("admin").get(path)) == (404, "order-not-found")


# ---- lists ----------------------------------------------------------------------------------------------------------


def pages(client: httpx.Client, **params: Any) -> list[list[dict[str, Any]]]:
    pages_read = []
    while True:
        answer = client.get("/orders", params=params)
        assert answer.status_code == 200, answer.text
        pages_read.append(answer.json()["data"])
        if answer.json()["next_cursor"] is None:
            return pages_read
        params["cursor"] = answer.json()["next_cursor"]


def test_pages_hold_every_order_once_newest_first(ledger: RunningLedger) -> None:
    client = ledger.client(customer="pager")
    order_ids = [placed(client)["order_id"] for _ in range(7)]
    pages_read = pages(client, limit=3)
    rows = [row for page in pages_read for row in page]
    assert [len(page) for page in pages_read if page] == [3, 3, 1]
    assert {row["order_id"] for row in rows} == set(order_ids)
    assert len(rows) == 7
    assert [row["placed_at"] for row in rows] == sorted((row["placed_at"] for row in rows), reverse=True)
    assert all(not {"lines", "adjustments", "contact"} & set(row) for row in rows)


def test_a_gateway_sees_its_customers_orders_only(ledger: RunningLedger) -> None:
    mine, other = ledger.client(customer="lister-1"), ledger.client(customer="lister-2")
    own, foreign = placed(mine)["order_id"], placed(other)["order_id"]
    assert [row["order_id"] for row in mine.get("/orders").json()["data"]] == [own]
    answer = mine.get("/orders", params={"customer_id": "lister-2"})
    assert code(answer) == (422, "unknown-field")
    staff = ledger.client("reader")
    assert [r["order_id"] for r in staff.get("/orders", params={"customer_id": "lister-2"}).json()["data"]] == [foreign]
    assert {own, foreign} <= {r["order_id"] for page in pages(staff, limit=100) for r in page}


def test_a_cursor_of_another_customer_or_filter_or_of_nobody_is_refused(ledger: RunningLedger) -> None:
    mine, other = ledger.client(customer="cursor-1"), ledger.client(customer="cursor-2")
    for _ in range(3):
        placed(mine)
        placed(other)
    cursor = other.get("/orders", params={"limit": 1}).json()["next_cursor"]
    assert mine.get("/orders", params={"limit": 1}).json()["next_cursor"] is not None
    forged = cursor[:-2] + ("A" if cursor[-2] != "A" else "B") + cursor[-1]
    for wrong in (cursor, "", "x", "é", "AAAA", forged, cursor + "A", "=" * 8):
        assert code(mine.get("/orders", params={"limit": 1, "cursor": wrong})) == (400, "invalid-cursor"), wrong
    assert code(other.get("/orders", params={"cursor": cursor, "status": "paid"})) == (400, "invalid-cursor")
    assert code(ledger.client("admin").get("/orders", params={"cursor": cursor})) == (400, "invalid-cursor")
    assert ledger.client("admin").get("/orders", params={"cursor": cursor, "customer_id": "cursor-2"}).status_code == 200
    assert len(other.get("/orders", params={"cursor": cursor, "limit": 50}).json()["data"]) == 2


def test_a_cursor_with_the_right_content_and_no_signature_is_refused(ledger: RunningLedger) -> None:
    client = ledger.client(customer="forger")
    for _ in range(3):
        placed(client)
    cursor = client.get("/orders", params={"limit": 1}).json()["next_cursor"]
    raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    for forged in (bytes(16) + raw[16:], raw[16:], raw[:16] + raw[16:].replace(b"/", b"0", 1)):
        text = base64.urlsafe_b64encode(forged).decode().rstrip("=")
        assert text != cursor
        assert code(client.get("/orders", params={"limit": 1, "cursor": text})) == (400, "invalid-cursor")
    assert client.get("/orders", params={"limit": 1, "cursor": cursor}).status_code == 200


def test_lists_are_filtered_by_status_and_time(ledger: RunningLedger) -> None:
    client = ledger.client(customer="filter")
    first = placed(client)
    time.sleep(0.005)
    second = cancelled(client, placed(client))
    assert [r["order_id"] for r in client.get("/orders?status=cancelled").json()["data"]] == [second["order_id"]]
    assert [r["order_id"] for r in client.get("/orders?status=pending").json()["data"]] == [first["order_id"]]
    assert client.get("/orders?status=paid").json() == {"data": [], "next_cursor": None}
    early = client.get("/orders", params={"placed_to": first["placed_at"]}).json()["data"]
    late = client.get("/orders", params={"placed_from": second["placed_at"]}).json()["data"]
    assert ([r["order_id"] for r in early], [r["order_id"] for r in late]) == ([first["order_id"]], [second["order_id"]])
    assert client.get("/orders?attention=true").json()["data"] == []
    for far in ("1969-12-31T23:59:59Z", "0001-01-01T00:00:00Z"):
        assert client.get("/orders", params={"placed_to": far}).json() == {"data": [], "next_cursor": None}
        assert len(client.get("/orders", params={"placed_from": far}).json()["data"]) == 2
    assert client.get("/orders", params={"placed_from": "9999-12-31T23:59:59Z"}).json()["data"] == []
    assert len(client.get("/orders", params={"placed_to": "9999-12-31T23:59:59Z"}).json()["data"]) == 2


@pytest.mark.parametrize(
    "query",
    ["status=lost", "limit=0", "limit=101", "limit=x", "placed_from=1", "attention=false", "attention=yes", "limit=1&limit=1"],
)
def test_a_wrong_filter_is_an_invalid_field(ledger: RunningLedger, query: str) -> None:
    assert code(ledger.client().get(f"/orders?{query}")) == (422, "invalid-field")


# ---- reports --------------------------------------------------------------------------------------------------------


def test_the_report_counts_what_happened_today(ledger: RunningLedger) -> None:
    client, desk = ledger.client(), ledger.client("admin")
    today = datetime.now(UTC).date()
    days = {"from": today.isoformat(), "to": (today + timedelta(days=1)).isoformat()}  # it may be a moment before midnight

    def totals() -> Counter[str]:
        counted: Counter[str] = Counter()
        for row in desk.get("/reports/daily", params=days | {"currency": "USD"}).json()["data"]:
            assert row["day"] in days.values()
            counted.update({name: value for name, value in row.items() if name not in ("day", "currency")})
        return counted

    before = totals()
    order = placed(client, currency="USD")
    cancelled(client, order)
    after = totals()
    changes = {name: after[name] - before[name] for name in after}
    assert changes == {
        "placed": 1,
        "placed_minor": 3400,
        "cancelled": 1,
        "shipped": 0,
        "delivered": 0,
        "captured_minor": 0,
        "refunded_minor": 0,
    }
    both = ledger.client("reader").get("/reports/daily", params=days).json()["data"]
    assert {"EUR", "USD"} >= {row["currency"] for row in both} >= {"USD"}


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("", "invalid-field"),
        ("from=2030-01-01", "invalid-field"),
        ("from=2030-01-02&to=2030-01-01", "invalid-field"),
        ("from=2030-02-30&to=2030-03-01", "invalid-field"),
        ("from=2030-01-01&to=2030-01-01&currency=eur", "invalid-field"),
        ("from=2030-01-01&to=2031-01-02", "limit-exceeded"),
        ("from=2030-01-01&to=2030-01-01&days=1", "unknown-field"),
    ],
)
def test_a_wrong_report_is_422(ledger: RunningLedger, query: str, wanted: str) -> None:
    assert code(ledger.client("admin").get(f"/reports/daily?{query}")) == (422, wanted)


def test_366_days_and_days_before_all_orders_are_a_report(ledger: RunningLedger) -> None:
    desk = ledger.client("admin")
    assert desk.get("/reports/daily?from=2028-01-01&to=2028-12-31").json() == {"data": []}
    assert desk.get("/reports/daily?from=0001-01-01&to=0001-12-31").json() == {"data": []}
    assert desk.get("/reports/daily?from=9999-01-01&to=9999-12-31").json() == {"data": []}


# ---- frozen ---------------------------------------------------------------------------------------------------------


def commit(ledger: RunningLedger, *records: NewRecord) -> None:
    """Write into the ledger as the processor would; it is stopped first."""
    writer = ledger.log.writer("intruder")
    writer.start(PATIENCE_S)
    ends = writer.transact(records)
    writer.close()
    deadline = time.monotonic() + PATIENCE_S
    while any(ledger.context.projector.positions()[tp] < end for tp, end in ends.items()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_order_whose_fold_stopped_is_shown_frozen_and_others_continue() -> None:
    with running_ledger(MemoryLog(), Topics()) as ledger:
        client, desk = ledger.client(), ledger.client("admin")
        order, other = placed(client), placed(client)
        order_id = order["order_id"]
        partition = ledger.context.partition_of(order_id)
        cancelled(client, other)
        ledger.stop_deciding()
        last = ledger.records(ledger.topics.events)[-1]
        for version in (7, 8):
            event = replace(event_codec().decode(last.value), order_id=order_id, version=version, command_id=f"cmd_odd{version}")
            commit(ledger, NewRecord(ledger.topics.events, partition, order_id.encode(), event_codec().encode(event)))

        frozen = client.get(f"/orders/{order_id}").json()["frozen"]
        assert (frozen["partition"], "version 7" in frozen["reason"]) == (partition, True)
        position = ledger.log.reader("inspection", isolation="read_uncommitted")
        position.assign({TopicPartition(ledger.topics.events, partition): frozen["offset"]})
        records: list[Record] = position.poll(1, 2)
        assert records[0].key == order_id.encode()
        assert client.get(f"/orders/{order_id}?version=1").json() == order | {"frozen": frozen}
        later = client.get(f"/orders/{order_id}?version=8")
        assert (code(later), later.json()["frozen"]) == ((409, "order-frozen"), frozen)
        assert [row["version"] for row in client.get(f"/orders/{order_id}/events").json()["data"]] == [1, 8]
        assert [row["frozen"] for row in desk.get("/orders").json()["data"] if row["order_id"] == order_id] == [frozen]
        assert "ledger_orders_frozen 1.0" in desk.get("/metrics").text
        assert client.get(f"/orders/{other['order_id']}").json()["frozen"] is None

        unknown = order_id_of("cmd_never")
        where = ledger.context.partition_of(unknown)
        commit(ledger, NewRecord(ledger.topics.events, where, unknown.encode(), b"not an event"))
        assert code(desk.get(f"/orders/{unknown}")) == (409, "order-frozen")
        assert desk.get(f"/orders/{unknown}").json()["frozen"]["partition"] == where
        assert code(client.get(f"/orders/{unknown}")) == (404, "order-not-found"), "its owner is unknown"
