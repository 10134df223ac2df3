"""The contract of `ledger.log`: leases, bookmarks and progress of groups, against both adapters."""

from __future__ import annotations

import threading
import time

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaTopicPartition

from ledger.errors import LogError
from ledger.kafka import lease
from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.log import Lease, TopicPartition
from ledger.topics import Topics, TopicSpec
from tests.support.patience import PATIENCE_S, until
from tests.support.stage import Stage


class Member:
    """A process that polls its lease and records the callbacks."""

    def __init__(self, stage: Stage, topic: str, group: str, instance: str) -> None:
        self.held: set[int] = set()
        self.shares: list[list[int]] = []
        self.lost: list[int] = []
        self.error: LogError | None = None
        self._stop = threading.Event()
        self.lease: Lease = stage.log.lease(topic, group, instance, self.taken, self.revoked, self.gone)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def taken(self, partitions: list[int]) -> None:
        assert not self.held & set(partitions), "a partition was assigned that is already held"
        self.held |= set(partitions)
        self.shares.append(partitions)

    def revoked(self, partitions: list[int]) -> None:
        self.held -= set(partitions)

    def gone(self, partitions: list[int]) -> None:
        self.lost += partitions
        self.held -= set(partitions)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.lease.poll(0.1)
        except LogError as exc:
            self.error = exc

    def leave(self) -> None:
        self._stop.set()
        self._thread.join()
        self.lease.close()


def test_two_members_share_the_writers_and_the_one_that_stays_takes_over(stage: Stage) -> None:
    topic, group = stage.topic(partitions=4), stage.name("group")
    a = Member(stage, topic, group, "a")
    until(lambda: a.held == {0, 1, 2, 3})
    b = Member(stage, topic, group, "b")
    until(lambda: len(a.held) == len(b.held) == 2)
    assert a.held | b.held == {0, 1, 2, 3}
    kept = set(a.held)
    b.leave()
    until(lambda: a.held == {0, 1, 2, 3})
    assert kept <= a.held
    assert a.lost == []
    a.leave()


def test_a_member_for_which_there_is_no_share_knows_that(stage: Stage) -> None:
    topic, group = stage.topic(partitions=1), stage.name("group")
    a, b = Member(stage, topic, group, "a"), Member(stage, topic, group, "b")
    until(lambda: sorted([a.shares[-1:], b.shares[-1:]]) == [[[]], [[0]]])
    a.leave()
    b.leave()


def test_the_same_instance_gets_its_share_back_without_waiting_for_the_session(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_s, config = 2 * PATIENCE_S, lease.lease_config
    longer = dict.fromkeys(("session.timeout.ms", "max.poll.interval.ms"), int(session_s * 1000))
    monkeypatch.setattr(lease, "lease_config", lambda *about: config(*about) | longer)
    topic, group = stage.topic(partitions=2), stage.name("group")
    a, b = Member(stage, topic, group, "a"), Member(stage, topic, group, "b")
    until(lambda: len(a.held) == len(b.held) == 1)
    b.leave()
    began = time.monotonic()
    again = Member(stage, topic, group, "b")
    until(lambda: len(again.held) == 1)
    assert time.monotonic() - began < session_s
    a.leave()
    again.leave()


def test_a_second_process_of_the_same_name_ends_the_lease_of_the_first_for_good(stage: Stage) -> None:
    topic, group = stage.topic(partitions=2), stage.name("group")
    first = Member(stage, topic, group, "a")
    until(lambda: len(first.held) == 2)
    second = Member(stage, topic, group, "a")
    until(lambda: len(second.held) == 2)
    until(lambda: first.error is not None)
    assert "instance name" in str(first.error)
    second.leave()
    first.leave()


def test_unheld_partitions_are_listed_and_a_member_that_rejoins_makes_the_group_share_again(stage: Stage) -> None:
    topic, group = stage.topic(partitions=2), stage.name("group")
    assert stage.log.unheld(topic, group) == [0, 1]
    held: set[int] = set()
    lease = stage.log.lease(topic, group, "a", held.update, held.difference_update, held.difference_update)
    until(lambda: lease.poll(0.1) or held == {0, 1})
    until(lambda: lease.poll(0.1) or stage.log.unheld(topic, group) == [])
    lease.rejoin()
    assert held == set()
    until(lambda: lease.poll(0.1) or held == {0, 1}, 120)
    lease.close()


def test_poll_raises_what_a_callback_raises(stage: Stage) -> None:
    def broken(partitions: list[int]) -> None:
        raise ZeroDivisionError("a bug")

    topic = stage.topic()
    lease = stage.log.lease(topic, stage.name("group"), "a", broken, lambda _: None, lambda _: None)
    deadline = time.monotonic() + PATIENCE_S
    error: BaseException | None = None
    while error is None and time.monotonic() < deadline:
        try:
            lease.poll(0.1)
        except ZeroDivisionError as exc:
            error = exc
    assert isinstance(error, ZeroDivisionError)
    lease.close()


def test_a_bookmark_is_read_back_and_is_none_where_none_was_written(stage: Stage) -> None:
    topic = stage.topic(partitions=3)
    tps = [TopicPartition(topic, p) for p in range(3)]
    group = stage.name("bookmark")
    first = stage.log.bookmark(group)
    assert first.read(tps) == dict.fromkeys(tps)
    first.write({tps[0]: 7, tps[1]: 0})
    first.write({tps[0]: 8})
    first.close()
    second = stage.log.bookmark(group)
    assert second.read(tps) == {tps[0]: 8, tps[1]: 0, tps[2]: None}
    assert second.read([]) == {}
    second.write({tps[0]: 3})  # backwards too: it is a position, not a high-water mark
    assert second.read(tps[:1]) == {tps[0]: 3}
    second.close()
    other = stage.log.bookmark(stage.name("other-bookmark"))
    assert other.read(tps) == dict.fromkeys(tps)
    other.close()


def test_a_bookmark_keeps_a_note_beside_each_position(stage: Stage) -> None:
    topic = stage.topic(partitions=3)
    tps = [TopicPartition(topic, p) for p in range(3)]
    group, note = stage.name("bookmark"), f"{'a1' * 16} {'0f' * 32}"
    first = stage.log.bookmark(group)
    assert first.notes(tps) == dict.fromkeys(tps, "")
    first.write({tps[0]: 7, tps[1]: 9}, {tps[0]: note})
    first.close()
    second = stage.log.bookmark(group)
    assert second.notes(tps) == {tps[0]: note, tps[1]: "", tps[2]: ""}
    assert second.read(tps) == {tps[0]: 7, tps[1]: 9, tps[2]: None}
    second.write({tps[0]: 8})  # a note belongs to one position
    assert (second.notes(tps[:1]), second.read(tps[:1])) == ({tps[0]: ""}, {tps[0]: 8})
    second.close()


def test_progress_is_committed_for_monitors_at_any_time_and_harms_nobody(stage: Stage) -> None:
    topic, commands, group = stage.topic(partitions=2), stage.topic(partitions=2), stage.name("group")
    noted = {TopicPartition(commands, 0): 7, TopicPartition(commands, 1): 9}
    assert stage.log.progress(group, noted) == dict.fromkeys(noted, 0)
    held: set[int] = set()
    lease = stage.log.lease(topic, group, "a", held.update, held.difference_update, held.difference_update)
    lease.commit({TopicPartition(commands, 0): 3})  # before the group has admitted this member
    until(lambda: lease.poll(0.1) or held == {0, 1})
    lease.commit(noted)
    until(lambda: lease.poll(0.1) or stage.log.progress(group, noted) == noted)
    assert stage.log.progress(group, [TopicPartition(commands, 1)]) == {TopicPartition(commands, 1): 9}
    lease.close()


@pytest.mark.kafka
def test_progress_that_arrives_after_a_later_one_is_overwritten(kafka: KafkaSettings, topics: Topics) -> None:
    """librdkafka retries a commit while the coordinator loads, and sends the next one meanwhile."""
    log, topic, commands = KafkaLog(kafka), f"{topics.prefix}writers", f"{topics.prefix}commands"
    log.ensure_topics([TopicSpec(topic, 1), TopicSpec(commands, 1)], PATIENCE_S)
    held, tp, group = set[int](), TopicPartition(commands, 0), f"{topics.prefix}group"
    member = log.lease(topic, group, "a", held.update, held.difference_update, held.difference_update)
    member.commit({tp: 7})
    until(lambda: member.poll(0.1) or log.progress(group, [tp]) == {tp: 7})
    late = [KafkaTopicPartition(commands, 0, 3)]
    other = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": lease.progress_group(group)})
    other.commit(offsets=late, asynchronous=False)
    other.close()
    assert log.progress(group, [tp]) == {tp: 3}
    member._committed(None, late)
    until(lambda: member.poll(0.1) or log.progress(group, [tp]) == {tp: 7})
    member.close()


@pytest.mark.kafka
def test_a_group_that_cannot_be_joined_now_is_joined_later(
    kafka: KafkaSettings, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease that asked for it continues; it used to end `commands`."""
    log, topic = KafkaLog(kafka), f"{topics.prefix}writers"
    log.ensure_topics([TopicSpec(topic, 2)], PATIENCE_S)
    held: set[int] = set()
    member = log.lease(topic, f"{topics.prefix}group", "a", held.update, held.difference_update, held.difference_update)
    until(lambda: member.poll(0.1) or held == {0, 1})
    real_consumer, refused = lease.Consumer, 2

    def consumer(*arguments: object, **named: object) -> object:
        nonlocal refused
        if refused:
            refused -= 1
            raise KafkaException(KafkaError(KafkaError._CRIT_SYS_RESOURCE, "no thread can be created"))
        return real_consumer(*arguments, **named)

    monkeypatch.setattr(lease, "Consumer", consumer)
    monkeypatch.setattr(lease, "JOIN_AGAIN_S", 0.2)
    member.rejoin()
    assert held == set()
    until(lambda: member.poll(0.1) or held == {0, 1}, 120)
    assert refused == 0
    member.close()
