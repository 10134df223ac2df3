"""Reads an object once for all callers that wait for it.

A read in progress may predate a caller's news, so no caller joins it: callers meanwhile share the next read, which begins when
this one has ended. A caller without news may allow a pause, and then shares the read of whoever asks next.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_REMEMBERED = 10_000  # objects with a known time of the last read: more than are read within any pause


class _Pending(Generic[T]):
    """A read that has not begun. `hurry` is set by callers that allow no pause."""

    task: asyncio.Task[T]

    def __init__(self) -> None:
        self.hurry = asyncio.Event()


class SharedReads(Generic[T]):
    """Shared reads by object name. Use and close it on one event loop."""

    def __init__(self, read: Callable[[str], Awaitable[T]]) -> None:
        self._read = read
        self._running: dict[str, asyncio.Task[T]] = {}
        self._next: dict[str, _Pending[T]] = {}
        self._began_at: OrderedDict[str, float] = OrderedDict()
        self.shared = 0

    async def read(self, name: str, pause_s: float = 0.0) -> T:
        """The result of a read that begins after this call, or its error. Cancelling does not affect other callers.

        The read begins at least `pause_s` after the last one began, unless another caller allows no pause.
        """
        pending = self._next.get(name)
        if pending is None:
            pending = self._next[name] = _Pending()
            pending.task = asyncio.get_running_loop().create_task(self._take_turn(name, pending, pause_s))
            pending.task.add_done_callback(lambda done: self._ended(name, done))
        else:
            self.shared += 1
        if pause_s <= 0:
            pending.hurry.set()
        return await asyncio.shield(pending.task)

    async def close(self) -> None:
        tasks = [*self._running.values(), *(pending.task for pending in self._next.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _take_turn(self, name: str, pending: _Pending[T], pause_s: float) -> T:
        if (before := self._running.get(name)) is not None:
            await asyncio.wait({before})
        loop = asyncio.get_running_loop()
        left_s = self._began_at.get(name, float("-inf")) + pause_s - loop.time()
        if left_s > 0:
            with contextlib.suppress(TimeoutError):  # the pause is over
                await asyncio.wait_for(pending.hurry.wait(), left_s)
        del self._next[name]
        self._running[name] = pending.task
        self._began_at[name] = loop.time()
        self._began_at.move_to_end(name)
        if len(self._began_at) > MAX_REMEMBERED:
            self._began_at.popitem(last=False)
        return await self._read(name)

    def _ended(self, name: str, task: asyncio.Task[T]) -> None:
        if self._running.get(name) is task:
            del self._running[name]
        if (pending := self._next.get(name)) is not None and pending.task is task:
            del self._next[name]
        if not task.cancelled():
            task.exception()  # all callers may have been cancelled: then nobody else retrieves it
