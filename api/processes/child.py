"""One process of `up`: started, watched, started again, stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from ledger.files import write_whole

FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.5, 10.0
STOP_S = 12.0
MOST_ENDS = 6  # of one child before the first "ready": waiting longer would not help
CLOCKS_DIFFER_S = 60.0  # a pid is not reused so soon
CALM_S = 10.0  # a child that lived this long worked: it is restarted immediately


class Child:
    """A child process that is restarted when it ends."""

    def __init__(self, name: str, arguments: list[str], env: Mapping[str, str], data: Path, folder: Path | None = None) -> None:
        """`folder` is its working directory, where `.env` is read. None: the working directory of `up`."""
        self.name = name
        self._folder = folder
        self.restarts = -1
        self.ends = 0
        self._arguments, self._env = arguments, dict(env)
        self._pid_file, self._log_file = data / "run" / f"{name}.pid", data / "log" / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._started = self._not_before = 0.0
        self._backoff_s = FIRST_BACKOFF_S

    def end_leftover(self) -> None:
        """End the child of a killed earlier `up`, if its pid file names a living process."""
        leftover = _living(self._pid_file, self._arguments[0])
        if leftover is not None:
            with suppress(psutil.NoSuchProcess):  # it may end at any moment
                leftover.terminate()
                try:
                    leftover.wait(STOP_S)
                except psutil.TimeoutExpired:
                    leftover.kill()
                    leftover.wait(STOP_S)
        self._pid_file.unlink(missing_ok=True)

    def tend(self) -> str | None:
        """Start it if it is not running. Returns a line for the screen if it ended."""
        now = time.monotonic()
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return None
            self._forget(self._process)
            self.ends += 1
            if now - self._started > CALM_S:
                self._backoff_s = FIRST_BACKOFF_S
                self._start(now)
                return f"{self.name} exited with code {code}; restarting it (log: {self._log_file})"
            self._not_before = now + self._backoff_s
            ended = f"{self.name} exited with code {code}; restarting it in {self._backoff_s:.1f} s (log: {self._log_file})"
            self._backoff_s = min(self._backoff_s * 2, MAX_BACKOFF_S)
            return ended
        if now >= self._not_before:
            self._start(now)
        return None

    def _start(self, now: float) -> None:
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        with self._log_file.open("ab") as log_file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "api.cli", *self._arguments, "--with-parent"],
                env=self._env,
                cwd=self._folder,
                stdin=subprocess.PIPE,
                stdout=log_file,
                stderr=log_file,
                start_new_session=True,  # Ctrl-C reaches only `up`, which stops the others in order
            )
        self._started = now
        self.restarts += 1
        write_whole(self._pid_file, f"{self._process.pid}\n", private=True)

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def log_file(self) -> Path:
        return self._log_file

    def ask_to_stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def wait_stopped(self, timeout_s: float) -> None:
        """Wait for it to end; kill it after `timeout_s`."""
        if self._process is not None:
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._forget(self._process)
        self._pid_file.unlink(missing_ok=True)

    def _forget(self, ended: subprocess.Popen[bytes]) -> None:
        if ended.stdin is not None:
            ended.stdin.close()
        self._process = None


def _living(pid_file: Path, argument: str) -> psutil.Process | None:
    """The process named by a pid file, if it lives. The pid may have been reused, even by a process of another ledger: that
    one is younger than the file.
    """
    try:
        process = psutil.Process(int(pid_file.read_text()))
        line, younger_s = process.cmdline(), process.create_time() - pid_file.stat().st_mtime
    except (OSError, ValueError, psutil.Error):
        return None
    return process if "api.cli" in line and argument in line and younger_s < CLOCKS_DIFFER_S else None
