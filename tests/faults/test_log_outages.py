"""The Kafka adapter while its broker is killed or frozen: nothing acknowledged is lost, nothing is read twice."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.broker.node import EmbeddedBroker
from ledger.errors import LogError
from ledger.kafka import lease
from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.log import Acked, NewRecord, Record, TopicPartition
from ledger.topics import TopicSpec
from tests.support.patience import PATIENCE_S, until
from tests.support.pausing import pause, resume

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]

PARTITIONS = 3
TRANSACTIONS, SINGLES, WRITERS = "transactions", "singles", "writers"


class Actor(threading.Thread):
    """A thread that calls `step` until `end`; keeps the exception that it raises."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ending = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.ending.is_set():
                self.step()
        except BaseException as exc:
            self.error = exc

    def step(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        self.ending.set()
        self.join(PATIENCE_S)
        assert not self.is_alive()


class Transactor(Actor):
    """Commits one transaction over all partitions after the other, with a new writer after every failure."""

    def __init__(self, log: KafkaLog) -> None:
        super().__init__()
        self.log = log
        self.sequence = 0
        self.discarded = 0
        self.committed: dict[int, dict[TopicPartition, int]] = {}

    def step(self) -> None:
        writer = self.log.writer("transactor")
        try:
            writer.start(10)  # a start that a dead broker interrupts counts as discarded
            while not self.ending.is_set():
                self.sequence += 1
                value = b"%d" % self.sequence
                records = [NewRecord(TRANSACTIONS, p, None, value) for p in range(PARTITIONS) for _ in range(2)]
                self.committed[self.sequence] = dict(writer.transact(records))
                time.sleep(0.002)
        except LogError:
            self.discarded += 1
            time.sleep(0.05)
        finally:
            writer.close()


class SingleSender(Actor):
    """Sends numbered records and records every answer."""

    def __init__(self, log: KafkaLog) -> None:
        super().__init__()
        self.sender = log.sender("singles")
        self.sent = 0
        self.answers: Counter[int] = Counter()
        self.acked: dict[int, Acked] = {}
        self.failed: set[int] = set()

    def step(self) -> None:
        n = self.sent
        self.sent += 1

        def answered(acked: Acked | None, error: LogError | None) -> None:
            self.answers[n] += 1
            if acked is not None:
                self.acked[n] = acked
            else:
                self.failed.add(n)

        self.sender.send(NewRecord(SINGLES, n % PARTITIONS, b"k", b"%d" % n), answered)
        time.sleep(0.002)


class Tail(Actor):
    """One reader from the first record to the last."""

    def __init__(self, log: KafkaLog) -> None:
        super().__init__()
        self.reader = log.reader("tail", max_wait_ms=10)
        self.reader.assign({TopicPartition(t, p): 0 for t in (TRANSACTIONS, SINGLES) for p in range(PARTITIONS)})
        self.read: list[Record] = []
        self.silent_s = 0.0

    def step(self) -> None:
        self.read += self.reader.poll(500, 0.1)
        self.silent_s = self.reader.silent_s()


class Leaser(Actor):
    """Holds the lease, and commits progress for lag monitors all the time."""

    def __init__(self, log: KafkaLog) -> None:
        super().__init__()
        self.held: set[int] = set()
        self.lease = log.lease(WRITERS, "writers", "one", self.held.update, self.drop, self.drop)
        self.noted = 0

    def drop(self, partitions: list[int]) -> None:
        self.held -= set(partitions)

    def step(self) -> None:
        self.lease.poll(0.1)
        self.noted += 1
        if self.noted % 5 == 0:
            self.lease.commit({TopicPartition(SINGLES, 0): self.noted})


@pytest.fixture
def node(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    node = EmbeddedBroker(tmp_path / "data", log_file=tmp_path / "kafka.log", jit="quick")
    node.start()
    yield node
    node.stop()


def kill(node: EmbeddedBroker, tail: Tail) -> None:
    os.kill(node.pid, signal.SIGKILL)
    node.wait(PATIENCE_S)
    until(lambda: tail.silent_s > 2.5)  # the reader says that the broker is unreachable
    node.start()


def freeze(node: EmbeddedBroker, tail: Tail) -> None:
    pause(node.pid)
    until(lambda: tail.silent_s > 6)  # longer than a request may take: connections are closed without an answer
    resume(node.pid)


def everything(log: KafkaLog, topic: str) -> list[Record]:
    """All committed records of `topic`, by a fresh reader."""
    tps = [TopicPartition(topic, p) for p in range(PARTITIONS)]
    # The last markers have arrived.
    until(lambda: log.ends(tps, timeout_s=PATIENCE_S) == log.ends(tps, "read_uncommitted", PATIENCE_S))
    reader = log.reader("fresh", eof=True)
    reader.assign(dict.fromkeys(tps, 0))
    records: list[Record] = []
    while len(reader.reached_end()) < PARTITIONS:
        records += reader.poll(1000, 1)
    assert dict(reader.reached_end()) == log.ends(tps, timeout_s=PATIENCE_S)
    reader.close()
    return records


def run(node: EmbeddedBroker, faults: list[str]) -> None:
    log = KafkaLog(KafkaSettings(bootstrap_servers=node.bootstrap_servers, client_id="faults"))
    log.ensure_topics([TopicSpec(TRANSACTIONS, PARTITIONS), TopicSpec(SINGLES, PARTITIONS), TopicSpec(WRITERS, 2)], PATIENCE_S)
    transactor, single, tail, leaser = Transactor(log), SingleSender(log), Tail(log), Leaser(log)
    actors: list[Actor] = [transactor, single, tail, leaser]
    for actor in actors:
        actor.start()
    for fault in faults:
        transactions, singles = len(transactor.committed), len(single.acked)
        until(lambda: leaser.held == {0, 1} and tail.silent_s < 2)
        until(lambda: len(transactor.committed) > transactions + 50 and len(single.acked) > singles + 200)  # noqa: B023
        (kill if fault == "kill" else freeze)(node, tail)
    transactions, singles = len(transactor.committed), len(single.acked)
    until(lambda: len(transactor.committed) > transactions + 50 and len(single.acked) > singles + 200)
    until(lambda: leaser.held == {0, 1} and tail.silent_s < 2)
    transactor.end()
    single.end()
    single.sender.close()
    leaser.end()
    check_transactions(log, transactor, len(faults))
    check_singles(log, single)
    whole = {topic: everything(log, topic) for topic in (TRANSACTIONS, SINGLES)}
    until(lambda: len(tail.read) >= sum(map(len, whole.values())))
    tail.end()
    assert [actor.error for actor in actors] == [None] * 4
    for topic, records in whole.items():
        for p in range(PARTITIONS):
            assert [r for r in tail.read if (r.topic, r.partition) == (topic, p)] == [r for r in records if r.partition == p]
    assert 0 < log.progress("writers", [TopicPartition(SINGLES, 0)])[TopicPartition(SINGLES, 0)] <= leaser.noted
    leaser.lease.close()
    tail.reader.close()


def check_transactions(log: KafkaLog, transactor: Transactor, faults: int) -> None:
    """Each transaction is there whole or not at all, and every one that returned is there, below the position it returned."""
    assert transactor.discarded >= faults
    by_sequence: dict[int, list[Record]] = defaultdict(list)
    for record in everything(log, TRANSACTIONS):
        by_sequence[int(record.value or b"")].append(record)
    assert {len(records) for records in by_sequence.values()} == {2 * PARTITIONS}
    for sequence, positions in transactor.committed.items():
        last = {TopicPartition(r.topic, r.partition): r.offset for r in by_sequence[sequence]}
        assert positions == {tp: offset + 1 for tp, offset in last.items()}
    print(f"{len(transactor.committed)} transactions returned, {len(by_sequence)} committed, {transactor.discarded} discards")


def check_singles(log: KafkaLog, single: SingleSender) -> None:
    """Each record was answered once and is at the position in its answer, in order; none is there twice unless one failed."""
    assert single.answers == Counter(range(single.sent))
    copies: dict[int, list[Acked]] = defaultdict(list)
    for record in everything(log, SINGLES):
        copies[int(record.value or b"")].append(Acked(record.partition, record.offset, record.timestamp_ms))
    twice = {n: there for n, there in copies.items() if len(there) > 1}
    answers = f"{len(single.acked)} acknowledged, {len(single.failed)} failed"
    print(f"{single.sent} sent, {answers}, {len(copies)} there, {len(twice)} twice")
    if not single.failed:
        assert twice == {}
    there = {(n, partition, offset): timestamp_ms for n, places in copies.items() for partition, offset, timestamp_ms in places}
    at = {n: (n, acked.partition, acked.offset) for n, acked in single.acked.items()}
    assert [place for place in at.values() if place not in there] == []
    later_ms = [acked.timestamp_ms - there[at[n]] for n, acked in single.acked.items()]
    assert min(later_ms) == 0
    assert max(later_ms) <= PATIENCE_S * 1000  # a record that was sent twice has the later time
    for p in range(PARTITIONS):
        first = {n: min(place.offset for place in places) for n, places in copies.items() if places[0].partition == p}
        assert sorted(first, key=first.__getitem__) == sorted(first)


def test_readers_writers_senders_and_leases_outlive_the_broker(node: EmbeddedBroker) -> None:
    run(node, ["kill", "freeze", "kill"])


def test_a_lease_fenced_by_its_own_ghost_takes_its_name_back_but_leaves_it_to_a_stranger(
    node: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an outage as long as a session, a broker may know a member by its earlier identity or by the one it has since."""
    monkeypatch.setattr(lease, "OWN_GHOST_S", PATIENCE_S)
    log = KafkaLog(KafkaSettings(bootstrap_servers=node.bootstrap_servers, client_id="faults"))
    log.ensure_topics([TopicSpec(WRITERS, 2), TopicSpec(SINGLES, PARTITIONS)], PATIENCE_S)
    leaser = Leaser(log)

    def somebody_joins_under_its_name() -> None:
        held: set[int] = set()
        other = log.lease(WRITERS, "writers", "one", held.update, held.difference_update, held.difference_update)
        until(lambda: other.poll(0.1) or held == {0, 1})
        other.close()  # as a static member: the group keeps it

    def outage_of_a_session() -> bool:
        """Returns whether it may take its name back. Sometimes it has done so: the ghost of the outage itself was first."""
        pause(node.pid)
        until(lambda: leaser.held == set())
        resume(node.pid)
        until(lambda: leaser.held == {0, 1})
        noted = leaser.noted
        until(lambda: leaser.noted > noted + 10)  # what was under way at the outage has arrived
        return leaser.lease._log.session_ended_at > 0

    leaser.start()
    try:
        until(lambda: leaser.held == {0, 1})
        assert any(outage_of_a_session() for _ in range(5))
        somebody_joins_under_its_name()
        until(lambda: leaser.error or (leaser.held == {0, 1} and log.unheld(WRITERS, "writers") == []))
        noted = leaser.noted
        until(lambda: leaser.error or leaser.noted > noted + 30)
        assert leaser.error is None
        assert leaser.held == {0, 1}
        somebody_joins_under_its_name()
        until(lambda: leaser.error)
        assert "instance name" in str(leaser.error)
    finally:
        leaser.end()
        leaser.lease.close()


@pytest.mark.campaign
def test_readers_writers_senders_and_leases_outlive_many_outages_of_the_broker(node: EmbeddedBroker) -> None:
    run(node, ["kill", "kill", "freeze", "kill", "kill"] * 5)
