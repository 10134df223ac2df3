"""Breaks a whole ledger for as long as you like, from one seed, and says which promises it broke: none, it should be.

    uv run python -m tests.rig --minutes 60 --seed 7
    uv run python -m tests.rig --minutes 60 --seed 7 --brokers 3 --nodes 2 --every 30
    uv run python -m tests.rig --minutes 60 --seed 7 --plan

The same seed is the same plan of faults. Logs and databases of a run that broke a promise are kept, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.support import small_disk
from tests.support.fault_plan import Kind, Site, plan
from tests.support.rig import running_rig
from tests.support.rig_campaign import campaign

LASTS_S = (2.0, 15.0)  # also longer than a session of the group, 6 s
LONGEST_S = 6.0  # also longer than a client waits for a reply, 4 s
SETTLE_S = 900.0


def _site(nodes: int, brokers: int) -> Site:
    """The site of a rig that does not run."""
    processes = tuple(f"{verb}-{number}" for number in range(1, nodes + 1) for verb in ("commands", "serve"))
    kinds = tuple(kind for kind in Kind if kind is not Kind.FULL_DISK or small_disk.is_possible())
    return Site(processes, tuple(str(number) for number in range(1, brokers + 1)), kinds)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.rig", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="how long things break (default: 10)")
    parser.add_argument("--seed", type=int, default=1, help="of the plan (default: 1)")
    parser.add_argument("--every", type=float, default=10.0, metavar="S", help="seconds between two faults (default: 10)")
    parser.add_argument("--per-second", type=float, default=5.0, help="new orders a second (default: 5)")
    parser.add_argument("--brokers", type=int, choices=(1, 3), default=1)
    parser.add_argument("--nodes", type=int, default=1, help="of each of `commands` and `serve` (default: 1)")
    parser.add_argument("--folder", type=Path, help="for logs and databases; a new temporary one by default")
    parser.add_argument("--plan", action="store_true", help="print the plan and do nothing")
    parser.add_argument("--json", action="store_true", help="the figures as JSON on stdout")
    options = parser.parse_args(argv)
    seconds = options.minutes * 60
    if options.plan:
        for fault in plan(options.seed, seconds, options.every, LASTS_S, _site(options.nodes, options.brokers)):
            print(fault)
        return 0
    folder = options.folder or Path(tempfile.mkdtemp(prefix="order-ledger-rig-"))
    folder.mkdir(parents=True, exist_ok=True)
    with running_rig(folder, options.brokers, options.nodes, LONGEST_S) as rig:
        report = campaign(rig, options.seed, seconds, options.every, LASTS_S, options.per_second, SETTLE_S, _say)
    print(json.dumps(report.as_dict()) if options.json else "\n".join(report.lines()))
    if report.breaks:
        print(f"logs and databases are in {folder}", file=sys.stderr)
        return 1
    if options.folder is None:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
