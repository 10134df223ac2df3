"""The gate at which a test pauses a fold: while it is paused, the fold applies nothing, in whatever order threads run."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.patience import PATIENCE_S, until
from tests.support.serving import FoldGate


@contextmanager
def folding(gate: FoldGate) -> Iterator[tuple[asyncio.AbstractEventLoop, list[float]]]:
    """A loop that passes the gate again and again; yields it, and when it did."""
    loop, passes, ending = asyncio.new_event_loop(), list[float](), threading.Event()

    async def fold() -> None:
        while not ending.is_set():
            await gate.passed()
            passes.append(time.monotonic())
            await asyncio.sleep(0)

    thread = threading.Thread(target=lambda: loop.run_until_complete(fold()))
    thread.start()
    try:
        yield loop, passes
    finally:
        ending.set()
        gate.resume()
        thread.join(PATIENCE_S)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def test_a_paused_fold_does_nothing_until_it_is_resumed() -> None:
    gate = FoldGate()
    with folding(gate) as (_, passes):
        for _ in range(50):
            with gate.paused():
                before = len(passes)
                time.sleep(0.001)  # no condition to wait for: nothing may happen in this time
                assert len(passes) == before
            until(lambda before=before: len(passes) > before)


def test_a_fold_that_was_woken_and_is_paused_again_before_its_turn_does_nothing() -> None:
    gate, free = FoldGate(paused=True), threading.Event()
    with folding(gate) as (loop, passes):
        gate.pause()
        loop.call_soon_threadsafe(free.wait)  # the loop is busy
        gate.resume()
        gate.pause()
        free.set()
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.1), loop).result(PATIENCE_S)
        assert passes == []
