"""The old state directories beside a log that is not the one from before: real processes, real topics, the verbs as processes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.topics import Topics
from tests.support import loopback
from tests.support.folds import projection_differences
from tests.support.harness import decided
from tests.support.old_state import ADVICE, assert_ends_refused, delete_topics, place, read, run_beside, verb
from tests.support.patience import PATIENCE_S, until
from tests.support.processes import TOKENS, LedgerNode

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]
ORDERS = 24


@pytest.fixture
def node(tmp_path: Path, kafka: KafkaSettings, topics: Topics) -> Iterator[LedgerNode]:
    node = LedgerNode(tmp_path, kafka.bootstrap_servers, topics)
    yield node
    node.end()


def assert_refused(node: LedgerNode) -> None:
    """Both processes end with one line that says what to do, and so do the verbs that compare; a second time, too."""
    for _ in range(2):
        for name in ("serve", "commands"):
            assert_ends_refused(node.child(name), node)
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
