"""Orders accepted, decided and folded per second, as a share of validated no-ops per second; and the CPU that they take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.benchmarks.bench import Bench
from tests.benchmarks.jobs import cpu_s
from tests.benchmarks.rows import Row, at_least, at_most
from tests.benchmarks.spread import Spread, percentile, ratios
from tests.benchmarks.system import PROCESSES

GOALS = {32: 0.25, 128: 0.35}
CPU_GOAL_S = 1.9
IDLE_S = 3.0


@dataclass
class _Figures:
    """One entry per pair."""

    orders_per_s: list[float] = field(default_factory=list)
    noops_per_s: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    cpu: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in (*PROCESSES, "no-op", "client")})

    @property
    def cpu_sum(self) -> list[float]:
        return [sum(of_pair) for of_pair in zip(*(self.cpu[name] for name in PROCESSES), strict=True)]


def warm_up(bench: Bench) -> None:
    """Java compiles its hot code for half a minute and takes twice the CPU meanwhile; no ledger runs for so short a time."""
    bench.wait_until_decided()
    bench.post(128, bench.form.warm_up_s)
    bench.post(32, bench.form.closed_s)
    bench.post_noop(32, 1.0)


def measure(bench: Bench, connections: Sequence[int], with_cpu: bool) -> list[Row]:
    """Rows for each number of connections; CPU rows belong to the largest."""
    figures = {n: _Figures() for n in connections}
    for pair, noop_first in bench.pairs():
        for n in connections:
            bench.report(f"orders per second, {n} connections, pair {pair + 1} of {bench.form.pairs}")
            with bench.watched():
                for noop in (noop_first, not noop_first):
                    (_run_noop if noop else _run_orders)(bench, n, figures[n])
    rows = []
    for n in connections:
        rows += _rates(n, figures[n])
    if with_cpu:
        rows += _cpu(max(connections), figures[max(connections)], _idle(bench))
    return rows


def _run_noop(bench: Bench, connections: int, into: _Figures) -> None:
    before = cpu_s([bench.noop.pid])
    answers = bench.post_noop(connections, bench.form.closed_s)
    after = cpu_s([bench.noop.pid])
    into.noops_per_s.append(answers.per_second)
    into.cpu["no-op"].append((after[0] - before[0]) / answers.count * 1000)


def _run_orders(bench: Bench, connections: int, into: _Figures) -> None:
    before = cpu_s(bench.system.pids())
    answers = bench.post(connections, bench.form.closed_s)
    after = cpu_s(bench.system.pids())
    into.orders_per_s.append(answers.per_second)
    into.p99_ms.append(percentile(answers.ms(), 99))
    for name, was, now in zip(PROCESSES, before, after, strict=True):
        into.cpu[name].append((now - was) / answers.count * 1000)
    into.cpu["client"].append(answers.cpu_s / answers.count * 1000)


def _idle(bench: Bench) -> list[float]:
    """CPUs that the system takes while nothing happens: the no-op runs beside that."""
    before = cpu_s(bench.system.pids())
    time.sleep(IDLE_S)
    return [(now - was) / IDLE_S for was, now in zip(before, cpu_s(bench.system.pids()), strict=True)]


def _rates(n: int, figures: _Figures) -> list[Row]:
    name, at = "accepted", f"{n} connections"
    share = ratios(figures.orders_per_s, figures.noops_per_s)
    return [
        Row(name, f"orders : validated no-ops, {at}", "ratio", share, at_least(GOALS[n])),
        Row(name, f"  orders accepted, decided and folded, {at}", "1/s", Spread.of(figures.orders_per_s)),
        Row(name, f"  validated no-ops, {at}", "1/s", Spread.of(figures.noops_per_s)),
        Row(name, f"  POST to 201, p99, {at}", "ms", Spread.of(figures.p99_ms)),
    ]


def _cpu(n: int, figures: _Figures, idle: Sequence[float]) -> list[Row]:
    name, unit = "cpu", "CPU s per 1,000"
    detail = {"idle_cpus": dict(zip(PROCESSES, idle, strict=True))}
    total = Row(name, f"CPU of an order, {n} connections", unit, Spread.of(figures.cpu_sum), at_most(CPU_GOAL_S), detail)
    parts = [Row(name, f"  {process}", unit, Spread.of(figures.cpu[process])) for process in PROCESSES]
    reference = Row(name, "  of a validated no-op", unit, Spread.of(figures.cpu["no-op"]))
    times = Row(name, "  order : no-op", "ratio", ratios(figures.cpu_sum, figures.cpu["no-op"]))
    client = Row(name, "  of the load generator", unit, Spread.of(figures.cpu["client"]))
    return [total, *parts, reference, times, client]
