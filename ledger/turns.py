"""Long work on an event loop, in pieces of a few milliseconds, so that other tasks run in between.

Work is a generator that yields wherever it may be interrupted and returns its result (`Steps`). A step should take well below
a millisecond. Work that ends within `SHORT_S` is done immediately. Longer work gets turns of `TURN_S`. However many requests do
long work, only one of them has a turn per iteration of the loop, first come, first served. State may change between two steps;
work must check again if that matters.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")
Steps: TypeAlias = Generator[None, None, T]

SHORT_S, TURN_S = 0.0005, 0.002


class Turns:
    """The turns of one event loop."""

    def __init__(self, short_s: float = SHORT_S, turn_s: float = TURN_S) -> None:
        self._short_s, self._turn_s = short_s, turn_s
        self._lane = asyncio.Lock()  # first come, first served

    async def run(
        self, steps: Steps[T], wait_turn: bool = False, worked: Callable[[float], object] = lambda seconds: None
    ) -> tuple[T, float]:
        """Run all `steps`. Returns (result, seconds of the loop they took). Passes on their exceptions.

        `wait_turn` is for work that many begin at the same moment: it waits for its turn, however short it is. Nothing is awaited
        between the last step and the return. `worked(seconds)` is called after each turn, so also for work that fails or is
        cancelled.
        """
        work = _Work(steps, worked)
        try:
            done, loop = not wait_turn and work.go_on(self._short_s), asyncio.get_running_loop()
            while not done:
                await self._lane.acquire()
                try:
                    done = work.go_on(self._turn_s)
                finally:
                    loop.call_soon(self._lane.release)  # after one iteration of the loop
                if not done:
                    await asyncio.sleep(0)
            return work.result, work.took_s
        finally:
            steps.close()


class _Work(Generic[T]):
    def __init__(self, steps: Steps[T], worked: Callable[[float], object]) -> None:
        self._steps, self._worked = steps, worked
        self.result: T
        self.took_s = 0.0

    def go_on(self, most_s: float) -> bool:
        """Work for about `most_s`. Returns whether it is done."""
        began = now = time.perf_counter()
        try:
            while now - began < most_s:
                next(self._steps)
                now = time.perf_counter()
            return False
        except StopIteration as done:
            self.result = done.value
            return True
        finally:
            worked_s = time.perf_counter() - began
            self.took_s += worked_s
            self._worked(worked_s)


def in_one_go(steps: Steps[T]) -> T:
    """The result of `steps`, without interruption, for code without an event loop."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            value: T = done.value
            return value
