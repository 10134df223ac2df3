"""`order-ledger up` as a person starts it: a child process in a data directory of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from ledger.ports import free_port
from tests.support.patience import PATIENCE_S

PROGRAM = str(Path(sys.executable).with_name("order-ledger"))
PROCESSES = ("broker", "commands", "serve")


class UpProcess:
    """One data directory, and the `up` that runs in it, if any."""

    def __init__(self, data: Path) -> None:
        self.data, self.port = data, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, timeout_s: float = PATIENCE_S) -> None:
        """Start it, wait until it is ready."""
        self.data.mkdir(exist_ok=True)
        with (self.data / "up.log").open("ab") as out:
            self.process = subprocess.Popen(
                [PROGRAM, "up", "--data-dir", str(self.data), "--port", str(self.port)],
                stdout=out,
                stderr=out,
            )
        deadline = time.monotonic() + timeout_s
        while not self.is_ready():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)

    def is_ready(self) -> bool:
        """Whether this process, not an earlier one, has written its addresses."""
        try:
            return self.process is not None and self.info()["pid"] == self.process.pid
        except FileNotFoundError:
            return False

    def info(self) -> dict[str, Any]:
        addresses: dict[str, Any] = json.loads((self.data / "run" / "up.json").read_text())
        return addresses

    def token(self, role: str) -> str:
        token: str = self.info()["tokens"][role]
        return token

    @property
    def bootstrap_servers(self) -> str:
        servers: str = self.info()["bootstrap_servers"]
        return servers

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def pid(self, name: str) -> int:
        """The process id of broker, commands or serve, from its pid file."""
        return int((self.data / "run" / f"{name}.pid").read_text())

    def processes(self) -> list[psutil.Process]:
        """Everything that `up` runs, itself included."""
        assert self.process is not None
        me = psutil.Process(self.process.pid)
        return [me, *me.children(recursive=True)]

    def kill_one(self, name: str) -> None:
        """SIGKILL one of its processes."""
        psutil.Process(self.pid(name)).kill()

    def interrupt(self, timeout_s: float = PATIENCE_S, number: signal.Signals = signal.SIGINT) -> int:
        """Send Ctrl-C or another signal. Returns the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout_s)

    def said(self) -> str:
        """Its output and the ends of the logs, for an assertion's message."""
        logs = sorted((self.data / "log").glob("*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text('utf-8', 'replace')[-2000:]}" for log in (self.data / "up.log", *logs))
