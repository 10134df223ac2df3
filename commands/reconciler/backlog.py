"""Orders that wait for a busy port: only their ids, because there may be hundreds of thousands. Pure."""

from __future__ import annotations

from collections import Counter


class Backlog:
    """For each port, the number of calls in progress (at most `most`) and a queue of waiting orders."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, dict[str, None]] = {}

    def take(self, port: str, order_id: str) -> bool:
        """Returns whether a call may begin; call `done` after it. If not, the order waits."""
        if self._running[port] >= self._most:
            self._waiting.setdefault(port, {})[order_id] = None
            return False
        self._running[port] += 1
        return True

    def done(self, port: str) -> None:
        """A call has ended."""
        self._running[port] -= 1

    def next(self, port: str) -> str | None:
        """The next order, if one waits and a call may begin."""
        waiting = self._waiting.get(port)
        if not waiting or self._running[port] >= self._most:
            return None
        order_id = next(iter(waiting))
        del waiting[order_id]
        return order_id

    def waiting(self) -> int:
        """Number of waiting orders, for all ports."""
        return sum(map(len, self._waiting.values()))
