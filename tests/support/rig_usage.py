"""Memory and open files of a rig's processes over time: whether they grow, for whoever runs it long enough."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import psutil

EVERY_S = 5.0
WARM = 1 / 3  # of the run: caches and databases have their size by then
WINDOW = 1 / 12  # of the run, of which the middle sample counts


class Sample(NamedTuple):
    """One process at one time: seconds since the start, its kind, resident megabytes, open files."""

    at_s: float
    kind: str
    mb: float
    files: int


class Usage(threading.Thread):
    """Samples the processes that `running` names, as process id -> kind, until it is stopped."""

    def __init__(self, running: Callable[[], Mapping[int, str]]) -> None:
        super().__init__(name="usage", daemon=True)
        self._running, self._stop_now = running, threading.Event()
        self.samples: list[Sample] = []

    def run(self) -> None:
        began = time.monotonic()
        while not self._stop_now.wait(EVERY_S):
            for pid, kind in self._running().items():
                try:
                    process = psutil.Process(pid)
                    mb, files = process.memory_info().rss / 2**20, process.num_fds()
                except psutil.NoSuchProcess:
                    continue  # just killed
                self.samples.append(Sample(time.monotonic() - began, kind, mb, files))

    def stop(self) -> None:
        """End the thread."""
        self._stop_now.set()
        self.join()

    def figures(self, seconds: float) -> dict[str, dict[str, Any]]:
        """`growth` of a run of `seconds`; see there."""
        return growth(self.samples, seconds)


def growth(samples: list[Sample], seconds: float) -> dict[str, dict[str, Any]]:
    """Per kind: memory (MB) and files when the run was warm and at its end, and by how many percent the memory grew.

    Each is the middle of a window's samples, for processes are killed and start small. Empty for a run too short to say.
    """
    warm, end = (WARM * seconds, (WARM + WINDOW) * seconds), ((1 - WINDOW) * seconds, seconds)
    grown: dict[str, dict[str, Any]] = {}
    for kind in sorted({sample.kind for sample in samples}):
        early, late = ([s for s in samples if s.kind == kind and low <= s.at_s <= high] for low, high in (warm, end))
        if not early or not late:
            continue
        before, after = (statistics.median(s.mb for s in window) for window in (early, late))
        grown[kind] = {
            "mb_warm": round(before),
            "mb_end": round(after),
            "growth_percent": round(100 * (after / before - 1), 1),
            "files_warm": statistics.median(s.files for s in early),
            "files_end": statistics.median(s.files for s in late),
        }
    return grown
