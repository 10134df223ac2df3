"""Is what a writer has folded in the log? Asked before it decides upon it.

A store ahead of its log is waited for: a new leader tells too low an end for a moment. A fold whose last record the log shows as
aborted was made of a transaction that Kafka left open and somebody aborted: it is made again. Anything else is a `Hole`.
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

AHEAD_S = 60.0  # a leader that tells too low an end knows better within seconds

Ends = Mapping[TopicPartition, int]

log = structlog.get_logger(__name__)


class FoldCheck:
    """For one writer's thread, store and partitions."""

    def __init__(self, event_log: EventLog, store: Store, topics: Topics, partitions: Iterable[int]) -> None:
        self._log, self._store, self._topics = event_log, store, topics
        self._unsure = set(partitions)  # whose last folded record was not found in the log yet
        self._ahead_since: float | None = None

    def ahead_of_open(self, positions: Ends, stable: Ends, end: Ends) -> set[int]:
        """Partitions folded further than is committed, by records that the log has: their transaction has no end there."""
        ahead = {tp.partition for tp, at in positions.items() if stable[tp] < at <= end[tp]}
        self._unsure |= ahead
        return ahead

    def check(self, desks: Mapping[int, Desk], positions: Ends, stable: Ends) -> bool:
        """False when a part of the store was cleared, so that desks and positions must be made again.

        Raises `Discard` while the log ends before what is folded, `Hole` when it still does after `AHEAD_S` or has another record
        at its place.
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
                text = f"the last record folded of {tp.topic}/{tp.partition} is not the one before {other[tp]} in the log"
                raise Hole(f"{text}: the log lost records, or is another log. Find out which before anything is changed")
        for p in sorted({tp.partition for tp in written}):
            log.error("what was folded of a partition was aborted afterwards: it is folded again from the log", partition=p)
            clear(self._store, p)
        self._unsure -= unsure
        return not written

    def _not_ahead(self, positions: Ends, stable: Ends) -> None:
        """A new leader tells an end that is too low until it has heard from its followers, and the markers of a transaction come
        after the answer to its commit."""
        ahead = [(tp, at) for tp, at in positions.items() if at > stable[tp]]
        if not ahead:
            self._ahead_since = None
            return
        now = time.monotonic()
        self._ahead_since = now if self._ahead_since is None else self._ahead_since
        tp, at = ahead[0]
        text = f"the store has folded {tp.topic}/{tp.partition} up to {at}, but the log ends at {stable[tp]}"
        if now - self._ahead_since < AHEAD_S:
            raise Discard(f"{text}: asking again")
        raise Hole(f"{text}: the log lost records, or is another log. Find out which before anything is changed")
