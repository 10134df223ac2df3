"""Several nodes on three brokers: writers move between them under load, reads on one node see what another one answered."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from api.routes.orders import PLACE
from commands.idempotency import NEW_ORDER, command_id_of, order_id_of
from commands.sandbox.catalogue import order_body
from ledger.kafka.log import KafkaLog
from ledger.partitioner import partition_for
from ledger.ports import free_port
from ledger.topics import Topics
from tests.support import checker, loopback
from tests.support.cluster import Cluster
from tests.support.patience import PATIENCE_S, until
from tests.support.pausing import pause, resume
from tests.support.processes import TOKENS, LedgerNode
from tests.support.topic_load import TopicLoad, wait_answered

pytestmark = [pytest.mark.kafka, pytest.mark.cluster]
PARTITIONS = WRITERS = 4
SESSION_S = 6.0


@pytest.fixture
def node(cluster: Cluster, topics: Topics, tmp_path: Path) -> Iterator[LedgerNode]:
    created = LedgerNode(tmp_path, cluster.bootstrap_servers, topics, WRITERS, PARTITIONS)
    yield created
    created.end()


def test_writers_move_when_nodes_are_killed_paused_added_and_replaced(cluster: Cluster, topics: Topics, node: LedgerNode) -> None:
    log = KafkaLog(cluster.settings())
    log.ensure_topics(topics.specs(PARTITIONS, WRITERS), PATIENCE_S)
    first, second, third = (node.child("commands", name) for name in ("first", "second", "third"))
    first.start()
    second.start()
    load = TopicLoad(log, topics, PARTITIONS, orders=500, per_s=60, seed=5)
    load.start()

    def sent(more: int) -> None:
        before = load.sent
        until(lambda: load.sent > before + more or not load.is_alive())

    sent(100)
    first.kill()
    sent(50)
    first.start()
    sent(100)
    pause(second.pid)
    time.sleep(SESSION_S + 2)
    resume(second.pid)
    sent(100)
    third.start()
    sent(100)
    for child in (first, second):
        assert child.stop() == 0, node.tails()
        child.start()
        sent(50)
    load.join(PATIENCE_S)
    assert not load.is_alive()
    assert load.error is None
    ledger = wait_answered(cluster.bootstrap_servers, topics.prefix)
    assert ledger.problems == [], checker.describe(ledger.problems) + node.tails()
    assert len(ledger.orders) == 500
    assert [child.ended() for child in (first, second, third)] == [None] * 3, node.tails()


def test_what_one_node_answered_is_read_on_another_by_its_position(cluster: Cluster, topics: Topics, node: LedgerNode) -> None:
    KafkaLog(cluster.settings()).ensure_topics(topics.specs(PARTITIONS, WRITERS), PATIENCE_S)
    node.child("commands").start()
    here, there = node.child("serve", "here"), node.child("serve", "there")
    there.env["PORT"] = str(port := free_port())
    here.start()
    there.start()
    node.wait_ready()
    node.wait_ready(url=f"http://127.0.0.1:{port}")
    headers = {"Authorization": f"Bearer {TOKENS['gateway']}", "Customer-Id": "c-1", "Prefer": "wait=10"}
    with (
        loopback.client(base_url=node.url, headers=headers) as writing,
        loopback.client(base_url=f"http://127.0.0.1:{port}", headers=headers) as reading,
    ):
        deadline = time.monotonic() + PATIENCE_S
        for number in range(50):
            answer = placed(writing, number)
            position = {"Ledger-Position": answer.headers["Ledger-Position"]}
            while (read := reading.get(answer.headers["Location"], headers=position)).status_code == 503:
                assert read.json()["code"] == "not-caught-up"
                assert time.monotonic() < deadline
            assert (read.status_code, without_contact(read)) == (200, without_contact(answer))
            # The position is of the events; contacts are in another topic, with leaders of their own.
            until(lambda answer=answer: reading.get(answer.headers["Location"]).content == answer.content)


def without_contact(answer: httpx.Response) -> dict[str, object]:
    return {**answer.json(), "contact": None}


def placed(client: httpx.Client, number: int) -> httpx.Response:
    """The 201, repeated until there is one."""
    answers: list[httpx.Response] = []

    def is_placed() -> bool:
        answers.append(client.post("/orders", json=order_body(number), headers={"Idempotency-Key": f"cart-{number}"}))
        return answers[-1].status_code == 201

    until(is_placed)
    return answers[-1]


def test_a_partition_without_a_leader_stops_no_other(cluster: Cluster, topics: Topics, node: LedgerNode) -> None:
    log = KafkaLog(cluster.settings())
    lonely(cluster, topics, partition=0, broker=3)
    log.ensure_topics(topics.specs(PARTITIONS, WRITERS), PATIENCE_S)
    for name in ("one", "two"):
        node.child("commands", name).start()
    node.child("serve").start()
    node.wait_ready()
    headers = {"Authorization": f"Bearer {TOKENS['gateway']}", "Customer-Id": "c-1", "Prefer": "wait=5"}
    with loopback.client(base_url=node.url, headers=headers) as client:
        for number in range(10):
            placed(client, number)
        cluster.kill(3)
        elsewhere, waiting = set[int](), set[int]()
        for number in range(10, 50):
            partition = partition_of(number)
            if partition:
                placed(client, number)
                elsewhere.add(partition)
            else:
                answer = client.post("/orders", json=order_body(number), headers={"Idempotency-Key": f"cart-{number}"})
                waiting.add(answer.status_code)
        assert elsewhere == {1, 2, 3}
        assert waiting <= {202, 503}, "durable or not, but not decided"
        assert waiting
        until(lambda: leaderless(client) == f"no leader: {topics.events}/0")
        cluster.start([3])
        for number in range(50):
            placed(client, number)
    ledger = wait_answered(cluster.bootstrap_servers, topics.prefix)
    assert ledger.problems == [], checker.describe(ledger.problems) + node.tails()
    assert len(ledger.orders) == 50


def partition_of(number: int) -> int:
    """Of the order that is placed with this number."""
    order_id = order_id_of(command_id_of("gateway", "c-1", PLACE, NEW_ORDER, f"cart-{number}"))
    return partition_for(order_id.encode(), PARTITIONS)


def leaderless(client: httpx.Client) -> str:
    """What a node says about its log; it still gets requests."""
    answer = client.get("/ready")
    assert answer.status_code == 200
    return str(answer.json()["checks"]["log"])


def lonely(cluster: Cluster, topics: Topics, partition: int, broker: int) -> None:
    """Create the topic of events with one replica of each partition: that of `partition` on `broker`, the others elsewhere."""
    (spec,) = (spec for spec in topics.specs(PARTITIONS, WRITERS) if spec.name == topics.events)
    others = [node for node in cluster.nodes if node != broker]
    replicas = [[broker] if p == partition else [others[p % len(others)]] for p in range(PARTITIONS)]
    topic = NewTopic(spec.name, PARTITIONS, replica_assignment=replicas, config={**spec.settings, "min.insync.replicas": "1"})
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap_servers})
    for future in admin.create_topics([topic]).values():
        future.result(PATIENCE_S)
