"""Claims of one writer: how far its partitions are decided, where neither events nor the offsets of a group say it for ever.

The first claim about each partition is made in any case: its acknowledgement measures the log's clock.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import structlog

from commands.processor.desk import Desk
from ledger.errors import LogError
from ledger.log import Acked, EventLog, Sender, TopicPartition
from ledger.log_clock import LogClock
from ledger.progress import Claim, claimed, read_claims, record_of
from ledger.topics import Topics

# A partition whose last command led to no event, and that got no other one for so long, is claimed.
QUIET_S = 1.0

log = structlog.get_logger(__name__)


class Claims:
    """Used by the thread of one writer. `known`: claims that were read when this process started; `by`: its name."""

    def __init__(
        self,
        event_log: EventLog,
        sender: Sender,
        topics: Topics,
        command_log: bytes,
        by: str,
        known: Sequence[Claim],
        clock: LogClock,
    ) -> None:
        self._log, self._sender, self._topics, self._clock = event_log, sender, topics, clock
        self._command_log, self._by, self._known = command_log, by, tuple(known)
        self._seen: dict[int, int] = {}  # by partition, as of the last check
        self._sent: dict[int, int] = {}
        self._next_check = 0.0

    def decided(self, desk: Desk, again: bool = False) -> int:
        """One past the last command of the partition that is decided by anybody's claim. `again`: read them again.

        Raises `LogError`.
        """
        if again:
            self._known = read_claims(self._log, self._topics, self._command_log)
        return claimed(self._known, desk.partition, desk.meta.events)

    def check(self, desks: Mapping[int, Desk]) -> None:
        """Claim what is decided in quiet partitions. Call it often, between transactions."""
        if time.monotonic() < self._next_check:
            return
        self._next_check = time.monotonic() + QUIET_S
        decided = {p: desk.meta.dealt for p, desk in desks.items()}
        quiet = [p for p, at in decided.items() if self._seen.get(p) == at and self._is_news(desks[p])]
        self._seen = decided
        for p in self._visible(quiet, desks) if quiet else ():
            self._claim(Claim(p, self._command_log.hex(), decided[p], desks[p].meta.events, self._by))

    def _is_news(self, desk: Desk) -> bool:
        sent = self._sent.get(desk.partition)
        return sent is None or desk.meta.dealt > max(desk.meta.lasting, sent)

    def _visible(self, partitions: Sequence[int], desks: Mapping[int, Desk]) -> list[int]:
        """Those of which readers see everything that was committed: what is not visible may yet be aborted by a person."""
        t = self._topics
        at = {
            TopicPartition(topic, p): position
            for p in partitions
            for topic, position in ((t.events, desks[p].meta.events), (t.refusals, desks[p].meta.refusals))
        }
        try:
            stable = self._log.ends(at)
        except LogError:
            return []  # unknown for now
        hidden = {tp.partition for tp, position in at.items() if stable[tp] < position}
        return [p for p in partitions if p not in hidden]

    def _claim(self, claim: Claim) -> None:
        def on_ack(acked: Acked | None, error: LogError | None) -> None:
            if acked is None:
                log.warning("progress not noted", partition=claim.partition, decided=claim.decided, why=str(error))
                self._sent.pop(claim.partition, None)  # the next check repeats it
            else:
                self._clock.appended(acked.timestamp_ms)

        self._sent[claim.partition] = claim.decided
        try:
            self._sender.send(record_of(self._topics, claim), on_ack)
        except LogError as exc:
            on_ack(None, exc)
