"""The verb `copy-log` on Kafka: a ledger with twice as many partitions has the same orders and answers, and continues."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.topics import Topics
from tests.faults.test_export_import import verb
from tests.support import checker, processes
from tests.support.gateway import Gateway
from tests.support.patience import until
from tests.support.rebuilds import differences
from tests.support.topic_load import wait_answered

pytestmark = pytest.mark.kafka
WHY = ("--why", "more customers", "--yes", "--json")


def started(node: processes.LedgerNode) -> tuple[processes.Child, processes.Child]:
    commands, serve = node.child("commands"), node.child("serve")
    commands.start()
    serve.start()
    node.wait_ready()
    return commands, serve


async def place(node: processes.LedgerNode, count: int) -> list[httpx.Response]:
    async with Gateway(node.url, processes.TOKENS["gateway"], connections=4) as gateway:
        answers = [await gateway.place(number, "c-1") for number in range(count)]
        for answer in answers[:5]:
            await gateway.cancel(answer.json()["order_id"], "c-1")
        await gateway.other_body(7, "c-1")  # a refusal
        assert gateway.never == []
        return answers


def test_a_copied_ledger_is_the_same_and_continues(tmp_path: Path, kafka: KafkaSettings, topics: Topics) -> None:
    copied = Topics(f"{topics.prefix}copied.")
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    old = processes.LedgerNode(tmp_path / "old", kafka.bootstrap_servers, topics, writers=2, partitions=4)
    new = processes.LedgerNode(tmp_path / "new", kafka.bootstrap_servers, copied, writers=2, partitions=8)
    copy = ("copy-log", "--partitions", "8", "--to-prefix", copied.prefix, *WHY)
    try:
        commands, serve = started(old)
        answers = asyncio.run(place(old, 20))
        refused = verb(old, *copy)
        assert refused.returncode != 0
        assert "stop every node first" in refused.stderr
        assert serve.stop() == 0
        assert commands.stop() == 0
        done = verb(old, *copy)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert (report["events"], report["partitions"]) == (25, 8)
        assert report["contacts"] >= 20, "a request that was repeated before it was decided writes its contact again"
        contacts = checker.read_topic(kafka.bootstrap_servers, copied.contacts)
        assert len({raw.key for raw in contacts}) == 20

        before, after = (checker.read_topic(kafka.bootstrap_servers, t.events) for t in (topics, copied))
        assert sorted((raw.key, raw.timestamp_ms) for raw in after) == sorted((raw.key, raw.timestamp_ms) for raw in before)
        for raw in after:
            assert raw.partition % 4 == next(one.partition for one in before if one.key == raw.key)
        assert {raw.partition for raw in after} - set(range(4)), "new partitions are used"

        commands.start()
        until(lambda: commands.ended() is not None)
        assert commands.ended() != 0
        assert "is closed" in old.tails()

        commands, serve = started(new)
        again = asyncio.run(place(new, 20))
        assert [answer.json()["order_id"] for answer in again] == [answer.json()["order_id"] for answer in answers]
        assert [answer.json()["contact"] for answer in again] == [answer.json()["contact"] for answer in answers]
        more = asyncio.run(place(new, 40))
        assert all(answer.status_code == 201 for answer in more)
        before_copy = KafkaLog(kafka).topic_id(topics.commands)
        ledger = wait_answered(kafka.bootstrap_servers, copied.prefix, copied_from=before_copy)
        assert ledger.problems == [], checker.describe(ledger.problems)
        assert len(ledger.orders) == 40
        proven = verb(new, "verify", "--json")
        assert proven.returncode == 0, proven.stdout + proven.stderr
        assert serve.stop() == 0
        assert commands.stop() == 0
        assert differences(new) == []
    finally:
        old.end()
        new.end()
