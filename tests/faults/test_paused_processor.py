"""A processor that is frozen while it is the writer: another takes over, and the first one can commit nothing when it wakes."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.topics import Topics
from tests.support import checker
from tests.support.folds import desk_differences
from tests.support.patience import PATIENCE_S
from tests.support.pausing import pause, resume
from tests.support.processes import Child, LedgerNode
from tests.support.standbys import wait_folded, with_metrics
from tests.support.topic_load import TopicLoad, wait_answered

pytestmark = [pytest.mark.kafka, pytest.mark.campaign, pytest.mark.timeout(900)]
PARTITIONS = 4
PAUSES, PAUSE_S = 6, 15.0


def takings(child: Child) -> list[tuple[str, int]]:
    """(time, writer) each time this process became a writer, from its log."""
    lines = (json.loads(line) for line in child.log_file.read_text().splitlines() if line.startswith("{"))
    return [(line["timestamp"], line["writer"]) for line in lines if line["event"] == "writer ready"]


def owner(children: list[Child], writer: int) -> Child:
    """The process that became this writer last."""
    latest = [max((at for at, w in takings(child) if w == writer), default="") for child in children]
    assert any(latest), "nobody is the writer yet"
    return children[latest.index(max(latest))]


def wait_taken(child: Child, writer: int, since: int, timeout_s: float = PATIENCE_S) -> float:
    """Wait until this process has become the writer more than `since` times. Returns the seconds."""
    began = time.monotonic()
    while sum(w == writer for _, w in takings(child)) <= since:
        assert time.monotonic() - began < timeout_s, "nobody took over"
        time.sleep(0.05)
    return time.monotonic() - began


def pause_owner(children: list[Child], writer: int, pause_s: float) -> float:
    """Freeze the process that is this writer for `pause_s`. Returns how long the other took to take over."""
    frozen = owner(children, writer)
    other = children[1 - children.index(frozen)]
    since = sum(w == writer for _, w in takings(other))
    pause(frozen.pid)
    try:
        took_s = wait_taken(other, writer, since)
        time.sleep(max(0.0, pause_s - took_s))
    finally:
        resume(frozen.pid)
    return took_s


@pytest.mark.parametrize("writers", [1, 2])
def test_a_frozen_writer_is_replaced_and_commits_nothing_when_it_wakes(
    tmp_path: Path, kafka: KafkaSettings, topics: Topics, writers: int
) -> None:
    log = KafkaLog(kafka)
    log.ensure_topics(topics.specs(PARTITIONS, writers), PATIENCE_S)
    node = LedgerNode(tmp_path, kafka.bootstrap_servers, topics, writers, PARTITIONS)
    choice = random.Random(40)
    try:
        children = [with_metrics(node.child("commands", name)) for name in ("one", "two")]
        for child in children:
            child.start()
        load = TopicLoad(log, topics, PARTITIONS, orders=4000, per_s=280, seed=8)
        load.start()
        time.sleep(8)
        took_s = []
        for number in range(PAUSES):
            took_s.append(pause_owner(children, number % writers, PAUSE_S))
            time.sleep(choice.uniform(1.0, 6.0))
        assert load.is_alive(), "the load ended before the last pause"
        load.join(900)
        assert load.error is None
        ledger = wait_answered(kafka.bootstrap_servers, topics.prefix)
        assert ledger.problems == [], checker.describe(ledger.problems) + node.tails()
        assert [child.ended() for child in children] == [None, None], node.tails()
        wait_folded(children, kafka.bootstrap_servers, log, topics, PARTITIONS)
        assert [child.stop() for child in children] == [0, 0], node.tails()
        for name in ("one", "two"):
            rows = desk_differences(node.state_dir(name), kafka.bootstrap_servers, log, topics, writers, PARTITIONS)
            assert rows == [], checker.describe(rows)
        print(
            f"{writers} writers, {PAUSES} pauses, taken over in {', '.join(f'{s:.1f}' for s in took_s)} s: "
            f"{len(ledger.commands)} commands, {len(ledger.events)} events, {len(ledger.refusals)} refusals"
        )
    finally:
        node.end()
