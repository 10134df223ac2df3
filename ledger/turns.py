"""Long work on an event loop: a few milliseconds at a time, one piece at a time, with a turn for everybody else in between.

Work is a generator that yields wherever it may be interrupted and returns its result (`Steps`). A step should take well below
a millisecond. Work that ends within `SHORT_S` is done at once. What takes longer gets turns of `TURN_S`, and however many
requests are at long work, only one of them has a turn each time the loop goes round, in the order in which they asked. Between
two steps things may change; work must look again where that matters.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")
Steps: TypeAlias = Generator[None, None, T]

SHORT_S, TURN_S = 0.0005, 0.002


class Turns:
    """The turns of one event loop."""

    def __init__(self, short_s: float = SHORT_S, turn_s: float = TURN_S) -> None:
        self._short_s, self._turn_s = short_s, turn_s
        self._lane = asyncio.Lock()  # first come, first served

    async def run(self, steps: Steps[T]) -> tuple[T, float]:
        """Do all of `steps`; (result, seconds of the loop they took). Raises what they raise."""
        work = _Work(steps)
        try:
            done, loop = work.go_on(self._short_s), asyncio.get_running_loop()
            while not done:
                await self._lane.acquire()
                try:
                    done = work.go_on(self._turn_s)
                finally:
                    loop.call_soon(self._lane.release)  # when the loop has gone round
                await asyncio.sleep(0)
            return work.result, work.took_s
        finally:
            steps.close()


class _Work(Generic[T]):
    def __init__(self, steps: Steps[T]) -> None:
        self._steps = steps
        self.result: T
        self.took_s = 0.0

    def go_on(self, most_s: float) -> bool:
        """Work for about `most_s`; whether it is done."""
        began = now = time.perf_counter()
        try:
            while now - began < most_s:
                next(self._steps)
                now = time.perf_counter()
            return False
        except StopIteration as done:
            now = time.perf_counter()
            self.result = done.value
            return True
        finally:
            self.took_s += now - began


def in_one_go(steps: Steps[T]) -> T:
    """The result of `steps`, without a turn for anybody: where there is no event loop to be kept waiting."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            value: T = done.value
            return value
