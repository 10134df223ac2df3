"""Serving processes and processors killed under load: acknowledged orders are there, once, and the read models are the fold."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from ledger.kafka.settings import KafkaSettings
from ledger.topics import Topics
from tests.support.processes import Killer, LedgerNode
from tests.support.proof import load_during, prove

pytestmark = pytest.mark.kafka


def run_kills(
    folder: Path, kafka: KafkaSettings, topics: Topics, kills: tuple[int, int], pauses_s: tuple[float, float], writers: int
) -> None:
    """`kills` of (commands, serve), each after a random pause."""
    node = LedgerNode(folder, kafka.bootstrap_servers, topics, writers)
    choice = random.Random(10)
    try:
        children = [node.child("commands"), node.child("serve")]
        for child in children:
            child.start()
        node.wait_ready()
        killers = [
            Killer(child, [choice.uniform(*pauses_s) for _ in range(count)]) for child, count in zip(children, kills, strict=True)
        ]
        for killer in killers:
            killer.start()
        gateway, orders = asyncio.run(load_during(node, lambda: any(killer.is_alive() for killer in killers)))
        assert [killer.unexpected for killer in killers] == [[], []], node.tails()
        assert [len(child.exits) for child in children] == list(kills)
        print(f"{kills} kills: {prove(node, gateway, orders)}")
    finally:
        node.end()


def test_killed_processors_and_serving_processes_lose_nothing_acknowledged(
    tmp_path: Path, kafka: KafkaSettings, topics: Topics
) -> None:
    run_kills(tmp_path, kafka, topics, kills=(4, 3), pauses_s=(2.0, 4.0), writers=1)


@pytest.mark.campaign
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("writers", [1, 2])
def test_twenty_killed_processors_and_ten_killed_serving_processes_lose_nothing_acknowledged(
    tmp_path: Path, kafka: KafkaSettings, topics: Topics, writers: int
) -> None:
    run_kills(tmp_path, kafka, topics, kills=(20, 10), pauses_s=(2.0, 6.0), writers=writers)
