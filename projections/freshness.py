"""When a generation was last current: noted beside its databases, so that reads can state their age while the log is unreachable.

    <generation>/current_at.json      {"at": Unix time in s, "positions": [[topic, partition, next offset], ...]}

At that time, the databases had everything that was committed, and were at those positions. A note is valid only for databases at
these positions or beyond: a crash of the machine may keep the note and lose rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ledger.errors import StoreError
from ledger.files import write_json
from ledger.log import TopicPartition
from projections.generations import read_json

_NOTE = "current_at.json"


class Note(NamedTuple):
    """At Unix time `at` (s), everything committed was folded, and these were the next offsets."""

    at: float
    positions: Mapping[TopicPartition, int]

    def holds_for(self, positions: Mapping[TopicPartition, int]) -> bool:
        """Whether the note is valid for databases at `positions`."""
        return all(positions.get(tp, -1) >= at for tp, at in self.positions.items())


def write_note(folder: Path, note: Note) -> None:
    """Write the note. Raises `OSError`."""
    places = [[tp.topic, tp.partition, at] for tp, at in note.positions.items()]
    write_json(folder / _NOTE, {"at": note.at, "positions": places})


def read_note(folder: Path) -> Note | None:
    """The note; None if there is none, or it is unreadable."""
    try:
        content: Any = read_json(folder / _NOTE)
        if content is None:
            return None
        return Note(float(content["at"]), {TopicPartition(str(t), int(p)): int(at) for t, p, at in content["positions"]})
    except (StoreError, ValueError, TypeError, KeyError):
        return None
