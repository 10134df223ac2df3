"""Where the notifier resumes, if the log is not the one of its positions (`ledger.log_identity`).

Each position is stored in the log with a note: the id of the topic, the link of the record before it, and perhaps what waits
behind it (`places`). A position of another topic holds if the same record is there; if that record is elsewhere in the topic (a
restored log), it moves behind it. Otherwise it is worth nothing: whatever is in the log was announced, or never will be.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from ledger.log import EventLog, TopicPartition
from ledger.log_identity import Mark, judge
from ledger.topics import Topics

log = structlog.get_logger(__name__)


def notifier_group(ledger_id: str) -> str:
    """The group of the positions."""
    return f"{ledger_id}-notifier"


def note_of(log_id: bytes, link: bytes) -> str:
    """The note beside a position. `link` may be empty: unknown."""
    return f"{log_id.hex()} {link.hex()}"


def mark_of(position: int, note: str) -> Mark:
    """A position with its note. Without a readable one: as written by an earlier version."""
    log_id, link, *_ = [*note.split(" "), ""]
    try:
        return Mark(position, bytes.fromhex(log_id), bytes.fromhex(link))
    except ValueError:
        return Mark(position, b"", b"")


def resume_at(
    event_log: EventLog, topics: Topics, log_id: bytes, marks: Mapping[TopicPartition, Mark]
) -> dict[TopicPartition, Mark]:
    """The positions at which to resume in the topic with `log_id`, with what is kept beside them. Raises `LogError`."""
    places = dict(marks)
    strange = {tp: mark for tp, mark in marks.items() if mark.log_id not in (b"", log_id)}
    if not strange:
        return places
    judged = judge(event_log, strange, {topics.events: log_id}, topics)
    ends = event_log.ends(strange)
    for tp, mark in strange.items():
        at = judged[tp].at if tp in judged else 0
        if at is None:
            log.error("notifier position is of another log, resuming at the end", partition=tp.partition, position=mark.position)
        places[tp] = Mark(ends[tp], log_id, b"") if at is None else Mark(at, log_id, mark.link)
    return places
