"""The feed shows every event once, those of an order in their order, whatever the pages, filters, folds and frozen orders."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest

from ledger import events as e
from ledger.log import Record, TopicPartition
from ledger.memory.store import MemoryStore
from ledger.schemas.codec import event_codec
from ledger.schemas.of_the_ledger import learn
from ledger.topics import Topics
from ledger.turns import in_one_go
from projections import all_events
from projections.all_events import AllEvents, EventFilter
from projections.event_rows import PREFIX, read_place
from projections.projector import Projector
from projections.queries import InvalidCursor, Past
from tests.benchmarks.lives import decided_lives, read_back
from tests.support import later_schemas

pytestmark = pytest.mark.usefixtures("logged")
TOPICS, PARTITIONS = Topics(), 3
VERSIONS = later_schemas.event_versions()


@pytest.fixture(autouse=True)
def _nothing_learned() -> Iterator[None]:
    with later_schemas.nothing_learned():
        yield


@pytest.fixture(scope="module")
def lives() -> list[Record]:
    return list(read_back(decided_lives(TOPICS, PARTITIONS, 600, now_ms=1_700_000_000_000)))


def projector() -> Projector:
    return Projector.open(lambda name: MemoryStore(), TOPICS, PARTITIONS)


def folded(records: list[Record]) -> Projector:
    node = projector()
    node.apply_chunk(records)
    return node


def place_of(past: Past) -> tuple[int, int]:
    return past.partition, past.offset


def everything(feed: AllEvents, wanted: EventFilter, limit: int, cursor: bytes | None = None) -> tuple[list[Past], bytes]:
    """(all events from the cursor on, the cursor behind them), read in pages."""
    seen: list[Past] = []
    cursor = feed.beginning(wanted) if cursor is None else cursor
    while True:
        page = in_one_go(feed.page(wanted, cursor, limit))
        assert len(page.events) <= limit
        seen += page.events
        cursor = page.cursor
        if page.at_end:
            return seen, cursor


def in_order(seen: list[Past]) -> bool:
    """Whether the events of each order come with versions 1, 2, 3, ..."""
    last: dict[str, int] = {}
    for past in seen:
        if past.event.version != last.get(past.event.order_id, 0) + 1:
            return False
        last[past.event.order_id] = past.event.version
    return True


@pytest.mark.parametrize("limit", [1, 7, 500])
def test_the_feed_has_every_event_of_the_log_once_and_in_the_order_of_its_partition(lives: list[Record], limit: int) -> None:
    seen, _ = everything(AllEvents(folded(lives)), EventFilter(), limit)
    assert [past.event for past in seen if past.partition == 1] == [
        event_codec().decode(r.value) for r in lives if r.partition == 1
    ]
    assert sorted(map(place_of, seen)) == sorted((r.partition, r.offset) for r in lives)
    assert in_order(seen)
    times = [past.event.occurred_at for past in seen]
    assert sum(a > b for a, b in itertools.pairwise(times)) < len(times) // 20  # merged by time, unless offsets forbid it


@pytest.mark.parametrize("limit", [1, 40])
def test_a_filter_shows_exactly_its_events(lives: list[Record], limit: int) -> None:
    feed = AllEvents(folded(lives))
    seen, _ = everything(feed, EventFilter(), 500)
    customers = sorted({past.event.customer_id for past in seen})[:2]
    for types in (None, (e.ORDER_PLACED,), (e.ORDER_CANCELLED, e.ORDER_PLACED)):
        for customer in (None, *customers, "nobody"):
            expected = [
                place_of(past)
                for past in seen
                if (types is None or past.event.type in types) and customer in (None, past.event.customer_id)
            ]
            shown, _ = everything(feed, EventFilter(types, customer), limit)
            assert list(map(place_of, shown)) == expected
            assert bool(shown) == (customer != "nobody")


def test_a_rare_type_is_searched_in_pages_of_bounded_work(lives: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(all_events, "MOST_ROWS", 50)
    feed, wanted = AllEvents(folded(lives)), EventFilter((e.ORDER_DELIVERED,))
    page = in_one_go(feed.page(wanted, feed.beginning(wanted), 500))
    assert not page.at_end
    assert len(page.events) < 50
    seen, _ = everything(feed, wanted, 500)
    assert len(seen) == sum(event_codec().decode(r.value).type == e.ORDER_DELIVERED for r in lives)


def test_a_reader_that_continues_while_the_log_grows_misses_and_repeats_nothing(lives: list[Record]) -> None:
    choice, node = random.Random(5), projector()
    feed, seen = AllEvents(node), list[Past]()
    cursor, at, is_done = feed.beginning(EventFilter()), 0, False
    while at < len(lives) or not is_done:
        more = choice.randrange(40)
        node.apply_chunk(lives[at : at + more])
        at += more
        page = in_one_go(feed.page(EventFilter(), cursor, choice.choice((1, 9, 100))))
        seen += page.events
        cursor, is_done = page.cursor, page.at_end
    assert sorted(map(place_of, seen)) == sorted((r.partition, r.offset) for r in lives)
    assert in_order(seen)


def test_the_cursor_of_each_event_resumes_behind_it(lives: list[Record]) -> None:
    feed = AllEvents(folded(lives[:300]))
    page = in_one_go(feed.page(EventFilter(), feed.beginning(EventFilter()), 500, cursors=True))
    for number in range(0, 300, 37):
        following, _ = everything(feed, EventFilter(), 500, page.cursors[number])
        assert list(map(place_of, following)) == list(map(place_of, page.events[number + 1 :]))


def test_a_reader_that_begins_at_the_end_sees_only_what_comes(lives: list[Record]) -> None:
    node = folded(lives[:200])
    feed = AllEvents(node)
    cursor = feed.end(EventFilter())
    node.apply_chunk(lives[200:])
    seen, _ = everything(feed, EventFilter(), 30, cursor)
    assert sorted(map(place_of, seen)) == sorted((r.partition, r.offset) for r in lives[200:])


def test_a_cursor_of_other_filters_or_of_another_log_is_refused(lives: list[Record]) -> None:
    node = folded(lives[:50])
    node.databases.note_log({TOPICS.events: b"a" * 16, TOPICS.refusals: b"b" * 16})
    feed = AllEvents(node)
    page = in_one_go(feed.page(EventFilter(), feed.beginning(EventFilter()), 10))
    for wanted in (EventFilter(None, "c-1"), EventFilter((e.ORDER_PLACED,))):
        with pytest.raises(InvalidCursor):
            feed.read_cursor(wanted, page.cursor)
    with pytest.raises(InvalidCursor):
        feed.read_cursor(EventFilter(), b"\x93")
    node.databases.note_log({TOPICS.events: b"c" * 16, TOPICS.refusals: b"b" * 16})
    with pytest.raises(InvalidCursor):
        in_one_go(feed.page(EventFilter(), page.cursor, 10))


# ---- what this program cannot read


def rare(number: int, event: e.OrderEvent) -> int:
    """Some events are those of later programs, also the first of an order, and several of one."""
    return 1 if number % 29 else 2 + number // 29 % 2


@pytest.mark.parametrize("customer", [False, True], ids=["all", "one customer"])
@pytest.mark.parametrize("limit", [1, 13])
def test_what_cannot_be_read_waits_with_its_order_and_is_shown_after_the_thaw(
    lives: list[Record], limit: int, customer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(all_events, "MOST_HELD", 10_000)
    log = later_schemas.rewritten(lives, rare)
    wanted = EventFilter(None, event_codec().decode(lives[0].value).customer_id if customer else None)
    node = folded(log)
    assert node.frozen_count > 10
    feed = AllEvents(node)
    before, cursor = everything(feed, wanted, limit)
    assert in_order(before)
    again, _ = everything(feed, wanted, limit, cursor)
    assert again == []  # nothing new is readable
    assert learn(VERSIONS[1])
    in_one_go(node.thaw())
    between, cursor = everything(feed, wanted, limit, cursor)
    assert learn(VERSIONS[2])
    in_one_go(node.thaw())
    assert node.frozen_count == 0
    after, _ = everything(feed, wanted, limit, cursor)
    seen = before + between + after
    assert in_order(seen)
    events = [(r.partition, r.offset) for r in lives if not customer or of(r).customer_id == wanted.customer_id]
    assert sorted(map(place_of, seen)) == sorted(events)
    assert between or after
    assert customer or (between and after)


def of(record: Record) -> e.OrderEvent:
    return event_codec().decode(record.value)


def test_a_cursor_of_an_older_program_is_resumed_by_a_later_one(lives: list[Record]) -> None:
    log = later_schemas.rewritten(lives, lambda number, event: 2 if number in (100, 200, 201) else 1)
    old = AllEvents(folded(log))
    before, cursor = everything(old, EventFilter(), 50)
    assert learn(VERSIONS[1])
    later = AllEvents(folded(log))
    after, _ = everything(later, EventFilter(), 50, cursor)
    assert in_order(before + after)
    assert sorted(map(place_of, before + after)) == sorted((r.partition, r.offset) for r in log)


def test_a_node_that_lags_behind_a_cursor_keeps_what_waits_until_it_has_folded_that_far(lives: list[Record]) -> None:
    numbers: dict[str, list[int]] = {}
    for number, record in enumerate(lives):
        numbers.setdefault(of(record).order_id, []).append(number)
    longest = sorted(numbers.values(), key=len)[-3:]
    log = later_schemas.rewritten(lives, lambda number, event: 2 if number in [one[1] for one in longest] else 1)
    before, cursor = everything(AllEvents(folded(log)), EventFilter(), 50)
    assert learn(VERSIONS[1])
    for one in longest:
        assert len(one) > 2
        node = folded(log[: one[-1]])
        between, at = everything(AllEvents(node), EventFilter(), 50, cursor)
        node.apply_chunk(log[one[-1] :])
        after, _ = everything(AllEvents(node), EventFilter(), 50, at)
        assert in_order(before + between + after)
        assert sorted(map(place_of, before + between + after)) == sorted((r.partition, r.offset) for r in log)


def test_a_partition_waits_at_the_record_that_is_one_too_many(lives: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(all_events, "MOST_HELD", 2)
    log = later_schemas.rewritten(lives, rare)
    node = folded(log)
    feed = AllEvents(node)
    before, cursor = everything(feed, EventFilter(), 50)
    assert len(before) < len(log)
    assert all(map(learn, VERSIONS[1:]))
    in_one_go(node.thaw())
    after, _ = everything(feed, EventFilter(), 50, cursor)
    assert in_order(before + after)
    assert sorted(map(place_of, before + after)) == sorted((r.partition, r.offset) for r in log)


def test_after_a_thaw_the_rows_are_those_of_a_fold_that_always_knew_everything(lives: list[Record]) -> None:
    log = later_schemas.rewritten(lives, rare)
    node = folded(log)
    assert any(read_place(row).version == 0 for _, row in node.store(0).scan(PREFIX))
    assert all(map(learn, VERSIONS[1:]))
    in_one_go(node.thaw())
    fresh = folded(log)
    for p in range(PARTITIONS):
        for prefix in (b"l/", b"m/"):
            assert list(node.store(p).scan(prefix)) == list(fresh.store(p).scan(prefix))
        assert node.databases.digest(p).value == fresh.databases.digest(p).value
        assert node.databases.position(TopicPartition(TOPICS.events, p)) > 0
