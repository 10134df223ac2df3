"""A separate node over topics that were written beforehand: `serve`, and also `commands` when orders are to be decided."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping

import httpx

from ledger.ports import free_port
from tests.benchmarks.bench import Bench, Incorrect
from tests.benchmarks.jobs import ROOT
from tests.benchmarks.system import NO_LIMITS

LIMIT_S = 900.0


def environment() -> dict[str, str]:
    """The environment without settings of the ledger that is measured beside it."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("KAFKA_", "STATE_DIR", "TOPIC_PREFIX"))}


class Node:
    """Processes over the topics of `prefix`, their databases built from nothing when they first start."""

    def __init__(self, bench: Bench, prefix: str) -> None:
        self.port, self._bench = free_port(), bench
        self.url = f"http://127.0.0.1:{self.port}"
        state = bench.system.folder / f"node-{prefix}"
        self._env: Mapping[str, str] = {
            **environment(),
            **NO_LIMITS,
            "KAFKA_BOOTSTRAP_SERVERS": bench.system.bootstrap_servers,
            "TOPIC_PREFIX": prefix,
            "APP_ID": "ledger",
            "STATE_DIR": str(state),
            "OUTBOX_DIR": str(state / "outbox"),
            "NODE_ID": prefix.strip("."),
            "PORT": str(self.port),
            "LEDGER_HASH_KEY": "only for this benchmark",
            "LEDGER_TOKENS_FILE": str(bench.system.folder / "tokens.json"),
        }
        self._log = bench.system.folder / f"node-{prefix}log"
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def token(self, role: str) -> str:
        return self._bench.system.token(role)

    def start(self) -> float:
        """Start `serve`. Returns the seconds until it is ready. Raises `Incorrect` if it does not become ready."""
        began = time.monotonic()
        self._start("serve")
        while True:
            try:
                answer = httpx.get(f"{self.url}/ready", timeout=2.0)
                if answer.status_code == 200 and "stale" not in answer.json():
                    return time.monotonic() - began
            except httpx.TransportError:
                pass
            self.check(began)
            time.sleep(0.02)

    def decide(self) -> None:
        """Start `commands`."""
        self._start("commands")

    def _start(self, verb: str) -> None:
        with self._log.open("ab") as log:
            command = [sys.executable, "-m", "api.cli", verb]
            self._running[verb] = subprocess.Popen(command, cwd=ROOT, env=dict(self._env), stdout=log, stderr=log)

    def check(self, began: float) -> None:
        """Raises `Incorrect` when a process has ended, or when the time is over."""
        if any(process.poll() is not None for process in self._running.values()) or time.monotonic() - began > LIMIT_S:
            raise Incorrect(f"a node did not become ready: {self._log.read_text()[-2000:]}")

    def pid(self, verb: str = "serve") -> int:
        return self._running[verb].pid

    def end(self) -> None:
        while self._running:
            _, process = self._running.popitem()
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
