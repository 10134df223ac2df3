"""How late the event loop of a `serve` is, as it measures it itself."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from tests.support import loopback

NAME = "ledger_loop_lag_seconds_bucket"
Counts = Mapping[float, float]  # by upper bound in seconds, cumulative


def lag_counts(url: str, token: str) -> Counts:
    """The present counts of the histogram. `token` is that of any member of staff."""
    text = loopback.get(f"{url}/metrics", headers={"Authorization": f"Bearer {token}"}).text
    lines = [line for line in text.splitlines() if line.startswith(NAME)]
    return {float(line.split('le="')[1].split('"')[0]): float(line.rsplit(" ", 1)[1]) for line in lines}


def lag_p99_ms(before: Counts, after: Counts) -> float:
    """The 99th percentile of the measurements between two readings, interpolated within its bucket.

    Raises `ValueError` when there are none.
    """
    counts = {edge: count - before.get(edge, 0.0) for edge, count in after.items()}
    total = counts.get(float("inf"), 0.0)
    if not total:
        raise ValueError("the loop's lag was not measured")
    wanted, edges = 0.99 * total, sorted(counts)
    for low, high in itertools.pairwise([0.0, *edges]):
        below = counts.get(low, 0.0)
        if counts[high] >= wanted:
            if high == float("inf"):
                return low * 1000
            share = (wanted - below) / (counts[high] - below) if counts[high] > below else 1.0
            return 1000 * (low + share * (high - low))
    return edges[-2] * 1000


def loop_lag_ms(url: str, token: str) -> float:
    """The 99th percentile since the process started."""
    return lag_p99_ms({}, lag_counts(url, token))
