"""Feature levels: what a program may write while an older one still reads the log. Pure.

A level is a number. A program reads everything up to its own (`LEVEL`) and writes what the level in use allows, at most its own.
The level in use belongs to the ledger, not to a program (`ledger.upgrades`). `order-ledger upgrade finish` raises it, once every
node has a program that reads it.

Whatever a program adds to the topics belongs to a new level: a schema version of a topic, a type of event, an operation. Add an
entry to `NEW_IN`; the codecs do the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Additions:
    """What a level adds. `schemas`: (topic without prefix, version); `words`: types of events and operations of commands."""

    schemas: frozenset[tuple[str, int]] = frozenset()
    words: frozenset[str] = frozenset()


FIRST = 1  # the first release: version 1 of every schema
NEW_IN: Mapping[int, Additions] = {}
LEVEL = max(NEW_IN, default=FIRST)


def level_of_schema(topic: str, version: int) -> int:
    """The level from which on records of `topic` may be written with this version of its schema."""
    return next((level for level, new in NEW_IN.items() if (topic, version) in new.schemas), FIRST)


def level_of_word(word: str) -> int:
    """The level from which on an event type or an operation may be written."""
    return next((level for level, new in NEW_IN.items() if word in new.words), FIRST)
