"""Orders that wait for a port which has enough to do: their ids, not calls, for there may be hundreds of thousands. Pure."""

from __future__ import annotations

from collections import Counter


class Backlog:
    """For each port how many calls are under way, `most` at once, and whose turn is next: first come, first served."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._under_way: Counter[str] = Counter()
        self._waiting: dict[str, dict[str, None]] = {}

    def take(self, port: str, order_id: str) -> bool:
        """Whether a call may begin, which is to be followed by `done`. If not, the order waits."""
        if self._under_way[port] >= self._most:
            self._waiting.setdefault(port, {})[order_id] = None
            return False
        self._under_way[port] += 1
        return True

    def done(self, port: str) -> None:
        """A call has ended."""
        self._under_way[port] -= 1

    def next(self, port: str) -> str | None:
        """The order to look at, if one waits and a call may begin."""
        waiting = self._waiting.get(port)
        if not waiting or self._under_way[port] >= self._most:
            return None
        order_id = next(iter(waiting))
        del waiting[order_id]
        return order_id

    def waiting(self) -> int:
        """How many orders wait, over all ports."""
        return sum(map(len, self._waiting.values()))
