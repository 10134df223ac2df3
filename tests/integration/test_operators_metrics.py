"""Every metric and label that dashboard, alerts and their drills use exists in the processes; every metric there is shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from commands.processor.process import CommandsProcess
from ledger.memory.store import MemoryStore
from ledger.upgrades.membership import LedgerMoved
from tests.support.alert_drills import DRILLS, HEALTHY
from tests.support.operators_files import OF_PROMETHEUS, Labels, alerts, metrics_of, names, queries_of_dashboard, unknown
from tests.support.paying_shop import Shop
from tests.support.trusted import running_trusted

# Metrics that neither the dashboard nor an alert needs, and why.
NOT_SHOWN = {
    "ledger_commands_clock_skew_seconds": "`commands` shows it itself, as ledger_commands_log_clock_skew_seconds",
    "ledger_commands_sent": "what was decided is shown",
    "ledger_workers_running": "their restarts are shown",
    "process_start_time_seconds": "of the library, as the next",
    "process_virtual_memory_bytes": "RocksDB maps files: it says nothing",
}


@pytest.fixture
def metrics(shop: Shop) -> Labels:
    """Those of both processes, also with an issuer of tokens, and what Prometheus adds."""
    ledger = shop.ledger
    companions = ledger.companions
    assert companions is not None
    assert companions.reconciler is not None
    assert companions.notifier is not None
    assert companions.webhooks is not None
    process = CommandsProcess(ledger.log, lambda name: MemoryStore(), ledger.topics, "app", "metrics")
    commands = metrics_of(companions.registry(process))
    with running_trusted() as trusted:
        served = metrics_of(trusted.ledger.app.state.registry)
    return {**commands, **served, **metrics_of(ledger.app.state.registry), **OF_PROMETHEUS}


def test_every_panel_shows_metrics_and_labels_that_exist(metrics: Labels) -> None:
    assert [f"{panel}: {one}" for panel, query in queries_of_dashboard() for one in unknown(query, metrics)] == []


def test_every_alert_asks_for_metrics_and_labels_that_exist(metrics: Labels) -> None:
    assert [f"{name}: {one}" for name, rule in alerts().items() for one in unknown(rule["expr"], metrics)] == []


def test_the_drills_use_series_that_the_processes_could_show(metrics: Labels) -> None:
    used = {one for drill in DRILLS.values() for one in drill.wrong} | set(HEALTHY)
    assert [missing for one in sorted(used) for missing in unknown(one, metrics)] == []


def test_every_metric_is_on_the_dashboard_or_in_an_alert(metrics: Labels) -> None:
    queries = [query for _, query in queries_of_dashboard()] + [rule["expr"] for rule in alerts().values()]
    used = {family(name) for query in queries for name in names(query)}
    there = {family(name) for name in metrics if name not in OF_PROMETHEUS}
    assert there - used == set(NOT_SHOWN)


@pytest.mark.parametrize("document", ["OPERATIONS.md", "api/ops/RUNBOOK.md", "api/ops/README.md"])
def test_every_metric_that_a_document_names_exists(metrics: Labels, document: str) -> None:
    text = (Path(__file__).parents[2] / document).read_text("utf-8")
    words = set(re.findall(r"\bledger_[a-z_]+\b", text)) - {LedgerMoved.code}
    assert {word for word in words if family(word) not in {family(name) for name in metrics}} == set()


def family(name: str) -> str:
    """Name of the metric that a sample belongs to: histograms have several."""
    for suffix in ("_bucket", "_sum", "_count"):
        name = name.removesuffix(suffix)
    return name
