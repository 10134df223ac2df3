"""A bug in a projection, from its discovery to its end: found by `verify`, fixed by a rebuild, and no read fails meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ledger.kafka.settings import KafkaSettings
from ledger.ports import free_port
from ledger.topics import Topics
from tests.support import processes
from tests.support.patience import PATIENCE_S, until
from tests.support.rebuilds import Traffic, rebuild, running

pytestmark = pytest.mark.kafka

# Python imports `sitecustomize` before anything else, so the real program runs with one rule changed.
BUG = """
from msgspec.structs import replace
from projections import read_models
right = read_models.evolve
def wrong(order, event):
    after = right(order, event)
    return replace(after, cancelled_by="nobody") if event.type == "OrderCancelled" else after
read_models.evolve = wrong
"""
FIX = """
from projections import read_models
read_models.VERSION += 1
"""


def program(folder: Path, name: str, change: str) -> dict[str, str]:
    """The environment for a program with a change."""
    place = folder / name
    place.mkdir()
    (place / "sitecustomize.py").write_text(change)
    return {"PYTHONPATH": str(place)}


def verify(node: processes.LedgerNode, env: dict[str, str]) -> tuple[int, dict[str, Any]]:
    environment = node.child("verify").env | env
    node.children.pop()
    command = [sys.executable, "-m", "api.cli", "verify", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.stdout, f"{done.stderr}\n{node.tails()}"
    return done.returncode, json.loads(done.stdout)


# the client may be connecting at the moment the old node stops listening
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_a_planted_bug_is_named_and_fixed_beside_live_traffic(tmp_path: Path, kafka: KafkaSettings, topics: Topics) -> None:
    buggy, fixed = program(tmp_path, "buggy", BUG), program(tmp_path, "fixed", FIX)
    with running(tmp_path, kafka, topics, **buggy) as (node, serve), ExitStack() as ends, Traffic(node, connections=2) as traffic:
        until(lambda: any(order.status == "cancelled" for order in traffic.gateway.acknowledged))

        code, report = verify(node, {"PYTHONPATH": ""})
        assert (code, report["ok"], report["faults"]) == (1, False, 0)
        first = report["first_differences"][0]
        assert (first["row"], first["field"], first["live"], first["fold"]) == ("order", "cancelled_by", "'nobody'", "'customer'")
        cancelled = {order.order_id for order in traffic.gateway.acknowledged if order.status == "cancelled"}
        named = {difference["order_id"] for difference in report["first_differences"] if difference["row"] == "order"}
        assert named & cancelled
        assert {difference["row"] for difference in report["first_differences"]} <= {"order"}

        code, report = verify(node, buggy)
        assert (code, report["differences"]) == (0, 0), "the buggy program sees nothing, because it is the same fold"

        node._env |= fixed
        report = rebuild(node)
        assert (report["equal"], report["taken_over"], report["generation"]) == (None, "no", "g000002")
        assert "version" in report["not_compared_because"]

        node.port = free_port()
        node.url = f"http://127.0.0.1:{node.port}"
        node._env |= {"PORT": str(node.port)}
        node.child("serve").start()  # beside the old one, in the same directory of databases
        node.wait_ready()
        successor = ends.enter_context(Traffic(node, connections=2, first=100_000))
        traffic.__exit__()
        assert serve.stop() == 0
        until(lambda: successor.gateway.acknowledged)
        code, report = verify(node, fixed)
        assert (code, report["ok"], report["compared_with"]) == (0, True, "g000002"), report
    traffic.check()
    successor.check()
