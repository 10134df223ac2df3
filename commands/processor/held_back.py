"""Partitions that Kafka holds back from a writer: behind an open transaction nothing is committed, so nothing can be decided.

Whatever a coordinator will still end is waited for. What hangs (`ledger.log.OpenTransaction`) is named, and costs its partition
alone: the writer decides the others meanwhile, and takes this one again when somebody has ended the transaction.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import structlog

from ledger.errors import Discard, LogError
from ledger.log import EventLog, OpenTransaction, TopicPartition
from ledger.rfc3339 import format_ms

NAME_AFTER_TRIES = 3  # the markers of a transaction come a moment after the answer to its end
LOOK_EVERY_S = 5.0
BUSY_LOOK_S = 30.0  # a question takes the deciding thread 0.01 s
SAY_AGAIN_S = 60.0

Ends = Mapping[TopicPartition, int]

log = structlog.get_logger(__name__)


class HeldBack:
    """For one writer's thread; `hanging` may be read by others."""

    def __init__(self, event_log: EventLog, writer: int) -> None:
        self._log, self._writer = event_log, writer
        self._tries = 0
        self._next_look = 0.0
        self._found: list[OpenTransaction] = []
        self._since: dict[OpenTransaction, float] = {}  # first seen, monotonic
        self._say_at = 0.0
        self.hanging: tuple[OpenTransaction, ...] = ()

    def left_out(self, stable: Ends, end: Ends) -> frozenset[int]:
        """Partitions behind a transaction that hangs, to be left alone. Raises `Discard` while it may still end by itself."""
        held = {tp for tp in stable if stable[tp] != end[tp]}
        if not held:
            self._let_go()
            return frozenset()
        self._tries += 1
        places = ", ".join(f"{tp.topic}/{tp.partition} at {stable[tp]} of {end[tp]}" for tp in sorted(held))
        text = f"someone else has a transaction open: {places}"
        if self._tries < NAME_AFTER_TRIES:
            raise Discard(text)
        if time.monotonic() >= self._next_look:
            self._look(held, text)
        hanging = {one for one, since in self._since.items() if time.monotonic() - since >= LOOK_EVERY_S}
        if unexplained := held - {one.partition for one in hanging}:
            known = "; ".join(f"{one}: {one.state}" for one in self._found if one.partition in unexplained)
            raise Discard(f"{text} ({known or 'nobody knows it now'})")
        self.hanging = tuple(sorted(hanging))
        self._say()
        return frozenset(one.partition.partition for one in hanging)

    def has_ended(self) -> bool:
        """Whether a partition that was left out can be decided again. Asks the log every few seconds."""
        if not self.hanging or time.monotonic() < self._next_look:
            return False
        self._next_look = time.monotonic() + LOOK_EVERY_S
        self._say()
        tps = {one.partition for one in self.hanging}
        try:
            stable, end = self._log.ends(tps), self._log.ends(tps, "read_uncommitted")
        except LogError:
            return False  # not known now
        return any(stable[tp] == end[tp] for tp in tps)

    def _look(self, held: set[TopicPartition], text: str) -> None:
        self._next_look = time.monotonic() + LOOK_EVERY_S
        try:
            self._found = self._log.open_transactions(held)
        except LogError as exc:
            raise Discard(f"{text}, and whose is not known: {exc}") from exc
        now = time.monotonic()
        same = {_identity(one): since for one, since in self._since.items()}
        self._since = {one: same.get(_identity(one), now) for one in self._found if not one.known}

    def _say(self) -> None:
        if time.monotonic() < self._say_at:
            return
        self._say_at = time.monotonic() + SAY_AGAIN_S
        for one in self.hanging:
            log.error(
                "Kafka left a transaction open: its partition is not decided until somebody ends it",
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
            log.info("the transaction that Kafka left open has ended", places=[str(one) for one in self.hanging])
        self._tries, self._since, self._found, self.hanging, self._say_at = 0, {}, [], (), 0.0


def _identity(one: OpenTransaction) -> tuple[TopicPartition, int, int]:
    return one.partition, one.producer_id, one.start_offset


class Landed:
    """Whether readers see what the log said was committed. For one writer's thread.

    A transaction whose marker was never written looks like any other to its writer: it was told of the commit, and nobody else
    sees it. The next transaction in the partition would end it; until there is one, only a look at the committed end tells.
    """

    def __init__(self, event_log: EventLog) -> None:
        self._log = event_log
        self._at: dict[TopicPartition, int] = {}
        self._missed: Ends = {}
        self._next_look = 0.0

    def note(self, positions: Ends) -> None:
        if not self._at:
            self._next_look = time.monotonic() + LOOK_EVERY_S
        self._at.update(positions)

    def look(self, idle: bool) -> None:
        """Asks the log when there is time for it. Raises `Discard` when it does not show what was committed, twice in a row."""
        if not self._at or time.monotonic() < self._next_look + (0.0 if idle else BUSY_LOOK_S):
            return
        self._next_look = time.monotonic() + LOOK_EVERY_S
        try:
            stable = self._log.ends(self._at)
        except LogError:
            return  # not known now
        missed = {tp: at for tp, at in self._at.items() if stable[tp] < at}
        if any(self._missed.get(tp) == at for tp, at in missed.items()):
            raise Discard(f"committed up to {missed}, but readers see no more than {stable}")
        self._missed = self._at = missed
