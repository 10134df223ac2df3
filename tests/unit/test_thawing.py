"""An order that froze at what an older program could not read thaws by itself when the program knows more.

Afterwards nothing shows that it was ever frozen: rows and digest are those of a fold from the beginning.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from commands.processor.desk import Desk
from ledger import events as e
from ledger import evolve as rules
from ledger.log import Record, TopicPartition
from ledger.memory.store import MemoryStore
from ledger.outcomes import outcome_key
from ledger.schemas.codec import event_codec
from ledger.schemas.of_the_ledger import learn
from ledger.topics import Topics
from projections.databases import Databases
from projections.digests import CHECKPOINT_EVENTS, digest_of
from projections.projector import Projector
from tests.benchmarks.lives import decided_lives, read_back
from tests.support import later_schemas
from tests.support.desk_line import COMMAND_LOG

pytestmark = pytest.mark.usefixtures("logged")
TOPICS = Topics()
EVENTS = TopicPartition(TOPICS.events, 0)
VERSIONS = later_schemas.event_versions()
GIFT = "GiftWrapped"


@pytest.fixture(autouse=True)
def _nothing_learned() -> Iterator[None]:
    with later_schemas.nothing_learned():
        yield


@pytest.fixture(scope="module")
def lives() -> list[Record]:
    return list(read_back(decided_lives(TOPICS, 1, 900, now_ms=1_700_000_000_000)))


def a_mixture(number: int, event: e.OrderEvent) -> int:
    """The version that the writer of an event has, while one program is rolled out and back."""
    return 1 if number < 200 else 1 + (number // 50 + (event.version > 4)) % 3


def databases_of(records: list[Record], store: MemoryStore | None = None, chunk: int = 97) -> Databases:
    """A fold in chunks, into an empty store or one that is given."""
    kept = store or MemoryStore()
    databases = Databases(lambda name: kept, TOPICS, [0], None)
    for start in range(0, len(records), chunk):
        databases.write_chunk(EVENTS, records[start : start + chunk])
    return databases


def rows_of(databases: Databases) -> dict[bytes, bytes]:
    return {key: row for key, row in databases.stores[0].scan(b"") if not key.startswith(b"\0digest/")}


def desk_of(records: list[Record], store: MemoryStore) -> Desk:
    desk = Desk(store, 0, 1, TOPICS, COMMAND_LOG)
    for number, record in enumerate(records):
        desk.fold(record)
        if number % 41 == 0:
            save(desk, store)
    save(desk, store)
    return desk


def save(desk: Desk, store: MemoryStore) -> None:
    store.write(desk.rows())
    desk.written()


# ---- the desk -------------------------------------------------------------------------------------------------------


def test_a_desk_that_learns_the_schemas_has_the_rows_of_one_that_always_knew_them(lives: list[Record]) -> None:
    log, store, fresh = later_schemas.rewritten(lives, a_mixture), MemoryStore(), MemoryStore()
    desk = desk_of(log, store)
    frozen = [key for key, _ in store.scan(b"0/f/")]
    assert len(frozen) > 20
    assert all(learn(schema) for schema in VERSIONS)
    desk.thaw()
    save(desk, store)
    desk_of(log, fresh)
    assert list(store.scan(b"0/f/")) == list(store.scan(b"0/h/")) == []
    assert dict(store.scan(b"")) == dict(fresh.scan(b""))


def test_a_desk_thaws_up_to_the_first_record_that_it_still_cannot_read(lives: list[Record]) -> None:
    log, store, fresh = later_schemas.rewritten(lives, a_mixture), MemoryStore(), MemoryStore()
    desk = desk_of(log, store)
    before = len(list(store.scan(b"0/f/")))
    assert learn(VERSIONS[1])  # but not version 3
    desk.thaw()
    save(desk, store)
    assert 0 < len(list(store.scan(b"0/f/"))) < before
    desk_of(log, fresh)
    assert dict(store.scan(b"")) == dict(fresh.scan(b""))


def test_a_command_that_became_an_event_which_could_not_be_read_is_known_after_the_thaw(lives: list[Record]) -> None:
    """Otherwise a standby that takes over would refuse it, and it would have two outcomes."""
    log, store = later_schemas.rewritten(lives, lambda number, event: 2), MemoryStore()
    desk = desk_of(log, store)
    event = event_of(lives, len(lives) - 1)
    assert desk._get(outcome_key(event.command_id)) is None
    assert desk.meta.dealt == 0
    assert learn(VERSIONS[1])
    desk.thaw()
    assert desk._get(outcome_key(event.command_id)) is not None
    assert desk.meta.dealt == event.command_offset + 1


def event_of(records: list[Record], number: int) -> e.OrderEvent:
    return event_codec().decode(records[number].value)


def test_an_order_of_which_nothing_is_understood_stays_frozen_as_it_is(lives: list[Record]) -> None:
    log, store = later_schemas.rewritten(lives, a_mixture), MemoryStore()
    desk = desk_of(log, store)
    before = dict(store.scan(b""))
    desk.thaw()
    save(desk, store)
    assert dict(store.scan(b"")) == before


# ---- the read models ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [VERSIONS, VERSIONS[:2], VERSIONS[::2]], ids=["all", "not version 3", "not version 2"])
def test_read_models_that_learn_schemas_are_those_of_a_fold_that_always_knew_them(lives: list[Record], known: tuple) -> None:
    log = later_schemas.rewritten(lives, a_mixture)
    old = databases_of(log)
    frozen = old.frozen_orders()
    assert len(frozen) > 20
    assert all(learn(schema) for schema in known)
    for partition, order_id in frozen:
        old.thaw(partition, order_id)
    fresh = databases_of(log, chunk=500)
    assert rows_of(old) == rows_of(fresh)
    assert old.digests() == fresh.digests()
    assert old.digest(0).value == digest_of(rows_of(old).items())
    assert old.frozen_orders() == fresh.frozen_orders()
    assert bool(old.frozen_orders()) == (len(known) < len(VERSIONS))


def test_the_next_start_thaws_what_its_program_can_read(lives: list[Record]) -> None:
    log, store = later_schemas.rewritten(lives, a_mixture), MemoryStore()
    half = len(log) // 2
    databases_of(log[:half], store)
    assert all(learn(schema) for schema in VERSIONS)
    started = databases_of(log[half:], store)
    assert started.frozen_count() == 0
    assert rows_of(started) == rows_of(databases_of(log))


def test_an_event_type_of_a_later_program_thaws_after_the_upgrade(lives: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    log = later_schemas.rewritten(lives, lambda number, event: 1)
    at = next(n for n, record in enumerate(log) if event_codec().decode(record.value).type == e.FULFILMENT_STARTED)
    event = event_codec().decode(log[at].value)
    log[at] = log[at]._replace(value=event_codec().encode(e.OrderEvent(**{**fields_of(event), "type": GIFT, "shipment": None})))
    store, desk_store = MemoryStore(), MemoryStore()
    assert databases_of(log, store).frozen_orders() == [(0, event.order_id)]
    log = later_schemas.rewritten(log, lambda number, event: 1)
    desk_of(log, desk_store)
    assert [key for key, _ in desk_store.scan(b"0/f/")] == [b"0/f/" + event.order_id.encode()]

    monkeypatch.setitem(rules._STEPS, GIFT, rules._STEPS[e.FULFILMENT_STARTED])  # the later program
    upgraded = databases_of([], store)
    assert upgraded.frozen_count() == 0
    fresh = databases_of(log)
    order = b"o/" + event.order_id.encode()
    assert upgraded.stores[0].get(order) == fresh.stores[0].get(order)
    desk, again = Desk(desk_store, 0, 1, TOPICS, COMMAND_LOG), MemoryStore()
    desk.thaw()
    save(desk, desk_store)
    desk_of(log, again)
    assert dict(desk_store.scan(b"")) == dict(again.scan(b""))


def fields_of(event: e.OrderEvent) -> dict[str, object]:
    return {name: getattr(event, name) for name in event.__struct_fields__}


def test_checkpoints_of_the_time_when_the_order_was_frozen_are_deleted() -> None:
    """Their digests are those of other rows: a rebuild would call them the place of a difference."""
    many = list(read_back(decided_lives(TOPICS, 1, 2 * CHECKPOINT_EVENTS + 5, now_ms=1_700_000_000_000)))
    log = later_schemas.rewritten(many, lambda number, event: 2 if number > CHECKPOINT_EVENTS + 10 else 1)
    old = databases_of(log, chunk=5_000)
    assert [digest.events for digest in old.checkpoints(0)] == [CHECKPOINT_EVENTS, 2 * CHECKPOINT_EVENTS]
    assert learn(VERSIONS[1])
    for partition, order_id in old.frozen_orders():
        old.thaw(partition, order_id)
    assert [digest.events for digest in old.checkpoints(0)] == [CHECKPOINT_EVENTS]


def test_whoever_waits_for_an_outcome_is_woken_by_the_thaw(lives: list[Record]) -> None:
    import asyncio

    async def waiting() -> bool:
        store = MemoryStore()
        projector = Projector(Databases(lambda name: store if name == "p0" else MemoryStore(), TOPICS, [0], 1))
        log = later_schemas.rewritten(lives, lambda number, event: 2)
        event = event_of(lives, 5)
        waiter = projector.waiters.outcome(event.command_id, event.fingerprint)
        projector.apply_chunk(log[:20])
        assert not waiter.done()
        assert learn(VERSIONS[1])
        for _ in projector.thaw():
            pass
        return waiter.done()

    assert asyncio.run(waiting())


def test_random_cuts_and_thaws_end_in_the_same_rows(lives: list[Record]) -> None:
    """Whenever the schemas are learned, in whatever order, between whichever chunks."""
    choice = random.Random(16)
    for _ in range(6):
        with later_schemas.nothing_learned():
            log = later_schemas.rewritten(lives[:400], lambda number, event: choice.choice((1, 1, 2, 3)))
            store, desk_store = MemoryStore(), MemoryStore()
            desk, databases = Desk(desk_store, 0, 1, TOPICS, COMMAND_LOG), databases_of([], store)
            for start in range(0, len(log), 50):
                if choice.random() < 0.3:
                    assert learn(choice.choice(VERSIONS))
                    for partition, order_id in databases.frozen_orders():
                        databases.thaw(partition, order_id)
                    desk.thaw()
                for record in log[start : start + 50]:
                    desk.fold(record)
                save(desk, desk_store)
                databases.write_chunk(EVENTS, log[start : start + 50])
            assert all(learn(schema) for schema in VERSIONS)
            desk.thaw()
            save(desk, desk_store)
            fresh, fresh_desk = databases_of(log), MemoryStore()
            desk_of(log, fresh_desk)
            assert rows_of(databases_of([], store)) == rows_of(fresh)
            assert dict(desk_store.scan(b"")) == dict(fresh_desk.scan(b""))
