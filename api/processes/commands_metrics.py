"""Metrics of a `commands` process, read at each scrape: what its writers decide, what is owed, what it sends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from api.metrics import Stores, Workers
from commands.notifier.loop import Notifier
from commands.processor.meters import ACCEPTED, REFUSED, REPEATED
from commands.processor.process import CommandsProcess
from commands.processor.writer_loop import WriterLoop
from commands.reconciler.loop import Reconciler
from commands.webhooks.loop import Webhooks
from commands.webhooks.tries import DeliveryLog
from ledger.errors import LogError
from ledger.histogram import Histogram
from ledger.log import EventLog, TopicPartition
from ledger.log_clock import LogClock
from ledger.reading import of_led

PREFIX = "ledger_commands_"
STANDBY_BEHIND = 10_000  # offsets that a take-over folds in half a second
READY_S = 2.0  # for the log's answer: whoever asks for `/ready` does not wait long


def registry_of(
    process: CommandsProcess,
    event_log: EventLog,
    clock: LogClock,
    reconciler: Callable[[], Reconciler | None],
    notifier: Callable[[], Notifier | None],
    webhooks: Callable[[], tuple[Webhooks, DeliveryLog] | None] = lambda: None,
) -> CollectorRegistry:
    """All metrics of one process, in a registry of its own. The companions exist once the log has answered."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(Workers())
    registry.register(Stores())
    registry.register(WriterMetrics(process, event_log, clock))
    registry.register(ReconcilerMetrics(reconciler))
    registry.register(NotifierMetrics(notifier))
    registry.register(WebhookMetrics(webhooks))
    return registry


def readiness(process: CommandsProcess, event_log: EventLog) -> tuple[bool, dict[str, str]]:
    """Ready is a process that decides for each writer that it owns, and keeps up with those that it follows.

    One that first folds the whole log, before it takes any, is not: whoever replaces nodes one after the other waits for it.
    """
    loops = process.loops
    waiting = [str(loop.writer) for loop in loops if loop.owns and not loop.ready.is_set()]
    folded = _standby(loops)
    behind: float | None
    try:
        ends, _ = of_led(lambda tps: event_log.ends(tps, timeout_s=READY_S), folded)
        behind = sum(_offsets_behind(folded, ends).values())
    except LogError:
        behind = None
    checks = {
        "log": "away" if behind is None else "ok" if loops else "waiting",
        "owned": ", ".join(str(loop.writer) for loop in loops if loop.owns) or "none",
        "writers": f"not deciding: {', '.join(waiting)}" if waiting else "ok",
        "standby": "unknown" if behind is None else f"behind by {behind:.0f}" if behind > STANDBY_BEHIND else "ok",
        "fold": "behind" if process.folds_first else "ok",
    }
    is_current = behind is not None and behind <= STANDBY_BEHIND
    return bool(loops) and not waiting and is_current and not process.folds_first, checks


def _standby(loops: list[WriterLoop]) -> dict[TopicPartition, int]:
    """Next offsets to fold of the writers that the process follows and does not own."""
    return {tp: at for loop in loops if loop.follows and not loop.owns for tp, at in loop.folded().items()}


def _counter(name: str, text: str, label: str, values: Counter[str]) -> Metric:
    family = CounterMetricFamily(PREFIX + name, text, labels=(label,))
    for value, count in sorted(values.items()):
        family.add_metric((value,), count)
    return family


def _gauge(name: str, text: str, label: str, values: dict[str, float]) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, text, labels=(label,))
    for value, number in sorted(values.items()):
        family.add_metric((value,), number)
    return family


class WriterMetrics(Collector):
    """What the writers of the process decided and folded, and how far behind they are."""

    def __init__(self, process: CommandsProcess, event_log: EventLog, clock: LogClock) -> None:
        self._process, self._log, self._clock = process, event_log, clock

    def collect(self) -> Iterable[Metric]:
        loops = self._process.loops
        decided, started_over = Counter(dict.fromkeys((ACCEPTED, REFUSED, REPEATED), 0)), Counter[str]()
        for loop in loops:
            decided.update(loop.meters.decided)
            started_over.update(loop.meters.started_over)
        yield _counter("decided", "Commands decided, by outcome; `repeated` ones had been decided before.", "outcome", decided)
        yield _counter("starts_over", "How often a writer started over, by what ended it.", "cause", started_over)
        folded = CounterMetricFamily(PREFIX + "folded", "Records of other processes that were folded.")
        folded.add_metric((), sum(loop.meters.folded for loop in loops))
        yield folded
        rejoins = CounterMetricFamily(PREFIX + "rejoins", "How often the group was joined again: a writer was held by nobody.")
        rejoins.add_metric((), self._process.rejoins)
        yield rejoins
        yield from self._histograms(loops)
        yield from self._states(loops)
        yield from self._lags(loops)
        text = "How far Kafka's clock is ahead of this machine's, as of the last command that this process sent to the partition."
        skews = {str(p): ms / 1000 for p, ms in self._clock.skews_ms().items()}
        yield _gauge("log_clock_skew_seconds", text, "partition", skews)

    def _histograms(self, loops: list[WriterLoop]) -> Iterable[Metric]:
        kinds: tuple[tuple[str, str, Callable[[WriterLoop], Histogram]], ...] = (
            ("batch_size", "Commands of a batch.", lambda loop: loop.meters.batch_commands),
            ("transaction_seconds", "Time of a Kafka transaction.", lambda loop: loop.meters.transaction_s),
            ("takeover_seconds", "From owning a writer to its first decision.", lambda loop: loop.meters.taken_over_s),
        )
        for name, text, histogram_of in kinds:
            family = HistogramMetricFamily(PREFIX + name, text, labels=("writer",))
            for loop in loops:
                histogram = histogram_of(loop)
                if histogram.count:
                    family.add_metric((str(loop.writer),), histogram.cumulative(), histogram.total)
            yield family

    @staticmethod
    def _states(loops: list[WriterLoop]) -> Iterable[Metric]:
        owned = {str(loop.writer): float(loop.owns) for loop in loops}
        yield _gauge("writer_owned", "1 if this process owns the writer.", "writer", owned)
        ready = {str(loop.writer): float(loop.ready.is_set()) for loop in loops}
        yield _gauge("writer_ready", "1 if the writer decides here now.", "writer", ready)
        followed = {str(loop.writer): float(loop.follows) for loop in loops}
        yield _gauge("writer_followed", "1 if this process keeps up with the writer.", "writer", followed)
        hanging = GaugeMetricFamily(PREFIX + "hanging_transactions", "Transactions that Kafka left open, of own writers.")
        hanging.add_metric((), sum(len(loop.held.hanging) for loop in loops))
        yield hanging

    def _lags(self, loops: list[WriterLoop]) -> Iterable[Metric]:
        decided = {tp: at for loop in loops if loop.owns for tp, at in loop.decided().items()}
        folded = _standby(loops)
        reachable = GaugeMetricFamily(PREFIX + "log_reachable", "1 if the log answered this scrape.")
        try:
            ends, _ = of_led(self._log.ends, [*decided, *folded])
        except LogError:
            reachable.add_metric((), 0)
            yield reachable
            return
        reachable.add_metric((), float(bool(loops)))  # without any, a start waits for the log
        yield reachable
        text = "Commands of an own partition that are not decided yet."
        yield _gauge("behind", text, "partition", _offsets_behind(decided, ends))
        text = "Offsets between the fold of a followed partition and its end."
        yield _gauge("standby_behind", text, "partition", _offsets_behind(folded, ends))


def _offsets_behind(positions: dict[TopicPartition, int], ends: dict[TopicPartition, int]) -> dict[str, float]:
    """By partition, in all its topics. A topic's partition without a leader does not count: nobody knows its end."""
    behind = {str(tp.partition): 0.0 for tp in positions}
    for tp, at in positions.items():
        behind[str(tp.partition)] += max(0, ends.get(tp, at) - at)
    return behind


class ReconcilerMetrics(Collector):
    """What is owed to the outside, and how the outside answers."""

    def __init__(self, reconciler: Callable[[], Reconciler | None]) -> None:
        self._reconciler = reconciler

    def collect(self) -> Iterable[Metric]:
        reconciler = self._reconciler()
        if reconciler is None:
            return
        now = reconciler.census()
        states = (("owed", now.owed), ("under_way", now.calling), ("failing", now.failing), ("stuck", now.stuck))
        family = GaugeMetricFamily(
            PREFIX + "obligations", "Obligations of own orders, by kind and state.", labels=("kind", "state")
        )
        for state, kinds in states:
            for kind, count in sorted(kinds.items()):
                family.add_metric((kind, state), count)
        yield family
        text = "For how long the oldest failing obligation of the kind has been failing."
        ages = {kind: ms / 1000 for kind, ms in now.oldest_failing_ms.items()}
        yield _gauge("obligation_failing_seconds", text, "kind", ages)
        calls = HistogramMetricFamily(
            PREFIX + "call_seconds",
            "Time of an obligation that was tried, with all its calls.",
            labels=("port", "kind", "answer"),
        )
        for labels, histogram in sorted(reconciler.calls.seconds.copy().items()):
            calls.add_metric(labels, histogram.cumulative(), histogram.total)
        yield calls


class NotifierMetrics(Collector):
    """What became of messages to customers."""

    def __init__(self, notifier: Callable[[], Notifier | None]) -> None:
        self._notifier = notifier

    def collect(self) -> Iterable[Metric]:
        notifier = self._notifier()
        if notifier is None:
            return
        family = CounterMetricFamily(
            PREFIX + "messages", "Messages to customers, by channel and fate.", labels=("channel", "fate")
        )
        for labels, count in sorted(notifier.fates.copy().items()):
            family.add_metric(labels, count)
        yield family
        waiting = GaugeMetricFamily(PREFIX + "messages_waiting", "Messages that are sent again later.")
        waiting.add_metric((), notifier.parked)
        yield waiting


class WebhookMetrics(Collector):
    """What became of deliveries to webhook endpoints, without their names: the delivery log has them."""

    def __init__(self, webhooks: Callable[[], tuple[Webhooks, DeliveryLog] | None]) -> None:
        self._webhooks = webhooks

    def collect(self) -> Iterable[Metric]:
        parts = self._webhooks()
        if parts is None:
            return
        webhooks, tries = parts
        family = CounterMetricFamily(PREFIX + "webhook_tries", "Tries to deliver an event, by result.", labels=("result",))
        for result, count in sorted(tries.results.copy().items()):
            family.add_metric((result,), count)
        yield family
        lost = CounterMetricFamily(PREFIX + "webhook_tries_lost", "Tries that are missing in the delivery log.")
        lost.add_metric((), tries.lost)
        yield lost
        healths = webhooks.healths()
        waiting = GaugeMetricFamily(PREFIX + "webhooks_waiting", "Events that failed and are delivered again later.")
        waiting.add_metric((), sum(health.waiting for health in healths))
        yield waiting
        failing = GaugeMetricFamily(PREFIX + "webhook_endpoints_failing", "Endpoints whose last delivery failed.")
        failing.add_metric((), sum(health.failing_since > 0 for health in healths))
        yield failing
