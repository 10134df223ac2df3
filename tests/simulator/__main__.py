"""Runs seeds, or replays one with its history: `uv run python -m tests.simulator --help`."""

from __future__ import annotations

import argparse
import os
import sys
import time

from tests.simulator.plans import plan_of
from tests.simulator.planted import BUGS, planted
from tests.simulator.running import failures, failures_of_processes, run_plan, shrunk


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description="Simulate whole ledgers under faults.")
    parser.add_argument("seed", nargs="?", type=int, help="replay this seed with its history")
    parser.add_argument("--shrink", action="store_true", help="leave out the steps that the failure does not need")
    parser.add_argument("--seeds", type=int, default=20_000, metavar="N", help="without a seed: run so many (%(default)s)")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="and begin with this one")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--jobs", type=int, default=cores, metavar="N", help="by so many processes (%(default)s); 1 with --bug")
    parser.add_argument("--bug", choices=sorted(BUGS), metavar="NAME", help=f"plant a bug: {', '.join(sorted(BUGS))}")
    options = parser.parse_args()
    if options.bug is not None:
        with planted(options.bug):
            return _run(options)
    return _run(options)


def _run(options: argparse.Namespace) -> int:
    return _replay(options.seed, options.shrink) if options.seed is not None else _campaign(options)


def _replay(seed: int, shrink: bool) -> int:
    plan = plan_of(seed)
    problems = run_plan(shrunk(plan) if shrink else plan, print).problems
    print("\n".join([f"\nseed {seed}: {len(problems)} problems", *problems]))
    return int(bool(problems))


def _campaign(options: argparse.Namespace) -> int:
    began, failed, seeds = time.monotonic(), 0, range(options.first, options.first + options.seeds)

    def progress(done: int) -> None:
        if done % 1_000 == 0 or done == len(seeds):
            print(f"{done} seeds, {failed} failed, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    # A planted bug is one of this process.
    one = failures(seeds, lambda seed, _: progress(seed - seeds.start + 1))
    several = failures_of_processes(seeds, options.jobs, lambda some, _: progress(some.stop - seeds.start))
    for failure in one if options.bug is not None or options.jobs == 1 else several:
        failed += 1
        print(failure, flush=True)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
