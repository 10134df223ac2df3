"""Events folded per second by the agent from an empty state, as a share of a raw consume-and-decode loop over the same topic."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

from ledger.topics import Topics
from tests.benchmarks.bench import Bench, Incorrect
from tests.benchmarks.jobs import ROOT
from tests.benchmarks.lives import write_lives
from tests.benchmarks.rows import Row, at_least
from tests.benchmarks.spread import Spread, ratios

GOAL = 0.4
PARTITIONS = 4
PREFIX = "benchmark-lives."
LIMIT_S = 120.0


def measure(bench: Bench) -> list[Row]:
    events = bench.form.events
    bench.report(f"writing {events:,} events to fold")
    orders = write_lives(bench.log, Topics(PREFIX), PARTITIONS, events)
    per_s: dict[str, list[float]] = {"fold": [], "raw": []}
    cpu: dict[str, list[float]] = {"fold": [], "raw": []}
    for pair, raw_first in bench.pairs():
        bench.report(f"folding {events:,} events, pair {pair + 1} of {bench.form.pairs}")
        with bench.watched():
            for mode in ("raw", "fold") if raw_first else ("fold", "raw"):
                result = _run(bench, mode, events)
                if (result["events"], result["orders"]) != (events, orders):
                    raise Incorrect(f"{mode}: {events} events about {orders} orders were written, found {result}")
                per_s[mode].append(events / result["took_s"])
                cpu[mode].append(result["cpu_s"] / events * 1e6)
    name, share = "folding", ratios(per_s["fold"], per_s["raw"])
    return [
        Row(name, "agent : raw consume and decode, from an empty state", "ratio", share, at_least(GOAL)),
        Row(name, "  events folded", "1/s", Spread.of(per_s["fold"])),
        Row(name, "  events consumed and decoded", "1/s", Spread.of(per_s["raw"])),
        Row(name, "  CPU of a folded event", "us", Spread.of(cpu["fold"])),
        Row(name, "  CPU of a decoded event", "us", Spread.of(cpu["raw"])),
    ]


def _run(bench: Bench, mode: str, events: int) -> dict[str, float]:
    state = bench.system.folder / "fold-state"
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir()
    arguments = ["--bootstrap", bench.system.bootstrap_servers, "--prefix", PREFIX, "--partitions", str(PARTITIONS)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.folding_run", mode, *arguments, "--events", str(events), "--state", str(state)],
        cwd=ROOT,
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )
    if done.returncode:
        raise Incorrect(f"{mode} ended with {done.returncode}: {done.stderr.decode(errors='replace')[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])  # log lines precede it
    return result
