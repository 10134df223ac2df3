"""A ledger on three brokers: what is lost with one of them, with two, and while all are restarted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from commands.sandbox.catalogue import order_body
from ledger.kafka.log import KafkaLog
from ledger.topics import Topics
from tests.support import checker, loopback
from tests.support.cluster import Cluster
from tests.support.patience import PATIENCE_S, until
from tests.support.processes import TOKENS, LedgerNode
from tests.support.topic_load import TopicLoad, wait_answered

pytestmark = [pytest.mark.kafka, pytest.mark.cluster]
PARTITIONS = 4


@pytest.fixture
def node(cluster: Cluster, topics: Topics, tmp_path: Path) -> Iterator[LedgerNode]:
    created = LedgerNode(tmp_path, cluster.bootstrap_servers, topics, partitions=PARTITIONS)
    yield created
    created.end()


def test_every_topic_of_the_ledger_has_three_replicas_of_which_two_must_be_in_sync(cluster: Cluster, topics: Topics) -> None:
    KafkaLog(cluster.settings()).ensure_topics(topics.specs(PARTITIONS, 1), PATIENCE_S)
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap_servers})
    names = {spec.name for spec in topics.specs(PARTITIONS, 1)}
    seen = admin.list_topics(timeout=PATIENCE_S).topics
    replicas = {len(partition.replicas) for name in names for partition in seen[name].partitions.values()}
    assert replicas == {3}
    asked = admin.describe_configs([ConfigResource(ResourceType.TOPIC, name) for name in names])
    settings: list[dict[str, Any]] = [answer.result(PATIENCE_S) for answer in asked.values()]
    assert {one["min.insync.replicas"].value for one in settings} == {"2"}
    print(f"\nresident memory of the three brokers in MB: {cluster.memory_mb()}")


def test_brokers_that_are_killed_one_after_the_other_cost_no_command(cluster: Cluster, topics: Topics, node: LedgerNode) -> None:
    log = KafkaLog(cluster.settings())
    log.ensure_topics(topics.specs(PARTITIONS, 1), PATIENCE_S)
    processor = node.child("commands")
    processor.start()
    load = TopicLoad(log, topics, PARTITIONS, orders=300, per_s=150, seed=3)
    load.start()
    took_s = []
    for broker in cluster.nodes:
        until(lambda before=load.sent: load.sent > before + 100 or not load.is_alive())  # type: ignore[misc]
        cluster.kill(broker)
        began = time.monotonic()
        cluster.start([broker])
        cluster.wait_whole()
        took_s.append(time.monotonic() - began)
    load.join(PATIENCE_S)
    assert not load.is_alive()
    assert load.error is None
    ledger = wait_answered(cluster.bootstrap_servers, topics.prefix)
    assert ledger.problems == [], checker.describe(ledger.problems) + node.tails()
    assert len(ledger.orders) == 300
    assert processor.ended() is None, node.tails()
    assert processor.stop() == 0, node.tails()
    print(f"\n{len(ledger.commands)} commands; in sync again after {', '.join(f'{s:.1f}' for s in took_s)} s")


def test_with_two_brokers_down_commands_are_refused_for_now_and_reads_are_marked_stale(
    cluster: Cluster, node: LedgerNode
) -> None:
    processor, serve = node.child("commands"), node.child("serve")
    processor.start()
    serve.start()
    node.wait_ready()
    headers = {"Authorization": f"Bearer {TOKENS['gateway']}", "Customer-Id": "c-1", "Prefer": "wait=2"}
    with loopback.client(base_url=node.url, headers=headers, timeout=PATIENCE_S) as client:

        def post(number: int) -> httpx.Response:
            return client.post("/orders", json=order_body(number), headers={"Idempotency-Key": f"cart-{number}"})

        answers_of_first: list[httpx.Response] = []
        until(lambda: answers_of_first.append(post(1)) or answers_of_first[-1].status_code == 201)  # type: ignore[func-returns-value]
        first = answers_of_first[-1]
        path = first.headers["Location"]
        cluster.kill(1, 3)
        answers = {post(number).status_code for number in range(2, 5)}
        assert answers == {503}, "nothing can be made durable"
        until(lambda: "Ledger-Staleness-Ms" in client.get(path).headers)
        read = client.get(path)
        assert (read.status_code, read.json()["order_id"]) == (200, first.json()["order_id"])
        cluster.start()
        seen: list[str] = []

        def done() -> bool:
            answer = post(2)
            seen.append(f"{answer.status_code} {answer.json().get('code')}")
            return answer.status_code == 201

        try:
            until(done)
        except AssertionError as exc:
            raise AssertionError(f"{seen[:3]} {seen[-3:]} {node.tails()}") from exc
        until(lambda: "Ledger-Staleness-Ms" not in client.get(path).headers)
    ledger = checker.read_settled_ledger(cluster.bootstrap_servers, node.topics.prefix)
    assert ledger.problems == [], checker.describe(ledger.problems) + node.tails()
    assert [serve.stop(), processor.stop()] == [0, 0], node.tails()


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_ten_rolling_restarts_cost_no_command(cluster: Cluster, topics: Topics, node: LedgerNode) -> None:
    log = KafkaLog(cluster.settings())
    log.ensure_topics(topics.specs(PARTITIONS, 1), PATIENCE_S)
    processor = node.child("commands")
    processor.start()
    orders = 0
    for _ in range(10):
        load = TopicLoad(log, topics, PARTITIONS, orders=400, per_s=150, seed=orders, first=orders)
        load.start()
        cluster.roll()
        load.join(PATIENCE_S)
        assert not load.is_alive()
        assert load.error is None
        orders += 400
    ledger = wait_answered(cluster.bootstrap_servers, topics.prefix)
    assert ledger.problems == [], checker.describe(ledger.problems) + node.tails()
    assert len(ledger.orders) == orders
    assert processor.stop() == 0, node.tails()
