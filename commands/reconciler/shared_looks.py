"""One look at a thing at a time, shared by all who ask while it waits its turn.

A look that is under way may have read the other side before the asker's news came to be, so nobody joins that one: whoever asks
meanwhile gets the next, which begins when this one has ended. An asker without news may leave the other side a pause, and then
shares the look of whoever asks next.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_REMEMBERED = 10_000  # things whose last look is known: more than have one within any pause


class _Pending(Generic[T]):
    """A look that has not begun. `hurry` is set by whoever leaves no pause."""

    task: asyncio.Task[T]

    def __init__(self) -> None:
        self.hurry = asyncio.Event()


class SharedLooks(Generic[T]):
    """By name of the thing. To be used on one event loop, and closed there."""

    def __init__(self, look: Callable[[str], Awaitable[T]]) -> None:
        self._look = look
        self._under_way: dict[str, asyncio.Task[T]] = {}
        self._next: dict[str, _Pending[T]] = {}
        self._began_at: OrderedDict[str, float] = OrderedDict()
        self.shared = 0

    async def look(self, name: str, pause_s: float = 0.0) -> T:
        """What a look that begins after this call finds, or raises. An asker who gives up takes nothing from the others.

        It begins `pause_s` after the last one began at the earliest, unless another asker leaves no pause.
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
        tasks = [*self._under_way.values(), *(pending.task for pending in self._next.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _take_turn(self, name: str, pending: _Pending[T], pause_s: float) -> T:
        if (before := self._under_way.get(name)) is not None:
            await asyncio.wait({before})
        loop = asyncio.get_running_loop()
        left_s = self._began_at.get(name, float("-inf")) + pause_s - loop.time()
        if left_s > 0:
            with contextlib.suppress(TimeoutError):  # the pause is over
                await asyncio.wait_for(pending.hurry.wait(), left_s)
        del self._next[name]
        self._under_way[name] = pending.task
        self._began_at[name] = loop.time()
        self._began_at.move_to_end(name)
        if len(self._began_at) > MAX_REMEMBERED:
            self._began_at.popitem(last=False)
        return await self._look(name)

    def _ended(self, name: str, task: asyncio.Task[T]) -> None:
        if self._under_way.get(name) is task:
            del self._under_way[name]
        if (pending := self._next.get(name)) is not None and pending.task is task:
            del self._next[name]
        if not task.cancelled():
            task.exception()  # every asker may have given up: then nobody else reads it
