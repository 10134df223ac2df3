"""`uv run python -m tests.benchmarks`: bring the ledger up in a temporary directory, measure, check, print.

Exit code 0 when the numbers were printed (the table shows missed goals), 1 when anything was not correct: then no number is.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape

from tests.benchmarks import (
    accepted,
    crowd,
    customer,
    flapping,
    folding,
    latency,
    log_bytes,
    machine,
    nodes,
    paying,
    reads,
    rebuilding,
)
from tests.benchmarks.bench import FULL, QUICK, Bench, Form, Incorrect
from tests.benchmarks.correctness import check_everything
from tests.benchmarks.rows import Row, show
from tests.benchmarks.system import Noop, System

NAMES = ("accepted", "cpu", "latency", "reads", "folding", "bytes", "paying", "flapping", "rebuild", "crowd", "customer", "nodes")

out = Console(width=None if sys.stdout.isatty() else 150)
err = Console(stderr=True, highlight=False)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--quick", action="store_true", help="two short pairs of everything, small topics")
    form.add_argument("--full", action="store_true", help="the default: five longer pairs, topics of millions of events")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything, with every sample, to this file")
    parser.add_argument("--pairs", type=int, metavar="N", help="interleaved pairs of system and reference, 1 to 50")
    calm = "let each pair wait up to S seconds for other processes"
    parser.add_argument("--calm", type=float, default=0.0, metavar="S", help=calm)
    options = parser.parse_args()
    if options.pairs is not None and not 1 <= options.pairs <= 50:
        parser.error("--pairs must be from 1 to 50")
    return options


def _measure(bench: Bench, only: set[str]) -> list[Row]:
    """Every requested row. Raises `Incorrect`."""
    bench.report("warming up")
    accepted.warm_up(bench)
    rows: list[Row] = []
    if only & {"accepted", "cpu"}:
        connections = (32, 128) if "accepted" in only else (128,)
        measured = accepted.measure(bench, connections, "cpu" in only)
        rows += [row for row in measured if row.benchmark in only]
    others: dict[str, Callable[[Bench], list[Row]]] = {
        "latency": latency.measure,
        "reads": reads.measure,
        "folding": folding.measure,
        "bytes": log_bytes.measure,
        "paying": paying.measure,
        "flapping": flapping.measure,
        "rebuild": rebuilding.measure,
        "crowd": crowd.measure,
        "customer": customer.measure,
        "nodes": nodes.measure,
    }
    for name, measure in others.items():
        if name in only:
            rows += measure(bench)
    return rows


class _Measured(NamedTuple):
    machine: dict[str, object]
    rows: list[Row]
    counted: dict[str, int]
    foreign_cpus: list[float]


def _run(form: Form, only: set[str], calm_s: float, folder: Path) -> _Measured:
    with err.status("starting the ledger") as status, Noop() as noop:
        described = machine.describe(noop.stack)
        with System(folder) as system:
            bench = Bench(system, noop, form, status.update, calm_s)
            rows = _measure(bench, only)
            bench.report("checking that everything was correct")
            counted = check_everything(bench)
    return _Measured(described, rows, counted, bench.neighbours.shares)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    options = _arguments()
    form = QUICK if options.quick else FULL
    if options.pairs is not None:
        form = replace(form, pairs=options.pairs)
    signal.signal(signal.SIGTERM, _interrupt)  # so that started processes are stopped
    began = datetime.now(UTC)
    try:
        with tempfile.TemporaryDirectory(prefix="order-ledger-bench-") as folder:
            described, rows, counted, foreign_cpus = _run(form, set(options.only), options.calm, Path(folder))
    except (Incorrect, RuntimeError) as exc:
        err.print("[red]not correct, so no number is shown:[/]", escape(str(exc)), soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        err.print("stopped")
        return 130
    show(out, rows, described, form.pairs, foreign_cpus)
    checked = ", ".join(f"{count:,} {name}" for name, count in counted.items())
    out.print(
        f"Checked before printing: {checked}; all readable, versions dense, one event per accepted command.", highlight=False
    )
    if options.json is not None:
        document = {
            "at": began.isoformat(timespec="seconds"),
            "form": "quick" if options.quick else "full",
            "pairs": form.pairs,
            "machine": described,
            "checked": counted,
            "foreign_cpus": foreign_cpus,
            "rows": [row.as_json() for row in rows],
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
