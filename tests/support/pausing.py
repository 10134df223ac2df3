"""SIGSTOP, and what it promises only later.

A process is stopped by whichever of its threads takes the signal first. On a busy machine that thread may wait for its turn, and
the others work on meanwhile: a broker has acknowledged a record that was sent after the signal.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil

from tests.support.patience import until


def pause(pid: int) -> None:
    """SIGSTOP; returns when no thread of the process runs any more."""
    os.kill(pid, signal.SIGSTOP)
    until(lambda: _is_stopped(pid))


def resume(pid: int) -> None:
    """SIGCONT."""
    os.kill(pid, signal.SIGCONT)


def _is_stopped(pid: int) -> bool:
    tasks = Path(f"/proc/{pid}/task")
    if not tasks.is_dir():  # not Linux
        return str(psutil.Process(pid).status()) == psutil.STATUS_STOPPED
    return all(_state(task) in ("T", "Z", "X") for task in tasks.iterdir())


def _state(task: Path) -> str:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"  # the thread has ended
