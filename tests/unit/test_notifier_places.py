"""What the notifier stores about messages that wait: whoever resumes there sends those, and nothing else of before."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from commands.notifier.places import MAX_NOTED, Progress, Stored, stored_of
from commands.notifier.resuming import mark_of, note_of
from ledger.log_identity import Mark

LOG, LINK = bytes(range(16)), bytes(range(32))
CHANNELS = ("email", "sms")


def link(offset: int) -> bytes:
    """Of the record before an offset."""
    return offset.to_bytes(32, "big")


@pytest.mark.parametrize(
    "stored",
    [
        Stored(Mark(7, LOG, LINK), 7),
        Stored(Mark(7, LOG, b""), 7),
        Stored(Mark(7, LOG, LINK), 40),
        Stored(Mark(7, LOG, LINK), 40, ((7, "email"),)),
        Stored(Mark(7, LOG, b""), 40, ((7, "email"), (7, "sms"), (39, "sms"))),
    ],
)
def test_what_is_stored_is_read_again(stored: Stored) -> None:
    assert stored_of(stored.mark.position, stored.note()) == stored
    assert mark_of(stored.mark.position, stored.note()) == stored.mark


@pytest.mark.parametrize("ending", ["", " ", " x", " 3 email", " 3 email:", " 3 email:1,x", " email:1", " +"])
def test_of_a_note_that_is_not_understood_the_position_counts(ending: str) -> None:
    assert stored_of(7, note_of(LOG, LINK) + ending) == Stored(Mark(7, LOG, LINK), 7)


def test_the_note_of_many_that_wait_fits_and_repeats_what_is_behind_them() -> None:
    first = 10**9  # of the last, twelve digits
    progress = Progress(Stored(Mark(0, LOG, b""), 0), 0)
    parked = [(first * place, link(first * place), CHANNELS[place % 2]) for place in range(MAX_NOTED + 5)]
    progress.passed(parked[-1][0] + 9, LINK)
    stored = progress.stored(parked)
    assert len(stored.note()) <= 4096
    assert (stored.mark.position, len(stored.waits), stored.done) == (0, MAX_NOTED, parked[MAX_NOTED][0])


def test_a_note_that_is_newer_than_the_position_read_before_it_skips_nothing() -> None:
    """Another process writes its last place while this one takes over."""
    progress = Progress(stored_of(100, Stored(Mark(105, LOG, LINK), 200, ((105, "email"), (150, "sms"))).note()), 0)
    owed = [(offset, channel) for offset in range(100, 201) for channel in CHANNELS if progress.owes(offset, channel)]
    assert owed == [(105, "email"), (150, "sms"), (200, "email"), (200, "sms")]


def test_an_earlier_program_takes_the_longer_note_for_none() -> None:
    for done in (40, 400):
        log_id, _, link = Stored(Mark(7, LOG, LINK), done).note().partition(" ")
        assert bytes.fromhex(log_id) == LOG
        with pytest.raises(ValueError, match="hexadecimal"):
            bytes.fromhex(link)


def test_what_the_log_no_longer_has_does_not_wait() -> None:
    progress = Progress(Stored(Mark(7, LOG, LINK), 40, ((7, "email"), (30, "email"))), 20)
    assert progress.position == 20
    assert [offset for offset in range(20, 45) if progress.owes(offset, "email")] == [30, 40, 41, 42, 43, 44]
    assert progress.stored([]).waits == ((30, "email"),)


@pytest.mark.parametrize("seed", range(200))
def test_every_message_is_sent_once_through_restarts_and_failures(seed: int) -> None:
    chance, end = random.Random(seed), 60
    stored, sent = Stored(Mark(0, LOG, b""), 0), Counter[tuple[int, str]]()
    for _ in range(100):
        progress, parked = Progress(stored, 0), dict[tuple[int, str], None]()
        for _ in range(chance.randrange(1, 40)):
            offset = progress.position
            if offset == end:
                break
            owed = [(offset, channel) for channel in CHANNELS if progress.owes(offset, channel)]
            assert progress.is_done(offset) == (not owed)
            for one in owed:
                if chance.random() < 0.3:
                    parked[one] = None
                else:
                    sent[one] += 1
            progress.passed(offset, link(offset + 1))
            for one in [one for one in parked if chance.random() < 0.2]:
                del parked[one]
                sent[one] += 1
        safe = progress.stored([(offset, link(offset), channel) for offset, channel in parked])
        assert safe.mark.link in (b"", link(safe.mark.position))
        stored = stored_of(safe.mark.position, safe.note())
        assert stored == safe
        if stored.mark.position == end:
            break
    assert sent == Counter((offset, channel) for offset in range(end) for channel in CHANNELS)
