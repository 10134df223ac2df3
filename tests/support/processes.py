"""Real processes of one ledger, to kill, freeze and restart."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from api.callers.auth import hash_token
from ledger.ports import free_port
from ledger.topics import Topics
from tests.support import loopback
from tests.support.patience import PATIENCE_S, until
from tests.support.programs import THIS, Program

TOKENS = {role: f"test-{role}-token" for role in ("gateway", "admin", "reader", "operator")}
TOKEN_FILE = {"tokens": [{"name": role, "role": role, "sha256": [hash_token(token)]} for role, token in TOKENS.items()]}


class Child:
    """`python -m api.cli <verb>` with its own environment. `start` also restarts a killed one, perhaps as another `program`."""

    def __init__(self, verb: str, env: dict[str, str], log_file: Path, program: Program = THIS) -> None:
        self.verb, self.env, self.log_file, self.program = verb, env, log_file, program
        self.process: subprocess.Popen[bytes] | None = None
        self.exits: list[int] = []

    def start(self, before: Sequence[str] = ()) -> None:
        """`before`: words before the command, such as those of another program that starts it in its own place."""
        command = [*before, *self.program.interpreter, "-m", "api.cli", self.verb]
        with self.log_file.open("ab") as out:
            self.process = subprocess.Popen(command, env={**self.env, **self.program.env}, stdout=out, stderr=out)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.signal(signal.SIGKILL)
        self.exits.append(self._running().wait())

    def stop(self, timeout_s: float = PATIENCE_S) -> int:
        """SIGTERM, once the process handles it: one that was just started ends of it like any program. Returns the exit code."""
        until(lambda: self.ended() is not None or handles(self.pid, signal.SIGTERM))
        self.signal(signal.SIGTERM)
        try:
            return self._running().wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        return self._running().pid

    def ended(self) -> int | None:
        """Exit code if it ended on its own."""
        return self._running().poll()

    def end(self) -> None:
        """End it, whatever its state; for clean-up."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None
        return self.process


def handles(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal; True where that cannot be known."""
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii", "replace")
    except OSError:
        return True
    (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (number - 1) & 1)


class LedgerNode:
    """`commands` and `serve` of one ledger on a broker that others use too: own topics, own ids, own state."""

    def __init__(
        self,
        folder: Path,
        bootstrap: str,
        topics: Topics,
        writers: int = 1,
        partitions: int = 4,
        port: int | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        self.folder, self.topics, self.bootstrap = folder, topics, bootstrap
        self.writers, self.partitions = writers, partitions
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._env = {
            **os.environ,
            "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
            "TOPIC_PREFIX": topics.prefix,
            "APP_ID": "ledger",
            "PARTITIONS": str(partitions),
            "WRITERS": str(writers),
            "LEDGER_HASH_KEY": "a key that only this test knows",
            "LEDGER_TOKENS": json.dumps(TOKEN_FILE),
            "LIMIT_CUSTOMER_PER_SECOND": "1000000",  # a test sends requests as fast as it can
            "LIMIT_STAFF_PER_SECOND": "1000000",
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            **(env or {}),
        }
        self.children: list[Child] = []

    def state_dir(self, node: str) -> Path:
        return self.folder / f"state-{node}"

    def child(self, verb: str, node: str = "one", program: Program = THIS) -> Child:
        """A process of this ledger, not started yet."""
        env = self._env | {"NODE_ID": node, "STATE_DIR": str(self.state_dir(node))}
        child = Child(verb, env, self.folder / f"{verb}-{node}.log", program)
        self.children.append(child)
        return child

    def wait_ready(self, timeout_s: float = PATIENCE_S, url: str | None = None) -> None:
        """Wait until `serve`, or the one at `url`, says it is ready, and not only for stale reads."""
        deadline = time.monotonic() + timeout_s
        with loopback.client(timeout=2.0) as client:
            while time.monotonic() < deadline:
                try:
                    answer = client.get(f"{url or self.url}/ready")
                    if answer.status_code == 200 and "stale" not in answer.json():
                        return
                except httpx.TransportError:
                    pass
                time.sleep(0.05)
        raise AssertionError(f"not ready in {timeout_s} s: {self.tails()}")

    def tails(self) -> str:
        """The ends of the logs, for an assertion's message."""
        return "\n".join(
            f"--- {c.log_file.name}\n{c.log_file.read_text('utf-8', 'replace')[-3000:]}"
            for c in self.children
            if c.log_file.exists()  # it was started
        )

    def end(self) -> None:
        for child in self.children:
            child.end()


class Killer(threading.Thread):
    """Kills a child again and again at random moments and restarts it immediately; `pauses_s` are the times between."""

    def __init__(self, child: Child, pauses_s: list[float]) -> None:
        super().__init__(name=f"killer-{child.verb}", daemon=True)
        self._child, self._pauses_s = child, pauses_s
        self.unexpected: list[int] = []

    def run(self) -> None:
        for pause_s in self._pauses_s:
            deadline = time.monotonic() + pause_s
            while time.monotonic() < deadline:
                if (code := self._child.ended()) is not None:
                    self.unexpected.append(code)  # it ended on its own, which no kill of another process may cause
                    self._child.start()
                time.sleep(0.02)
            self._child.kill()
            self._child.start()
