"""The measured system: the whole ledger as `order-ledger up` runs it, and the no-op server. Both end with this process."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ledger.ports import free_port
from tests.benchmarks.jobs import ROOT

UP_S = 180.0  # the first run downloads Kafka
STOP_S = 40.0
PROCESSES = ("serve", "commands", "broker")
_SETTINGS = (
    *("KAFKA_", "LEDGER_", "TOPIC_PREFIX", "PARTITIONS", "WRITERS", "APP_", "STATE_DIR", "NODE_ID", "SCHEMA_REGISTRY_URL"),
    *("LIMIT_", "PAYMENT_", "PRODUCT_", "MERCH_", "SANDBOX_", "NOTIFY_", "OUTBOX_"),
)


# A benchmark sends requests as fast as it can, as few principals.
NO_LIMITS = {f"LIMIT_{who}_PER_SECOND": "1000000" for who in ("GATEWAY", "CUSTOMER", "STAFF")}


def _clean_environment() -> dict[str, str]:
    """The environment without settings for another ledger."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}


def _end_with_parent() -> None:
    """In the child: end when this benchmark does, however it ends. Linux only; elsewhere a killed benchmark leaves its ledger."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


class System:
    """`order-ledger up` in `folder`, until the `with` ends; with a `sandbox`, accepted orders are also reserved and paid.

    `settings` are environment variables of its own.
    """

    def __init__(self, folder: Path, sandbox: bool = False, settings: Mapping[str, str] | None = None) -> None:
        self.folder, self._sandbox, self._settings = folder, sandbox, dict(settings or {})
        self.port = free_port()
        self.info: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        arguments = [sys.executable, "-m", "api.cli", "up", "--data-dir", str(self.folder), "--port", str(self.port)]
        arguments.append("--sandbox" if self._sandbox else "--no-sandbox")
        with (self.folder / "up.out").open("wb") as out:
            self._process = subprocess.Popen(
                arguments,
                cwd=ROOT,
                env=_clean_environment() | NO_LIMITS | self._settings,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        try:
            self._wait_until_up(self._process)
        except BaseException:
            self._stop()
            raise
        return self

    def _wait_until_up(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + UP_S
        written = self.folder / "run" / "up.json"
        while not written.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"`order-ledger up` did not come up:\n{(self.folder / 'up.out').read_text()[-2000:]}")
            time.sleep(0.1)
        self.info = json.loads(written.read_text())

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def token(self, role: str) -> str:
        token: str = self.info["tokens"][role]
        return token

    @property
    def bootstrap_servers(self) -> str:
        servers: str = self.info["bootstrap_servers"]
        return servers

    def pids(self) -> list[int]:
        """Process ids of `PROCESSES`, in that order."""
        return [int((self.folder / "run" / f"{name}.pid").read_text()) for name in PROCESSES]

    def restarts(self) -> list[str]:
        """Output of `up` that is not about starting: a process of the system died."""
        return [line for line in (self.folder / "up.out").read_text().splitlines() if "again" in line]


class Noop:
    """The reference server, until the `with` ends."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.noop_server"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        announced = json.loads(self._process.stdout.readline())
        self.port: int = announced["port"]
        self.stack: str = announced["stack"]
        self.pid = self._process.pid
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)
