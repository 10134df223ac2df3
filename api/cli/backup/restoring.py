"""Writes a proven backup to an empty cluster: topics, schemas and feature level, the ledger, then the contacts.

The ledger comes first, because a `serve` deletes contacts that no order names. If it is killed halfway, the topics have records,
so the next attempt is refused until they are deleted: there is never half a ledger that looks whole.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import closing

from api.cli.archive import refuse_filled, write_entries
from api.cli.backup.contact_lines import ContactLine
from api.cli.backup.proving import Proof, Proven
from api.settings import Settings
from ledger.clock import now_ms
from ledger.errors import ConfigError, LogError, LogUnavailable
from ledger.log import Acked, EventLog, NewRecord, Sender
from ledger.upgrades.control import Control
from ledger.upgrades.records import LEVEL_KEY, View, announcement, schema_record

BATCH = 500  # contacts that are under way together
DURABLE_S = 60.0


def refuse_used(event_log: EventLog, settings: Settings, partitions: int) -> None:
    """Create the topics. Raises `NotEmpty` if one has records, `ProgramTooOld`, `ConfigError`, `TopicMismatch`, `LogError`."""
    topics = settings.topics
    if settings.writers > partitions:
        raise ConfigError(f"WRITERS is {settings.writers}, the backup has {partitions} partitions: set it to at most that")
    event_log.ensure_topics(topics.specs(partitions, settings.writers))
    refuse_filled(
        event_log, topics, settings.ledger_id, partitions, [topics.events, topics.refusals, topics.commands, topics.contacts]
    )


def restore(event_log: EventLog, settings: Settings, proof: Proof, proven: Proven, stopping: threading.Event) -> None:
    """Write everything that was proven. Raises `LogError`, also if stopped halfway: then the topics must be deleted."""
    topics, control, proof.is_writing = settings.topics, proven.control, True
    with closing(Control(event_log, topics)) as records:  # before what is written with them
        written = [schema_record(schema) for schema in control.later()]
        if control.level > records.read(View()).level:  # compaction keeps the last one, so a lower one would replace it
            written.append((LEVEL_KEY, announcement(control.level, control.raised_by)))
        records.write(written)
    entries = proof.entries(proven.manifest, "writing the ledger")
    write_entries(event_log, topics, entries, settings.ledger_id, lambda: None, stopping)
    with closing(_Contacts(event_log.sender("restore"))) as contacts:

        def take(number: int, line: ContactLine) -> None:
            contacts.send(proven.choice.records(topics.contacts, number, line))

        proof.read_contacts(proven.manifest, take)
        contacts.send(proven.choice.erasures_to_finish(topics.contacts, settings.node_id, now_ms()))
        contacts.flush()


class _Contacts:
    """Sends records some at a time; whatever was sent is durable after `flush`."""

    def __init__(self, sender: Sender) -> None:
        self._sender, self._unanswered = sender, 0
        self._errors: list[LogError] = []

    def send(self, records: Sequence[NewRecord]) -> None:
        """Raises `LogError`."""
        for record in records:
            self._sender.send(record, self._answered)
            self._unanswered += 1
            if self._unanswered >= BATCH:
                self.flush()

    def flush(self) -> None:
        """Raises `LogError` if a record is not known to be durable."""
        if self._sender.flush(DURABLE_S):
            raise LogUnavailable(f"contacts were not acknowledged within {DURABLE_S:.0f} s: delete the topics and repeat it")
        if self._errors:
            raise self._errors[0]
        self._unanswered = 0

    def _answered(self, acked: Acked | None, error: LogError | None) -> None:
        if acked is None:
            self._errors.append(error or LogError("neither acknowledged nor refused"))

    def close(self) -> None:
        self._sender.close()
