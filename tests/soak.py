"""Runs the suite again and again, beside busy loops if wanted: which tests fail how often, and how long a run takes.

    uv run python -m tests.soak --runs 10 --busy 2
    uv run python -m tests.soak --runs 20 -k rebuild --json
    uv run python -m tests.soak --runs 5 -- tests/faults -m "kafka and not campaign" -x

Arguments after `--` go to pytest. The report and the output of every failed run stay in the folder that is named at the
end. Exit code 1 if any run failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
# Its argument is a process id; it ends when that process does, however that happens.
BUSY_LOOP = "import os, sys\nwhile os.getppid() == int(sys.argv[1]):\n    sum(range(100_000))\n"


@dataclass
class Run:
    """`seconds` is wall time. `failed` names the tests that failed, or the run itself when it has no report."""

    number: int
    seconds: float
    exit_code: int
    tests: int = 0
    failed: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return self.exit_code == 0 and not self.failed

    def line(self, runs: int) -> str:
        words = f"{len(self.failed)} failed: {', '.join(self.failed)}" if self.failed else "all passed"
        return f"run {self.number} of {runs}: {self.seconds:.0f} s, {self.tests} tests, {words}"


def read_report(path: Path) -> tuple[int, list[str]]:
    """The number of tests in a JUnit report, and the names of those that failed, each once. Raises `FileNotFoundError`,
    `ElementTree.ParseError`."""
    cases = list(ElementTree.parse(path).iter("testcase"))
    names = {f"{case.get('classname')}::{case.get('name')}": case for case in cases}
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    return len(names), list(dict.fromkeys(f"{case.get('classname')}::{case.get('name')}" for case in bad))


def run_once(number: int, folder: Path, arguments: Sequence[str]) -> Run:
    """One run of the suite; report and output go to `folder`."""
    folder.mkdir(parents=True)
    report = folder / "junit.xml"
    command = [sys.executable, "-m", "pytest", f"--junitxml={report}", *arguments]
    began = time.monotonic()
    with (folder / "output.txt").open("wb") as out:
        code = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False).returncode
    run = Run(number, round(time.monotonic() - began, 1), code)
    try:
        run.tests, run.failed = read_report(report)
    except (FileNotFoundError, ElementTree.ParseError) as exc:
        run.failed = [f"the run itself: exit code {code}, {type(exc).__name__}"]
    if code != 0 and not run.failed:
        run.failed = [f"the run itself: exit code {code}"]
    return run


@contextmanager
def busy_loops(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """`count` processes that use all the CPU they get."""
    command = [sys.executable, "-c", BUSY_LOOP, str(os.getpid())]
    loops = [subprocess.Popen(command, stdin=subprocess.DEVNULL) for _ in range(count)]
    try:
        yield loops
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def soak(runs: int, busy: int, folder: Path, arguments: Sequence[str]) -> list[Run]:
    """All runs, each reported on stderr when it ends. After Ctrl-C, those that had ended."""
    done: list[Run] = []
    try:
        with busy_loops(busy):
            for number in range(1, runs + 1):
                kept = folder / f"run-{number}"
                done.append(run_once(number, kept, arguments))
                print(done[-1].line(runs), file=sys.stderr, flush=True)
                if done[-1].passed:
                    shutil.rmtree(kept)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    return done


def summary(done: Sequence[Run]) -> dict[str, object]:
    """`failures`: test -> in how many runs it failed, most often first."""
    seconds = [run.seconds for run in done]
    return {
        "runs": len(done),
        "passed": sum(run.passed for run in done),
        "median_s": statistics.median(seconds) if seconds else None,
        "longest_s": max(seconds, default=None),
        "failures": dict(Counter(name for run in done for name in run.failed).most_common()),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--busy", type=int, default=0, help="number of busy loops beside it")
    parser.add_argument("-k", dest="expression", help="only these tests, as pytest's -k")
    parser.add_argument("--folder", type=Path, help="where failed runs are kept; a new temporary one by default")
    parser.add_argument("--json", action="store_true", help="the result as JSON on stdout")
    parser.add_argument("pytest", nargs="*", help="arguments of pytest, behind --")
    options = parser.parse_args(argv)
    arguments = [*options.pytest, *(["-k", options.expression] if options.expression else [])]
    folder = options.folder or Path(tempfile.mkdtemp(prefix="order-ledger-soak-"))
    done = soak(options.runs, options.busy, folder, arguments)
    result = summary(done)
    complete = len(done) == options.runs and result["passed"] == options.runs
    if options.json:
        print(json.dumps(result | {"each": [asdict(run) for run in done], "folder": str(folder)}))
    else:
        print(
            f"{result['passed']} of {result['runs']} runs passed; median {result['median_s']} s, longest {result['longest_s']} s"
        )
        for name, times in Counter(name for run in done for name in run.failed).most_common():
            print(f"{times:4} x {name}")
    if not complete:
        print(f"failed runs are kept in {folder}", file=sys.stderr)
    elif options.folder is None:
        folder.rmdir()
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
