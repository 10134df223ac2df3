"""Composes the processes: which adapter implements which port. Everything else sees only ports.

Modules that only one process needs are imported inside its function, because every verb imports this module.
"""

from __future__ import annotations

import math
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from api.processes.log_lines import log_to_stderr
from api.processes.patient_log import READ_PATIENCE_S, patient
from api.processes.replicas import check_replicas
from api.processes.running import status_writer
from api.processes.signals import on_stop_signals, stop_with_parent
from api.settings import Settings, program_version
from ledger.asking import until_answered
from ledger.contact_rows import CONTACTS_STORE
from ledger.files import private_folder
from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.log import EventLog
from ledger.rocks_store import MIB, RocksStore, remove_store, store_opener
from ledger.store import Store
from ledger.topics import Topics
from ledger.upgrades.membership import Membership
from ledger.upgrades.resolving import resolving

log = structlog.get_logger(__name__)


def open_log(kafka: KafkaSettings, topics: Topics) -> EventLog:
    """The log of the cluster in the settings. Connects lazily. Its readers look up the schemas of later programs."""
    return resolving(KafkaLog(kafka), topics)


def prepare_topics(
    event_log: EventLog,
    settings: Settings,
    stopping: threading.Event,
    membership: Membership,
    on_answer: Callable[[], object] = lambda: None,
) -> bool:
    """Create missing topics, check existing ones, their replicas and the registry, join the other nodes.

    Waits until the cluster answers; `on_answer` is called when it first does.

    Returns False if stopped meanwhile. Raises `TopicMismatch`, `ProgramTooOld`, `ConfigError`.
    """
    specs = settings.topics.specs(settings.partitions, settings.writers)
    created = until_answered(lambda: event_log.ensure_topics(specs), stopping)
    if created is None:
        return False
    on_answer()
    if created:
        log.info("topics created", topics=created)
    if settings.schema_registry_url:
        from ledger.schemas.registry import check_registry

        check_registry(settings.schema_registry_url, settings.topic_prefix)
    if not check_replicas(event_log, settings, stopping):
        return False
    if until_answered(lambda: membership.join(settings.topics.events in created), stopping) is None:
        return False
    membership.follow()
    return True


@dataclass(frozen=True, slots=True)
class KafkaDoors:
    """Opens the log and the stores of a bulk fold. Can be pickled for another process (`projections.rebuild.Doors`)."""

    kafka: KafkaSettings
    topics: Topics

    def enter_process(self) -> None:
        """Call this first in a new process."""
        log_to_stderr()
        if hasattr(os, "nice"):
            os.nice(10)  # `serve` on the same machine has priority

    def open_log(self, stopping: threading.Event | None = None, for_ever: bool = False) -> EventLog:
        """The log, with retries until `stopping`. If `for_ever`, readers wait for a broker without limit."""
        read_patience_s = math.inf if for_ever else READ_PATIENCE_S
        return patient(open_log(self.kafka, self.topics), stopping=stopping, read_patience_s=read_patience_s)

    def opener(self, folder: Path, loading: bool) -> Callable[[str], Store]:
        """Returns a function that opens a store. It raises `StoreError` immediately if the database is open elsewhere."""

        def open_store(name: str) -> Store:
            return RocksStore(folder / name, loading=loading, write_buffer_bytes=(32 if loading else 16) * MIB)

        return open_store


def forget_contacts(root: Path) -> None:
    """Delete the contacts that a notifier kept in `root`: no erasure would reach them without one. Raises `StoreError`."""
    contacts = root / CONTACTS_STORE
    if contacts.is_dir():
        remove_store(contacts)
        shutil.rmtree(contacts, ignore_errors=True)
        log.info("contacts deleted, because notifications are off", folder=str(contacts))


def run_commands(settings: Settings, kafka: KafkaSettings, with_parent: bool = False) -> int:
    """Run the `commands` process until a signal. Returns its exit code."""
    from api.processes.commands_metrics import readiness
    from api.processes.companions import Companions
    from api.processes.exposure import check_exposure
    from api.processes.health import HealthServer
    from commands.processor.process import CommandsProcess

    check_exposure(settings, kafka)
    stopping = threading.Event()
    event_log = open_log(kafka, settings.topics)
    private_folder(settings.state_dir)
    open_store = store_opener(settings.state_dir / "commands")
    companions = Companions(settings, event_log, open_store)
    if not companions.keeps_contacts:
        forget_contacts(settings.state_dir / "commands")
    on_status = status_writer(settings.state_dir)
    process = CommandsProcess(
        event_log,
        open_store,
        settings.topics,
        settings.ledger_id,
        settings.node_id,
        companions.make,
        on_status,
        clock=companions.clock,
        standby_writers=settings.standby_writers,
    )

    metrics = companions.registry(process)
    health = HealthServer(
        "commands", settings.metrics_host, settings.metrics_port, metrics, lambda: readiness(process, event_log)
    )
    too_old: list[BaseException] = []

    def stop(*_: object) -> None:
        stopping.set()
        process.stop()

    def end(exc: BaseException) -> None:
        too_old.append(exc)
        stop()

    membership = Membership(event_log, settings.topics, "commands", settings.node_id, program_version(), end)
    on_stop_signals(stop)
    if with_parent:
        stop_with_parent(stop)
    health.start()
    process.metrics_url = health.url
    try:
        if not prepare_topics(event_log, settings, stopping, membership):
            return 0
        code = process.run()
    finally:
        health.stop()
        membership.leave()
        companions.close()
    if too_old:
        raise too_old[0]
    return code
