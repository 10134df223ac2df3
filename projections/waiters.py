"""Waits for the fold: for the outcome of a command, a position of a partition, or the next event of an order.

On one event loop. A waiter is woken after the write that it waits for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from ledger.log import TopicPartition

Waiter = asyncio.Future[None]


class Waiters:
    """`position` returns how far a partition is folded."""

    def __init__(self, position: Callable[[TopicPartition], int]) -> None:
        self._position = position
        self._outcomes: dict[str, list[tuple[bytes, Waiter]]] = {}
        self._positions: dict[TopicPartition, list[tuple[int, Waiter]]] = {}
        self._orders: dict[str, list[Waiter]] = {}

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
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._orders.setdefault(order_id, []).append(waiter)
        try:
            await asyncio.wait_for(waiter, timeout_s)
        except TimeoutError:
            return False
        finally:
            left = self._orders[order_id]
            left.remove(waiter)
            if not left:
                del self._orders[order_id]
        return True

    def wake_order(self, order_id: str) -> None:
        for waiter in self._orders.get(order_id, ()):
            _wake(waiter)

    def wake_orders(self) -> None:
        """Wake all waiters for events of orders, so that they check, for example, whether the process is stopping."""
        for order_id in list(self._orders):
            self.wake_order(order_id)


def _wake(waiter: Waiter) -> None:
    if not waiter.done():
        waiter.set_result(None)
