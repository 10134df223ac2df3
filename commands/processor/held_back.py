"""Partitions that an open transaction blocks: nothing behind it is committed, so a writer cannot decide.

If its coordinator will still end it, the writer waits. A transaction that hangs (`ledger.log.OpenTransaction`) is reported and
affects only its partition: the writer decides the others, and resumes this one when somebody has ended the transaction.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import structlog

from ledger.errors import Discard, LogError
from ledger.log import EventLog, OpenTransaction, TopicPartition
from ledger.rfc3339 import format_ms

NAME_AFTER_TRIES = 3  # the markers of a transaction come a moment after the answer to its commit
CHECK_EVERY_S = 5.0
BUSY_CHECK_S = 30.0  # each check costs the deciding thread 0.01 s
SAY_AGAIN_S = 60.0

Ends = Mapping[TopicPartition, int]

log = structlog.get_logger(__name__)


class HeldBack:
    """Used by the thread of one writer; other threads may read `hanging`."""

    def __init__(self, event_log: EventLog, writer: int) -> None:
        self._log, self._writer = event_log, writer
        self._tries = 0
        self._next_check = 0.0
        self._open_transactions: list[OpenTransaction] = []
        self._since: dict[OpenTransaction, float] = {}  # first seen, monotonic
        self._say_at = 0.0
        self.hanging: tuple[OpenTransaction, ...] = ()

    def left_out(self, stable: Ends, end: Ends) -> frozenset[int]:
        """Partitions blocked by a hanging transaction, to be left out. Raises `Discard` while it may still end by itself."""
        held = {tp for tp in stable if stable[tp] != end[tp]}
        if not held:
            self._let_go()
            return frozenset()
        self._tries += 1
        places = ", ".join(f"{tp.topic}/{tp.partition} at {stable[tp]} of {end[tp]}" for tp in sorted(held))
        text = f"another producer has an open transaction: {places}"
        if self._tries < NAME_AFTER_TRIES:
            raise Discard(text)
        if time.monotonic() >= self._next_check:
            self._check(held, text)
        hanging = {one for one, since in self._since.items() if time.monotonic() - since >= CHECK_EVERY_S}
        if unexplained := held - {one.partition for one in hanging}:
            known = "; ".join(f"{one}: {one.state}" for one in self._open_transactions if one.partition in unexplained)
            raise Discard(f"{text} ({known or 'no coordinator knows it now'})")
        self.hanging = tuple(sorted(hanging))
        self._say()
        return frozenset(one.partition.partition for one in hanging)

    def has_ended(self) -> bool:
        """Whether a partition that was left out can be resumed. Asks the log every few seconds."""
        if not self.hanging or time.monotonic() < self._next_check:
            return False
        self._next_check = time.monotonic() + CHECK_EVERY_S
        self._say()
        tps = {one.partition for one in self.hanging}
        try:
            stable, end = self._log.ends(tps), self._log.ends(tps, "read_uncommitted")
        except LogError:
            return False  # unknown for now
        return any(stable[tp] == end[tp] for tp in tps)

    def _check(self, held: set[TopicPartition], text: str) -> None:
        self._next_check = time.monotonic() + CHECK_EVERY_S
        try:
            self._open_transactions = self._log.open_transactions(held)
        except LogError as exc:
            raise Discard(f"{text}, and its owner is unknown: {exc}") from exc
        now = time.monotonic()
        same = {_identity(one): since for one, since in self._since.items()}
        self._since = {one: same.get(_identity(one), now) for one in self._open_transactions if not one.known}

    def _say(self) -> None:
        if time.monotonic() < self._say_at:
            return
        self._say_at = time.monotonic() + SAY_AGAIN_S
        for one in self.hanging:
            log.error(
                "hanging transaction, its partition is not decided until the transaction is ended",
                code="hanging_transaction",
                writer=self._writer,
                topic=one.partition.topic,
                partition=one.partition.partition,
                offset=one.start_offset,
                producer_id=one.producer_id,
                transactional_id=one.transactional_id,
                since=format_ms(one.last_timestamp_ms),
                advice="order-ledger transactions",
            )

    def _let_go(self) -> None:
        if self.hanging:
            log.info("hanging transaction has ended", places=[str(one) for one in self.hanging])
        self._tries, self._since, self._open_transactions, self.hanging, self._say_at = 0, {}, [], (), 0.0


def _identity(one: OpenTransaction) -> tuple[TopicPartition, int, int]:
    return one.partition, one.producer_id, one.start_offset


class Landed:
    """Checks whether readers see what was committed. Used by the thread of one writer.

    If the marker of a transaction was never written, its writer does not notice: the commit was confirmed, but nobody else sees
    it. The next transaction in the partition would end it; until then, only the committed end shows the fault.
    """

    def __init__(self, event_log: EventLog) -> None:
        self._log = event_log
        self._at: dict[TopicPartition, int] = {}
        self._missed: Ends = {}
        self._next_check = 0.0

    def note(self, positions: Ends) -> None:
        if not self._at:
            self._next_check = time.monotonic() + CHECK_EVERY_S
        self._at.update(positions)

    def check(self, idle: bool) -> None:
        """Ask the log if there is time. Raises `Discard` if the committed end is too low twice in a row."""
        if not self._at or time.monotonic() < self._next_check + (0.0 if idle else BUSY_CHECK_S):
            return
        self._next_check = time.monotonic() + CHECK_EVERY_S
        try:
            stable = self._log.ends(self._at)
        except LogError:
            return  # unknown for now
        missed = {tp: at for tp, at in self._at.items() if stable[tp] < at}
        if any(self._missed.get(tp) == at for tp, at in missed.items()):
            raise Discard(f"committed up to {missed}, but readers see only up to {stable}")
        self._missed = self._at = missed
