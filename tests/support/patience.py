"""How long a test waits for something that must happen: the end of its patience, never a measure of speed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

# Ten times the slowest such wait on an idle machine, and less than pytest's `timeout`, so that a wait that fails says what
# it waited for.
PATIENCE_S = 240.0


def until(holds: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    """Call `holds` fifty times a second until it returns something true. Raises `AssertionError` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


async def until_async(holds: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    """The same on an event loop, without blocking it."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.01)
