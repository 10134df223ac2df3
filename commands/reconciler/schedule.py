"""When to check which order: at a time of the log's clock, or after a pause of the monotonic one. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator


class Queue:
    """Orders by time. An order is in it once, for its earliest time."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, str]] = []
        self._at: dict[str, int] = {}

    def put(self, order_id: str, at_ms: int) -> bool:
        """Returns whether this is earlier than what was known."""
        known = self._at.get(order_id)
        if known is not None and at_ms >= known:
            return False
        self._at[order_id] = at_ms
        heapq.heappush(self._heap, (at_ms, order_id))
        return True

    def next_ms(self) -> int | None:
        """The time of the first order."""
        while self._heap and self._at.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop(self, now_ms: int) -> str | None:
        """The first order, if its time has come."""
        first_ms = self.next_ms()
        if first_ms is None or first_ms > now_ms:
            return None
        _, order_id = heapq.heappop(self._heap)
        del self._at[order_id]
        return order_id


class Schedule:
    """`monotonic_ms()` and `log_ms(partition)` are the two clocks. Times of the log are compared with the log's, never converted:
    what a jump of its clock makes due is due at the next check."""

    def __init__(self, monotonic_ms: Callable[[], int], log_ms: Callable[[int], int]) -> None:
        self._monotonic_ms, self._log_ms = monotonic_ms, log_ms
        self._paused = Queue()
        self._due: dict[int, Queue] = {}

    def at(self, partition: int, order_id: str, log_ms: int) -> bool:
        """Check the order when it is `log_ms` for the log. Returns whether that is earlier than known."""
        return self._due.setdefault(partition, Queue()).put(order_id, log_ms)

    def after(self, order_id: str, monotonic_ms: int) -> bool:
        """Check the order at `monotonic_ms`. Returns whether that is earlier than known."""
        return self._paused.put(order_id, monotonic_ms)

    def pause_ms(self) -> int | None:
        """How long nothing is due, as the clocks are now; None if nothing is scheduled."""
        nexts = [(self._paused.next_ms(), self._monotonic_ms())]
        nexts += [(queue.next_ms(), self._log_ms(partition)) for partition, queue in self._due.items()]
        return min((max(0, at_ms - now_ms) for at_ms, now_ms in nexts if at_ms is not None), default=None)

    def due(self) -> Iterator[str]:
        """Orders whose time has come. Those that the caller schedules meanwhile for a time to come are left.

        The log's clock is read for each of them: a measure may set it back, and what was due is then due later.
        """
        now_ms = self._monotonic_ms()
        while (order_id := self._paused.pop(now_ms)) is not None:
            yield order_id
        for partition, queue in list(self._due.items()):
            while (order_id := queue.pop(self._log_ms(partition))) is not None:
                yield order_id
