"""The verbs about the log, as a person or a script runs them beside a running `up`."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import httpx
import pytest

from commands.sandbox.catalogue import order_body
from tests.support import loopback
from tests.support.gateway import Gateway
from tests.support.harness import decided
from tests.support.patience import PATIENCE_S, until
from tests.support.up_process import PROGRAM, UpProcess
from tests.support.verbs import lines, run

pytestmark = pytest.mark.kafka
ROOT = Path(__file__).parents[2]


@pytest.fixture
def orders(up: UpProcess) -> list[httpx.Response]:
    """Three orders of a customer of their own; the second is cancelled. Nothing more happens to them."""

    async def place() -> list[httpx.Response]:
        async with Gateway(up.url, up.token("gateway")) as gateway:
            placed = [await gateway.place(number, "verbs", f"verbs-{number}") for number in (1, 2, 3)]
            await gateway.cancel(placed[1].json()["order_id"], "verbs")
            assert gateway.never == []
        return placed

    orders = asyncio.run(place())
    headers = {"Authorization": f"Bearer {up.token('gateway')}", "Customer-Id": "verbs"}
    with loopback.client(base_url=up.url, headers=headers) as client:
        wait_reserved(client, orders[0], orders[2])
        until(lambda: stock_of(client, orders[1]) in ("released", "rejected"))
    return orders


def stock_of(client: httpx.Client, order: httpx.Response) -> str:
    stock: str = client.get(order.headers["Location"]).json()["axes"]["stock"]
    return stock


def wait_reserved(client: httpx.Client, *orders: httpx.Response) -> None:
    """Until then, an event of the order may be recorded between two runs of a verb."""
    until(lambda: all(stock_of(client, order) != "pending" for order in orders))


def test_tail_shows_the_requested_events_in_every_form(up: UpProcess, orders: list[httpx.Response]) -> None:
    order_id = orders[1].json()["order_id"]
    events = lines(run(up, "tail", "--from", "beginning", "--no-follow", "--order", order_id, "--json"))
    assert {event["order_id"] for event in events} == {order_id}
    assert [event["version"] for event in events] == list(range(1, len(events) + 1))
    assert (events[0]["type"], "OrderCancelled" in {event["type"] for event in events}) == ("OrderPlaced", True)
    place = f"{events[0]['partition']}-{events[0]['offset']}"
    again = lines(run(up, "tail", "--from", place, "--no-follow", "--order", order_id, "--raw"))
    assert [(line["partition"], line["offset"]) for line in again] == [(e["partition"], e["offset"]) for e in events]
    assert again[0]["headers"]["ce_id"] == f"{order_id}/1"
    assert bytes.fromhex(again[0]["value_hex"])[0] == 0
    everything = ("tail", "--from", "beginning", "--no-follow", "--json")
    of_customer = lines(run(up, *everything, "--customer", "verbs", "--type", "OrderPlaced"))
    assert {order.json()["order_id"] for order in orders} <= {event["order_id"] for event in of_customer}
    shown = run(up, "tail", "--from", orders[1].json()["placed_at"], "--no-follow", "--order", order_id)
    assert [line.split()[4] for line in shown.splitlines()] == [event["type"] for event in events]
    assert run(up, "tail", "--from", "beginning", "--no-follow", "--check") == ""
    (checked,) = lines(run(up, "tail", "--from", "beginning", "--no-follow", "--check", "--json"))
    assert checked.pop("events") >= len(events)
    assert checked == {"duplicates": 0, "gaps": 0, "chain_breaks": 0, "undecodable": 0}


def test_history_ends_at_the_given_version_and_diff_says_what_changed(up: UpProcess, orders: list[httpx.Response]) -> None:
    order = orders[1].json()
    whole = json.loads(run(up, "history", order["order_id"], "--json"))
    assert len(whole) >= 2
    early = json.loads(run(up, "history", order["order_id"], "--at", whole[0]["occurred_at"], "--json"))
    assert early == [row for row in whole if row["occurred_at"] <= whole[0]["occurred_at"]]
    cancelled = next(row["version"] for row in whole if row["type"] == "OrderCancelled")
    shown = json.loads(run(up, "diff", order["order_id"], "1", str(cancelled), "--json"))
    changes = {change["field"]: (change["before"], change["after"]) for change in shown["changes"]}
    assert changes["status"] == ("pending", "cancelled")
    assert changes["version"] == (1, cancelled)
    assert "lines[0].sku" not in changes
    assert "status " in run(up, "diff", order["order_id"], "1", str(cancelled))
    run(up, "diff", order["order_id"], "1", "999", code=1)


def test_verify_proves_the_log_and_the_read_models_and_compares_heads_with_it(
    up: UpProcess, orders: list[httpx.Response], tmp_path: Path
) -> None:
    heads = tmp_path / "heads.json"
    report = json.loads(run(up, "verify", "--write-heads", str(heads), "--json"))
    assert (report["ok"], report["faults"], report["differences"], report["compared_with"]) == (True, 0, 0, "g000001")
    assert report["events"] >= 4
    assert report["rows"] > report["events"]
    assert json.loads(run(up, "verify", "--heads", str(heads), "--log-only", "--json"))["ok"] is True
    content = json.loads(heads.read_text())
    content["partitions"]["0"]["events"] += 1
    heads.write_text(json.dumps(content))
    run(up, "verify", "--heads", str(heads), code=1)


def test_the_queries_of_the_readme_run_on_an_export(up: UpProcess, orders: list[httpx.Response], tmp_path: Path) -> None:
    parquet = tmp_path / "orders.parquet"
    events = lines(run(up, "tail", "--from", "beginning", "--no-follow", "--json"))
    run(up, "export", str(parquet))
    rows = duckdb.sql(f"SELECT partition, \"offset\", order_id, version, type FROM '{parquet}'").fetchall()
    names = ("partition", "offset", "order_id", "version", "type")
    assert {tuple(row) for row in rows} >= {tuple(event[name] for name in names) for event in events}
    block = re.search(r"```sql\n(.*?)```", (ROOT / "projections/README.md").read_text(), re.DOTALL)
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


def test_a_consumer_without_the_products_code_reads_every_event(
    up: UpProcess, orders: list[httpx.Response], tmp_path: Path
) -> None:
    code = (ROOT / "tests/consumers/tail_orders.py").read_text()
    assert len(code.splitlines()) < 60
    (tmp_path / "tail_orders.py").write_text(code)  # another folder: nothing of the project can be imported by accident
    count = len(run(up, "tail", "--from", "beginning", "--no-follow", "--json").splitlines())
    arguments = [up.bootstrap_servers, "order-events", up.url, up.token("reader"), str(count)]
    command = [sys.executable, "-I", "tail_orders.py", *arguments]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, cwd=tmp_path, check=False)
    assert shown.returncode == 0, shown.stderr
    mine = [line for line in lines(shown.stdout) if line["order_id"] == orders[1].json()["order_id"]]
    assert [line["version"] for line in mine] == list(range(1, len(mine) + 1))
    assert len(lines(shown.stdout)) == count


def test_an_export_of_the_log_is_whole_and_a_changed_byte_is_refused(
    up: UpProcess, orders: list[httpx.Response], tmp_path: Path
) -> None:
    file = tmp_path / "ledger.log"
    run(up, "export-log", str(file))
    assert "is complete" in run(up, "import-log", str(file), "--check")
    run(up, "import-log", str(file), code=1)  # the ledger is not empty
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    run(up, "import-log", str(file), "--check", code=1)
    assert b"verbs@" not in bytes(data)


# ---- values as they are ---------------------------------------------------------------------------------------------

ODD_NAME = "Filter 1:100:5 [red]:coffee:[/] “№”" + " and more" * 9  # 116 characters: longer than a narrow terminal
NARROW = {"COLUMNS": "40", "NO_COLOR": "1"}


@pytest.fixture
def odd_order(up: UpProcess) -> str:
    """The id of an order whose article has a name full of characters that rich would interpret."""
    body = order_body(1)
    body["lines"][0]["name"] = ODD_NAME
    headers = {"Authorization": f"Bearer {up.token('gateway')}", "Customer-Id": "odd"}
    with loopback.client(base_url=up.url, headers=headers) as client:
        answer = decided(client, "/orders", body, **{"Idempotency-Key": "odd-1"})
        assert answer.status_code == 201, answer.text
        wait_reserved(client, answer)
    order_id: str = answer.json()["order_id"]
    return order_id


def shown_in(environment: dict[str, str], up: UpProcess, *arguments: str) -> str:
    """Standard output of a verb in a pipe, with this environment."""
    command = [PROGRAM, *arguments, "--data-dir", str(up.data)]
    shown = subprocess.run(command, capture_output=True, timeout=PATIENCE_S, env=os.environ | environment, check=False)
    assert shown.returncode == 0, shown.stderr
    return shown.stdout.decode("latin-1" if "PYTHONIOENCODING" in environment else "utf-8")


@pytest.mark.parametrize("environment", [NARROW, NARROW | {"PYTHONIOENCODING": "latin-1"}, NARROW | {"FORCE_COLOR": "1"}])
def test_output_for_machines_is_exactly_the_recorded_event(up: UpProcess, odd_order: str, environment: dict[str, str]) -> None:
    asked = ("tail", "--from", "beginning", "--no-follow", "--order", odd_order)
    events = lines(shown_in(environment, up, *asked, "--json"))
    assert events[0]["placed"]["lines"][0]["name"] == ODD_NAME
    assert len(lines(shown_in(environment, up, *asked, "--raw"))) == len(events)
    rows = json.loads(shown_in(environment, up, "history", odd_order, "--json"))
    assert rows[0]["detail"]["lines"][0]["name"] == ODD_NAME
    changed = json.loads(shown_in(environment, up, "diff", odd_order, "1", "1", "--json"))
    assert changed["changes"] == []


def test_a_person_too_sees_the_values_as_they_are_and_one_line_for_each_event(up: UpProcess, odd_order: str) -> None:
    asked = ("tail", "--from", "beginning", "--no-follow", "--order", odd_order)
    events = lines(shown_in(NARROW, up, *asked, "--json"))
    assert len(shown_in(NARROW, up, *asked).splitlines()) == len(events)
    history = shown_in(NARROW, up, "history", odd_order)
    assert ODD_NAME in history
    assert "\x1b" not in history


def test_a_reader_that_closes_the_pipe_ends_tail_without_an_error(up: UpProcess, orders: list[httpx.Response]) -> None:
    for form in ((), ("--json",), ("--raw",)):
        command = (
            f"'{PROGRAM}' tail --from beginning --data-dir '{up.data}' {' '.join(form)} | head -n 1; echo ${{PIPESTATUS[*]}}"
        )
        shown = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert shown.stdout.splitlines()[-1] == "0 0", shown.stdout
        assert shown.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("tail", "--from", "[/]"), "'[/]'"),
        (("tail", "--from", "1-99999999999999"), "order-events/1"),
        (("tail", "--from", "99-0"), "no partition 99"),
        (("export", "/proc/[old] data/x.parquet"), "[old] data"),
        (("export-log", "/proc/[old] data/x"), "[old] data"),
        (("export", "[x].parquet", "--from", "[/red]"), "'[/red]'"),
        (("verify", "--log-only", "--write-heads", "/proc/[old] data/x"), "[old] data"),
        (("verify", "--log-only", "--heads", "[odd].json"), "[odd].json"),
        (("history", "[/]"), "no order [/]"),
        (("history", "a\nb/../c"), "no order"),
    ],
)
def test_any_input_is_shown_as_typed_and_in_one_line(
    up: UpProcess, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    (tmp_path / "[odd].json").write_bytes(b"\xff[/]")
    command = [PROGRAM, *arguments, "--data-dir", str(up.data)]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, cwd=tmp_path, check=False)
    assert shown.returncode == 1, shown.stdout
    assert "Traceback" not in shown.stderr
    last = shown.stderr.splitlines()[-1]
    assert says in last


def test_a_file_in_a_folder_with_brackets_is_written_and_named(
    up: UpProcess, orders: list[httpx.Response], tmp_path: Path
) -> None:
    folder = tmp_path / "[old] data [red]"
    folder.mkdir()
    for verb, name in (("export", "x.parquet"), ("export-log", "x.log")):
        assert str(folder / name) in run(up, verb, str(folder / name))
        assert (folder / name).stat().st_size > 0
    assert "[old] data [red]" in run(up, "import-log", str(folder / "x.log"), "--check")


@pytest.mark.parametrize("verb", ["export", "export-log"])
def test_a_file_that_does_not_fit_on_the_disk_is_one_line_and_leaves_nothing(
    up: UpProcess, orders: list[httpx.Response], tmp_path: Path, verb: str
) -> None:
    command = f"ulimit -f 1; exec '{PROGRAM}' {verb} '{tmp_path / 'x'}' --data-dir '{up.data}'"
    shown = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert shown.returncode == 1
    assert "Traceback" not in shown.stderr
    assert len(shown.stderr.splitlines()) == 1, shown.stderr
    assert list(tmp_path.iterdir()) == []
