"""Checks that the fold of a writer is still in the log, before the writer decides.

If the store is ahead of the log, wait: a new leader briefly reports an end that is too low. If the last folded record is aborted
in the log, it came from a transaction that Kafka left open and somebody aborted: fold that partition again. If the log is another
one, `ledger.log_identity` says what follows: a copy is followed on, a restored log is folded again, anything else is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import structlog

from commands.processor.desk import Desk
from commands.processor.desk_rows import clear
from ledger.errors import Discard, NotThisLog
from ledger.last_record import last_before
from ledger.log import EventLog, TopicPartition
from ledger.log_identity import AHEAD_S, Answered, Mark, judge, not_this_log, refusal, verdict_of
from ledger.schemas.codec import link_of
from ledger.store import Store
from ledger.topics import Topics

Ends = Mapping[TopicPartition, int]

log = structlog.get_logger(__name__)


def marks_of(desk: Desk, topics: Topics) -> dict[TopicPartition, Mark]:
    """The positions of a desk behind something that it folded, with what is kept beside them."""
    meta, p = desk.meta, desk.partition
    marks = {
        TopicPartition(topics.events, p): Mark(meta.events, meta.log_ids[0], meta.chain),
        TopicPartition(topics.refusals, p): Mark(meta.refusals, meta.log_ids[1], meta.refusal),
    }
    return {tp: mark for tp, mark in marks.items() if any(mark.link)}


class FoldCheck:
    """The check for the store and partitions of one writer. Used by its thread only."""

    def __init__(
        self, event_log: EventLog, store: Store, topics: Topics, partitions: Iterable[int], ids: Mapping[str, bytes]
    ) -> None:
        """`ids`: of the log's topics, by name."""
        self._log, self._store, self._topics, self._ids = event_log, store, topics, ids
        self._unsure = set(partitions)  # whose last folded record is not yet confirmed in the log
        self._ahead_s: dict[TopicPartition, float] = {}  # how long the log has answered that it ends before the fold
        self._answered = Answered()

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

    def is_of_other_topics(self, desk: Desk) -> bool:
        """Whether the desk was folded from topics with other ids."""
        now = (self._ids[self._topics.events], self._ids[self._topics.refusals])
        return any(kept not in (b"", log_id) for kept, log_id in zip(desk.meta.log_ids, now, strict=True))

    def check(self, desks: Mapping[int, Desk], positions: Ends, stable: Ends) -> bool:
        """Returns False if part of the store was cleared, so that desks and positions must be created again.

        Raises `Discard` while the log ends before the fold; `NotThisLog` if it still does after `AHEAD_S`, or if it is not the
        log from before.
        """
        unsure = {tp.partition for tp in positions} & self._unsure
        other = {p for p in unsure if self.is_of_other_topics(desks[p])}
        cleared = self.compare([desks[p] for p in sorted(other)])
        try:
            self._not_ahead({tp: at for tp, at in positions.items() if tp.partition not in cleared}, stable)
        except NotThisLog:
            ahead = {tp.partition for tp, at in positions.items() if at > stable[tp]}
            again = self.compare([desks[p] for p in sorted(ahead)])  # a restored log, if these have no topic ids
            if ahead - again:
                raise
            cleared |= again
            unsure -= ahead
        links = {TopicPartition(self._topics.events, p): desks[p].meta.chain for p in unsure - other}
        links |= {TopicPartition(self._topics.refusals, p): desks[p].meta.refusal for p in unsure - other}
        folded = {tp: positions[tp] for tp, link in links.items() if any(link)}
        committed = last_before(self._log, folded) if folded else {}
        differ = {tp: at for tp, at in folded.items() if tp not in committed or link_of(committed[tp].value or b"") != links[tp]}
        written = last_before(self._log, differ, "read_uncommitted") if differ else {}
        aborted = {tp.partition for tp, record in written.items() if link_of(record.value or b"") == links[tp]}
        gone = {tp.partition for tp in written} - aborted
        cleared |= self.compare([desks[p] for p in sorted(gone)])
        for p in sorted(aborted):
            log.error("folded records of a partition were aborted, folding it again from the log", partition=p)
            clear(self._store, p)
        self._unsure -= unsure
        return not cleared | aborted

    def compare(self, desks: Sequence[Desk], change: bool = True) -> set[int]:
        """Compare desks whose last records are not known to be in the log. Returns partitions to fold again.

        Unless `change` is False, these are cleared, and the others get the ids of a copy. Raises `NotThisLog`, `LogError`.
        """
        marks = {tp: mark for desk in desks for tp, mark in marks_of(desk, self._topics).items()}
        judged = judge(self._log, marks, self._ids, self._topics, patience_s=0.0)
        again: set[int] = set()
        for desk in desks:
            own = {tp: one for tp, one in judged.items() if tp.partition == desk.partition}
            verdict = verdict_of(own, self._topics)
            if verdict == "other":
                raise refusal(own, "this writer")
            if verdict == "moved" or self._is_at_nothing(desk):
                again.add(desk.partition)
            elif verdict == "mirrored":
                log.warning("the log is a copy of the one before, with the same records: continuing", partition=desk.partition)
                if change:
                    self._store.write(desk.rows())  # with the new ids
        for p in sorted(again) if change else ():
            log.warning("the log has the same records at other offsets, folding the partition again", partition=p)
            clear(self._store, p)
        return again

    def _is_at_nothing(self, desk: Desk) -> bool:
        """Whether a position in other topics is behind no record, only behind ends of transactions or what has expired."""
        meta = desk.meta
        unmarked = (meta.events > 0 and not any(meta.chain)) or (meta.refusals > 0 and not meta.refusal)
        return unmarked and self.is_of_other_topics(desk)

    def _not_ahead(self, positions: Ends, stable: Ends) -> None:
        """Raises `Discard` for `AHEAD_S`, then `NotThisLog`: a new leader reports too low an end until its followers answer.

        Also, the markers of a transaction come after the answer to its commit.
        """
        passed_s = self._answered.passed_s()
        ahead = [tp for tp, at in positions.items() if at > stable[tp]]
        self._ahead_s = {tp: self._ahead_s[tp] + passed_s if tp in self._ahead_s else 0.0 for tp in ahead}
        if not ahead:
            return
        tp = max(ahead, key=lambda tp: self._ahead_s[tp])
        text = f"the store has folded {tp.topic}/{tp.partition} up to {positions[tp]}, but the log ends at {stable[tp]}"
        if self._ahead_s[tp] < AHEAD_S:
            raise Discard(f"{text}: retrying")
        raise not_this_log(text)
