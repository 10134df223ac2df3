"""A customer with 200,000 orders (quick: 40,000): what pages of them cost, how their erasure affects others, and how late the
event loop is under a mixed load."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import httpx

from ledger.topics import Topics
from tests.benchmarks import workload
from tests.benchmarks.bench import Bench, Incorrect
from tests.benchmarks.jobs import Answers, Job, Load, cpu_s
from tests.benchmarks.loop_lag import lag_counts, lag_p99_ms
from tests.benchmarks.many_lives import order_id_of, write_contacts, write_many
from tests.benchmarks.node import LIMIT_S, Node
from tests.benchmarks.rows import Row, at_most
from tests.benchmarks.spread import Spread, percentile

PREFIX, PARTITIONS, BIG = "bench-customer.", 4, "big"
OTHERS = 10_000  # orders of others, a hundred each
LIMIT = 100  # rows of a page, the most that is allowed
DEEP_PAGES, ASKED = 200, 200
MIXED_PER_S, CONNECTIONS = 300, 16
READS_PER_S, POSTS_PER_S = 40, 10  # beside an erasure
GOAL_PAGE_MS, GOAL_ERASURE, GOAL_LAG_MS = 5.0, 3.0, 20.0


def measure(bench: Bench) -> list[Row]:
    """Rows of this benchmark. Raises `Incorrect` when an answer is not as it should be."""
    full = bench.form.pairs > 2
    orders = (200_000 if full else 40_000) + OTHERS
    bench.report(f"writing the events and contacts of {orders:,} orders")
    write_many(
        bench.log, Topics(PREFIX), PARTITIONS, orders, customer=_customer_of, began_ms=int(time.time() * 1000) - orders * 10
    )
    write_contacts(bench.log, Topics(PREFIX), PARTITIONS, orders, _customer_of)
    node = Node(bench, PREFIX)
    try:
        bench.report("a node folds them")
        node.decide()
        node.start()
        _until_decided(node)
        large = _Large(bench, node, orders - OTHERS)
        return [*large.pages(), *large.mixed(60.0 if full else 20.0), *large.erased(30.0 if full else 10.0)]
    finally:
        node.end()


def _customer_of(number: int, orders: int) -> str:
    return f"other-{number % (OTHERS // 100)}" if number < OTHERS else BIG


def _until_decided(node: Node) -> None:
    """Wait for a decision: before that, `commands` folds the whole topic."""
    began = time.monotonic()
    headers = {"Authorization": f"Bearer {node.token('gateway')}", "Customer-Id": "first", "Prefer": "wait=10"}
    while httpx.post(
        f"{node.url}/orders", json=workload.bodies(1)[0], headers={**headers, "Idempotency-Key": "first"}, timeout=30.0
    ).status_code not in (200, 201):
        node.check(began)


class _Beside(NamedTuple):
    """Latencies in ms of another customer's requests."""

    reads: list[float]
    posts: list[float]

    def p99(self) -> float:
        return percentile(self.reads + self.posts, 99)

    def and_then(self, later: _Beside) -> _Beside:
        return _Beside(self.reads + later.reads, self.posts + later.posts)


class _Large:
    def __init__(self, bench: Bench, node: Node, orders: int) -> None:
        self._bench, self._node, self._orders = bench, node, orders
        self._gateway, self._operator = node.token("gateway"), node.token("operator")
        self._deep = self._cursor()

    def _get(self, path: str, customer: str = BIG) -> str:
        return workload.get(self._gateway, customer, path)

    def _cursor(self) -> str:
        """The cursor of a page far after the first."""
        headers, cursor = {"Authorization": f"Bearer {self._gateway}", "Customer-Id": BIG}, ""
        with httpx.Client(base_url=self._node.url, headers=headers, timeout=30.0) as client:
            for _ in range(DEEP_PAGES):
                more = {"cursor": cursor} if cursor else {}
                cursor = client.get("/orders", params={"limit": LIMIT, **more}).json()["next_cursor"]
        return cursor

    def _paths(self) -> dict[str, str]:
        return {
            "first page": f"/orders?limit={LIMIT}",
            "page by status": f"/orders?status=pending&limit={LIMIT}",
            "page by a status that none has": f"/orders?status=shipped&limit={LIMIT}",
            "page by times": f"/orders?limit={LIMIT}&placed_to=2999-01-01T00:00:00Z&placed_from=2001-01-01T00:00:00Z",
            "deep page": f"/orders?limit={LIMIT}&cursor={self._deep}",
        }

    def pages(self) -> list[Row]:
        """CPU of `serve` for each kind of page, less its CPU without requests."""
        rows, pid = [], self._node.pid()
        began, before = time.monotonic(), cpu_s([pid])[0]
        time.sleep(3.0)
        idle = (cpu_s([pid])[0] - before) / (time.monotonic() - began)
        for kind, path in self._paths().items():
            self._bench.report(f"{kind} of {self._orders:,} orders")
            self._end(self._start([self._get(path)] * 20, 1, None, None), {200})
            began, before = time.monotonic(), cpu_s([pid])[0]
            answers = self._end(self._start([self._get(path)] * ASKED, 1, None, None), {200})
            used = cpu_s([pid])[0] - before - idle * (time.monotonic() - began)
            figure = f"CPU of a {kind} of {LIMIT}, a customer with {self._orders:,} orders"
            detail = {"p99_ms": percentile(answers.ms(), 99)}
            rows.append(Row("customer", figure, "ms", Spread.of([used * 1000 / ASKED]), at_most(GOAL_PAGE_MS), detail))
        return rows

    def mixed(self, seconds: float) -> list[Row]:
        """The lag of the loop while orders are placed, and orders, lists and histories read, also those of the large customer."""
        self._bench.report(f"{MIXED_PER_S} mixed requests a second")
        choice = random.Random(1)
        posts = list(workload.posts(self._gateway)[:60])
        reads = [self._get(f"/orders/{order_id_of(n)}", _customer_of(n, 0)) for n in choice.sample(range(OTHERS), 150)]
        histories = [self._get(f"/orders/{order_id_of(n)}/events", _customer_of(n, 0)) for n in choice.sample(range(OTHERS), 30)]
        lists = [self._get("/orders?limit=20", f"other-{n}") for n in range(30)]
        large = [self._get(path) for path in self._paths().values()] * 6
        requests = posts + reads + histories + lists + large
        choice.shuffle(requests)
        before = lag_counts(self._node.url, self._operator)
        answers = self._end(self._start(requests, CONNECTIONS, seconds, MIXED_PER_S), {200, 201})
        lag = lag_p99_ms(before, lag_counts(self._node.url, self._operator))
        name = "customer"
        return [
            Row(name, f"lag of the loop at {MIXED_PER_S} mixed requests/s, p99", "ms", Spread.of([lag]), at_most(GOAL_LAG_MS)),
            Row(name, "  their p99", "ms", Spread.of([percentile(answers.ms(), 99)])),
        ]

    def erased(self, seconds: float) -> list[Row]:
        """How the erasure affects another customer, until the deleted rows have left the files too."""
        self._bench.report("another customer alone")
        idle = self._beside(seconds)
        self._bench.report(f"erasing a customer with {self._orders:,} orders")
        headers = {"Authorization": f"Bearer {self._operator}", "Prefer": "respond-async"}
        lag_before, began = lag_counts(self._node.url, self._operator), time.monotonic()
        asked = httpx.post(f"{self._node.url}/customers/{BIG}/erasure", json={"force": True}, headers=headers, timeout=60.0)
        if asked.status_code != 202:
            raise Incorrect(f"erasure: {asked.status_code} {asked.text}")
        busy = _Beside([], [])
        while (state := self._state(headers))["state"] != "done":
            if time.monotonic() - began > LIMIT_S:
                raise Incorrect(f"the erasure does not end: {state}")
            busy = busy.and_then(self._beside(5.0))
        took_s = time.monotonic() - began
        busy = busy.and_then(self._beside(seconds))  # the files are rewritten
        if state["contacts_deleted"] != self._orders:
            raise Incorrect(f"{self._orders} contacts were there, {state}")
        lag = lag_p99_ms(lag_before, lag_counts(self._node.url, self._operator))
        name, ratio = "customer", Spread.of([busy.p99() / idle.p99()])
        return [
            Row(name, "p99 of another customer during an erasure : idle", "ratio", ratio, at_most(GOAL_ERASURE)),
            Row(name, "  reads and lists, p99 during it", "ms", Spread.of([percentile(busy.reads, 99)])),
            Row(name, "  reads and lists, p99 idle", "ms", Spread.of([percentile(idle.reads, 99)])),
            Row(name, "  orders placed, p99 during it", "ms", Spread.of([percentile(busy.posts, 99)])),
            Row(name, "  orders placed, p99 idle", "ms", Spread.of([percentile(idle.posts, 99)])),
            Row(name, "  lag of the loop during it, p99", "ms", Spread.of([lag])),
            Row(name, f"  erasure of {self._orders:,} contacts", "s", Spread.of([took_s])),
        ]

    def _state(self, headers: dict[str, str]) -> dict[str, Any]:
        answer: dict[str, Any] = httpx.get(f"{self._node.url}/customers/{BIG}/erasure", headers=headers, timeout=60.0).json()
        return answer

    def _beside(self, seconds: float) -> _Beside:
        """Another customer's reads and orders, for `seconds`."""
        choice = random.Random(2)
        mine = [n for n in range(OTHERS) if _customer_of(n, 0) == "other-7"]
        reads = [self._get(f"/orders/{order_id_of(n)}", "other-7") for n in choice.sample(mine, 40)]
        requests = [*reads, *[self._get("/orders?limit=20", "other-7")] * 20]
        choice.shuffle(requests)
        posting = self._start(workload.posts(self._gateway)[:40], 8, seconds, POSTS_PER_S)
        reading = self._start(requests, 8, seconds, READS_PER_S)
        return _Beside(self._end(reading, {200}).ms(), self._end(posting, {201}).ms())

    def _start(self, requests: Sequence[str], connections: int, seconds: float | None, rate: float | None) -> Load:
        key = f"customer-{time.time_ns()}-"
        return Load(
            Job(port=self._node.port, requests=requests, connections=connections, seconds=seconds, rate=rate, key_prefix=key)
        )

    def _end(self, load: Load, statuses: set[int]) -> Answers:
        answers = load.answers()
        if answers.broken or answers.unanswered or not set(answers.statuses) <= statuses:
            raise Incorrect(f"{answers.statuses}, {answers.unanswered} unanswered, {answers.broken[:3]}")
        return answers
