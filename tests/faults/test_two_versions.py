"""Two programs of different versions on one ledger, under load: upgraded and downgraded in place, one process after the other.

The released program runs beside this one (`tests/support/programs.py`). And this one runs beside a program that might come next,
of a later feature level.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.log import TopicPartition
from ledger.topics import Topics
from tests.support import checker, later_schemas, loopback
from tests.support.gateway import Gateway
from tests.support.patience import PATIENCE_S, until
from tests.support.processes import TOKENS, Child, LedgerNode
from tests.support.programs import LATER_VERSION, THIS, Program, has_release, later, released
from tests.support.proof import check_reads, load_during, lost
from tests.support.topic_load import wait_answered

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(1800)]  # the first of them builds the other program
needs_release = pytest.mark.skipif(not has_release(), reason="this copy of the project has no history to build the release from")
PARTITIONS, WRITERS = 4, 2
SECOND_LOAD = 5_000_000  # number of its first session
GROWTH_RECORDS = 150  # between two steps: so much is decided while the programs run as they do then
NEVER = ("undecodable", "order_frozen", "could_not_decide")
NEVER_LOGGED = ("order frozen", "undecodable", "could not decide", "Traceback")


class TwoNodes:
    """Two nodes of one ledger, `a` and `b`, each with `commands` and `serve`, in folders of their own."""

    def __init__(self, folder: Path, kafka: KafkaSettings, topics: Topics, a: Program, b: Program) -> None:
        self.log, self.kafka, self.topics = KafkaLog(kafka), kafka, topics
        self.nodes = {name: self._node(folder / name, kafka) for name in ("a", "b")}
        programs = {"a": a, "b": b}
        self.children = {
            (verb, name): node.child(verb, name, programs[name])
            for name, node in self.nodes.items()
            for verb in ("commands", "serve")
        }

    def _node(self, folder: Path, kafka: KafkaSettings) -> LedgerNode:
        folder.mkdir()
        return LedgerNode(folder, kafka.bootstrap_servers, self.topics, WRITERS, PARTITIONS)

    def start(self, name: str) -> None:
        for verb in ("commands", "serve"):
            self.children[verb, name].start()
        self.nodes[name].wait_ready()

    def replace(self, verb: str, name: str, program: Program) -> None:
        """Stop a process, and start the same one with another program, on the same databases."""
        child = self.children[verb, name]
        assert child.stop() == 0, self.tails()
        child.program = program
        child.start()
        if verb == "serve":
            self.nodes[name].wait_ready()

    def grow(self) -> None:
        """Wait until the log has grown: the processes as they are now take part in that."""
        tps = [TopicPartition(self.topics.events, p) for p in range(PARTITIONS)]

        def total() -> int:
            time.sleep(0.25)
            return sum(self.log.ends(tps, timeout_s=PATIENCE_S).values())

        wanted = total() + GROWTH_RECORDS
        until(lambda: total() >= wanted)

    def tails(self) -> str:
        return "\n".join(node.tails() for node in self.nodes.values())

    def logs(self) -> str:
        return "\n".join(child.log_file.read_text("utf-8", "replace") for child in self.children.values())

    def end(self) -> None:
        for node in self.nodes.values():
            node.end()


class Rollout(threading.Thread):
    """Takes steps, and lets the log grow after each."""

    def __init__(self, nodes: TwoNodes, steps: Iterator[Callable[[], object]]) -> None:
        super().__init__(name="rollout", daemon=True)
        self._nodes, self._steps, self.taken = nodes, steps, 0
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._nodes.grow()
            for step in self._steps:
                step()
                self._nodes.grow()
                self.taken += 1
        except BaseException as exc:
            self.error = exc
            raise


def up_and_down(nodes: TwoNodes, old: Program, new: Program, until_s: float) -> Iterator[Callable[[], object]]:
    """Node `a` is upgraded process by process, then node `b` downgraded, and back. At least once, and until that time."""
    began = time.monotonic()
    while True:
        for verb in ("commands", "serve"):
            yield lambda verb=verb: nodes.replace(verb, "a", new)
        for verb in ("serve", "commands"):
            yield lambda verb=verb: nodes.replace(verb, "b", old)
        for name, program in (("a", old), ("b", new)):
            yield lambda name=name, program=program: nodes.replace("commands", name, program)
            yield lambda name=name, program=program: nodes.replace("serve", name, program)
        if time.monotonic() - began > until_s:
            return


async def load_on_both(nodes: TwoNodes, striking: Callable[[], bool]) -> tuple[list[Gateway], int]:
    loads = await asyncio.gather(
        load_during(nodes.nodes["a"], striking), load_during(nodes.nodes["b"], striking, first=SECOND_LOAD)
    )
    return [gateway for gateway, _ in loads], sum(sessions for _, sessions in loads)


def run_side_by_side(folder: Path, kafka: KafkaSettings, topics: Topics, old: Program, new: Program, until_s: float) -> None:
    nodes = TwoNodes(folder, kafka, topics, old, new)
    try:
        nodes.start("a")
        nodes.start("b")
        rollout = Rollout(nodes, up_and_down(nodes, old, new, until_s))
        rollout.start()
        gateways, orders = asyncio.run(load_on_both(nodes, rollout.is_alive))
        if rollout.error is not None:
            raise AssertionError(nodes.tails()) from rollout.error
        print(f"{rollout.taken} steps: {prove_both(nodes, gateways, orders)}")
    finally:
        nodes.end()


def prove_both(nodes: TwoNodes, gateways: list[Gateway], orders: int) -> str:
    """Nothing frozen, nothing lost, nothing undecodable; and both nodes show what an independent fold of the topic shows."""
    for gateway in gateways:
        assert gateway.never == [], checker.describe(gateway.never) + nodes.tails()
    ledger = wait_answered(nodes.kafka.bootstrap_servers, nodes.topics.prefix)
    assert ledger.problems == [], checker.describe(ledger.problems) + nodes.tails()
    assert len(ledger.orders) == orders
    assert [r.fields["detail"] for r in ledger.refusals if r.fields["code"] in NEVER] == []
    for name, gateway in zip(("a", "b"), gateways, strict=True):
        node = nodes.nodes[name]
        node.wait_ready()
        assert lost(gateway.acknowledged, ledger) == []
        until(lambda node=node: reaches(node, ledger))
        check_reads(node.url, ledger)
        assert frozen_orders(node) == 0
    logs = nodes.logs()
    assert [words for words in NEVER_LOGGED if words in logs] == [], nodes.tails()
    assert [child.stop() for child in nodes.children.values()] == [0] * 4, nodes.tails()
    acknowledged = sum(len(gateway.acknowledged) for gateway in gateways)
    return f"{orders} orders, {len(ledger.events)} events, {len(ledger.refusals)} refusals, {acknowledged} acknowledged"


def metrics(node: LedgerNode) -> str:
    with loopback.client(timeout=PATIENCE_S) as client:
        return str(client.get(f"{node.url}/metrics", headers={"Authorization": f"Bearer {TOKENS['reader']}"}).text)


def frozen_orders(node: LedgerNode) -> int:
    (line,) = [line for line in metrics(node).splitlines() if line.startswith("ledger_orders_frozen ")]
    return int(float(line.split()[1]))


def reaches(node: LedgerNode, ledger: checker.Ledger) -> bool:
    """Whether the node has folded the last event of every partition."""
    last = {event.raw.partition: event.raw.offset for event in ledger.events}
    with loopback.client(timeout=PATIENCE_S) as client:
        headers = {"Authorization": f"Bearer {TOKENS['reader']}", "Prefer": "wait=10"}
        positions = [{**headers, "Ledger-Position": f"{p}-{offset + 1}"} for p, offset in last.items()]
        return all(client.get(f"{node.url}/orders", headers=position).status_code == 200 for position in positions)


@needs_release
def test_the_released_program_and_this_one_share_a_ledger_while_each_replaces_the_other(
    tmp_path: Path, kafka: KafkaSettings, topics: Topics
) -> None:
    run_side_by_side(tmp_path, kafka, topics, released(), THIS, until_s=0)


@needs_release
@pytest.mark.campaign
@pytest.mark.timeout(2400)
def test_the_released_program_and_this_one_share_a_ledger_for_ten_minutes(
    tmp_path: Path, kafka: KafkaSettings, topics: Topics
) -> None:
    run_side_by_side(tmp_path, kafka, topics, released(), THIS, until_s=600)


# ---- a later feature level ------------------------------------------------------------------------------------------


def verb(node: LedgerNode, program: Program, *arguments: str, name: str = "a") -> subprocess.CompletedProcess[str]:
    """A verb beside a node, as this program."""
    env = os.environ | node._env | {"NODE_ID": name, "STATE_DIR": str(node.state_dir(name))} | program.env
    command = [*program.interpreter, "-m", "api.cli", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def schema_ids(nodes: TwoNodes) -> set[int]:
    """Ids of the schemas with which the events of the log were written."""
    raw = checker.read_topic(nodes.kafka.bootstrap_servers, nodes.topics.events)
    return {int.from_bytes(record.value[1:5], "big") for record in raw if record.value is not None}


def test_a_later_program_writes_what_this_one_reads_until_the_upgrade_is_finished(
    tmp_path: Path, kafka: KafkaSettings, topics: Topics
) -> None:
    first, second, _ = later_schemas.event_versions()
    nodes = TwoNodes(tmp_path, kafka, topics, THIS, later())
    try:
        nodes.start("a")
        nodes.start("b")
        rollout = Rollout(nodes, iter([lambda: nodes.children["commands", "a"].stop()]))  # the later program decides everything
        rollout.start()
        gateways, orders = asyncio.run(load_on_both(nodes, rollout.is_alive))
        assert rollout.error is None, nodes.tails()
        ledger = wait_answered(kafka.bootstrap_servers, topics.prefix)
        assert ledger.problems == []
        assert len(ledger.orders) == orders
        assert schema_ids(nodes) == {first.id}
        for gateway in gateways:
            assert gateway.never == []
            assert lost(gateway.acknowledged, ledger) == []

        refused = verb(nodes.nodes["b"], later(), "upgrade", "finish")
        assert refused.returncode == 1
        assert "serve/a" in refused.stderr
        status = json.loads(verb(nodes.nodes["b"], later(), "upgrade", "status", "--json").stdout)
        assert (status["level"], status["level_of_this_program"], status["program"]) == (1, 2, LATER_VERSION)
        assert {node["node"]: node["level"] for node in status["nodes"]} == {"serve/a": 1, "commands/b": 2, "serve/b": 2}

        assert nodes.children["serve", "a"].stop() == 0
        assert verb(nodes.nodes["b"], later(), "upgrade", "finish").returncode == 0
        for name in ("commands", "serve"):
            nodes.replace(name, "b", later())
        place_some(nodes.nodes["b"])
        assert schema_ids(nodes) == {first.id, second.id}
        refuses_to_start(nodes.children["commands", "a"])
        refuses_to_start(nodes.children["serve", "a"])
        this_program_reads_it(nodes.nodes["a"])
    finally:
        nodes.end()


def place_some(node: LedgerNode) -> None:
    async def place() -> None:
        async with Gateway(node.url, TOKENS["gateway"]) as gateway:
            await asyncio.gather(*(gateway.place(9_000_000 + number, "c-1") for number in range(20)))
        assert gateway.never == []

    asyncio.run(place())


def refuses_to_start(child: Child) -> None:
    child.start()
    assert child.process is not None
    assert child.process.wait(PATIENCE_S) == 1
    last = child.log_file.read_text("utf-8").strip().splitlines()[-1]
    assert "program_too_old" in last
    assert f"start version {LATER_VERSION} or later" in last


def this_program_reads_it(node: LedgerNode) -> None:
    """Its verbs look up the later schema: every event is decoded, checked and folded."""
    done = verb(node, THIS, "verify", "--log-only", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["ok"]
    tail = verb(node, THIS, "tail", "--from", "beginning", "--no-follow", "--json")
    assert tail.returncode == 0, tail.stderr
    assert "undecodable" not in tail.stdout
