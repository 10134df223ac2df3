"""A rebuild in its real processes, beside a `serve` that takes orders and answers reads; killed, and resumed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.rocks_store import RocksStore
from ledger.topics import Topics
from tests.benchmarks.lives import write_lives
from tests.support import processes
from tests.support.patience import PATIENCE_S, until
from tests.support.pausing import resume
from tests.support.rebuilds import Traffic, differences, rebuild, running, start_rebuild

pytestmark = pytest.mark.kafka

# Python imports `sitecustomize` before anything else: a rebuild that stops by SIGSTOP when it has begun to build.
STOPS_ITSELF = """
import os, signal
from projections import rebuild
load = rebuild.Rebuild._load
def stop_and_load(self, folder):
    os.kill(os.getpid(), signal.SIGSTOP)
    load(self, folder)
rebuild.Rebuild._load = stop_and_load
"""


def generations(node: processes.LedgerNode) -> list[str]:
    return sorted(path.name for path in (node.state_dir("one") / "projections").glob("g*"))


def test_beside_live_orders_it_is_the_same_and_no_read_is_lost(tmp_path: Path, kafka: KafkaSettings, topics: Topics) -> None:
    log = KafkaLog(kafka)
    write_lives(log, topics, 4, 8_000)
    with running(tmp_path, kafka, topics) as (node, serve):
        with Traffic(node) as traffic:
            until(lambda: traffic.reads > 0)
            first = rebuild(node, "--keep-old", "--jobs", "2")
            assert (first["equal"], first["taken_over"], first["generation"], first["kept"]) == (
                True,
                "yes",
                "g000002",
                "g000001",
            )
            assert first["compared_partitions"] == 4
            contacts = node.state_dir("one") / "projections" / "g000001" / "contacts"
            until(lambda: not contacts.exists())  # `serve` removes them when it no longer has them open
            assert generations(node) == ["g000001", "g000002"]
            back = rebuild(node, "--back")
            assert (back["equal"], back["taken_over"], back["generation"], back["kept"]) == (True, "yes", "g000001", "g000002")
            last = rebuild(node)
            assert (last["equal"], last["taken_over"], last["kept"]) == (True, "yes", None)
            until(lambda: generations(node) == [last["generation"]])
            until(lambda: traffic.reads > 100 and len(traffic.gateway.acknowledged) > 20)
        traffic.check()
        assert serve.stop() == 0
        assert differences(node) == []


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.campaign)])
def test_killed_again_and_again_it_resumes_and_ends_the_same(
    tmp_path: Path, kafka: KafkaSettings, topics: Topics, kills: int
) -> None:
    events = 10_000 * kills
    write_lives(KafkaLog(kafka), topics, 4, events)
    choice = random.Random(kills)
    with running(tmp_path, kafka, topics) as (node, serve):
        with Traffic(node, connections=2) as traffic:
            killed = 0
            deadline = time.monotonic() + PATIENCE_S
            while killed < kills:
                assert time.monotonic() < deadline
                process = start_rebuild(node, "--jobs", str(choice.choice((1, 2, 3))))
                try:
                    process.communicate(timeout=choice.uniform(1.0, 5.0))
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.communicate()
                    killed += 1
            report = rebuild(node)
            assert (report["equal"], report["taken_over"]) == (True, "yes")
        traffic.check()
        assert serve.stop() == 0
        assert differences(node) == []


def test_a_serve_that_is_killed_while_it_takes_over_reads_one_of_the_two(
    tmp_path: Path, kafka: KafkaSettings, topics: Topics
) -> None:
    write_lives(KafkaLog(kafka), topics, 4, 5_000)
    choice = random.Random(5)
    with running(tmp_path, kafka, topics) as (node, serve):
        for _ in range(2):
            process = start_rebuild(node)
            pointer = node.state_dir("one") / "projections" / "current.json"
            before = pointer.read_text()
            while pointer.read_text() == before and process.poll() is None:
                time.sleep(0.005)
            time.sleep(choice.uniform(0.0, 0.5))
            serve.kill()
            serve.start()
            node.wait_ready()
            process.communicate(timeout=PATIENCE_S)
        assert serve.stop() == 0
        assert differences(node) == []


def test_an_empty_node_folds_in_bulk_before_it_answers(tmp_path: Path, kafka: KafkaSettings, topics: Topics) -> None:
    write_lives(KafkaLog(kafka), topics, 4, 30_000)
    with running(tmp_path, kafka, topics) as (node, serve):
        assert "far behind the log, folding in bulk" in (tmp_path / "serve-one.log").read_text()
        assert serve.stop() == 0
        assert differences(node) == []


def test_a_fold_that_differs_from_the_log_is_found_and_replaced(tmp_path: Path, kafka: KafkaSettings, topics: Topics) -> None:
    write_lives(KafkaLog(kafka), topics, 4, 4_000)
    with running(tmp_path, kafka, topics) as (node, serve):
        assert serve.stop() == 0
        folder = node.state_dir("one") / "projections" / "g000001" / "p2"
        dry = rebuild(node, "--dry-run")
        assert (dry["equal"], dry["generation"], generations(node)) == (True, None, ["g000001"])
        store = RocksStore(folder)
        row = store.get(b"\0digest") or b""
        store.write({b"\0digest": row[:-1] + bytes([row[-1] ^ 1])})  # as a fold with another rule would leave it
        store.close()
        process = start_rebuild(node)
        out, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 1
        report = json.loads(out)
        assert (report["equal"], report["generation"]) == (False, None)
        assert [difference["partition"] for difference in report["differences"]] == [2]
        assert generations(node) == ["g000001", "g000002.building"]
        mended = rebuild(node, "--accept-difference")
        assert (mended["resumed"], mended["generation"], mended["taken_over"]) == (True, "g000002", "nobody serves")
        assert generations(node) == ["g000002"]
        assert differences(node) == []


def test_a_build_begun_from_another_log_is_not_resumed(tmp_path: Path, kafka: KafkaSettings, topics: Topics) -> None:
    write_lives(KafkaLog(kafka), topics, 4, 2_000)
    node = processes.LedgerNode(tmp_path, kafka.bootstrap_servers, topics)
    building = node.state_dir("one") / "projections" / "g000001.building"
    (building / "p0").mkdir(parents=True)
    (building / "log.json").write_text(json.dumps({"topic_id": "00" * 16}))
    report = rebuild(node)
    assert (report["resumed"], report["events"], report["generation"]) == (False, 2_000, "g000001")


def test_a_second_rebuild_at_the_same_time_is_refused(tmp_path: Path, kafka: KafkaSettings, topics: Topics) -> None:
    write_lives(KafkaLog(kafka), topics, 4, 2_000)
    (tmp_path / "sitecustomize.py").write_text(STOPS_ITSELF)
    node = processes.LedgerNode(tmp_path, kafka.bootstrap_servers, topics, env={"PYTHONPATH": str(tmp_path)})
    first = start_rebuild(node)
    try:
        until(lambda: psutil.Process(first.pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE))
        second = start_rebuild(node)
        _, err = second.communicate(timeout=PATIENCE_S)
        assert second.returncode == 1
        assert "in_progress" in err
        resume(first.pid)
        out, err = first.communicate(timeout=PATIENCE_S)
    finally:
        first.kill()
        first.communicate()
    assert first.returncode == 0, err
    assert json.loads(out)["events"] == 2_000
