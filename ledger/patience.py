"""How long to wait for a process: as long as it makes progress. The clock alone says nothing on a busy machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

STILL_S = 60.0  # without any progress
AT_MOST_S = 900.0  # even with progress
SLOW_AFTER_S = 20.0
SAY_AGAIN_S = 60.0


class Patience:
    """Runs out after `still_s` without progress, or after `at_most_s` in total.

    `say(seconds)` is called when the wait is longer than usual, and then now and then.
    """

    def __init__(
        self,
        still_s: float = STILL_S,
        say: Callable[[float], None] | None = None,
        at_most_s: float = AT_MOST_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._still_s, self._at_most_s, self._say, self._clock = still_s, at_most_s, say, clock
        self._began = self._moved_at = clock()
        self._say_at = self._began + SLOW_AFTER_S
        self._signs: object = None

    @property
    def waited_s(self) -> float:
        return self._clock() - self._began

    def is_over(self, signs: object) -> bool:
        """Call it repeatedly with values that change with progress."""
        now = self._clock()
        if signs != self._signs:
            self._signs, self._moved_at = signs, now
        if now >= self._say_at and self._say is not None:
            self._say_at = now + SAY_AGAIN_S
            self._say(now - self._began)
        return now - self._moved_at > self._still_s or now - self._began > self._at_most_s


def cpu_of(pids: Iterable[int]) -> int:
    """Whole seconds of CPU used by the living `pids`: an idle process uses one per minute."""
    used_s = 0.0
    for pid in pids:
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.NoSuchProcess:
            continue
        used_s += times.user + times.system
    return int(used_s)


def sizes_of(files: Iterable[Path]) -> tuple[int, ...]:
    """Sizes of growing files, in bytes; 0 if a file does not exist."""
    return tuple(status.st_size if (status := _status_of(file)) else 0 for file in files)


def changed_ns(file: Path) -> int:
    """Time of its last change, in ns since the epoch; 0 if it does not exist."""
    status = _status_of(file)
    return status.st_mtime_ns if status else 0


def _status_of(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except FileNotFoundError:
        return None
