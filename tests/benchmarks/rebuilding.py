"""Rebuilds: events folded in bulk beside a raw loop, two processes beside one, memory, and HTTP beside a rebuild."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from typing import Any

from ledger.topics import Topics
from tests.benchmarks import workload
from tests.benchmarks.bench import Bench, Incorrect
from tests.benchmarks.jobs import ROOT, Answers, Job, Load
from tests.benchmarks.many_lives import customer_of, order_id_of, write_many
from tests.benchmarks.node import LIMIT_S, Node, environment
from tests.benchmarks.rows import Row, at_least, at_most
from tests.benchmarks.spread import Spread, percentile, ratios

PARTITIONS = 4
WHOLE, SMALL, MIDDLE, LARGE = "bench-whole.", "bench-small.", "bench-middle.", "bench-large."
READ_PER_S = 200


def measure(bench: Bench) -> list[Row]:
    """Quick: 23,000 whole lives. Full: also 1 M and 5 M events, and `serve` at 10 k and at 2 M orders."""
    full = bench.form.events >= 60_000
    orders = 60_000 if full else 24_000
    bench.report(f"writing the events of {orders:,} orders")
    events = write_many(bench.log, Topics(WHOLE), PARTITIONS, orders, whole=True)
    rows = _speed(bench, events) + _beside(bench)
    if full:
        rows += _large(bench)
    return rows


# ---- speed ----------------------------------------------------------------------------------------------------------


def _speed(bench: Bench, events: int) -> list[Row]:
    rate: dict[str, list[float]] = {"raw": [], "one": [], "two": []}
    for pair, raw_first in bench.pairs():
        bench.report(f"folding {events:,} events in bulk, pair {pair + 1} of {bench.form.pairs}")
        with bench.watched():
            for mode in ("raw", "one", "two") if raw_first else ("two", "one", "raw"):
                rate[mode].append(_rate(bench, mode, WHOLE, events))
    name = "rebuild"
    return [
        Row(name, "rebuild, one process : raw consume and decode", "ratio", ratios(rate["one"], rate["raw"]), at_least(0.6)),
        Row(name, "rebuild, two processes : one", "ratio", ratios(rate["two"], rate["one"]), at_least(1.6)),
        Row(name, "  events rebuilt by one process", "1/s", Spread.of(rate["one"])),
        Row(name, "  events rebuilt by two", "1/s", Spread.of(rate["two"])),
        Row(name, "  events consumed and decoded", "1/s", Spread.of(rate["raw"])),
    ]


def _rate(bench: Bench, mode: str, prefix: str, events: int) -> float:
    """Events a second. Raises `Incorrect` unless all events were folded."""
    if mode == "raw":
        results = _finish([_start(bench, "raw", prefix, events, 0, 1)])
        return results[0]["events"] / results[0]["took_s"]
    groups = 1 if mode == "one" else 2
    results = _finish([_start(bench, "bulk", prefix, events, group, groups) for group in range(groups)])
    folded = sum(result["events"] for result in results)
    if folded != events:
        raise Incorrect(f"{events} events were written, {folded} folded in bulk")
    return folded / (max(result["ended"] for result in results) - min(result["began"] for result in results))


def _start(bench: Bench, mode: str, prefix: str, events: int, group: int, groups: int) -> subprocess.Popen[bytes]:
    state = bench.system.folder / f"bulk-state-{group}"
    shutil.rmtree(state, ignore_errors=True)
    options = {
        "--bootstrap": bench.system.bootstrap_servers,
        "--prefix": prefix,
        "--partitions": PARTITIONS,
        "--events": events,
        "--state": state,
        "--group": group,
        "--groups": groups,
    }
    arguments = [str(word) for pair in options.items() for word in pair]
    command = [sys.executable, "-m", "tests.benchmarks.folding_run", mode, *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _finish(running: list[subprocess.Popen[bytes]]) -> list[dict[str, Any]]:
    results = []
    for process in running:
        out, err = process.communicate(timeout=LIMIT_S)
        if process.returncode:
            raise Incorrect(f"a fold ended with {process.returncode}: {err.decode(errors='replace')[-2000:]}")
        results.append(json.loads(out.splitlines()[-1]))
    return results


# ---- beside a serve -------------------------------------------------------------------------------------------------


def _beside(bench: Bench) -> list[Row]:
    """Reads of the system's `serve` while its read models are rebuilt again and again, and while nothing else happens."""
    if len(bench.orders) < 2_000:
        bench.post(32, bench.form.closed_s * 2)
    idle, busy, rebuilds = [], [], 0
    for pair, idle_first in bench.pairs():
        bench.report(f"reads beside a rebuild, pair {pair + 1} of {bench.form.pairs}")
        orders = random.Random(pair).sample(bench.orders, min(2_000, len(bench.orders)))
        for alone in (idle_first, not idle_first):
            if alone:
                idle.append(percentile(bench.get(orders, bench.form.open_s, 8, READ_PER_S).ms(), 99))
            else:
                p99, count = _reads_beside_rebuilds(bench, orders)
                busy.append(p99)
                rebuilds += count
    name = "rebuild"
    detail = {"rebuilds": rebuilds}
    return [
        Row(name, "GET p99 while a rebuild runs : idle", "ratio", ratios(busy, idle), at_most(3.0), detail),
        Row(name, "  p99 while a rebuild runs", "ms", Spread.of(busy)),
        Row(name, "  p99 idle", "ms", Spread.of(idle)),
    ]


def _reads_beside_rebuilds(bench: Bench, orders: list[tuple[int, str]]) -> tuple[float, int]:
    """(p99 in ms, rebuilds that ended meanwhile). The digests of every one must be the live ones."""
    arguments = ["rebuild", "--json", "--fresh", "--dry-run", "--data-dir", str(bench.system.folder)]
    command = [sys.executable, "-m", "api.cli", *arguments]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def finish(process: subprocess.Popen[bytes]) -> None:
        out, err = process.communicate(timeout=LIMIT_S)
        if process.returncode or not json.loads(out)["equal"]:
            raise Incorrect(f"a rebuild differs from what is live: {out.decode()}{err.decode(errors='replace')[-1000:]}")

    running, ended = start(), 0
    time.sleep(1.5)  # until it is working
    reading = bench.start_gets(bench.system.port, orders, bench.form.open_s, 8, READ_PER_S)
    deadline = time.monotonic() + bench.form.open_s
    while time.monotonic() < deadline:
        if running.poll() is not None:
            finish(running)
            ended, running = ended + 1, start()
        time.sleep(0.02)
    answers = bench.must(reading.answers(), 200, "GET of an order")
    finish(running)
    return percentile(answers.ms(), 99), ended + 1


# ---- large ledgers --------------------------------------------------------------------------------------------------


def _large(bench: Bench) -> list[Row]:
    sizes = {SMALL: 10_000, MIDDLE: 400_000, LARGE: 2_000_000}
    written = {}
    for prefix, orders in sizes.items():
        bench.report(f"writing the events of {orders:,} orders")
        written[prefix] = write_many(bench.log, Topics(prefix), PARTITIONS, orders)
    bench.report("writing 200,000 events")
    few = write_many(bench.log, Topics("bench-few."), PARTITIONS, 80_000)
    memory = {}
    for prefix, events in (("bench-few.", few), (LARGE, written[LARGE])):
        bench.report(f"memory of rebuilding {events:,} events")
        result = _finish([_start(bench, "bulk", prefix, events, 0, 1)])[0]
        if result["events"] != events:
            raise Incorrect(f"{events} events were written, {result['events']} folded")
        memory[prefix] = float(result["peak_bytes"])
    rows = [
        Row(
            "large",
            f"memory of rebuilding {written[LARGE] / 1e6:.0f} M events : {few / 1e3:.0f} k",
            "ratio",
            Spread.of([memory[LARGE] / memory["bench-few."]]),
            at_most(1.3),
            {"peak_mib": {prefix: round(peak / 2**20) for prefix, peak in memory.items()}},
        )
    ]
    nodes = {prefix: Node(bench, prefix) for prefix in sizes}
    try:
        cold = {}
        for prefix, node in nodes.items():
            bench.report(f"a node folds {written[prefix]:,} events from nothing")
            cold[prefix] = node.start()
        again = []
        for _ in range(bench.form.pairs):
            nodes[MIDDLE].end()
            again.append(nodes[MIDDLE].start())
        nodes[MIDDLE].end()
        goal = at_most(0.1)
        share = Spread.of([seconds / cold[MIDDLE] for seconds in again])
        rows.append(Row("large", "restart after kill -9 to ready at 1 M events : cold rebuild", "ratio", share, goal))
        rows.append(Row("large", "  restart to ready", "s", Spread.of(again)))
        rows.append(Row("large", "  cold rebuild in serve", "s", Spread.of([cold[MIDDLE]])))
        rows += _reads_by_size(bench, nodes[SMALL], sizes[SMALL], nodes[LARGE], sizes[LARGE])
    finally:
        for node in nodes.values():
            node.end()
    return rows


def _reads_by_size(bench: Bench, small: Node, few: int, large: Node, many: int) -> list[Row]:
    p99: dict[tuple[str, str], list[float]] = {}
    for pair, small_first in bench.pairs():
        bench.report(f"reads at {few:,} and {many:,} orders, pair {pair + 1} of {bench.form.pairs}")
        choice = random.Random(pair)
        for kind in ("order", "page"):
            for name in ("small", "large") if small_first else ("large", "small"):
                node, orders = (small, few) if name == "small" else (large, many)
                answers = _read(node, kind, [choice.randrange(orders) for _ in range(2_000)], orders, bench.form.open_s)
                p99.setdefault((kind, name), []).append(percentile(answers.ms(), 99))
    name = "large"
    return [
        Row(
            name,
            "GET of an order p99 at 2 M orders : at 10 k",
            "ratio",
            ratios(p99["order", "large"], p99["order", "small"]),
            at_most(1.5),
        ),
        Row(name, "  p99 at 2 M orders", "ms", Spread.of(p99["order", "large"])),
        Row(
            name,
            "page of 50 by customer p99 at 2 M orders : at 10 k",
            "ratio",
            ratios(p99["page", "large"], p99["page", "small"]),
            at_most(2.0),
        ),
        Row(name, "  p99 at 2 M orders", "ms", Spread.of(p99["page", "large"])),
    ]


def _read(node: Node, kind: str, numbers: list[int], orders: int, seconds: float) -> Answers:
    requests, expect = [], []
    for number in numbers:
        customer = customer_of(number, orders)
        path = f"/orders/{order_id_of(number)}" if kind == "order" else "/orders?limit=50"
        requests.append(workload.get(node.token("gateway"), customer, path))
        expect.append(order_id_of(number) if kind == "order" else f'"customer_id":"{customer}"')
    rate = READ_PER_S if kind == "order" else READ_PER_S / 4
    answers = Load(Job(port=node.port, requests=requests, expect=expect, connections=8, seconds=seconds, rate=rate)).answers()
    if (wrong := answers.wrong(200)) is not None:
        raise Incorrect(f"reads of a large ledger: {wrong}")
    return answers
