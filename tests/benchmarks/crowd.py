"""An ordinary client beside a crowd of bad ones: 20 orders a second, while 2,300 connections do their worst.

The crowd: 2,000 connections that send nothing, 20 headers without end, 300 bodies that come a byte a second, and 8 clients that
read lists of one customer's 3,000 orders, with a filter that none passes. A client that is cut off returns half a second later.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

import msgspec
import psutil

from tests.benchmarks.attackers import Attack
from tests.benchmarks.bench import Bench, Incorrect
from tests.benchmarks.jobs import ROOT
from tests.benchmarks.loop_lag import loop_lag_ms
from tests.benchmarks.rows import Row, at_most
from tests.benchmarks.spread import Spread, percentile
from tests.benchmarks.workload import customer_of

SILENT, HEADERS, BODIES, READERS = 2_000, 20, 300, 4
ORDERS, RATE_PER_S, CONNECTIONS = 3_000, 20, 8
GOAL_P99_MS, GOAL_FILES, GOAL_MEMORY = 500.0, 20, 1.2
CALM_S = 120.0  # the longest wait for connections that should be closed


def measure(bench: Bench) -> list[Row]:
    """Rows of this benchmark. Raises `Incorrect` unless every post of the ordinary client was answered 201."""
    seconds = 60.0 if bench.form.pairs > 2 else 15.0
    customer = _large_customer(bench)
    serve = psutil.Process(bench.system.pids()[0])
    bench.report("an ordinary client alone")
    alone = bench.post(CONNECTIONS, seconds / 2, RATE_PER_S).ms()
    files, memory = serve.num_fds(), serve.memory_info().rss
    bench.report("an ordinary client beside a crowd")
    crowd = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.attackers", msgspec.json.encode(_attack(bench, customer)).decode()],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        _until(lambda: serve.num_fds() >= files + 500, "the crowd did not come")
        beside = bench.post(CONNECTIONS, seconds, RATE_PER_S).ms()
        most = serve.num_fds()
        lag_ms = loop_lag_ms(bench.system.info["url"], bench.system.token("operator"))
    finally:
        said, _ = crowd.communicate()
    did = json.loads(said)
    bench.report("after the crowd")
    _until(lambda: serve.num_fds() <= files + GOAL_FILES, "connections are left open")
    after = serve.memory_info().rss
    detail = {"crowd": did, "most_files": most, "loop_lag_ms": lag_ms}
    return [
        Row(
            "crowd",
            f"POST to 201 beside the crowd, p99, at {RATE_PER_S}/s",
            "ms",
            _one(percentile(beside, 99)),
            at_most(GOAL_P99_MS),
            detail,
        ),
        Row("crowd", "  p50", "ms", _one(percentile(beside, 50))),
        Row("crowd", "  alone, p99", "ms", _one(percentile(alone, 99))),
        Row("crowd", "  open files of serve, most", "files", _one(most)),
        Row("crowd", "  more of them afterwards", "files", _one(serve.num_fds() - files), at_most(GOAL_FILES)),
        Row("crowd", "  memory afterwards : before", "ratio", _one(after / memory), at_most(GOAL_MEMORY)),
    ]


def _one(value: float) -> Spread:
    return Spread.of([value])


def _until(met: object, otherwise: str) -> None:
    deadline = time.monotonic() + CALM_S
    while not met():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise Incorrect(otherwise)
        time.sleep(0.2)


def _large_customer(bench: Bench) -> str:
    """A customer with `ORDERS` orders."""
    bench.report(f"placing {ORDERS} orders of one customer")
    bench.post_again(0, ORDERS)
    return customer_of(0)


def _attack(bench: Bench, customer: str) -> Attack:
    reader, gateway = bench.system.token("reader"), bench.system.token("gateway")

    def get(path: str, token: str, *more: str) -> str:
        return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {token}", *more, "", ""])

    post = ["POST /orders HTTP/1.1", "Host: x", f"Authorization: Bearer {gateway}", f"Customer-Id: {customer}"]
    post += ["Idempotency-Key: slow", "Content-Type: application/json", "Content-Length: 60000", "", ""]
    return Attack(
        port=bench.system.port,
        silent=SILENT,
        headers=HEADERS,
        bodies=BODIES,
        readers=READERS,
        lists=(
            get("/orders?status=shipped&limit=1", gateway, f"Customer-Id: {customer}"),
            get(f"/orders?status=delivered&customer_id={customer}&attention=true&limit=1", reader),
        ),
        post="\r\n".join(post),
    )
