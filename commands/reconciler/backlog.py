"""Orders that wait for a busy port, or for their turn: only their ids, because there may be hundreds of thousands. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


class Backlog:
    """For each name, the number of calls in progress (at most `most`) and a queue of waiting orders."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, dict[str, None]] = {}

    def take(self, name: str, order_id: str) -> bool:
        """Returns whether a call may begin; call `done` after it. If not, the order waits."""
        if self._running[name] >= self._most:
            self._waiting.setdefault(name, {})[order_id] = None
            return False
        self._running[name] += 1
        return True

    def done(self, name: str) -> None:
        """A call has ended."""
        self._running[name] -= 1

    def next(self, name: str) -> str | None:
        """The next order, if one waits and a call may begin."""
        waiting = self._waiting.get(name)
        if not waiting or self._running[name] >= self._most:
            return None
        order_id = next(iter(waiting))
        del waiting[order_id]
        return order_id

    def waiting(self) -> int:
        """Number of waiting orders, for all names."""
        return sum(map(len, self._waiting.values()))


Place = tuple[Backlog, str]
"""A backlog, and a name in it."""


def take_each(places: Sequence[Place], order_id: str) -> bool:
    """Take all of these places, for a call that needs each of them. If one is busy, take none: the order waits only there."""
    for taken, (backlog, name) in enumerate(places):
        if not backlog.take(name, order_id):
            for other, its_name in places[:taken]:
                other.done(its_name)
            return False
    return True
