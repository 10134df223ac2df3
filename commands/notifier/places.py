"""How far the notifier has sent the messages of a partition, and what it stores in the log about that.

position    of the first message that waits, else of the next record. An earlier program resumes there and repeats what follows
note        the log and the link (`resuming`). If messages behind the position were sent, also up to where, and which ones wait:
            whoever reads that sends only those. Its offsets are absolute: position and note are read one after the other, and
            the note may be newer
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from commands.notifier.resuming import mark_of, note_of
from ledger.log_identity import Mark

# What waits behind them is sent again. With offsets of twelve digits, the note stays within the 4,096 bytes that Kafka allows
# unless its `offset.metadata.max.bytes` is set.
MAX_NOTED = 250

Waiting = tuple[int, str]
"""(offset, channel) of a message that is not sent yet."""


class Stored(Struct, frozen=True):
    """What is stored: a mark, and beside it that everything before `done` was sent, except `waits`, sorted."""

    mark: Mark
    done: int
    waits: tuple[Waiting, ...] = ()

    def note(self) -> str:
        """The note beside the position: at most 4,096 bytes."""
        note = note_of(self.mark.log_id, self.mark.link)
        if self.done <= self.mark.position:
            return note
        offsets: dict[str, list[str]] = {}
        for offset, channel in self.waits:
            offsets.setdefault(channel, []).append(str(offset))
        # The sign tells an earlier program that this is no link.
        return " ".join([note, f"+{self.done}", *(f"{channel}:{','.join(some)}" for channel, some in offsets.items())])


def stored_of(position: int, note: str) -> Stored:
    """What is stored as `position` with `note`. Of a note that is not understood, only the position counts."""
    mark = mark_of(position, note)
    _, _, *beside = [*note.split(" "), "", ""]
    try:
        done = int(beside[0])
        pairs = [channel.split(":") for channel in beside[1:] if channel]
        waits = sorted((int(offset), channel) for channel, offsets in pairs for offset in offsets.split(","))
    except ValueError:
        return Stored(mark, position)
    return Stored(mark, done, tuple(waits))


class Progress:
    """How far one partition is read: `position` is the next offset, `link` of the last record before it (empty: unknown)."""

    def __init__(self, stored: Stored, start: int) -> None:
        """Resume where something was stored; `start` is the first offset that the log still has."""
        self._log_id = stored.mark.log_id
        self.position, self.link = max(stored.mark.position, start), stored.mark.link
        self._done = max(stored.done, self.position)
        self._waits = frozenset(stored.waits)

    def owes(self, offset: int, channel: str) -> bool:
        """Whether the message on this channel about the event at `offset` was not sent before the start."""
        return offset >= self._done or (offset, channel) in self._waits

    def is_done(self, offset: int) -> bool:
        """Whether no message about the event at `offset` is owed."""
        return offset < self._done and not any(one[0] == offset for one in self._waits)

    def passed(self, offset: int, link: bytes) -> None:
        """The record at `offset` is processed; `link` is its own."""
        self.position, self.link = offset + 1, link

    def stored(self, parked: Iterable[tuple[int, bytes, str]]) -> Stored:
        """What is safe to store while messages wait: (offset, link of the record before it, channel) of each."""
        places = [(self.position, self.link), *((offset, link) for offset, link, _ in parked)]
        at, link = min(places, key=lambda place: place[0])
        unread = {one for one in self._waits if one[0] >= self.position}
        waits = sorted({(offset, channel) for offset, _, channel in parked} | unread)
        done = max(self.position, self._done)
        if len(waits) > MAX_NOTED:
            done = waits[MAX_NOTED][0]
            waits = [one for one in waits if one[0] < done]
        return Stored(Mark(at, self._log_id, link), done, tuple(waits))
