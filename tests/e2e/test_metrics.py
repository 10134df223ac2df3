"""Health and metrics of every process of a running `up`, at the addresses that `up.json` names."""

from __future__ import annotations

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support import loopback
from tests.support.patience import until
from tests.support.up_process import UpProcess

pytestmark = pytest.mark.kafka
SHOWN = {
    "commands": ("ledger_commands_decided_total", "ledger_commands_writer_ready", "process_open_fds"),
    "sandbox": ("ledger_sandbox_ready", "process_resident_memory_bytes"),
    "broker": ("ledger_broker_ready", "ledger_broker_process_resident_memory_bytes"),
    "serve": ("ledger_orders", "ledger_loop_lag_seconds_count", "process_open_fds"),
}


@pytest.mark.parametrize("process", SHOWN)
def test_each_process_shows_its_metrics(up: UpProcess, process: str) -> None:
    url = up.info()["metrics"][process]
    headers = {"Authorization": f"Bearer {up.token('operator')}"} if process == "serve" else {}

    def answer(path: str) -> httpx.Response:
        """`up` says where before each process listens there."""
        try:
            return loopback.get(url.removesuffix("/metrics") + path, headers=headers)
        except httpx.TransportError:
            return httpx.Response(503)

    def shown() -> set[str]:
        text = answer("/metrics").text
        return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}

    until(lambda: set(SHOWN[process]) <= shown())
    assert answer("/live").status_code == 200
    until(lambda: answer("/ready").status_code == 200)
