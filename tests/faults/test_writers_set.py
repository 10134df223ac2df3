"""The number of writers is changed while one `commands` is cut off: it never decides by the old number again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.topics import Topics
from tests.faults.test_lost_writers import PARTITIONS, place_everywhere, wait_ready
from tests.support.patience import PATIENCE_S, until
from tests.support.pausing import pause, resume
from tests.support.processes import LedgerNode
from tests.support.topic_load import wait_answered

pytestmark = pytest.mark.kafka


def verb(node: LedgerNode, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = node.child("writers").env
    node.children.pop()
    command = [sys.executable, "-m", "api.cli", "writers", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_a_process_that_slept_through_the_change_ends_without_deciding(
    tmp_path: Path, kafka: KafkaSettings, topics: Topics
) -> None:
    log = KafkaLog(kafka)
    log.ensure_topics(topics.specs(PARTITIONS, 2), PATIENCE_S)
    before = LedgerNode(tmp_path, kafka.bootstrap_servers, topics, 2, PARTITIONS)
    after = LedgerNode(tmp_path, kafka.bootstrap_servers, topics, PARTITIONS, PARTITIONS)
    try:
        asleep = before.child("commands", "asleep")
        asleep.start()
        wait_ready(asleep, 2)
        place_everywhere(log, topics, 0)
        wait_answered(kafka.bootstrap_servers, topics.prefix, PATIENCE_S)
        pause(asleep.pid)

        changed = verb(before, "set", str(PARTITIONS), "--why", "more machines", "--yes", "--json")
        assert changed.returncode == 0, changed.stderr
        assert json.loads(changed.stdout) == {"ok": True, "before": 2, "writers": PARTITIONS}
        place_everywhere(log, topics, 1_000)
        resume(asleep.pid)
        until(lambda: asleep.ended() is not None)
        assert asleep.ended() == 70, before.tails()

        awake = after.child("commands", "awake")
        awake.start()
        place_everywhere(log, topics, 2_000)
        ledger = wait_answered(kafka.bootstrap_servers, topics.prefix, PATIENCE_S)
        assert ledger.problems == [], f"{ledger.problems[:3]}\n{after.tails()}"
        rows = json.loads(verb(after, "show", "--json").stdout)["writers"]
        assert [(row["partitions"], row["is_held"]) for row in rows] == [([p], True) for p in range(PARTITIONS)]
        assert awake.stop() == 0
    finally:
        before.end()
        after.end()
