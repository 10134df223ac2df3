"""The machine's clocks, for everything that does not use the time of the log."""

from __future__ import annotations

import time


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def monotonic_ms() -> int:
    """Milliseconds since some moment. It never jumps: for pauses."""
    return time.monotonic_ns() // 1_000_000
