"""Counts values in buckets, for metrics. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """`edges` are the upper bounds of the buckets, ascending. One thread notes at a time; any thread may read."""

    __slots__ = ("_counts", "edges", "total")

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = tuple(edges)
        self._counts = [0] * (len(self.edges) + 1)
        self.total = 0.0

    def note(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self.edges, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """Number of values."""
        return sum(self._counts)

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound, number of values up to it) as Prometheus wants it; the last bound is `+Inf`."""
        so_far, rows = 0, []
        for edge, count in zip((*map(str, self.edges), "+Inf"), self._counts, strict=True):
            so_far += count
            rows.append((edge, float(so_far)))
        return rows
