"""Production starts only on a cluster that keeps what was accepted when one broker fails, or if that is allowed."""

from __future__ import annotations

import threading

import pytest
import structlog

from api.processes.replicas import check_replicas
from api.settings import Settings
from ledger.durability import Durability, weaknesses
from ledger.errors import ConfigError
from ledger.memory.log import MemoryLog

GOOD = Durability("order-events", 3, 2, False)


@pytest.mark.parametrize(
    ("topic", "lacks"),
    [
        (GOOD, None),
        (GOOD._replace(replicas=5, in_sync=3), None),
        (GOOD._replace(replicas=1), "1 replica (needed: 3)"),
        (GOOD._replace(replicas=2), "2 replicas (needed: 3)"),
        (GOOD._replace(in_sync=1), "min.insync.replicas=1 (needed: 2)"),
        (GOOD._replace(unclean=True), "unclean.leader.election.enable=true (needed: false)"),
        (GOOD._replace(replicas=1, in_sync=1), "1 replica (needed: 3), min.insync.replicas=1 (needed: 2)"),
    ],
)
def test_each_weakness_is_named(topic: Durability, lacks: str | None) -> None:
    assert weaknesses([topic]) == ([] if lacks is None else [f"order-events has {lacks}"])


def memory_log(settings: Settings) -> MemoryLog:
    log = MemoryLog()
    log.ensure_topics(settings.topics.specs(2, 1))
    return log


def test_production_refuses_a_log_with_one_replica_and_names_every_topic() -> None:
    settings = Settings(_env_file=None, app_env="production", topic_prefix="eu.")
    with pytest.raises(ConfigError) as caught:
        check_replicas(memory_log(settings), settings, threading.Event())
    lines = str(caught.value).splitlines()
    assert len(lines) == len(settings.topics.names)
    assert lines[1] == (
        "eu.order-events has 1 replica (needed: 3), min.insync.replicas=1 (needed: 2): production needs what is named, or "
        "ALLOW_FEW_REPLICAS=true"
    )


def test_it_starts_if_that_is_allowed_and_the_log_says_so() -> None:
    settings = Settings(_env_file=None, app_env="production", allow_few_replicas=True)
    with structlog.testing.capture_logs() as logs:
        assert check_replicas(memory_log(settings), settings, threading.Event())
    assert len([line for line in logs if line["log_level"] == "warning"]) == len(settings.topics.names)


def test_development_is_not_asked() -> None:
    settings = Settings(_env_file=None, app_env="development")
    assert check_replicas(MemoryLog(), settings, threading.Event())


def test_a_stop_ends_the_wait_for_a_cluster_that_does_not_answer() -> None:
    settings, stopping = Settings(_env_file=None, app_env="production"), threading.Event()
    log = memory_log(settings)
    log.away(True)
    threading.Timer(0.2, stopping.set).start()
    assert not check_replicas(log, settings, stopping)
