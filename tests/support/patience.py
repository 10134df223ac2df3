"""How long a test waits for something that must happen: the end of its patience, never a measure of speed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

# Ten times what the slowest such wait takes on an idle machine, and less than `timeout` of pytest's settings, so that a wait
# that fails says for what.
PATIENCE_S = 240.0


def until(holds: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    """Wait until `holds` returns something true, asked fifty times a second. Raises `AssertionError` at the end of the time."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


async def until_async(holds: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    """The same on an event loop, which goes on meanwhile."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.01)
