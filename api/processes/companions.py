"""Companions of a `commands` process: webhooks, and reconciler and notifier if the settings name external services."""

from __future__ import annotations

import sys
from collections.abc import Callable

import structlog
from prometheus_client import CollectorRegistry

from api.processes.commands_metrics import registry_of
from api.processes.doors import build_composer, build_message_doors, build_ports
from api.processes.outside import check_outside
from api.representations import webhook_body
from api.settings import Settings
from commands.notifier.loop import Notifier
from commands.notifier.resuming import notifier_group
from commands.processor.process import Books, CommandsProcess, Companion, Fatal
from commands.reconciler.loop import Reconciler
from commands.webhooks.delivering import WithEndpoints
from commands.webhooks.loop import Webhooks
from commands.webhooks.tries import DeliveryLog
from ledger.log import EventLog, Sender
from ledger.log_clock import LogClock
from ledger.store import Store

SWITCH_S = 0.0005

log = structlog.get_logger(__name__)


class Companions:
    """Builds them for `CommandsProcess`; they share `clock`. Raises `ConfigError` if the settings contradict each other."""

    def __init__(
        self,
        settings: Settings,
        event_log: EventLog,
        open_store: Callable[[str], Store],
        clock: LogClock | None = None,
    ) -> None:
        self._settings, self._log, self._open_store = settings, event_log, open_store
        self.clock = LogClock() if clock is None else clock
        self._outside = check_outside(settings)
        self._doors = build_message_doors(settings) if self._outside else {}
        self._composer = build_composer(settings) if self._outside else None
        self._senders: list[Sender] = []
        self.reconciler: Reconciler | None = None
        self.notifier: Notifier | None = None
        self.webhooks: Webhooks | None = None
        self.delivery_log: DeliveryLog | None = None

    @property
    def keeps_contacts(self) -> bool:
        """Whether the notifier keeps contacts in a database of this process."""
        return self._outside

    def make(self, books: Books, on_fatal: Fatal, partitions: int) -> list[Companion]:
        """Without external services, obligations stay open. Does not ask the log, which may be unreachable."""
        webhooks = self._make_webhooks(on_fatal)
        if self._composer is None:
            return webhooks
        # The writer releases the interpreter at every call of Kafka's client, and gets it back only when another thread's turn
        # ends: the turns of the threads beside it must be short.
        sys.setswitchinterval(SWITCH_S)
        settings, topics = self._settings, self._settings.topics
        self._senders.append(sender := self._log.sender("reconciler"))

        def partition_of(order_id: str) -> int:
            return self._log.partition_for(order_id.encode(), partitions)

        self.reconciler = Reconciler(lambda: build_ports(settings), books, partition_of, sender, topics, on_fatal, self.clock)
        group = notifier_group(settings.ledger_id)
        self.notifier = Notifier(
            self._log, topics, books, self._open_store, self._doors, self._composer, group, on_fatal, clock=self.clock
        )
        return [self.reconciler, self.notifier, *webhooks]

    def _make_webhooks(self, on_fatal: Fatal) -> list[Companion]:
        """Empty without the key from which the secrets of endpoints are derived."""
        settings = self._settings
        if settings.ledger_hash_key is None:
            log.warning("LEDGER_HASH_KEY is not set: no webhooks are delivered by this process")
            return []
        self._senders.append(sender := self._log.sender("webhooks"))
        self.delivery_log = DeliveryLog(sender, settings.topics.deliveries)
        shared = WithEndpoints(
            log=self._log,
            topics=settings.topics,
            hash_key=settings.hash_key(),
            group=f"{settings.ledger_id}-webhook",
            node=settings.node_id,
            compose=webhook_body,
            allow_private=settings.webhooks_allow_private,
            on_tried=self.delivery_log.note,
            clock_ms=self.clock.machine_ms,
            monotonic_ms=self.clock.monotonic_ms,
        )
        self.webhooks = Webhooks(shared, on_fatal)
        return [self.webhooks]

    def registry(self, process: CommandsProcess) -> CollectorRegistry:
        """All metrics of the process with these companions."""
        return registry_of(
            process,
            self._log,
            self.clock,
            lambda: self.reconciler,
            lambda: self.notifier,
            lambda: None if self.webhooks is None or self.delivery_log is None else (self.webhooks, self.delivery_log),
        )

    def close(self) -> None:
        """Call after the process has ended."""
        for sender in self._senders:
            sender.close()
