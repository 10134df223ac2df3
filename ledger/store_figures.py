"""Figures of the open stores of this process, for metrics: whoever opens a store announces it here."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from typing import Protocol

# name -> what it counts, summed over all stores
FIGURES: Mapping[str, str] = {
    "cache_bytes": "Memory of the block cache, with all memtables.",
    "memtable_bytes": "Memory of memtables.",
    "file_bytes": "Size of the files.",
    "pending_compaction_bytes": "What compactions have yet to rewrite.",
    "running_compactions": "Compactions that run.",
    "running_flushes": "Memtables that are being written to files.",
    "writes_stopped": "Databases that take no writes until a compaction has caught up.",
    "background_errors": "Errors of flushes and compactions.",
}


class HasFigures(Protocol):
    """A store, or the memory of several. Can be asked by any thread, also while it is closed."""

    def figures(self) -> Mapping[str, int]:
        """Values by names of `FIGURES`; empty when it is closed."""


_OPEN: weakref.WeakSet[HasFigures] = weakref.WeakSet()
_lock = threading.Lock()


def announce(store: HasFigures) -> None:
    """Count `store` until it is closed or gone."""
    with _lock:
        _OPEN.add(store)


def figures() -> dict[str, int]:
    """The sums over all open stores."""
    with _lock:
        stores = list(_OPEN)
    sums = dict.fromkeys(FIGURES, 0)
    for store in stores:
        for name, value in store.figures().items():
            sums[name] += value
    return sums
