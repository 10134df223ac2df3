"""Health and metrics of the sandbox and of the embedded broker: what every process has, and whether it answers."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.metrics import Workers
from api.processes.health import HealthServer

if TYPE_CHECKING:
    from ledger.broker.node import EmbeddedBroker

ANSWER_S = 2.0


class _Answers(Collector):
    def __init__(self, name: str, ready: Callable[[], bool]) -> None:
        self._name, self._ready = name, ready

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(f"ledger_{self._name}_ready", f"1 if the {self._name} answers.")
        family.add_metric((), float(self._ready()))
        yield family


def health_of_sandbox(host: str, port: int, ready: Callable[[], bool]) -> HealthServer:
    """Of this process, which is the sandbox."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(Workers())
    registry.register(_Answers("sandbox", ready))
    return HealthServer("sandbox", host, port, registry, lambda: _checks("http", ready()))


def health_of_broker(broker: EmbeddedBroker, host: str, port: int) -> HealthServer:
    """Of the Java process that `broker` is now; a restarted one has another pid."""
    registry = CollectorRegistry()
    # On Linux only; elsewhere there are no figures of another process.
    ProcessCollector(namespace="ledger_broker", pid=lambda: broker.pid, registry=registry)
    registry.register(_Answers("broker", lambda: _listens(broker)))
    return HealthServer("broker", host, port, registry, lambda: _checks("kafka", _listens(broker)))


def _checks(name: str, is_ready: bool) -> tuple[bool, dict[str, str]]:
    return is_ready, {name: "ok" if is_ready else "no answer"}


def _listens(broker: EmbeddedBroker) -> bool:
    if broker.poll() is not None:
        return False
    host, _, port = broker.bootstrap_servers.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), ANSWER_S):
            return True
    except (OSError, ValueError):
        return False
