"""Orders of an older service: through the API and the verb, with their times, status and number, and nothing owed for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from api.cli.verbs import app
from api.routes.imports import IMPORT
from commands.idempotency import NEW_ORDER, command_id_of, order_id_of
from commands.obligations import obligations
from ledger.memory.log import MemoryLog
from ledger.order import display
from ledger.order_numbers import read_number
from ledger.topics import Topics
from tests.support.harness import RunningLedger, decided, deciding_again, key, order_body, placed, running_ledger
from tests.support.patience import until


@pytest.fixture
def ledger() -> Iterator[RunningLedger]:
    with running_ledger(MemoryLog(), Topics()) as running:
        yield running


def old_order(old_id: str = "order-4711", **changes: Any) -> dict[str, Any]:
    """A delivered order of an older service, with `changes`; None removes a member."""
    new = order_body()
    body = {name: new[name] for name in ("currency", "lines", "adjustments", "total_minor", "contact")} | {
        "old_id": old_id,
        "customer_id": "c-9",
        "placed_at": "2024-11-30T10:15:00Z",
        "status": "delivered",
        "captured_minor": new["total_minor"],
        "refunded_minor": 0,
        "shipped_at": "2024-12-01T09:00:00Z",
        "delivered_at": "2024-12-03T16:20:00Z",
        **changes,
    }
    return {name: value for name, value in body.items() if value is not None}


CANCELLED = {"status": "cancelled", "shipped_at": None, "delivered_at": None, "cancel_reason": "customer_request"}


def test_an_imported_order_is_as_it_was_and_owes_nothing(ledger: RunningLedger) -> None:
    desk = ledger.client("admin")
    answer = desk.post("/imports", json=old_order(number="SHOP-4711"), headers={"Prefer": "wait=10"})
    assert answer.status_code == 201, answer.text
    order = answer.json()
    assert (order["status"], order["version"], order["number"]) == ("delivered", 1, "SHOP-4711")
    assert (order["placed_at"], order["shipped_at"]) == ("2024-11-30T10:15:00.000Z", "2024-12-01T09:00:00.000Z")
    assert order["captured_minor"] == order["total_minor"]
    assert [line["shipped_quantity"] for line in order["lines"]] == [line["quantity"] for line in order["lines"]]
    assert order["contact"]["name"] == order_body()["contact"]["name"]
    ctx = ledger.context
    kept = ctx.queries.order(ctx.partition_of(order["order_id"]), order["order_id"])
    assert kept is not None
    assert (display(kept), obligations(kept)) == ("delivered", ())
    again = desk.post("/imports", json=old_order(number="SHOP-4711"))
    assert (again.content, again.headers["idempotency-replayed"]) == (answer.content, "true")
    other = desk.post("/imports", json=old_order(number="SHOP-4711", captured_minor=0))
    assert other.status_code == 422
    mine = ledger.client("gateway", "c-9").get(f"/orders/{order['order_id']}")
    assert mine.json()["status"] == "delivered"


def test_an_imported_number_that_reads_like_one_of_the_ledger_is_the_number_of_its_order(ledger: RunningLedger) -> None:
    """Its last character happens to be the check character of the others."""
    number = "2024000039"
    assert read_number(number) != number
    desk = ledger.client("admin")
    order = desk.post("/imports", json=old_order(number=number)).json()
    assert order["number"] == number
    own = placed(ledger.client())
    for client in (desk, ledger.client("reader"), ledger.client("gateway", "c-9")):
        rows = client.get("/orders", params={"number": number}).json()["data"]
        assert [row["order_id"] for row in rows] == [order["order_id"]]
    typed = own["number"].lower().replace("-", " ")
    rows = desk.get("/orders", params={"number": typed}).json()["data"]
    assert [row["order_id"] for row in rows] == [own["order_id"]]


def test_an_order_of_another_customer_with_exactly_this_number_hides_none_of_the_caller(ledger: RunningLedger) -> None:
    own = placed(ledger.client())
    typed = own["number"].replace("-", "")
    assert ledger.client("admin").post("/imports", json=old_order(number=typed)).status_code == 201
    rows = ledger.client().get("/orders", params={"number": typed}).json()["data"]
    assert [row["order_id"] for row in rows] == [own["order_id"]]


def test_an_imported_order_can_be_moved_along_but_its_money_is_elsewhere(ledger: RunningLedger) -> None:
    desk = ledger.client("admin")
    order = desk.post("/imports", json=old_order(status="paid", shipped_at=None, delivered_at=None)).json()
    path = f"/orders/{order['order_id']}"
    for code, answer in (
        ("order-imported", desk.post(f"{path}/cancel", json={}, headers=key())),
        ("order-imported", desk.post(f"{path}/refunds", json={"amount_minor": 1, "reason": "late"}, headers=key())),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, code), answer.text
    shipped = desk.put(f"{path}/status", json={"status": "shipped", "carrier": "DHL"}, headers=key())
    assert (shipped.status_code, shipped.json()["status"]) == (200, "shipped"), shipped.text


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "pending"},
        {"captured_minor": 1},
        {"refunded_minor": 10**6},
        {"shipped_at": None},
        {"delivered_at": "2024-11-01T00:00:00Z"},
        {"delivered_at": "2999-01-01T00:00:00Z"},
        {"placed_at": "yesterday"},
        CANCELLED,
        CANCELLED | {"captured_minor": 0, "carrier": "DHL"},
        {"total_minor": 1, "captured_minor": 1},
    ],
)
def test_an_impossible_order_is_refused(ledger: RunningLedger, changes: dict[str, Any]) -> None:
    answer = ledger.client("admin").post("/imports", json=old_order(**changes))
    assert answer.status_code == 422, answer.text


def write(file: Path, *lines: dict[str, Any] | str) -> Path:
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return file


def test_the_verb_imports_a_file_reports_refused_lines_and_may_be_repeated(ledger: RunningLedger, tmp_path: Path) -> None:
    total = order_body()["total_minor"]
    file = write(
        tmp_path / "orders.jsonl",
        *(old_order(f"order-{n}") for n in range(40)),
        old_order("order-cancelled", **CANCELLED, captured_minor=total, refunded_minor=total),
        "",
        old_order("order-odd", status="pending"),
        "{not JSON",
        old_order("order-0", captured_minor=total, refunded_minor=1),
    )

    def run(*options: str) -> tuple[int, dict[str, Any]]:
        address = ["--url", ledger.url, "--token", ledger.tokens["admin"]]
        ran = CliRunner().invoke(app, ["import-orders", str(file), "--json", *(options or address)])
        return ran.exit_code, json.loads(ran.stdout)

    before = ledger.count(ledger.topics.events)
    code, dry = run("--dry-run")
    assert (code, dry["valid"], [row["line"] for row in dry["refused"]]) == (1, 41, [43, 44, 45])
    assert ledger.count(ledger.topics.events) == before
    code, report = run()
    assert (code, report["imported"]) == (1, 41)
    assert [(row["line"], row["code"]) for row in report["refused"]] == [
        (43, "invalid-field"),
        (44, "malformed-json"),
        (45, "idempotency-key-reused"),
    ]
    code, again = run()
    assert (code, again["imported before"], again.get("imported")) == (1, 41, None)
    listed = ledger.client("admin").get("/orders", params={"customer_id": "c-9", "limit": 100}).json()["data"]
    assert len(listed) == 41


def test_the_verb_needs_an_admin(ledger: RunningLedger, tmp_path: Path) -> None:
    file, before = write(tmp_path / "orders.jsonl", old_order()), ledger.count(ledger.topics.events)
    ran = CliRunner().invoke(app, ["import-orders", str(file), "--url", ledger.url, "--token", ledger.tokens["reader"]])
    assert ran.exit_code != 0
    assert ledger.count(ledger.topics.events) == before


def in_different_partitions(ledger: RunningLedger) -> tuple[str, str]:
    """Two old ids whose orders are in different partitions, so that no writer knows the numbers of both."""
    places: dict[int, str] = {}
    for n in range(100):
        order_id = order_id_of(command_id_of("", "", IMPORT, NEW_ORDER, f"same-{n}"))
        places.setdefault(ledger.context.partition_of(order_id), f"same-{n}")
    first, second, *_ = places.values()
    return first, second


def test_of_two_lines_with_one_number_the_second_is_refused_and_both_are_named(ledger: RunningLedger, tmp_path: Path) -> None:
    first, second = in_different_partitions(ledger)
    file = write(tmp_path / "orders.jsonl", old_order(first, number="N-1"), old_order(second, number="N-1"))
    address = ["--url", ledger.url, "--token", ledger.tokens["admin"]]
    for options, counted in ((["--dry-run"], "valid"), (address, "imported"), (address, "imported before")):
        ran = CliRunner().invoke(app, ["import-orders", str(file), "--json", *options])
        report = json.loads(ran.stdout)
        assert (ran.exit_code, report[counted], report["refused"][0]["line"]) == (1, 1, 2), options
        assert report["refused"][0]["code"] == "repeated-number"
        assert "line 1" in report["refused"][0]["detail"]
    listed = ledger.client("admin").get("/orders", params={"customer_id": "c-9"}).json()["data"]
    assert [row["number"] for row in listed] == ["N-1"]


def test_two_lines_of_one_order_may_have_its_number(ledger: RunningLedger, tmp_path: Path) -> None:
    """The second one is a repetition of the first one."""
    file = write(tmp_path / "orders.jsonl", old_order(number="N-1"), old_order(number="N-1"))
    ran = CliRunner().invoke(app, ["import-orders", str(file), "--json", "--url", ledger.url, "--token", ledger.tokens["admin"]])
    report = json.loads(ran.stdout)
    assert (ran.exit_code, report["refused"]) == (0, [])


def test_an_accepted_import_is_answered_as_before_although_another_order_got_its_number_too(ledger: RunningLedger) -> None:
    """Both were sent before either was decided, as by two verbs: neither writer knows the number of the other."""
    bodies = [old_order(old_id, number="N-1") for old_id in in_different_partitions(ledger)]
    desk = ledger.client("admin")
    ledger.stop_deciding()
    for body in bodies:
        assert desk.post("/imports", json=body, headers={"Prefer": "respond-async"}).status_code == 202
    with deciding_again(ledger):
        until(lambda: len(desk.get("/orders", params={"customer_id": "c-9"}).json()["data"]) == 2)
        again = [desk.post("/imports", json=body) for body in bodies]
        assert [(answer.status_code, answer.headers.get("idempotency-replayed")) for answer in again] == [(201, "true")] * 2
        third = desk.post("/imports", json=old_order("third", number="N-1"))
        assert (third.status_code, third.json()["code"]) == (409, "number-in-use")
        for body in bodies:
            other = decided(desk, "/imports", body | {"customer_id": "c-10"})
            assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")
