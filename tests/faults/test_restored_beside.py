"""A cluster restored from `export-log` beside old state directories: each process continues correctly, or says what to do."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ledger.kafka.settings import KafkaSettings
from ledger.topics import Topics
from tests.support.folds import projection_differences
from tests.support.old_state import ADVICE, assert_ends_refused, delete_topics, place, read, run_beside, verb
from tests.support.processes import LedgerNode

pytestmark = [pytest.mark.kafka, pytest.mark.campaign, pytest.mark.timeout(1800)]
EARLY, ORDERS = 8, 24
KEPT = {"both": {"serve", "commands"}, "serve": {"serve"}, "commands": {"commands"}, "older": set(), "none": set()}
FOLDER = {"serve": "projections", "commands": "commands"}


class Variant(NamedTuple):
    """Whether the export has all orders, whether another node wrote to the restored log, and which state directories are kept.

    `older`: those of both processes, as of the early export.
    """

    whole: bool
    grown: bool
    kept: str

    def __str__(self) -> str:
        return f"{'whole' if self.whole else 'early'}-{'grown' if self.grown else 'as-it-was'}-{self.kept}"


VARIANTS = [Variant(*chosen) for chosen in product((True, False), (False, True), KEPT)]


@pytest.fixture
def node(tmp_path: Path, kafka: KafkaSettings, topics: Topics) -> Iterator[LedgerNode]:
    node = LedgerNode(tmp_path, kafka.bootstrap_servers, topics)
    yield node
    node.end()


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_each_process_continues_correctly_or_refuses(node: LedgerNode, tmp_path: Path, variant: Variant) -> None:
    archive, state = str(tmp_path / "ledger.avro"), node.state_dir("one")
    early = run_beside(node, range(EARLY))
    shutil.copytree(state, tmp_path / "older")
    if not variant.whole:
        verb(node, "export-log", archive)
    late = run_beside(node, range(EARLY, ORDERS))
    if variant.whole:
        verb(node, "export-log", archive)
    delete_topics(node)
    verb(node, "import-log", archive)
    new = run_beside(node, range(100, 100 + 2 * ORDERS), state="two") if variant.grown else {}
    for name, folder in FOLDER.items():
        if name not in KEPT[variant.kept]:
            shutil.rmtree(state / folder)
            if variant.kept == "older":
                shutil.copytree(tmp_path / "older" / folder, state / folder)

    refusing = set() if variant.whole else KEPT[variant.kept]
    for name in sorted(refusing):
        assert_ends_refused(node.child(name), node)
    if "serve" in refusing:
        assert ADVICE in verb(node, "verify", code=1).stderr
    known, lost = (early | late, {}) if variant.whole else (early, late)
    if refusing:
        if "serve" not in refusing:
            check_reads_alone(node, known | new, lost)
        elif "commands" not in refusing:
            commands = node.child("commands")
            commands.start()
            assert run_beside(node, range(200, 204), state="two").keys()
            assert commands.stop() == 0, node.tails()
        return
    check_continues(node, known, new, lost, range(ORDERS) if variant.whole else range(EARLY))


def check_reads(node: LedgerNode, known: dict[str, dict[str, Any]], lost: dict[str, dict[str, Any]]) -> None:
    for order_id, order in known.items():
        assert read(node, order_id).json() | {"contact": None} == order
    assert {read(node, order_id).status_code for order_id in lost} <= {404}


def check_reads_alone(node: LedgerNode, known: dict[str, dict[str, Any]], lost: dict[str, dict[str, Any]]) -> None:
    serve = node.child("serve")
    serve.start()
    node.wait_ready()
    check_reads(node, known, lost)
    assert serve.stop() == 0, node.tails()


def check_continues(
    node: LedgerNode,
    known: dict[str, dict[str, Any]],
    new: dict[str, dict[str, Any]],
    lost: dict[str, dict[str, Any]],
    kept: range,
) -> None:
    commands, serve = node.child("commands"), node.child("serve")
    commands.start()
    serve.start()
    node.wait_ready()
    check_reads(node, known | new, lost)
    assert asyncio.run(place(node, kept)) == known  # retries meet their first attempts
    more = asyncio.run(place(node, range(kept.stop, ORDERS + 4)))  # also those that the log lost
    assert {order["version"] for order in more.values()} == {1}
    report = json.loads(verb(node, "verify", "--json").stdout)
    assert (report["ok"], report["events"], report["differences"]) == (True, len(known | new | more), 0)
    assert json.loads(verb(node, "rebuild", "--json").stdout)["equal"] is True
    assert [serve.stop(), commands.stop()] == [0, 0], node.tails()
    assert projection_differences(node.state_dir("one"), node.bootstrap, node.topics, node.partitions) == []
