"""Measures the lag of the event loop: ten times a second, how late a task is woken.

Anything that blocks the loop shows here: a request that reads too much, a slice of the fold, a process without CPU time.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Iterable

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

EVERY_S = 0.1
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class LoopLag(Collector):
    """Histogram `ledger_loop_lag_seconds` of one event loop."""

    def __init__(self) -> None:
        self._buckets = [0] * (len(BUCKETS_S) + 1)
        self._sum_s = 0.0

    async def measure_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + EVERY_S
            await asyncio.sleep(EVERY_S)
            self.note(max(0.0, loop.time() - due))

    def note(self, late_s: float) -> None:
        self._buckets[bisect_left(BUCKETS_S, late_s)] += 1
        self._sum_s += late_s

    def collect(self) -> Iterable[Metric]:
        lag = HistogramMetricFamily("ledger_loop_lag_seconds", f"Lag of the event loop, measured every {EVERY_S} s.")
        total, cumulative = 0, []
        for edge, count in zip((*map(str, BUCKETS_S), "+Inf"), self._buckets, strict=True):
            total += count
            cumulative.append((edge, float(total)))
        lag.add_metric((), cumulative, self._sum_s)
        yield lag
