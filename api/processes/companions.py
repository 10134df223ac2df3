"""Reconciler and notifier of a `commands` process, if the settings name external services."""

from __future__ import annotations

import sys
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from api.processes.commands_metrics import registry_of
from api.processes.doors import build_composer, build_message_doors, build_ports
from api.processes.outside import check_outside
from api.settings import Settings
from commands.notifier.loop import Notifier
from commands.notifier.resuming import notifier_group
from commands.processor.process import Books, CommandsProcess, Companion, Fatal
from commands.reconciler.loop import Reconciler
from ledger.log import EventLog, Sender
from ledger.log_clock import LogClock
from ledger.store import Store

SWITCH_S = 0.0005


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
        self._sender: Sender | None = None
        self.reconciler: Reconciler | None = None
        self.notifier: Notifier | None = None

    @property
    def keeps_contacts(self) -> bool:
        """Whether the notifier keeps contacts in a database of this process."""
        return self._outside

    def make(self, books: Books, on_fatal: Fatal, partitions: int) -> list[Companion]:
        """Empty without external services: obligations then stay open. Does not ask the log, which may be unreachable."""
        if self._composer is None:
            return []
        # The writer releases the interpreter at every call of Kafka's client, and gets it back only when another thread's turn
        # ends: the turns of the threads beside it must be short.
        sys.setswitchinterval(SWITCH_S)
        settings, topics = self._settings, self._settings.topics
        self._sender = self._log.sender("reconciler")

        def partition_of(order_id: str) -> int:
            return self._log.partition_for(order_id.encode(), partitions)

        self.reconciler = Reconciler(
            lambda: build_ports(settings), books, partition_of, self._sender, topics, on_fatal, self.clock
        )
        group = notifier_group(settings.ledger_id)
        self.notifier = Notifier(
            self._log, topics, books, self._open_store, self._doors, self._composer, group, on_fatal, clock=self.clock
        )
        return [self.reconciler, self.notifier]

    def registry(self, process: CommandsProcess) -> CollectorRegistry:
        """All metrics of the process with these companions."""
        return registry_of(process, self._log, self.clock, lambda: self.reconciler, lambda: self.notifier)

    def close(self) -> None:
        """Call after the process has ended."""
        if self._sender is not None:
            self._sender.close()
