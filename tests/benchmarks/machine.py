"""The machine of the measurements, and how much of it other processes took meanwhile."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from ledger.broker.jars import JarLock

CALM_CPUS, CALM_WINDOW_S = 0.2, 1.5

LIBRARIES = (
    "confluent-kafka",
    "fastavro",
    "faust-streaming",
    "rocksdict",
    "fastapi",
    "starlette",
    "pydantic",
    "msgspec",
    "uvicorn",
    "uvloop",
    "httptools",
)


def describe(http_protocol: str) -> dict[str, object]:
    """Machine and versions, for the head of the table and the JSON."""
    return {
        "cpus": os.cpu_count(),
        "cpu_model": _cpu_model(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "kafka": JarLock.read().kafka_version,
        "http_stack": f"uvicorn + uvloop + httptools ({http_protocol})",
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "load_average_before": [round(load, 2) for load in os.getloadavg()],
    }


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123  # a file of the system
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown")
    except OSError:
        return platform.processor() or "unknown"


@dataclass(frozen=True, slots=True)
class _Usage:
    at: float
    busy_s: float
    ours_s: float


class Neighbours:
    """How many CPUs other processes kept busy during the measurements: the fewer, the more a run is worth."""

    def __init__(self) -> None:
        self.shares: list[float] = []

    def usage(self, pids: Sequence[int]) -> _Usage:
        times = psutil.cpu_times()
        busy = sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
        own = os.times()
        ours = own.user + own.system + own.children_user + own.children_system
        for pid in pids:
            used = psutil.Process(pid).cpu_times()
            ours += used.user + used.system
        return _Usage(time.monotonic(), busy, ours)

    def since(self, before: _Usage, pids: Sequence[int]) -> float:
        """CPUs busy with other processes since `before`. Finished children of the benchmark count as its own."""
        now = self.usage(pids)
        return max(0.0, (now.busy_s - before.busy_s) - (now.ours_s - before.ours_s)) / (now.at - before.at)

    def note(self, before: _Usage, pids: Sequence[int]) -> None:
        self.shares.append(self.since(before, pids))

    def wait_for_calm(self, pids: Sequence[int], limit_s: float) -> None:
        """Wait until other processes leave the machine alone, `limit_s` at most."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            before = self.usage(pids)
            time.sleep(CALM_WINDOW_S)
            if self.since(before, pids) < CALM_CPUS:
                return
