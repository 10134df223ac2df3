"""Reads of one order: how many a second beside no-op reads, and how long they take while orders arrive."""

from __future__ import annotations

import random

from tests.benchmarks.bench import Bench
from tests.benchmarks.rows import Row, at_least, at_most
from tests.benchmarks.spread import Spread, percentile, ratios

CONNECTIONS = 32
SAMPLE = 2_000  # orders that are read; more only make the job larger
ARRIVING_PER_S, READ_PER_S = 500, 200
RATIO_GOAL, P99_GOAL_MS = 0.8, 40.0


def measure(bench: Bench) -> list[Row]:
    if len(bench.orders) < SAMPLE:
        bench.post(32, bench.form.closed_s)
    reads, noops, p99_alone, p50_busy, p99_busy, arrived = [], [], [], [], [], []
    for pair, noop_first in bench.pairs():
        bench.report(f"reads, pair {pair + 1} of {bench.form.pairs}")
        orders = random.Random(pair).sample(bench.orders, min(SAMPLE, len(bench.orders)))
        with bench.watched():
            for noop in (noop_first, not noop_first):
                if noop:
                    noops.append(bench.get_noop(orders, bench.form.closed_s, CONNECTIONS).per_second)
                else:
                    reads.append(bench.get(orders, bench.form.closed_s, CONNECTIONS).per_second)
            p99_alone.append(percentile(bench.get(orders, bench.form.open_s / 2, 8, READ_PER_S).ms(), 99))
            posting = bench.start_posts(CONNECTIONS, bench.form.open_s, ARRIVING_PER_S)
            busy = bench.get(orders, bench.form.open_s, 8, READ_PER_S)
            posted = bench.accept(posting.answers())
        p50_busy.append(percentile(busy.ms(), 50))
        p99_busy.append(percentile(busy.ms(), 99))
        arrived.append(posted.per_second)
    name, beside = "reads", f"{ARRIVING_PER_S} orders/s arrive"
    return [
        Row(name, f"GET of an order : no-op GET, {CONNECTIONS} connections", "ratio", ratios(reads, noops), at_least(RATIO_GOAL)),
        Row(name, "  reads of an order", "1/s", Spread.of(reads)),
        Row(name, "  no-op reads", "1/s", Spread.of(noops)),
        Row(name, f"GET p99 while {beside}", "ms", Spread.of(p99_busy), at_most(P99_GOAL_MS)),
        Row(name, f"  p50 while {beside}", "ms", Spread.of(p50_busy)),
        Row(name, "  p99 while none arrive", "ms", Spread.of(p99_alone)),
        Row(name, "  orders that arrived", "1/s", Spread.of(arrived)),
    ]
