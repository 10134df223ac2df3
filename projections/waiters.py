"""Waits for the fold: for the outcome of a command, a position of a partition, the next event of an order or of the feed.

On one event loop. A waiter is woken after the write that it waits for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from ledger.log import TopicPartition

Waiter = asyncio.Future[None]
K = TypeVar("K")


class Waiters:
    """`position` returns how far a partition is folded."""

    def __init__(self, position: Callable[[TopicPartition], int]) -> None:
        self._position = position
        self._outcomes: dict[str, list[tuple[bytes, Waiter]]] = {}
        self._positions: dict[TopicPartition, list[tuple[int, Waiter]]] = {}
        self._orders: dict[str, list[Waiter]] = {}
        self._feeds: dict[str | None, list[Waiter]] = {}  # by customer; None: of all
        self._pauses: dict[None, list[Waiter]] = {}

    # ---- outcomes

    def outcome(self, command_id: str, fingerprint: bytes) -> Waiter:
        """A future that is done when the outcome of exactly this command is folded. Release it with `forget`."""
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._outcomes.setdefault(command_id, []).append((fingerprint, waiter))
        return waiter

    def forget(self, command_id: str, waiter: Waiter) -> None:
        """Release a waiter."""
        if left := [w for w in self._outcomes.get(command_id, []) if w[1] is not waiter]:
            self._outcomes[command_id] = left
        else:
            self._outcomes.pop(command_id, None)

    def waits_for(self, command_id: str) -> bool:
        return command_id in self._outcomes

    def outcomes(self) -> Iterator[tuple[str, bytes]]:
        """(command id, fingerprint) of all awaited outcomes, as of each step."""
        for command_id, waiting in list(self._outcomes.items()):
            for fingerprint, _ in list(waiting):
                yield command_id, fingerprint

    def wake_outcome(self, command_id: str, fingerprint: bytes) -> None:
        for wanted, waiter in self._outcomes.get(command_id, ()):
            if wanted == fingerprint:
                _wake(waiter)

    # ---- positions

    async def reached(self, tp: TopicPartition, position: int, timeout_s: float) -> bool:
        """Wait until `tp` is folded up to `position`. Returns whether it was in time."""
        if self._position(tp) >= position:
            return True
        waiter: Waiter = asyncio.get_running_loop().create_future()
        entry = (position, waiter)
        waiting = self._positions.setdefault(tp, [])
        waiting.append(entry)
        try:
            await asyncio.wait_for(waiter, timeout_s)
        except TimeoutError:
            return False
        finally:
            waiting.remove(entry)
        return True

    def wake_position(self, tp: TopicPartition) -> None:
        at = self._position(tp)
        for wanted, waiter in self._positions.get(tp, ()):
            if wanted <= at:
                _wake(waiter)

    def wake_positions(self) -> None:
        for tp in list(self._positions):
            self.wake_position(tp)

    # ---- orders

    async def news(self, order_id: str, timeout_s: float) -> bool:
        """Wait for the next event of an order. Returns whether one came in time."""
        return await _next(self._orders, order_id, timeout_s)

    def wake_order(self, order_id: str) -> None:
        for waiter in self._orders.get(order_id, ()):
            _wake(waiter)

    # ---- the feed of all events

    async def feed_news(self, customer_id: str | None, timeout_s: float) -> bool:
        """Wait for the next event of a customer (None: of anybody). Returns whether one came in time."""
        return await _next(self._feeds, customer_id, timeout_s)

    def wake_feeds(self, customer_ids: Iterable[str]) -> None:
        """Wake whoever waits for events of these customers, or of anybody."""
        if self._feeds:
            for customer_id in {None, *customer_ids}:
                for waiter in self._feeds.get(customer_id, ()):
                    _wake(waiter)

    # ---- both

    async def pause(self, timeout_s: float) -> None:
        """Wait that long, or until `wake_streams`."""
        await _next(self._pauses, None, timeout_s)

    def wake_streams(self) -> None:
        """Wake all streams, so that they check, for example, whether the process is stopping."""
        for waiting in (*self._orders.values(), *self._feeds.values(), *self._pauses.values()):
            for waiter in waiting:
                _wake(waiter)


async def _next(waiting: dict[K, list[Waiter]], key: K, timeout_s: float) -> bool:
    waiter: Waiter = asyncio.get_running_loop().create_future()
    waiting.setdefault(key, []).append(waiter)
    try:
        await asyncio.wait_for(waiter, timeout_s)
    except TimeoutError:
        return False
    finally:
        left = waiting[key]
        left.remove(waiter)
        if not left:
            del waiting[key]
    return True


def _wake(waiter: Waiter) -> None:
    if not waiter.done():
        waiter.set_result(None)
