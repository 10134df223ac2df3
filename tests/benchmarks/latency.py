"""How long a `POST` takes to its 201 at a steady 200 a second, beside one acknowledged produce and one transaction."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ledger.errors import LogError
from ledger.kafka.log import KafkaLog
from ledger.log import Acked, NewRecord
from ledger.topics import TopicSpec
from tests.benchmarks.bench import Bench, Incorrect
from tests.benchmarks.rows import Row, at_most
from tests.benchmarks.spread import Spread, percentile, ratios

TOPIC = "benchmark-reference"
RATE_PER_S = 200
CONNECTIONS = 32
VALUE_BYTES = 500  # about the size of an event
P50_MS, P99_MS, TRANSACTION_MS = 20.0, 60.0, 5.0


@dataclass
class _Latencies:
    """Percentiles of each pair, ms."""

    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)

    def add(self, ms: list[float]) -> None:
        self.p50.append(percentile(ms, 50))
        self.p99.append(percentile(ms, 99))


def measure(bench: Bench) -> list[Row]:
    post, produce, transaction, lag = _Latencies(), _Latencies(), _Latencies(), _Latencies()
    bench.log.ensure_topics([TopicSpec(TOPIC, 4)])
    for pair, reference_first in bench.pairs():
        bench.report(f"latency at {RATE_PER_S} orders/s, pair {pair + 1} of {bench.form.pairs}")
        with bench.watched():
            for reference in (reference_first, not reference_first):
                if reference:
                    produce.add(_produces(bench.log, bench.form.references))
                    transaction.add(_transactions(bench.log, bench.form.references))
                else:
                    answers = bench.post(CONNECTIONS, bench.form.open_s, RATE_PER_S)
                    post.add(answers.ms())
                    lag.add([us / 1000 for us in answers.lags_us])
    return _rows(post, produce, transaction, lag)


def _rows(post: _Latencies, produce: _Latencies, transaction: _Latencies, lag: _Latencies) -> list[Row]:
    # The goals are for a machine on which a transaction takes 4-5 ms; on a slower one they scale with it.
    slower = max(1.0, Spread.of(transaction.p50).median / TRANSACTION_MS)
    where = "" if slower == 1.0 else f"(a transaction takes {slower:.1f} x 5 ms)"
    name, at = "latency", f"at {RATE_PER_S}/s"
    return [
        Row(name, f"POST to 201, p50, {at}", "ms", Spread.of(post.p50), at_most(round(P50_MS * slower, 1), where)),
        Row(name, f"POST to 201, p99, {at}", "ms", Spread.of(post.p99), at_most(round(P99_MS * slower, 1), where)),
        Row(name, "  p50 : one transaction", "ratio", ratios(post.p50, transaction.p50)),
        Row(name, "  p99 : one transaction's p50", "ratio", ratios(post.p99, transaction.p50)),
        Row(name, "  p50 : one produce", "ratio", ratios(post.p50, produce.p50)),
        Row(name, "  one transaction, p50", "ms", Spread.of(transaction.p50)),
        Row(name, "  one transaction, p99", "ms", Spread.of(transaction.p99)),
        Row(name, "  one acks=all produce, p50", "ms", Spread.of(produce.p50)),
        Row(name, "  one acks=all produce, p99", "ms", Spread.of(produce.p99)),
        Row(name, "  load generator late by, p99", "ms", Spread.of(lag.p99)),
    ]


def _record(number: int) -> NewRecord:
    return NewRecord(TOPIC, number % 4, b"key-%d" % number, bytes(VALUE_BYTES))


def _paced(count: int, once: Callable[[int], float]) -> list[float]:
    """Milliseconds of each `once(number)`, which returns seconds; one begins every 1/rate seconds, or when the last one ends."""
    ms, due = [], time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, due - time.monotonic()))
        ms.append(once(number) * 1000)
        due = max(due + 1 / RATE_PER_S, time.monotonic())
    return ms


def _produces(log: KafkaLog, count: int) -> list[float]:
    sender = log.sender("benchmark-produce")
    done = threading.Event()
    failed: list[LogError] = []
    ended = 0.0

    def on_ack(acked: Acked | None, error: LogError | None) -> None:
        nonlocal ended
        ended = time.perf_counter()
        if error is not None:
            failed.append(error)
        done.set()

    def once(number: int) -> float:
        done.clear()
        began = time.perf_counter()
        sender.send(_record(number), on_ack)
        if not done.wait(10) or failed:
            raise Incorrect(f"a produce of the reference failed: {failed}")
        return ended - began

    try:
        _paced(20, once)
        return _paced(count, once)
    finally:
        sender.close()


def _transactions(log: KafkaLog, count: int) -> list[float]:
    writer = log.writer("benchmark-reference")

    def once(number: int) -> float:
        began = time.perf_counter()
        writer.transact([_record(number)])
        return time.perf_counter() - began

    try:
        writer.start(10)
        _paced(20, once)
        return _paced(count, once)
    finally:
        writer.close()
