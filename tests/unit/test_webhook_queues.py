"""What an endpoint is owed: order per order, retries for three days, and places from which nothing is missed after any kill."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest

from commands.webhooks.endpoints import GIVE_UP_MS
from commands.webhooks.queues import (
    FULL_PAUSE_MS,
    MAX_PARKED,
    MAX_QUEUED,
    PAUSES_MS,
    SECOND,
    Delivery,
    Place,
    Queues,
    note_of,
    place_of,
)

LINK = b"l" * 32


def delivery(offset: int, order_id: str, partition: int = 0) -> Delivery:
    return Delivery(partition, offset, b"p" * 32, order_id, None)


def begun(position: int = 0, place: Place | None = None) -> Queues:
    queues = Queues()
    queues.begin(0, position, place or Place())
    return queues


def take(queues: Queues, *entries: tuple[int, str], wanted: bool = True) -> None:
    for offset, order_id in entries:
        queues.take(delivery(offset, order_id), wanted, LINK)


def due(queues: Queues, now: int = 0, most: int = 99) -> list[int]:
    return [one.offset for one in queues.due(now, most)]


def test_events_of_one_order_come_one_after_the_other_and_other_orders_meanwhile() -> None:
    queues = begun()
    take(queues, (0, "a"), (1, "a"), (2, "b"))
    first, other = list(queues.due(0, 99))
    assert (first.offset, other.offset) == (0, 2)
    assert due(queues) == []
    queues.done(first)
    assert due(queues) == [1]


def test_no_more_are_due_than_there_is_room_for() -> None:
    queues = begun()
    take(queues, (0, "a"), (1, "b"), (2, "c"))
    assert due(queues, most=2) == [0, 1]
    assert due(queues, most=0) == []


def test_what_is_due_is_known_as_a_whole_before_anything_else_happens() -> None:
    """Whoever delivers the first of them may take events and give partitions away: none of the others may be lost by that."""
    queues = begun()
    queues.begin(1, 0, Place())
    take(queues, (0, "a"), (1, "b"))
    flying = iter(queues.due(0, 9))
    assert next(flying).offset == 0
    queues.take(delivery(0, "c", 1), True, LINK)
    assert [one.offset for one in flying] == [1]


def test_a_failure_lets_its_order_wait_and_no_other() -> None:
    queues = begun()
    take(queues, (0, "a"), (1, "b"))
    a, b = list(queues.due(1000, 99))
    assert not queues.failed(a, 1000, 1000)
    queues.done(b)
    take(queues, (2, "a"), (3, "b"))
    assert due(queues, 1000 + PAUSES_MS[0] - 1) == [3]
    assert due(queues, 1000 + PAUSES_MS[0]) == [0]


def test_the_pauses_are_those_of_the_schedule_and_after_three_days_the_event_is_abandoned() -> None:
    queues, now, times = begun(), 0, []
    take(queues, (0, "a"), (1, "a"))
    while True:
        (one,) = queues.due(now, 99)
        times.append(now)
        if queues.failed(one, now + 1, now + 1):
            break
        now = one.next_at
    assert times[1] == 1 + PAUSES_MS[0]
    assert GIVE_UP_MS - SECOND <= now <= GIVE_UP_MS + SECOND
    assert len(times) == len(PAUSES_MS) + 1
    assert due(queues, now) == [1], "the order continues"


def test_a_receiver_can_ask_for_a_longer_pause_but_not_for_a_shorter_one() -> None:
    queues = begun()
    take(queues, (0, "a"))
    (one,) = queues.due(0, 9)
    queues.failed(one, 10, 10, at_least=60_000)
    assert one.next_at == 60_010
    (one,) = queues.due(60_010, 9)
    queues.failed(one, 60_010, 60_010, at_least=1)
    assert one.next_at == 60_010 + PAUSES_MS[1]


def test_a_clock_that_is_set_makes_no_pause_longer_or_shorter() -> None:
    queues, day = begun(), 24 * 3_600 * SECOND
    take(queues, (0, "a"))
    (one,) = queues.due(0, 9)
    queues.failed(one, 10 * day, 0)
    assert due(queues, PAUSES_MS[0] - 1) == []
    (one,) = queues.due(PAUSES_MS[0], 9)
    queues.failed(one, 3 * day, PAUSES_MS[0])
    assert (one.failed_since, one.next_at) == (3 * day, PAUSES_MS[0] + PAUSES_MS[1])


def test_while_nothing_more_is_read_the_receiver_is_tried_every_five_minutes() -> None:
    queues, now = begun(), 0
    take(queues, *((n, f"o{n}") for n in range(MAX_PARKED)))
    for _ in range(4):
        for one in list(queues.due(now, 999)):
            queues.failed(one, now, now)
        now += PAUSES_MS[3]
    last = now - PAUSES_MS[3]
    assert not queues.has_room()
    assert due(queues, last + FULL_PAUSE_MS - 1) == []
    (first, *others) = queues.due(last + FULL_PAUSE_MS, 999)
    assert len(others) == MAX_PARKED - 1
    queues.done(first)
    assert queues.has_room()


def test_the_stored_position_is_behind_what_was_delivered_and_names_what_waits() -> None:
    queues = begun()
    take(queues, (0, "a"), (1, "b"), (2, "a"), (3, "c"))
    a, b, c = list(queues.due(5, 99))
    assert queues.places() == {0: (0, Place(b"", b"p" * 32, 0, []))}
    queues.failed(a, 5, 5)
    assert queues.places()[0] == (1, Place(b"", b"p" * 32, 0, [(0, 5, 1)]))
    queues.done(b), queues.done(c)
    assert queues.places()[0] == (4, Place(b"", LINK, 0, [(0, 5, 1)]))


def test_what_nobody_wants_only_moves_the_position() -> None:
    queues = begun()
    take(queues, (0, "a"), (7, "b"), wanted=False)
    assert due(queues) == []
    assert queues.places()[0][0] == 8


def test_a_resumed_endpoint_reads_again_from_what_waits_and_delivers_only_what_is_owed() -> None:
    queues = begun(10, Place(b"", LINK, 0, [(3, 77, 2)]))
    assert queues.position(0) == 3
    take(queues, (3, "a"), (4, "b"))
    (head,) = queues.due(99, 99)
    assert (head.offset, head.failed_since, head.tries) == (3, 77, 2)
    queues.done(head)
    assert queues.places()[0] == (10, Place(b"", LINK, 0, [(3, 77, 2)])), "until all that waits was read again"
    take(queues, (5, "a"), (6, "b"), (10, "b"))
    assert due(queues, 99) == [5, 10]


@pytest.mark.parametrize("is_abandoned", [False, True])
def test_what_waited_behind_a_late_event_does_not_lower_the_position(is_abandoned: bool) -> None:
    queues = begun(10)
    take(queues, (10, "a"), (20, "a"), *((n, f"o{n}") for n in range(21, 100)))
    late, *others = queues.due(5, 99)
    assert not queues.failed(late, 5, 5)
    for one in others:
        queues.done(one)
    assert queues.places()[0] == (100, Place(b"", LINK, 0, [(10, 5, 1)]))
    (late,) = queues.due(5 + GIVE_UP_MS, 99)
    if is_abandoned:
        assert queues.failed(late, 5 + GIVE_UP_MS, 5 + GIVE_UP_MS)
    else:
        queues.done(late)
    at, place = queues.places()[0]
    assert (at, place.parked, queues.waiting()) == (100, [(20, 0, 0)], 0)
    resumed = begun(at, place)
    take(resumed, (20, "a"), (21, "o21"), (100, "a"))
    assert resumed.places()[0] == (101, Place(b"", LINK, 0, [(20, 0, 0)]))
    for offset in (20, 100):
        (one,) = resumed.due(5, 99)
        assert one.offset == offset
        resumed.done(one)
    assert resumed.places()[0] == (101, Place(b"", LINK, 0, []))


def test_more_waiting_orders_than_fit_into_the_note_lower_the_position() -> None:
    queues = begun()
    take(queues, *((n, f"o{n}") for n in range(MAX_PARKED + 20)))
    for one in list(queues.due(9, 999)):
        queues.failed(one, 9, 9)
    assert not queues.has_room()
    at, place = queues.places()[0]
    assert (at, len(place.parked)) == (MAX_PARKED, MAX_PARKED)
    assert queues.waiting() == MAX_PARKED + 20


def test_a_full_queue_reads_no_more() -> None:
    queues = begun()
    take(queues, *((n, "a") for n in range(MAX_QUEUED)))
    assert not queues.has_room()


def test_the_largest_note_fits_beside_a_position() -> None:
    far, late = 2**62, 2**42
    place = Place(b"i" * 16, LINK, late, [(far + n, late, 99) for n in range(MAX_PARKED)])
    assert len(note_of(place)) <= 4096
    assert place_of(note_of(place)) == place
    for wrong in ("", "x", "6162 6364", note_of(place)[:-4]):
        assert place_of(wrong) is None


def test_a_partition_that_was_given_away_is_forgotten_also_while_it_is_delivered() -> None:
    queues = begun()
    queues.begin(1, 0, Place())
    take(queues, (0, "a"))
    queues.take(delivery(0, "b", 1), True, LINK)
    flying = list(queues.due(0, 9))
    queues.end(0)
    for one in flying:
        queues.done(one)
    assert queues.partitions() == {1}
    assert queues.queued == 0


@pytest.mark.parametrize("seed", range(6))
def test_whatever_fails_and_whenever_it_is_killed_every_event_is_delivered_in_its_orders_order(seed: int) -> None:
    choice = random.Random(seed)
    log = [(offset, f"o{choice.randrange(12)}") for offset in range(400)]
    stored, place, now = 0, Place(), 1
    got: list[tuple[int, str]] = []
    at, queues = 0, begun()
    for _ in range(100_000):
        now += choice.choice((1, 1, 10_000, 400_000))
        if at < len(log) and queues.has_room():
            for offset, order_id in log[at : (at := at + choice.randrange(20))]:
                take(queues, (offset, order_id))
        for one in list(queues.due(now, choice.randrange(8))):
            if choice.random() < 0.4:
                assert not queues.failed(one, now, now)
            else:
                got.append((one.offset, one.order_id))
                queues.done(one)
        if choice.random() < 0.5:
            before, (stored, place) = stored, queues.places()[0]
            assert stored >= before
            place = place_of(note_of(place)) or place
        if choice.random() < 0.05:  # killed
            queues = Queues()
            at = queues.begin(0, stored, place)
        if at >= len(log) and queues.queued == 0:
            break
    assert {offset for offset, _ in got} == {offset for offset, _ in log}
    firsts: dict[str, list[int]] = defaultdict(list)
    for offset, order_id in got:
        if offset not in firsts[order_id]:
            firsts[order_id].append(offset)
    assert all(offsets == sorted(offsets) for offsets in firsts.values())
