"""The parts that every benchmark uses: the system, the no-op server, the load, and the list of accepted orders."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from tests.benchmarks import workload
from tests.benchmarks.jobs import Answers, Job, Load
from tests.benchmarks.machine import Neighbours
from tests.benchmarks.system import Noop, System

Orders = Sequence[tuple[int, str]]  # (index of the post, order id)


FIRST_S = 10  # for the first order, while the processor is still starting


class Incorrect(Exception):
    """Something was not as promised, so no number is worth showing."""


@dataclass(frozen=True, slots=True)
class Form:
    """How long and how often: seconds of each run, and how many pairs."""

    pairs: int
    warm_up_s: float
    closed_s: float
    open_s: float
    references: int  # single produces and transactions of a pair
    events: int  # events of the topic that is folded


QUICK = Form(pairs=2, warm_up_s=8.0, closed_s=3.0, open_s=4.0, references=150, events=20_000)
FULL = Form(pairs=5, warm_up_s=30.0, closed_s=6.0, open_s=10.0, references=400, events=60_000)


@dataclass
class Bench:
    """One run of the benchmarks. Every post to the system goes through here, so that every accepted order is checked."""

    system: System
    noop: Noop
    form: Form
    report: Callable[[str], None]
    calm_s: float = 0.0  # how long a pair may wait for other processes to leave the machine alone
    neighbours: Neighbours = field(default_factory=Neighbours)
    orders: list[tuple[int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._runs = itertools.count(1)
        self._gateway = self.system.token("gateway")
        self._posts = workload.posts(self._gateway)

    @property
    def kafka(self) -> KafkaSettings:
        servers = self.system.bootstrap_servers
        return KafkaSettings(bootstrap_servers=servers, security_protocol="PLAINTEXT", client_id="benchmarks")

    @property
    def log(self) -> KafkaLog:
        return KafkaLog(self.kafka)

    def pairs(self) -> Iterator[tuple[int, bool]]:
        """(number, whether the reference goes first) of each pair; turns alternate, so that a drift favours neither."""
        for number in range(self.form.pairs):
            if self.calm_s:
                self.report("waiting for other processes")
                self.neighbours.wait_for_calm(self.pids(), self.calm_s)
            yield number, number % 2 == 0

    # ---- load

    def start_posts(self, connections: int, seconds: float, rate: float | None = None) -> Load:
        """Begin to place orders; pass the answers to `accept`."""
        return Load(
            Job(
                port=self.system.port,
                requests=self._posts,
                connections=connections,
                seconds=seconds,
                rate=rate,
                key_prefix=f"bench-{next(self._runs)}-",
                collect_ids=True,
            )
        )

    def wait_until_decided(self) -> None:
        """Place one order with the longest wait that the API allows: `up` is ready before orders are decided."""
        request = self._posts[0].replace("\r\n", f"\r\nPrefer: wait={FIRST_S}\r\n", 1)
        job = Job(port=self.system.port, requests=[request], connections=1, key_prefix="first-", collect_ids=True)
        self.accept(Load(job).answers())

    def accept(self, answers: Answers) -> Answers:
        """Note the accepted orders. Raises `Incorrect` unless every post was accepted."""
        self.must(answers, 201, "POST /orders")
        if len(answers.order_ids) != answers.count:
            raise Incorrect(f"{answers.count} answers name {len(answers.order_ids)} orders")
        self.orders += answers.order_ids
        return answers

    def post(self, connections: int, seconds: float, rate: float | None = None) -> Answers:
        """Place orders for `seconds`."""
        return self.accept(self.start_posts(connections, seconds, rate).answers())

    def post_again(self, index: int, count: int) -> None:
        """Place one of the orders `count` times, each under its own key: all are one customer's."""
        prefix = f"bench-{next(self._runs)}-"
        job = Job(
            port=self.system.port, requests=[self._posts[index]] * count, connections=32, key_prefix=prefix, collect_ids=True
        )
        answers = self.must(Load(job).answers(), 201, "POST /orders")
        self.orders += [(index, order_id) for _, order_id in answers.order_ids]

    def post_noop(self, connections: int, seconds: float) -> Answers:
        """The same requests to the reference."""
        job = Job(port=self.noop.port, requests=self._posts, connections=connections, seconds=seconds, key_prefix="bench-")
        return self.must(Load(job).answers(), 201, "no-op POST")

    def start_gets(self, port: int, orders: Orders, seconds: float | None, connections: int, rate: float | None) -> Load:
        """Begin to read `orders`, over and over for `seconds`, or each once if None."""
        return Load(
            Job(
                port=port,
                requests=workload.gets(self._gateway, orders),
                expect=workload.names(orders),
                connections=connections,
                seconds=seconds,
                rate=rate,
            )
        )

    def get(self, orders: Orders, seconds: float | None, connections: int = 32, rate: float | None = None) -> Answers:
        """Read `orders`. Raises `Incorrect` unless every read returned the requested order."""
        load = self.start_gets(self.system.port, orders, seconds, connections, rate)
        return self.must(load.answers(), 200, "GET of an order")

    def get_noop(self, orders: Orders, seconds: float, connections: int = 32) -> Answers:
        """The same requests to the reference."""
        return self.must(self.start_gets(self.noop.port, orders, seconds, connections, None).answers(), 200, "no-op GET")

    def must(self, answers: Answers, status: int, subject: str) -> Answers:
        if (wrong := answers.wrong(status)) is not None:
            raise Incorrect(f"{subject}: {wrong}")
        return answers

    # ---- other processes

    def pids(self) -> list[int]:
        return [*self.system.pids(), self.system.info["pid"], self.noop.pid]

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note the CPU that other processes take meanwhile."""
        pids = self.pids()
        before = self.neighbours.usage(pids)
        yield
        self.neighbours.note(before, pids)
