"""Metrics of `/metrics`. Counting costs a request about a microsecond; everything else is read at the scrape."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ledger.histogram import Histogram
from ledger.store_figures import FIGURES, figures
from ledger.supervision import workers

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"  # clients may send any word as method
UNMATCHED = "unmatched"  # a path without a route: paths as labels would be unbounded


class HttpMetrics(Collector):
    """Requests by method, route template and status, and the time until the response began."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._buckets: dict[tuple[str, str], list[int]] = {}
        self._seconds: Counter[tuple[str, str]] = Counter()
        self.in_progress = 0
        self.outcomes: Counter[str] = Counter()
        self.webhooks: Counter[str] = Counter()
        self.contacts_deleted = 0  # by the sweep

    def note(self, method: str, route: str, status: int, took_s: float) -> None:
        """Count one request. `status` 499: the client left before the response began."""
        if method not in METHODS:
            method = OTHER
        self._requests[method, route, status] += 1
        place = (method, route)
        buckets = self._buckets.get(place)
        if buckets is None:
            buckets = self._buckets[place] = [0] * (len(BUCKETS_S) + 1)
        buckets[bisect_left(BUCKETS_S, took_s)] += 1
        self._seconds[place] += took_s  # type: ignore[assignment]  # a Counter adds floats as well

    def collect(self) -> Iterable[Metric]:
        requests = CounterMetricFamily("ledger_http_requests", "HTTP requests answered.", labels=("method", "route", "status"))
        for (method, route, status), count in sorted(self._requests.items()):
            requests.add_metric((method, route, str(status)), count)
        yield requests
        durations = HistogramMetricFamily(
            "ledger_http_request_duration_seconds", "Time until the response began.", labels=("method", "route")
        )
        for (method, route), buckets in sorted(self._buckets.items()):
            durations.add_metric((method, route), _cumulative(buckets), self._seconds[method, route])
        yield durations
        outcomes = CounterMetricFamily("ledger_command_answers", "Commands answered, by outcome.", labels=("outcome",))
        for outcome, count in sorted(self.outcomes.items()):
            outcomes.add_metric((outcome,), count)
        yield outcomes
        webhooks = CounterMetricFamily("ledger_webhooks", "Messages of the payment provider, by kind.", labels=("kind",))
        for kind, count in sorted(self.webhooks.items()):
            webhooks.add_metric((kind,), count)
        yield webhooks
        yield CounterMetricFamily("ledger_contacts_deleted", "Contacts deleted by the sweep.", self.contacts_deleted)


class Counts(Collector):
    """A counter that is kept elsewhere, by the values of one label."""

    def __init__(self, name: str, text: str, label: str, counts: Counter[str]) -> None:
        self._name, self._text, self._label, self._counts = name, text, label, counts

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(self._name, self._text, labels=(self._label,))
        for value, count in sorted(self._counts.items()):
            family.add_metric((value,), count)
        yield family


def _cumulative(buckets: list[int]) -> list[tuple[str, float]]:
    total, rows = 0, []
    for edge, count in zip((*map(str, BUCKETS_S), "+Inf"), buckets, strict=True):
        total += count
        rows.append((edge, float(total)))
    return rows


class Workers(Collector):
    """Threads and tasks that live as long as the process: how many run, and how often they were restarted."""

    def collect(self) -> Iterable[Metric]:
        running = GaugeMetricFamily("ledger_workers_running", "Running threads and tasks, by name.", labels=("worker",))
        restarts = CounterMetricFamily(
            "ledger_worker_restarts", "How often a worker failed and was restarted.", labels=("worker",)
        )
        for worker in workers():
            running.add_metric((worker.name,), worker.running)
            restarts.add_metric((worker.name,), worker.restarts)
        yield running
        yield restarts


class Stores(Collector):
    """RocksDB's own figures, summed over the databases of the process."""

    def collect(self) -> Iterable[Metric]:
        for name, value in figures().items():
            yield GaugeMetricFamily(f"ledger_rocksdb_{name}", FIGURES[name], value)


class ChunkTimes(Collector):
    """How long the fold of a chunk kept the event loop."""

    def __init__(self, histogram: Callable[[], Histogram]) -> None:
        self._histogram = histogram

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily("ledger_fold_chunk_seconds", "Time to fold one chunk of the log.")
        histogram = self._histogram()
        family.add_metric((), histogram.cumulative(), histogram.total)
        yield family


class Gauges(Collector):
    """Gauges read at the scrape: `read()` yields (name, help, label name or "", {label value: value})."""

    def __init__(self, read: Callable[[], Iterable[tuple[str, str, str, dict[str, float]]]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        for name, text, label, values in self._read():
            gauge = GaugeMetricFamily(name, text, labels=(label,) if label else ())
            for value_of, value in values.items():
                gauge.add_metric((value_of,) if label else (), value)
            yield gauge
