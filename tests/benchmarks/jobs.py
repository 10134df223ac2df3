"""The job and the answers of the load generator; and `run`, which runs it in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import psutil
from msgspec import Struct

ROOT = Path(__file__).parents[2]
KEY = "\x00"  # where the generator writes a fresh idempotency key
SETTLE_S = 20.0  # how long to wait for the last answers of a job


class Job(Struct, frozen=True, kw_only=True):
    """Requests to send to 127.0.0.1:`port`, one after the other and over again.

    `rate` None: closed loop, every one of `connections` sends as soon as it has its answer. Else open loop: a request is due
    every 1/`rate` seconds whatever the answers do, and its latency counts from when it was due. Ends after `seconds`, or when
    every request was sent once (`seconds` None). The answer to `requests[i]` must contain `expect[i]`, if there is one.
    """

    port: int
    requests: Sequence[str]
    connections: int
    seconds: float | None = None
    rate: float | None = None
    key_prefix: str = ""
    expect: Sequence[str] | None = None
    collect_ids: bool = False


class Answers(Struct, frozen=True, kw_only=True):
    """The results. `latencies_us` and `lags_us` (how late a due request was sent; open loop) are in the order of answers."""

    statuses: dict[int, int]
    latencies_us: list[int]
    lags_us: list[int]
    order_ids: list[tuple[int, str]]  # (index of the request, id in the answer)
    unexpected: int  # answers without the expected content
    unanswered: int
    broken: list[str]  # connections that failed, and why
    wall_s: float  # from the first request to the last answer
    cpu_s: float  # of the generator itself
    backlog: int  # the most requests that were due without a free connection

    @property
    def count(self) -> int:
        return len(self.latencies_us)

    @property
    def per_second(self) -> float:
        return self.count / self.wall_s

    def ms(self) -> list[float]:
        return [us / 1000 for us in self.latencies_us]

    def wrong(self, status: int) -> str | None:
        """What is wrong if every answer must have this status; None if nothing is."""
        if self.broken or self.unanswered:
            return f"{self.unanswered} requests without an answer; {self.broken[:3]}"
        if set(self.statuses) != {status}:
            return f"answers by status: {self.statuses}, all should be {status}"
        if self.unexpected:
            return f"{self.unexpected} answers are about something else"
        return None


class Load:
    """A job that is running in its own process."""

    def __init__(self, job: Job) -> None:
        self._limit_s = (job.seconds or 300.0) + 2 * SETTLE_S
        self._out = tempfile.TemporaryFile()  # noqa: SIM115  # not a pipe: nobody reads while the job runs
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.generator"], cwd=ROOT, stdin=subprocess.PIPE, stdout=self._out
        )
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(job) + b"\n")
        self._process.stdin.flush()

    def answers(self) -> Answers:
        """Wait for the end. Raises `RuntimeError` when the generator fails."""
        with self._out:
            try:
                self._process.communicate(timeout=self._limit_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.communicate()
                raise RuntimeError("the load generator did not end in time") from None
            if self._process.returncode:
                raise RuntimeError(f"the load generator ended with {self._process.returncode}")
            self._out.seek(0)
            return msgspec.json.decode(self._out.read(), type=Answers)


def run(job: Job) -> Answers:
    """Do `job` in a process of its own."""
    return Load(job).answers()


def cpu_s(pids: Sequence[int]) -> list[float]:
    """CPU seconds that each process has used, user and system, all threads."""
    return [times.user + times.system for times in (psutil.Process(pid).cpu_times() for pid in pids)]
