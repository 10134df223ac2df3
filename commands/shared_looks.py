"""One look at a thing at a time, shared by all who ask while it waits its turn.

A look that is under way may have read the other side before the asker's news came to be, so nobody joins that one: whoever asks
meanwhile gets the next, which begins when this one has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedLooks(Generic[T]):
    """By name of the thing. To be used on one event loop, and closed there."""

    def __init__(self, look: Callable[[str], Awaitable[T]]) -> None:
        self._look = look
        self._under_way: dict[str, asyncio.Task[T]] = {}
        self._next: dict[str, asyncio.Task[T]] = {}
        self.shared = 0

    async def look(self, name: str) -> T:
        """What a look that begins after this call finds, or raises. An asker who gives up takes nothing from the others."""
        task = self._next.get(name)
        if task is None:
            before = self._under_way.get(name)
            task = asyncio.get_running_loop().create_task(self._take_turn(name, before))
            if before is None:
                self._under_way[name] = task
            else:
                self._next[name] = task
            task.add_done_callback(lambda done: self._ended(name, done))
        else:
            self.shared += 1
        return await asyncio.shield(task)

    async def close(self) -> None:
        tasks = [*self._under_way.values(), *self._next.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _take_turn(self, name: str, before: asyncio.Task[T] | None) -> T:
        if before is not None:
            await asyncio.wait({before})
            self._under_way[name] = self._next.pop(name)
        return await self._look(name)

    def _ended(self, name: str, task: asyncio.Task[T]) -> None:
        for tasks in (self._under_way, self._next):
            if tasks.get(name) is task:
                del tasks[name]
        if not task.cancelled():
            task.exception()  # every asker may have given up: then nobody else reads it
