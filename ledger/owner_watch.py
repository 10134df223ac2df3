"""Ends a process when its owner dies, for whatever reason: SIGKILL, a crash, the end of a container's main process.

A small separate process waits for the end of a pipe whose other end only the owner holds. The kernel's death signal
(PR_SET_PDEATHSIG) exists only on Linux, and considers the *thread* that started the process as its parent.
"""

from __future__ import annotations

import os
import subprocess
import sys

# Reads a pid, the time its process may take to stop, and a word of its command line (the pid may be reused later).
# These come through the pipe, so that a search for the word finds only the process itself.
_WATCH = """
import os, signal, subprocess, time
said = b""
while chunk := os.read(0, 4096):
    said += chunk
first, stop_s, mark = os.fsdecode(said).split(" ", 2)
pid, stop_s = int(first), float(stop_s)
def is_it():
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return os.fsencode(mark) in file.read()
    except FileNotFoundError:
        if os.path.exists("/proc/self/cmdline"):
            return False
    shown = subprocess.run(["ps", "-ww", "-p", str(pid), "-o", "command="], capture_output=True)
    return os.fsencode(mark) in shown.stdout
try:
    if is_it():
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + stop_s
        while is_it():
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                break
            time.sleep(0.05)
except ProcessLookupError:
    pass
"""


class OwnerWatch:
    """Watches this process for the process `pid`, until `close`."""

    def __init__(self, pid: int, mark: str, stop_s: float = 10.0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _WATCH],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a signal to the group of the owner must not end the watch first
            cwd="/",
        )
        assert self._process.stdin is not None
        self._process.stdin.write(os.fsencode(f"{pid} {stop_s} {mark}"))
        self._process.stdin.flush()

    def close(self) -> None:
        """End the watch without touching the process. Call it when the process has ended."""
        self._process.kill()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
