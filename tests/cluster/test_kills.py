"""Two nodes on three brokers under load, every process killed or frozen again and again: nothing accepted is lost or twice."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from ledger.kafka.log import KafkaLog
from ledger.ports import free_port
from ledger.topics import Topics
from tests.support import checker, loopback
from tests.support.cluster import Cluster
from tests.support.folds import desk_differences, projection_differences
from tests.support.gateway import Gateway
from tests.support.patience import PATIENCE_S, until
from tests.support.pausing import pause, resume
from tests.support.processes import TOKENS, Child, LedgerNode
from tests.support.proof import check_reads, load_during, lost
from tests.support.standbys import wait_folded, with_metrics
from tests.support.topic_load import TopicLoad, wait_answered

pytestmark = [pytest.mark.kafka, pytest.mark.cluster]
PARTITIONS = WRITERS = 4
FROZEN_S = 8.0  # a session of the group is 6 s
LIVES = 100  # of orders, in one portion of the load
SESSIONS = 2  # of customers, at each `serve`
LONG_S = 10 * PATIENCE_S


class Striker:
    """Kills and freezes processes, one after the other. `ended` has what ended by itself, which nothing here may cause."""

    def __init__(self, cluster: Cluster, children: list[Child], seed: int) -> None:
        self._cluster, self._children, self._choice = cluster, children, random.Random(seed)
        self._brokers = itertools.cycle(cluster.nodes)
        self._frozen: tuple[Child, float] | None = None
        self.ended: list[str] = []

    def strike(self, kind: str) -> None:
        """`process`, `broker`, `two brokers` or `freeze`."""
        if self._frozen is not None and (kind == "freeze" or time.monotonic() > self._frozen[1]):
            self.thaw()
        if kind == "freeze":
            child = self._choice.choice([one for one in self._children if one.verb == "commands"])
            pause(child.pid)
            self._frozen = child, time.monotonic() + FROZEN_S
        elif kind == "process":
            # While one `commands` is frozen, the other one is what takes over from it.
            child = self._choice.choice([one for one in self._children if self._frozen is None or one.verb == "serve"])
            child.kill()
            child.start()
        else:
            nodes = [next(self._brokers) for _ in range(2 if kind == "two brokers" else 1)]
            self._cluster.kill(*nodes)
            time.sleep(self._choice.uniform(0.0, 1.0))
            self._cluster.start(nodes)
            self._cluster.wait_whole(LONG_S)
        time.sleep(self._choice.uniform(0.3, 2.0))
        for child in self._children:
            if (code := child.ended()) is not None:
                self.ended.append(f"{child.log_file.name}: {code}")
                child.start()

    def thaw(self) -> None:
        """Wake up the frozen process when its session is over for certain."""
        if self._frozen is not None:
            child, due = self._frozen
            time.sleep(max(0.0, due - time.monotonic()))
            resume(child.pid)
            self._frozen = None


class Customers(threading.Thread):
    """Sessions of customers at one `serve`, until `ending` and a hundred more."""

    def __init__(self, node: LedgerNode, url: str, first: int, ending: threading.Event) -> None:
        super().__init__(name=f"customers {url}", daemon=True)
        self._node, self._url, self._first, self._ending = node, url, first, ending
        self.gateway: Gateway | None = None
        self.orders = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            load = load_during(self._node, lambda: not self._ending.is_set(), self._first, self._url, SESSIONS, LONG_S)
            self.gateway, self.orders = asyncio.run(load)
        except BaseException as exc:
            self.error = exc


def run_strikes(cluster: Cluster, topics: Topics, folder: Path, strikes: dict[str, int], per_s: float) -> str:
    """Returns figures."""
    log = KafkaLog(cluster.settings())
    log.ensure_topics(topics.specs(PARTITIONS, WRITERS), LONG_S)
    env = {"STANDBY_WRITERS": str(WRITERS)}  # each node folds everything, so that all of its rows can be judged
    node = LedgerNode(folder, cluster.bootstrap_servers, topics, WRITERS, PARTITIONS, env=env)
    ending, began = threading.Event(), time.monotonic()
    loads: list[TopicLoad] = []
    try:
        commands = [with_metrics(node.child("commands", name)) for name in ("one", "two")]
        serves = [node.child("serve", name) for name in ("one", "two")]
        serves[1].env["PORT"] = str(port := free_port())
        urls = [node.url, f"http://127.0.0.1:{port}"]
        for child in node.children:
            child.start()
        for url in urls:
            node.wait_ready(url=url)
        customers = [Customers(node, url, 1_000_000 * n, ending) for n, url in enumerate(urls, 1)]

        def send_on() -> None:
            while not ending.is_set():
                loads.append(TopicLoad(log, topics, PARTITIONS, LIVES, per_s, seed=len(loads), first=LIVES * len(loads)))
                loads[-1].run()

        sending = threading.Thread(target=send_on, daemon=True)
        for thread in (sending, *customers):
            thread.start()
        striker = Striker(cluster, node.children, seed=16)
        kinds = [kind for kind, count in strikes.items() for _ in range(count)]
        random.Random(16).shuffle(kinds)
        for number, kind in enumerate(kinds, 1):
            striker.strike(kind)
            if number % 10 == 0:
                sent = sum(load.sent for load in loads)
                print(f"{number} strikes, {time.monotonic() - began:.0f} s, {sent} commands sent", flush=True)
        striker.thaw()
        struck_s = time.monotonic() - began
        ending.set()
        for thread in (sending, *customers):
            thread.join(LONG_S)
            assert not thread.is_alive(), node.tails()
        assert [thread.error for thread in (*loads, *customers)] == [None] * (len(loads) + 2), node.tails()
        assert striker.ended == [], node.tails()
        return f"{strikes} in {struck_s:.0f} s: {judge(cluster, log, node, urls, commands, loads, customers)}"
    finally:
        ending.set()
        node.end()


def judge(
    cluster: Cluster,
    log: KafkaLog,
    node: LedgerNode,
    urls: list[str],
    commands: list[Child],
    loads: list[TopicLoad],
    customers: list[Customers],
) -> str:
    """Topics, answers, what both nodes show, and every row of their databases. Stops the processes. Returns figures."""
    servers, topics, gateways = cluster.bootstrap_servers, node.topics, [one.gateway for one in customers if one.gateway]
    ledger = wait_answered(servers, topics.prefix)
    assert ledger.problems == [], checker.describe(ledger.problems) + node.tails()
    durable = {(command.command_id, command.fingerprint) for load in loads for command in load.durable}
    answered = {(one.fields["command_id"], one.fields["fingerprint"]) for one in (*ledger.events, *ledger.refusals)}
    assert durable <= answered
    assert len(ledger.orders) == LIVES * len(loads) + sum(one.orders for one in customers)
    assert [gateway.never for gateway in gateways] == [[], []]
    assert [lost(gateway.acknowledged, ledger) for gateway in gateways] == [[], []]
    for url in urls:
        node.wait_ready(url=url)
        until(lambda url=url: is_at_the_end(url))  # type: ignore[misc]
        check_reads(url, ledger)
    wait_folded(commands, servers, log, topics, PARTITIONS)
    assert [child.stop() for child in node.children] == [0] * len(node.children), node.tails()
    for name in ("one", "two"):
        rows = desk_differences(node.state_dir(name), servers, log, topics, WRITERS, PARTITIONS)
        rows += projection_differences(node.state_dir(name), servers, topics, PARTITIONS)
        assert rows == [], checker.describe(rows)
    seen = sum((gateway.seen for gateway in gateways), Counter[str]())
    return (
        f"{sum(load.sent for load in loads)} commands sent, {len(ledger.orders)} orders, {len(ledger.events)} events, "
        f"{len(ledger.refusals)} refusals, {sum(len(gateway.acknowledged) for gateway in gateways)} acknowledged, {dict(seen)}"
    )


def is_at_the_end(url: str) -> bool:
    answer = loopback.get(f"{url}/metrics", headers={"Authorization": f"Bearer {TOKENS['reader']}"})
    return "\nledger_fold_behind 0.0\n" in answer.text


def test_kills_of_every_kind_lose_nothing_and_do_nothing_twice(cluster: Cluster, topics: Topics, tmp_path: Path) -> None:
    print(run_strikes(cluster, topics, tmp_path, {"process": 3, "broker": 1, "two brokers": 1, "freeze": 1}, per_s=60))


@pytest.mark.campaign
@pytest.mark.timeout(2 * 3600)
def test_two_hundred_kills_and_fifty_freezes_lose_nothing_and_do_nothing_twice(
    cluster: Cluster, topics: Topics, tmp_path: Path
) -> None:
    """60 brokers one after the other, ten times two of them, 120 times another process; 50 frozen `commands`; 300 commands/s."""
    print(run_strikes(cluster, topics, tmp_path, {"process": 120, "broker": 60, "two brokers": 10, "freeze": 50}, per_s=300))
