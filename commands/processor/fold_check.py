"""Checks that the fold of a writer is still in the log, before the writer decides.

If the store is ahead of the log, wait: a new leader briefly reports an end that is too low. If the last folded record is aborted
in the log, it came from a transaction that Kafka left open and somebody aborted: fold that partition again. Anything else is a
`Hole`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

import structlog

from commands.processor.desk import Desk, clear
from ledger.errors import Discard, Hole
from ledger.last_record import last_before
from ledger.log import EventLog, TopicPartition
from ledger.schemas.codec import link_of
from ledger.store import Store
from ledger.topics import Topics

AHEAD_S = 60.0  # a leader that reports too low an end corrects it within seconds
# At most so much of `AHEAD_S` passes between two answers: while nobody answers, no leader can correct anything.
BETWEEN_ANSWERS_S = 5.0

Ends = Mapping[TopicPartition, int]

log = structlog.get_logger(__name__)


class FoldCheck:
    """The check for the store and partitions of one writer. Used by its thread only."""

    def __init__(self, event_log: EventLog, store: Store, topics: Topics, partitions: Iterable[int]) -> None:
        self._log, self._store, self._topics = event_log, store, topics
        self._unsure = set(partitions)  # whose last folded record is not yet confirmed in the log
        self._ahead_s: dict[TopicPartition, float] = {}  # how long the log has answered that it ends before the fold
        self._answered_at = time.monotonic()

    def ahead_of_open(self, positions: Ends, stable: Ends, end: Ends) -> set[int]:
        """Partitions folded beyond the committed end, with records that are in the log: their transaction is still open there."""
        ahead = {tp.partition for tp, at in positions.items() if stable[tp] < at <= end[tp]}
        self._unsure |= ahead
        return ahead

    def wrote(self, partitions: Iterable[int]) -> None:
        """The log confirmed records of these partitions. Whether they stayed there is checked before this process decides again.

        If their marker was lost, they hang, and the abort of the writer's next transaction takes them with it.
        """
        self._unsure.update(partitions)

    def check(self, desks: Mapping[int, Desk], positions: Ends, stable: Ends) -> bool:
        """Returns False if part of the store was cleared, so that desks and positions must be created again.

        Raises `Discard` while the log ends before the fold; `Hole` if it still does after `AHEAD_S`, or if the log has another
        record at that position.
        """
        self._not_ahead(positions, stable)
        unsure = {tp.partition for tp in positions} & self._unsure
        links = {TopicPartition(self._topics.events, p): desks[p].meta.chain for p in unsure}
        links |= {TopicPartition(self._topics.refusals, p): desks[p].meta.refusal for p in unsure}
        folded = {tp: positions[tp] for tp, link in links.items() if any(link)}
        committed = last_before(self._log, folded) if folded else {}
        other = {tp: at for tp, at in folded.items() if tp not in committed or link_of(committed[tp].value or b"") != links[tp]}
        written = last_before(self._log, other, "read_uncommitted") if other else {}
        for tp, record in written.items():
            if link_of(record.value or b"") != links[tp]:
                text = f"the last folded record of {tp.topic}/{tp.partition} is not the one before {other[tp]} in the log"
                raise Hole(f"{text}: the log lost records, or is another log. Find out which before you change anything")
        for p in sorted({tp.partition for tp in written}):
            log.error("folded records of a partition were aborted, folding it again from the log", partition=p)
            clear(self._store, p)
        self._unsure -= unsure
        return not written

    def _not_ahead(self, positions: Ends, stable: Ends) -> None:
        """Raises `Discard` for `AHEAD_S`, then `Hole`: a new leader reports too low an end until it hears from its followers."""
        now = time.monotonic()
        passed_s = min(now - self._answered_at, BETWEEN_ANSWERS_S)
        self._answered_at = now
        ahead = [tp for tp, at in positions.items() if at > stable[tp]]
        self._ahead_s = {tp: self._ahead_s[tp] + passed_s if tp in self._ahead_s else 0.0 for tp in ahead}
        if not ahead:
            return
        tp = max(ahead, key=lambda tp: self._ahead_s[tp])
        text = f"the store has folded {tp.topic}/{tp.partition} up to {positions[tp]}, but the log ends at {stable[tp]}"
        if self._ahead_s[tp] < AHEAD_S:
            raise Discard(f"{text}: retrying")
        raise Hole(f"{text}: the log lost records, or is another log. Find out which before you change anything")
