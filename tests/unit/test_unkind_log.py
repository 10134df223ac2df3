"""The simulator's log is unkind as Kafka is, and no more than that."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from ledger.errors import Discard, Fenced
from ledger.log import NewRecord, TopicPartition
from ledger.topics import Topics
from tests.simulator.scheduling import Machine, Scheduler
from tests.simulator.unkind_log import Fate, UnkindLog, UnkindWriter

TOPICS = Topics()
EVENTS, REFUSALS = TopicPartition(TOPICS.events, 0), TopicPartition(TOPICS.refusals, 0)
CONTACTS = TopicPartition(TOPICS.contacts, 0)
BOTH = [NewRecord(*EVENTS, b"k", b"one"), NewRecord(*REFUSALS, b"k", b"two")]


class World:
    """A log with one partition, and machines that use it."""

    def __init__(self) -> None:
        chance = random.Random(1)
        self.scheduler = Scheduler(chance)
        self.log = UnkindLog(self.scheduler, chance, lambda: self.scheduler.now_us // 1_000)
        self.log.ensure_topics(TOPICS.specs(1, 1))
        self.machine = Machine("one")

    def does(self, work: Callable[[], object]) -> None:
        """As a task, to its end."""
        done: list[object] = []

        def run() -> None:
            work()
            done.append(1)

        self.scheduler.spawn(self.machine, run)
        self.scheduler.run_for(60)
        assert done

    def started(self) -> UnkindWriter:
        writer = self.log.writer("app-0")
        self.does(lambda: writer.start(10))
        return writer

    def values(self, tp: TopicPartition) -> list[bytes | None]:
        return [record.value for record in self.log.state.committed(tp)]


def test_a_transaction_is_visible_in_each_partition_when_its_marker_is_there() -> None:
    world = World()
    world.log.state.marker_s = 5.0
    writer, seen = world.started(), list[tuple[int, int]]()

    def write() -> None:
        positions = writer.transact(BOTH)
        while not seen or seen[-1] != (2, 2):
            stable = world.log.ends([EVENTS, REFUSALS])
            seen.append((stable[EVENTS], stable[REFUSALS]))
            world.scheduler.sleep(0.01)
        assert positions == {EVENTS: 1, REFUSALS: 1}

    world.does(write)
    assert seen[0] == (0, 0)
    assert {(0, 2), (2, 0)} & set(seen)


def test_a_writer_is_fenced_between_any_two_records() -> None:
    world = World()
    old = world.started()
    world.scheduler.after(0.005, lambda: world.log.fence("app-0"))
    with pytest.raises(Fenced):
        world.does(lambda: old.transact(BOTH * 20))
    assert world.values(EVENTS) == []


@pytest.mark.parametrize(("fate", "committed"), [("request lost", []), ("reply lost", [b"one"])])
def test_a_commit_in_doubt_may_be_one(fate: Fate, committed: list[bytes]) -> None:
    world = World()
    writer = world.started()
    world.log.state.fates.append(fate)
    with pytest.raises(Discard):
        world.does(lambda: writer.transact(BOTH))
    world.started()
    assert world.values(EVENTS) == committed


def test_a_repeated_request_ends_the_next_transaction_of_the_same_epoch_and_no_other() -> None:
    world = World()
    writer = world.started()
    world.log.state.fates.append("repeated")
    world.does(lambda: writer.transact(BOTH[:1]))
    assert writer.trouble()
    with pytest.raises(Discard, match="INVALID_TXN_STATE"):
        world.does(lambda: [writer.transact(BOTH) for _ in range(20)])
    world.scheduler.run_for(1)
    assert len(world.values(EVENTS)) == 1 + len(world.values(REFUSALS)) + 1
    successor = world.started()
    world.does(lambda: [successor.transact(BOTH) for _ in range(20)])


def test_a_transaction_without_its_marker_hangs_until_somebody_ends_it() -> None:
    world = World()
    writer = world.started()
    world.log.lose_marker(EVENTS)
    world.does(lambda: writer.transact(BOTH))
    (one,) = world.log.open_transactions([EVENTS, REFUSALS])
    assert not one.known
    assert (world.values(EVENTS), world.values(REFUSALS)) == ([], [b"two"])
    world.log.end_transaction(one, commit=False)
    assert world.values(EVENTS) == []
    assert world.log.ends([EVENTS]) == world.log.ends([EVENTS], "read_uncommitted")


def test_a_transaction_that_stays_open_is_aborted_and_its_writer_fenced() -> None:
    world = World()
    writer = world.started()
    world.scheduler.spawn(world.machine, lambda: writer.transact(BOTH * 20) and None)
    world.scheduler.run_for(0.004)
    assert world.log.open_transactions([EVENTS])
    world.scheduler.suspend(world.machine, 20)
    with pytest.raises(Fenced):
        world.scheduler.run_for(60)
    assert world.values(EVENTS) == []


def test_retention_and_compaction_keep_offsets_and_what_was_committed_is_known() -> None:
    world = World()
    state = world.log.state
    for value in (b"a", b"b", None):
        state.append(NewRecord(*CONTACTS, b"k", value), None)
    state.compact_partition(CONTACTS, tombstones_before_ms=0)
    assert world.values(CONTACTS) == [None]
    state.compact_partition(CONTACTS, tombstones_before_ms=1_000)
    assert (world.values(CONTACTS), world.log.ends([CONTACTS])) == ([], {CONTACTS: 3})
    writer = world.started()
    world.does(lambda: [writer.transact(BOTH) for _ in range(3)])
    state.expire(EVENTS, 1 << 50)
    assert world.log.starts([EVENTS]) == world.log.ends([EVENTS])
    assert world.values(EVENTS) == [b"one"] * 3
