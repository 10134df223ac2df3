"""The verbs about the log, as a person or a script runs them beside a running `up`."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pytest
from gateway import Gateway
from up_process import PROGRAM, UpProcess

pytestmark = pytest.mark.kafka
ROOT = Path(__file__).parents[2]


@pytest.fixture
def orders(up: UpProcess) -> list[httpx.Response]:
    """Three orders of a customer of their own; the second is cancelled."""

    async def place() -> list[httpx.Response]:
        async with Gateway(up.url, up.token("gateway")) as gateway:
            placed = [await gateway.place(number, "verbs", f"verbs-{number}") for number in (1, 2, 3)]
            await gateway.cancel(placed[1].json()["order_id"], "verbs")
            assert gateway.never == []
        return placed

    return asyncio.run(place())


def run(up: UpProcess, *arguments: str, code: int = 0) -> str:
    """Standard output of a verb that ends with `code`."""
    command = [PROGRAM, *arguments, "--data-dir", str(up.data)]
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert shown.returncode == code, shown.stdout + shown.stderr
    return shown.stdout


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_tail_shows_what_was_asked_for_in_every_form(up: UpProcess, orders: list[httpx.Response]) -> None:
    order_id = orders[1].json()["order_id"]
    found = lines(run(up, "tail", "--from", "beginning", "--no-follow", "--order", order_id, "--json"))
    assert {event["order_id"] for event in found} == {order_id}
    assert [event["version"] for event in found] == list(range(1, len(found) + 1))
    assert (found[0]["type"], "OrderCancelled" in {event["type"] for event in found}) == ("OrderPlaced", True)
    place = f"{found[0]['partition']}-{found[0]['offset']}"
    again = lines(run(up, "tail", "--from", place, "--no-follow", "--order", order_id, "--raw"))
    assert [(line["partition"], line["offset"]) for line in again] == [(e["partition"], e["offset"]) for e in found]
    assert again[0]["headers"]["ce_id"] == f"{order_id}/1"
    assert bytes.fromhex(again[0]["value_hex"])[0] == 0
    everything = ("tail", "--from", "beginning", "--no-follow", "--json")
    of_customer = lines(run(up, *everything, "--customer", "verbs", "--type", "OrderPlaced"))
    assert {order.json()["order_id"] for order in orders} <= {event["order_id"] for event in of_customer}
    shown = run(up, "tail", "--from", orders[1].json()["placed_at"], "--no-follow", "--order", order_id)
    assert [line.split()[4] for line in shown.splitlines()] == [event["type"] for event in found]
    assert run(up, "tail", "--from", "beginning", "--no-follow", "--check") == ""


def test_history_ends_where_it_is_told_and_diff_says_what_changed(up: UpProcess, orders: list[httpx.Response]) -> None:
    order = orders[1].json()
    whole = json.loads(run(up, "history", order["order_id"], "--json"))
    assert len(whole) >= 2
    until = json.loads(run(up, "history", order["order_id"], "--at", whole[0]["occurred_at"], "--json"))
    assert until == [row for row in whole if row["occurred_at"] <= whole[0]["occurred_at"]]
    cancelled = next(row["version"] for row in whole if row["type"] == "OrderCancelled")
    told = json.loads(run(up, "diff", order["order_id"], "1", str(cancelled), "--json"))
    changes = {change["field"]: (change["before"], change["after"]) for change in told["changes"]}
    assert changes["status"] == ("pending", "cancelled")
    assert changes["version"] == (1, cancelled)
    assert "lines[0].sku" not in changes
    assert "status " in run(up, "diff", order["order_id"], "1", str(cancelled))
    run(up, "diff", order["order_id"], "1", "999", code=1)


def test_verify_proves_the_log_and_the_read_models_and_holds_heads_against_it(
    up: UpProcess, orders: list[httpx.Response], tmp_path: Path
) -> None:
    heads = tmp_path / "heads.json"
    found = json.loads(run(up, "verify", "--write-heads", str(heads), "--json"))
    assert (found["well"], found["faults"], found["differences"], found["compared_with"]) == (True, 0, 0, "g000001")
    assert found["events"] >= 4
    assert found["rows"] > found["events"]
    assert json.loads(run(up, "verify", "--heads", str(heads), "--log-only", "--json"))["well"] is True
    told = json.loads(heads.read_text())
    told["partitions"]["0"]["events"] += 1
    heads.write_text(json.dumps(told))
    run(up, "verify", "--heads", str(heads), code=1)


def test_the_queries_of_the_readme_run_on_an_export(up: UpProcess, orders: list[httpx.Response], tmp_path: Path) -> None:
    parquet = tmp_path / "orders.parquet"
    run(up, "export", str(parquet))
    events = lines(run(up, "tail", "--from", "beginning", "--no-follow", "--json"))
    rows = duckdb.sql(f"SELECT partition, \"offset\", order_id, version, type FROM '{parquet}'").fetchall()
    names = ("partition", "offset", "order_id", "version", "type")
    assert {tuple(row) for row in rows} >= {tuple(event[name] for name in names) for event in events[:4]}
    block = re.search(r"```sql\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    queries = [query for query in block[1].replace("orders.parquet", str(parquet)).split(";") if query.strip()]
    assert len(queries) == 3
    money, sellers, paid = (duckdb.sql(query).fetchall() for query in queries)
    assert len(money) >= 1
    ours = {line["sku"] for order in (orders[0], orders[2]) for line in order.json()["lines"]}
    pieces = duckdb.sql(queries[1].replace("LIMIT 10", "")).fetchall()
    assert ours <= {sku for sku, _ in pieces}
    assert [count for _, count in sellers] == sorted((count for _, count in sellers), reverse=True)
    assert len(paid) == 1


def test_a_consumer_with_nothing_of_ours_reads_every_event(up: UpProcess, orders: list[httpx.Response], tmp_path: Path) -> None:
    code = (ROOT / "tests/consumers/tail_orders.py").read_text()
    assert len(code.splitlines()) < 60
    (tmp_path / "tail_orders.py").write_text(code)  # elsewhere: nothing of the project can be imported by accident
    count = len(run(up, "tail", "--from", "beginning", "--no-follow", "--json").splitlines())
    arguments = [up.bootstrap_servers, "order-events", up.url, up.token("reader"), str(count)]
    command = [sys.executable, "-I", "tail_orders.py", *arguments]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False)
    assert shown.returncode == 0, shown.stderr
    mine = [line for line in lines(shown.stdout) if line["order_id"] == orders[1].json()["order_id"]]
    assert [line["version"] for line in mine] == list(range(1, len(mine) + 1))
    assert len(lines(shown.stdout)) == count


def test_an_export_of_the_log_is_whole_and_a_changed_byte_is_refused(
    up: UpProcess, orders: list[httpx.Response], tmp_path: Path
) -> None:
    file = tmp_path / "ledger.log"
    run(up, "export-log", str(file))
    assert "is whole" in run(up, "import-log", str(file), "--check")
    run(up, "import-log", str(file), code=1)  # this ledger is not empty
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    run(up, "import-log", str(file), "--check", code=1)
    assert b"verbs@" not in bytes(data)
