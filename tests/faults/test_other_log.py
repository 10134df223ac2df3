"""The old state directories beside a log that is not the one from before: real processes, real topics, the verbs as processes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka.admin import AdminClient

from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.topics import Topics
from tests.support import loopback
from tests.support.folds import projection_differences
from tests.support.gateway import Gateway
from tests.support.harness import decided
from tests.support.patience import PATIENCE_S, until
from tests.support.processes import TOKENS, Child, LedgerNode

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]
ORDERS = 24
ADVICE = "order-ledger adopt-log"


@pytest.fixture
def node(tmp_path: Path, kafka: KafkaSettings, topics: Topics) -> Iterator[LedgerNode]:
    node = LedgerNode(tmp_path, kafka.bootstrap_servers, topics)
    yield node
    node.end()


def verb(node: LedgerNode, *arguments: str, code: int = 0, state: str = "one") -> subprocess.CompletedProcess[str]:
    env = node.child(arguments[0], state).env | {"NO_COLOR": "1", "COLUMNS": "200"}
    node.children.pop()
    command = [sys.executable, "-m", "api.cli", *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == code, f"{arguments}: {done.stdout}\n{done.stderr}\n{node.tails()}"
    return done


def run_beside(node: LedgerNode, numbers: range, state: str = "one") -> dict[str, dict[str, Any]]:
    """Start both processes, place these orders, wait until this is noted as current, and stop. The answers by order id."""
    commands, serve, began = node.child("commands", state), node.child("serve", state), time.time()
    commands.start()
    serve.start()
    node.wait_ready()
    answers = asyncio.run(place(node, numbers))
    notes = node.state_dir(state) / "projections"
    until(lambda: any(note.stat().st_mtime >= began for note in notes.glob("g*/current_at.json")))
    assert [serve.stop(), commands.stop()] == [0, 0], node.tails()
    return answers


async def place(node: LedgerNode, numbers: range) -> dict[str, dict[str, Any]]:
    async with Gateway(node.url, TOKENS["gateway"], connections=4) as gateway:
        answers = await asyncio.gather(*(gateway.place(number, "c-1") for number in numbers))
        assert gateway.never == []
    return {answer.json()["order_id"]: answer.json() | {"contact": None} for answer in answers}


def read(node: LedgerNode, order_id: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {TOKENS['gateway']}", "Customer-Id": "c-1"}
    with loopback.client(base_url=node.url, headers=headers, timeout=PATIENCE_S) as client:
        return client.get(f"/orders/{order_id}")


def delete_topics(node: LedgerNode) -> None:
    admin = AdminClient({"bootstrap.servers": node.bootstrap})
    names = [spec.name for spec in node.topics.specs(node.partitions, node.writers)]
    for future in admin.delete_topics(names, operation_timeout=PATIENCE_S).values():
        future.result(PATIENCE_S)
    until(lambda: not set(names) & set(admin.list_topics(timeout=PATIENCE_S).topics))


def ended(child: Child) -> int:
    until(lambda: child.ended() is not None)
    return child.ended() or 0


def assert_refused(node: LedgerNode) -> None:
    """Both processes end with one line that says what to do, and so do the verbs that compare; a second time, too."""
    for _ in range(2):
        for name in ("serve", "commands"):
            child = node.child(name)
            child.start()
            assert ended(child) == 1, node.tails()
            last = child.log_file.read_text().splitlines()[-1]
            assert "error (not_this_log)" in last, last
            assert ADVICE in last
            assert "Traceback" not in child.log_file.read_text()
    for name in ("rebuild", "verify"):
        assert ADVICE in verb(node, name, code=1).stderr
    shown = json.loads(verb(node, "inspect", "--json", code=1).stdout)
    assert not shown["ok"]
    assert {holder["log"] for holder in shown["holders"] if holder["name"].startswith(("read", "orders"))} == {"other"}
    assert ADVICE in verb(node, "inspect", code=1).stdout


def test_a_restored_log_is_folded_again_and_continues(node: LedgerNode, tmp_path: Path) -> None:
    answers = run_beside(node, range(ORDERS))
    verb(node, "export-log", str(tmp_path / "ledger.avro"))
    delete_topics(node)
    verb(node, "import-log", str(tmp_path / "ledger.avro"))
    shown = json.loads(verb(node, "inspect", "--json").stdout)
    assert "moved" in {holder["log"] for holder in shown["holders"]}
    report = json.loads(verb(node, "verify", "--json").stdout)
    assert (report["ok"], report["events"]) == (True, ORDERS)

    commands, serve = node.child("commands"), node.child("serve")
    commands.start()
    serve.start()
    node.wait_ready()
    for order_id, order in answers.items():
        assert read(node, order_id).json() | {"contact": None} == order
    again = asyncio.run(place(node, range(ORDERS)))  # retries meet their first attempts
    assert again == answers
    more = asyncio.run(place(node, range(ORDERS, ORDERS + 4)))
    assert {order["version"] for order in more.values()} == {1}
    report = json.loads(verb(node, "verify", "--json").stdout)
    assert (report["ok"], report["events"], report["differences"]) == (True, ORDERS + 4, 0)
    assert json.loads(verb(node, "rebuild", "--json").stdout)["equal"] is True
    assert [serve.stop(), commands.stop()] == [0, 0], node.tails()
    assert projection_differences(node.state_dir("one"), node.bootstrap, node.topics, node.partitions) == []
    shown = json.loads(verb(node, "inspect", "--json").stdout)
    assert {holder["log"] for holder in shown["holders"]} == {"same"}


def test_a_recreated_log_is_refused_until_it_is_adopted(node: LedgerNode, kafka: KafkaSettings) -> None:
    answers = run_beside(node, range(ORDERS))
    delete_topics(node)
    KafkaLog(kafka).ensure_topics(node.topics.specs(node.partitions, node.writers), PATIENCE_S)
    assert_refused(node)
    assert "pass --yes" in verb(node, "adopt-log", "--why", "a test", code=2).stderr
    assert "--why" in verb(node, "adopt-log", "--why", " ", "--yes", code=1).stderr
    done = json.loads(verb(node, "adopt-log", "--why", "the disks burned", "--yes", "--json").stdout)
    assert (done["ok"], done["adopted"]) == (True, True)
    audit = [json.loads(line) for line in verb(node, "audit", "--json", "--action", "log_adoption").stdout.splitlines()]
    assert [(r["outcome"], r["why"], r["actor"][:4]) for r in audit] == [
        ("requested", "the disks burned", "cli:"),
        ("done", "the disks burned", "cli:"),
    ]
    assert json.loads(verb(node, "inspect", "--json").stdout)["ok"] is True
    new = run_beside(node, range(ORDERS, ORDERS + 4))
    serve = node.child("serve")
    serve.start()
    node.wait_ready()
    assert {read(node, order_id).status_code for order_id in answers} == {404}
    assert {read(node, order_id).status_code for order_id in new} == {200}
    assert serve.stop() == 0
    assert json.loads(verb(node, "verify", "--json").stdout)["ok"] is True


def test_a_log_that_was_restored_too_short_and_has_grown_since_is_refused(node: LedgerNode, tmp_path: Path) -> None:
    """Another node, without the old state, takes orders on it, until it is longer than before."""
    run_beside(node, range(8))
    verb(node, "export-log", str(tmp_path / "ledger.avro"))
    run_beside(node, range(8, ORDERS))
    delete_topics(node)
    verb(node, "import-log", str(tmp_path / "ledger.avro"))
    run_beside(node, range(100, 100 + 2 * ORDERS), state="two")
    assert_refused(node)


def test_an_order_is_frozen_and_thawed(node: LedgerNode) -> None:
    commands, serve = node.child("commands"), node.child("serve")
    commands.start()
    serve.start()
    node.wait_ready()
    order_id = next(iter(asyncio.run(place(node, range(1)))))

    def cancel(key: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {TOKENS['gateway']}", "Customer-Id": "c-1", "Prefer": "wait=10"}
        with loopback.client(base_url=node.url, headers=headers, timeout=PATIENCE_S) as client:
            return decided(client, f"/orders/{order_id}/cancel", {}, **{"Idempotency-Key": key})

    frozen = json.loads(verb(node, "freeze", order_id, "--why", "fraud?", "--yes", "--json").stdout)
    assert (frozen["ok"], frozen["order_id"]) == (True, order_id)
    refused = cancel("a")
    assert (refused.status_code, refused.json()["code"]) == (409, "order-frozen")
    until(lambda: [flag["code"] for flag in read(node, order_id).json()["attention"]] == ["frozen_by_operator"])
    assert "was frozen before" in verb(node, "freeze", order_id, "--why", "again", "--yes").stdout
    verb(node, "thaw", order_id, "--why", "it was not", "--yes")
    assert cancel("b").json()["status"] == "cancelled"
    assert "order_not_found" in verb(node, "freeze", "ord_unknown", "--why", "a test", "--yes", code=1).stdout
    audit = [json.loads(line) for line in verb(node, "audit", "--json", "--order", order_id).stdout.splitlines()]
    deeds = [(r["action"], r["outcome"], r["why"]) for r in audit]
    assert deeds == [
        ("order_freeze", "requested", "fraud?"),
        ("order_freeze", "done", "fraud?"),
        ("order_freeze", "requested", "again"),
        ("order_freeze", "done", "again"),
        ("order_thaw", "requested", "it was not"),
        ("order_thaw", "done", "it was not"),
    ]
    assert [serve.stop(), commands.stop()] == [0, 0], node.tails()
