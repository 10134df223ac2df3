"""Puts the processes together: which adapter stands behind which port. Everything above it takes ports only.

Imports of what one process alone needs are inside its function: every verb comes through here.
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
from api.processes.running import status_writer
from api.processes.signals import on_stop_signals, stop_with_parent
from api.settings import Settings
from ledger.asking import until_answered
from ledger.contact_rows import CONTACTS_STORE
from ledger.files import private_folder
from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.log import EventLog
from ledger.rocks_store import MIB, RocksStore, remove_store, store_opener
from ledger.store import Store

log = structlog.get_logger(__name__)


def open_log(kafka: KafkaSettings) -> KafkaLog:
    """The cluster of the settings. Connects lazily."""
    return KafkaLog(kafka)


def prepare_topics(event_log: EventLog, settings: Settings, stopping: threading.Event) -> bool:
    """Create missing topics, refuse wrong ones, check the registry; waits for a cluster that does not answer yet.

    False when told to stop meanwhile. Raises `TopicMismatch`, `ConfigError`.
    """
    specs = settings.topics.specs(settings.partitions, settings.writers)
    created = until_answered(lambda: event_log.ensure_topics(specs), stopping)
    if created is None:
        return False
    if created:
        log.info("topics created", topics=created)
    if settings.schema_registry_url:
        from ledger.schemas.registry import check_registry

        check_registry(settings.schema_registry_url, settings.topic_prefix)
    return True


@dataclass(frozen=True, slots=True)
class KafkaDoors:
    """Makes the log and stores of a bulk fold; can be handed to another process (`projections.rebuild.Doors`)."""

    kafka: KafkaSettings

    def enter_process(self) -> None:
        """To be called first in a process of one's own."""
        log_to_stderr()
        if hasattr(os, "nice"):
            os.nice(10)  # whoever serves on the same machine goes first

    def open_log(self, stopping: threading.Event | None = None, for_ever: bool = False) -> EventLog:
        """The log, asked and read with patience, until `stopping`; read without an end of patience if `for_ever`."""
        return patient(KafkaLog(self.kafka), stopping=stopping, read_patience_s=math.inf if for_ever else READ_PATIENCE_S)

    def opener(self, folder: Path, loading: bool) -> Callable[[str], Store]:
        """What it returns raises `StoreError` at once when a database is open elsewhere."""

        def open_store(name: str) -> Store:
            return RocksStore(folder / name, loading=loading, write_buffer_bytes=(32 if loading else 16) * MIB)

        return open_store


def forget_contacts(root: Path) -> None:
    """Delete what a notifier has kept below `root`: where none runs any more, no erasure would reach it. Raises `StoreError`."""
    contacts = root / CONTACTS_STORE
    if contacts.is_dir():
        remove_store(contacts)
        shutil.rmtree(contacts, ignore_errors=True)
        log.info("contacts deleted: nobody is told of orders any more", folder=str(contacts))


def run_commands(settings: Settings, kafka: KafkaSettings, with_parent: bool = False) -> int:
    """The `commands` process, until a signal. Returns its exit code."""
    from api.processes.companions import Companions
    from api.processes.exposure import check_exposure
    from commands.processor.process import CommandsProcess

    check_exposure(settings, kafka)
    stopping = threading.Event()
    event_log = open_log(kafka)
    private_folder(settings.state_dir)
    open_store = store_opener(settings.state_dir / "commands")
    companions = Companions(settings, event_log, open_store)
    if not companions.keeps_contacts:
        forget_contacts(settings.state_dir / "commands")
    on_status = status_writer(settings.state_dir)
    process = CommandsProcess(
        event_log, open_store, settings.topics, settings.app_id, settings.node_id, companions.make, on_status
    )

    def stop(*_: object) -> None:
        stopping.set()
        process.stop()

    on_stop_signals(stop)
    if with_parent:
        stop_with_parent(stop)
    if not prepare_topics(event_log, settings, stopping):
        return 0
    try:
        return process.run()
    finally:
        companions.close()
