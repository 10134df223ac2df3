"""Reads a log up to its current end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping

from ledger.log import Reader, Record, TopicPartition


def committed(
    reader: Reader,
    positions: Mapping[TopicPartition, int],
    until: Mapping[TopicPartition, int] | None,
    stopping: threading.Event,
    enough: Callable[[], bool] = lambda: False,
) -> Iterator[Record]:
    """Records from `positions` on, up to `until` if set, until `stopping` or `enough`. `reader` must report partition ends."""
    reader.assign(positions)
    left = set(positions) if until is None else {tp for tp, position in positions.items() if position < until[tp]}
    while left and not stopping.is_set() and not enough():
        for record in reader.poll(500, 0.2):
            tp = TopicPartition(record.topic, record.partition)
            if until is None or record.offset < until[tp]:
                yield record
            if until is not None and record.offset + 1 >= until[tp]:
                left.discard(tp)
        if until is not None:
            left -= {tp for tp, end in reader.reached_end().items() if end >= until[tp]}
