"""Whether a log is the one from before: what is kept beside a position, and how a log is compared with it.

A position is the next offset of a partition. Beside it are kept the id of its topic and the link of the record before it: the
hash of that record's body (`link_of`). Each event contains the link of the one before, so one link stands for all up to it:

    same        the topic has the same id, and the record before the position is the same
    mirrored    the topic has another id (a mirror, a copied disk) and the same record there: reading continues
    moved       the record is in the log at another offset (`import-log`): everything is folded again, from the start of the log
    other       the record is not in the log: it lost records, was restored too short or has grown again, or is another ledger's

`order-refusals` has no chain, and its records expire. It is judged like that while its last record can still be there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Literal, NamedTuple

import structlog

from ledger.errors import LogUnavailable, NotThisLog
from ledger.last_record import last_before
from ledger.log import EventLog, TopicPartition
from ledger.schemas.codec import link_of
from ledger.topics import Topics

AHEAD_S = 60.0  # a new leader reports too low an end until it hears from its followers: seconds
PAUSE_S = 0.5
# At most so much of it passes between two answers: while nobody answers, no leader can correct anything.
BETWEEN_ANSWERS_S = 5.0
SILENT_S = 3.0  # a reader that has no answer for so long; below 2 normally
ANSWER_S = 60.0
SAY_EVERY_S = 10.0

Verdict = Literal["same", "mirrored", "moved", "other"]
WORST_FIRST: tuple[Verdict, ...] = ("other", "moved", "mirrored", "same")

log = structlog.get_logger(__name__)


class Mark(NamedTuple):
    """A position and what is kept beside it. Empty `log_id` or `link`: unknown, because an earlier version did not keep it."""

    position: int
    log_id: bytes
    link: bytes


class Answered:
    """Measures for how long the log has answered. Created with the first answer."""

    def __init__(self) -> None:
        self._at = time.monotonic()

    def passed_s(self) -> float:
        """Since the last answer; call it with each one. At most `BETWEEN_ANSWERS_S`."""
        before, self._at = self._at, time.monotonic()
        return min(self._at - before, BETWEEN_ANSWERS_S)


class Judged(NamedTuple):
    """A mark compared with the log. `at` is the position behind the same record, if the log has it; `why` says what differs."""

    mark: Mark
    verdict: Verdict
    at: int | None
    why: str = ""


def topic_ids(event_log: EventLog, topics: Iterable[str]) -> dict[str, bytes]:
    """The id of each topic. Raises `LogError`."""
    return {topic: event_log.topic_id(topic) for topic in topics}


def judge(
    event_log: EventLog,
    marks: Mapping[TopicPartition, Mark],
    ids: Mapping[str, bytes],
    topics: Topics,
    stopping: threading.Event | None = None,
    patience_s: float | None = None,
) -> dict[TopicPartition, Judged]:
    """Compare each mark with the log, whose topics have `ids`. A position of 0 needs no comparison.

    Waits `patience_s` (None: `AHEAD_S`) or until `stopping` while the topic from before ends too early: it may have a new leader.
    Reads a partition as a whole if it has another record before the position. Raises `LogError`.
    """
    marks = {tp: mark for tp, mark in marks.items() if mark.position}
    if not marks:
        return {}
    patience_s = AHEAD_S if patience_s is None else patience_s
    ends = _ends(event_log, marks, ids, stopping or threading.Event(), patience_s)
    starts = event_log.starts(marks)
    there = {tp: mark.position for tp, mark in marks.items() if mark.link and starts[tp] < mark.position <= ends[tp]}
    records = last_before(event_log, there) if there else {}
    judged: dict[TopicPartition, Judged] = {}
    missing: dict[TopicPartition, bytes] = {}
    for tp, mark in marks.items():
        is_same = mark.log_id in (b"", ids[tp.topic])
        is_there = tp in records and link_of(records[tp].value or b"") == mark.link
        may_be = _is_unprovable(mark, starts[tp], ends[tp]) and (is_same or tp.topic != topics.events)
        if is_there or may_be:
            at = records[tp].offset + 1 if is_there and not is_same else mark.position
            judged[tp] = Judged(mark, "same" if is_same else "mirrored", at)
        elif mark.link:
            missing[tp] = mark.link
        else:
            judged[tp] = Judged(mark, "other", None, _why(mark, starts[tp], ends[tp], ids[tp.topic]))
    places = _find(event_log, missing, starts, ends)
    for tp in missing:
        verdict: Verdict = "moved" if tp in places else "other"
        judged[tp] = Judged(marks[tp], verdict, places.get(tp), _why(marks[tp], starts[tp], ends[tp], ids[tp.topic]))
    return judged


def _is_unprovable(mark: Mark, start: int, end: int) -> bool:
    """Whether the record before the position is unknown, or has expired, and nothing between it and the position is missing."""
    return mark.position <= end and (mark.position <= start or not mark.link)


def _ends(
    event_log: EventLog,
    marks: Mapping[TopicPartition, Mark],
    ids: Mapping[str, bytes],
    stopping: threading.Event,
    patience_s: float,
) -> dict[TopicPartition, int]:
    """The committed ends, after waiting for those of the topics from before."""
    ends, answered, waited_s = event_log.ends(marks), Answered(), 0.0
    while True:
        low = [tp for tp, mark in marks.items() if ends[tp] < mark.position and mark.log_id == ids[tp.topic]]
        if not low or stopping.is_set() or waited_s >= patience_s:
            return ends
        stopping.wait(PAUSE_S)
        ends = event_log.ends(marks)
        waited_s += answered.passed_s()


def _why(mark: Mark, start: int, end: int, log_id: bytes) -> str:
    differs = f"ends at {end}" if end < mark.position else "has another record before that"
    if start > mark.position:
        differs = f"begins at {start}"
    if mark.log_id in (b"", log_id):
        return differs
    return f"{differs} (topic {mark.log_id.hex()} then, {log_id.hex()} now)"


def _find(
    event_log: EventLog,
    links: Mapping[TopicPartition, bytes],
    starts: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int],
) -> dict[TopicPartition, int]:
    """The positions behind the records with these links, of partitions that have them. Raises `LogError`."""
    places: dict[TopicPartition, int] = {}
    left = {tp: link for tp, link in links.items() if starts[tp] < ends[tp]}
    if not left:
        return places
    log.warning("the log has other records than before, searching it", partitions=sorted(f"{t}/{p}" for t, p in left))
    reader = event_log.reader("log-identity", eof=True, max_wait_ms=10)
    read, said_at, deadline = 0, time.monotonic(), time.monotonic() + ANSWER_S
    try:
        reader.assign({tp: starts[tp] for tp in left})
        while left:
            for record in reader.poll(2000, 0.5):
                tp = TopicPartition(record.topic, record.partition)
                read, deadline = read + 1, time.monotonic() + ANSWER_S
                if tp in left and link_of(record.value or b"") == left[tp]:
                    places[tp] = record.offset + 1
                if tp in places or record.offset + 1 >= ends[tp]:
                    left.pop(tp, None)
            left = {tp: link for tp, link in left.items() if reader.reached_end().get(tp, 0) < ends[tp]}
            if time.monotonic() > deadline:
                raise LogUnavailable(f"no answer about the records of {', '.join(f'{t}/{p}' for t, p in left)}")
            if time.monotonic() - said_at > SAY_EVERY_S:
                said_at = time.monotonic()
                log.info("searching the log", records=read)
    finally:
        reader.close()
    return places


def verdict_of(judged: Mapping[TopicPartition, Judged], topics: Topics) -> Verdict:
    """The verdict on everything that was folded together."""
    of_events = {one.verdict for tp, one in judged.items() if tp.topic == topics.events}
    of_refusals = {one.verdict for tp, one in judged.items() if tp.topic != topics.events}
    if of_events & {"other", "moved"}:
        of_refusals = set()  # events say enough: a restored log may lack refusals that have expired
    return worst(of_events | of_refusals)


def worst(verdicts: Collection[Verdict]) -> Verdict:
    """The verdict on several things, of which each is judged by itself; `same` if there are none."""
    return next((verdict for verdict in WORST_FIRST if verdict in verdicts), "same")


def refusal(judged: Mapping[TopicPartition, Judged], whose: str) -> NotThisLog:
    """What to do about a log that is not the one from before. `whose`: what was folded, in words."""
    tp, one = next((tp, one) for tp, one in sorted(judged.items()) if one.verdict == "other")
    return not_this_log(f"{whose} followed {tp.topic}/{tp.partition} up to {one.mark.position}, but this log {one.why}")


def not_this_log(flaw: str) -> NotThisLog:
    """The error, with the sentence that says what to do."""
    return NotThisLog(
        f"{flaw}: use the log from before (KAFKA_BOOTSTRAP_SERVERS, TOPIC_PREFIX), or restore it whole, or take this one as it "
        "is with `order-ledger adopt-log --why ...`"
    )


class EndWatch:
    """Ends a read that would wait for ever, because the log ends before a position that it had: for one loop over a reader."""

    def __init__(self) -> None:
        self._short: dict[TopicPartition, tuple[int, float]] = {}  # end reached, for how long the log has answered that
        self._answered = Answered()

    def check(self, reached: Mapping[TopicPartition, int], wanted: Mapping[TopicPartition, int], silent_s: float) -> None:
        """Call it after each poll, with the `silent_s` of the reader.

        Raises `NotThisLog` if the log has answered for `AHEAD_S` that a partition ends before its wanted position.
        """
        passed_s = self._answered.passed_s()
        passed_s, before = 0.0 if silent_s > SILENT_S else passed_s, self._short
        self._short = {}
        for tp, end in reached.items():
            if end < wanted.get(tp, 0):
                known = before.get(tp)
                self._short[tp] = end, known[1] + passed_s if known is not None and known[0] == end else 0.0
        for tp, (end, short_s) in self._short.items():
            if short_s > AHEAD_S:
                raise not_this_log(f"{tp.topic}/{tp.partition} was known up to {wanted[tp]}, but this log ends at {end}")
