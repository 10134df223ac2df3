"""A ledger that is moved to other topics by file: the same events, the same answers, and it continues from there."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from ledger.kafka.settings import KafkaSettings
from ledger.topics import Topics
from tests.support import checker, processes
from tests.support.gateway import Gateway
from tests.support.patience import PATIENCE_S
from tests.support.rebuilds import differences, running

pytestmark = pytest.mark.kafka


def verb(node: processes.LedgerNode, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = node.child(arguments[0]).env
    node.children.pop()
    command = [sys.executable, "-m", "api.cli", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_a_moved_ledger_is_the_same_and_continues(tmp_path: Path, kafka: KafkaSettings, topics: Topics) -> None:
    file, old, new = tmp_path / "ledger.log", tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()

    async def place(node: processes.LedgerNode) -> tuple[list[bytes], list[str]]:
        async with Gateway(node.url, processes.TOKENS["gateway"], connections=4) as gateway:
            answers = [await gateway.place(number, "c-1") for number in range(20)]
            for answer in answers[:5]:
                await gateway.cancel(answer.json()["order_id"], "c-1")
            await gateway.other_body(7, "c-1")  # a refusal, which must move too
            assert gateway.never == []
            return [answer.content for answer in answers], [answer.json()["order_id"] for answer in answers]

    with running(old, kafka, topics) as (node, serve):
        answers, order_ids = asyncio.run(place(node))
        done = verb(node, "export-log", str(file))
        assert done.returncode == 0, done.stderr
        assert serve.stop() == 0

    moved = Topics(f"{topics.prefix}moved.")
    target = processes.LedgerNode(new, kafka.bootstrap_servers, moved)
    done = verb(target, "import-log", str(file))
    assert done.returncode == 0, done.stderr
    before, after = (_values(kafka, t.events) for t in (topics, moved))
    assert before == after

    with running(new, kafka, moved) as (node, serve):
        again, same_ids = asyncio.run(place(node))
        assert same_ids == order_ids
        without_contact = [httpx.Response(200, content=body).json() | {"contact": None} for body in answers]
        assert [httpx.Response(200, content=body).json() | {"contact": None} for body in again] == without_contact
        done = verb(node, "verify", "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        more = asyncio.run(_one_more(node))
        assert more.status_code == 201
        done = verb(node, "verify", "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        assert serve.stop() == 0
        assert differences(node) == []


def _values(kafka: KafkaSettings, topic: str) -> list[tuple[int, bytes | None, int, bytes | None]]:
    """Everything except offsets, which depend on transactions."""
    records = checker.read_topic(kafka.bootstrap_servers, topic)
    return [(raw.partition, raw.key, raw.timestamp_ms, raw.value) for raw in records]


async def _one_more(node: processes.LedgerNode) -> httpx.Response:
    async with Gateway(node.url, processes.TOKENS["gateway"], connections=4) as gateway:
        return await gateway.place(1_000, "c-1")
