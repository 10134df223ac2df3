"""What retention has deleted before a writer read it, and whether it was needed.

events      kept for ever: one that is gone is a hole
refusals    kept for 60 days: older ones are skipped; a retry of such a command is refused again (`desk`)
commands    kept for 30 days: those that are decided are not needed. The fold shows it, or a claim (`ledger.progress`);
            one that nobody decided is a gap (`gaps`)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog

from commands.processor.claims import Claims
from commands.processor.desk import Desk
from commands.processor.gaps import check_gap
from ledger.errors import Hole
from ledger.log import EventLog, TopicPartition
from ledger.topics import Topics

log = structlog.get_logger(__name__)

Desks = Mapping[int, Desk]


class Retention:
    """For the partitions of one writer. Used by its thread only."""

    def __init__(self, event_log: EventLog, topics: Topics, claims: Claims) -> None:
        self._log, self._topics, self._claims = event_log, topics, claims

    def skip_expired(self, desks: Desks) -> None:
        """Skip refusals that the log has deleted. Raises `Hole` if it has deleted an event that is not folded."""
        t = self._topics
        starts = self._log.starts(TopicPartition(topic, p) for topic in (t.events, t.refusals) for p in desks)
        for tp, start in starts.items():
            desk = desks[tp.partition]
            if tp.topic == t.refusals and desk.meta.refusals < start:
                desk.landed(tp.topic, start)
            elif tp.topic == t.events and desk.meta.events < start:
                raise Hole(
                    f"events {desk.meta.events}..{start - 1} of {tp.topic}/{tp.partition} are gone, and only a backup has them"
                )

    def resume_at(self, desks: Desks, partitions: Sequence[int]) -> dict[TopicPartition, int]:
        """Where to read commands: each partition from the first command of its last batch, not from behind it.

        If that transaction was ever cut short, the commands without an outcome are decided now; the others are recognised. Raises
        `Gap` if the log has deleted commands that were not decided.
        """
        tps = {TopicPartition(self._topics.commands, p): desks[p] for p in partitions}
        starts = self._log.starts(tps)
        for desk in tps.values():
            self._pass(desk, self._claims.decided(desk))
        for tp, desk in tps.items():
            start = starts[tp]
            if start <= desk.meta.dealt:
                continue
            self._pass(desk, self._claims.decided(desk, again=True))
            if start > desk.meta.dealt:
                check_gap(self._log, self._topics, desk.meta, tp, start)
        return {tp: max(starts[tp], desk.meta.resume) for tp, desk in tps.items()}

    @staticmethod
    def _pass(desk: Desk, decided: int) -> None:
        if decided > desk.meta.dealt:
            log.info("commands were decided and left no record", partition=desk.partition, first=desk.meta.dealt, next=decided)
            desk.passed(decided - 1)

    def has_passed(self, positions: Mapping[TopicPartition, int]) -> bool:
        """Whether the log now begins behind one of these positions. Raises `LogError`."""
        starts = self._log.starts(positions)
        return any(starts[tp] > position for tp, position in positions.items())
