"""How many commands a batch may have, and which of them the log rejects. And how often a writer may be fenced."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import structlog

from ledger.errors import Fenced, Rejected
from ledger.log import Record

BATCH_COMMANDS = 500
REFUSED_WAIT_S = 10.0  # somebody has to change the topic
MAX_FENCES_PER_MINUTE = 5

log = structlog.get_logger(__name__)


class Batches:
    """Of one writer. `most`: commands in the next batch. `stopping` ends every wait."""

    def __init__(self, stopping: threading.Event) -> None:
        self.most = BATCH_COMMANDS
        self._stopping = stopping
        self._unwritable: set[tuple[int, int]] = set()  # (partition, offset)

    def is_unwritable(self, record: Record) -> bool:
        """Whether the log rejected the outcome of this command."""
        return (record.partition, record.offset) in self._unwritable

    def committed(self) -> None:
        """A batch was committed: the next one may be larger again."""
        self.most = min(self.most * 2, BATCH_COMMANDS)

    def rejected(self, records: Sequence[Record], exc: Rejected) -> None:
        """The log rejects the outcome of one of these commands: halve the batch until one is left, and refuse that."""
        if len(records) > 1:
            self.most = len(records) // 2
            return
        for record in records:
            if self.is_unwritable(record):
                log.error("the log rejects the refusal, too", partition=record.partition, offset=record.offset, why=str(exc))
                self._stopping.wait(REFUSED_WAIT_S)
            log.error("the log rejects the outcome of a command", partition=record.partition, offset=record.offset, why=str(exc))
            self._unwritable.add((record.partition, record.offset))


class Fences:
    """How often a writer was fenced in the last minute."""

    def __init__(self) -> None:
        self._at: list[float] = []

    def note(self, exc: Fenced) -> None:
        """Raises `RuntimeError` if that is too often: two ledgers would do it to each other for ever."""
        now = time.monotonic()
        self._at = [at for at in self._at if at > now - 60] + [now]
        if len(self._at) > MAX_FENCES_PER_MINUTE:
            raise RuntimeError(
                "fenced repeatedly while owning the writer: does another ledger use the same TOPIC_PREFIX and APP_ID?"
            ) from exc
