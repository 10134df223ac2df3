"""Whether databases are of this log: asked whenever somebody resumes from their positions (`ledger.log_identity`)."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import structlog

from ledger.errors import LedgerError
from ledger.log import EventLog, TopicPartition
from ledger.log_identity import Judged, Verdict, judge, refusal, topic_ids, verdict_of
from projections.databases import Databases

log = structlog.get_logger(__name__)


class OtherOffsets(LedgerError):
    """The databases have the events of this log, but at other offsets: it was restored by `import-log`. They must be rebuilt."""

    code = "other_offsets"


def compare(
    databases: Databases, event_log: EventLog, ids: Mapping[str, bytes], stopping: threading.Event | None = None
) -> tuple[dict[TopicPartition, Judged], Verdict]:
    """Compare the positions of the databases with the log, whose topics have `ids`. Raises `LogError`.

    Rows contain offsets of events: the same last record at another offset is no mirror.
    """
    judged = judge(event_log, databases.marks(), ids, databases.topics, stopping)
    verdict = verdict_of(judged, databases.topics)
    if verdict == "mirrored" and any(one.at != one.mark.position for one in judged.values()):
        return judged, "moved"
    return judged, verdict


def check_log(databases: Databases, event_log: EventLog, stopping: threading.Event | None = None) -> None:
    """Compare the databases with the log, and note its id beside their positions. Before anything is folded into them.

    Raises `NotThisLog` if it is not the one they were folded from, `OtherOffsets` if they must be rebuilt from it, `LogError`.
    """
    ids = topic_ids(event_log, (databases.topics.events, databases.topics.refusals))
    judged, verdict = compare(databases, event_log, ids, stopping)
    if verdict == "other":
        raise refusal(judged, "the read models")
    if verdict == "moved":
        raise OtherOffsets("the log has the same events at other offsets (a restored one)")
    if verdict == "mirrored":
        log.warning("the log has other topic ids and the same records, continuing: it is a copy of the one before")
    databases.note_log(ids)
