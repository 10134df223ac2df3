"""The last committed record before a position: the last one folded at that position, if log and fold agree."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ledger.errors import LogUnavailable
from ledger.log import EventLog, Isolation, Record, TopicPartition

FIRST_BACK, TIMES = 16, 16  # how far to search back: there are markers and aborted records in between, rarely many
ANSWER_S = 60.0


def last_before(
    log: EventLog, positions: Mapping[TopicPartition, int], isolation: Isolation = "read_committed"
) -> dict[TopicPartition, Record]:
    """By partition; omitted if the log has none there. Every position must be committed. Raises `LogError`."""
    records: dict[TopicPartition, Record] = {}
    starts = log.starts(positions)
    left = {tp: position for tp, position in positions.items() if position > starts[tp]}
    back = FIRST_BACK
    reader = log.reader("last-record", isolation=isolation, eof=True, max_wait_ms=10)
    try:
        while left:
            begin = {tp: max(starts[tp], position - back) for tp, position in left.items()}
            reader.assign(begin)
            reading, deadline = set(left), time.monotonic() + ANSWER_S
            while reading:
                for record in reader.poll(1000, 0.5):
                    tp = TopicPartition(record.topic, record.partition)
                    if record.offset < left[tp]:
                        records[tp] = record
                    if record.offset + 1 >= left[tp]:
                        reading.discard(tp)
                reading -= {tp for tp, end in reader.reached_end().items() if end >= left[tp]}
                if time.monotonic() > deadline:
                    raise LogUnavailable(f"no answer about the last records of {', '.join(f'{t}/{p}' for t, p in reading)}")
            left = {tp: at for tp, at in left.items() if tp not in records and begin[tp] > starts[tp]}
            back *= TIMES
    finally:
        reader.close()
    return records
