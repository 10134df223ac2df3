"""A commit is answered before its markers are written, and a leader may report too low an end: neither is a hole in the log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from commands.messages import OrderCommand
from commands.processor.desk import Desk
from commands.processor.fold_check import FoldCheck
from ledger import log_identity
from ledger.errors import Discard, Hole, LogUnavailable
from ledger.log import NewRecord, TopicPartition
from ledger.log_identity import AHEAD_S, BETWEEN_ANSWERS_S
from ledger.memory.log import MemoryLog
from ledger.memory.store import MemoryStore
from tests.support.one_log import TOPICS, Ledger, Running, assert_log_is_whole, places

TP, OTHER = TopicPartition(TOPICS.events, 0), TopicPartition(TOPICS.events, 1)


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setattr("commands.processor.writer_loop.CHECK_EVERY_S", 0.2)
    monkeypatch.setattr("commands.processor.fold_check.AHEAD_S", 0.2)
    ledger = Ledger()
    yield ledger
    ledger.log.delay_markers(False)
    for running in list(ledger.running):
        ledger.stop(running)


def send_some(ledger: Ledger, word: str) -> list[OrderCommand]:
    """Orders in every partition."""
    sent = places(word)
    for command in sent:
        ledger.send(command)
    return sent


def is_folded(running: Running, command: OrderCommand) -> bool:
    loops = running.process._loops.values()
    return any(desk.order(command.order_id) is not None for loop in loops for desk in loop._desks.values())


def test_a_writer_that_is_revoked_right_after_a_commit_waits_for_its_markers(ledger: Ledger) -> None:
    running = ledger.start()
    first = send_some(ledger, "first")
    ledger.wait_for(lambda: len(ledger.answers()) == len(first))
    ledger.log.delay_markers(True)
    last = send_some(ledger, "last")
    ledger.wait_for(lambda: any(is_folded(running, command) for command in last))
    loops = list(running.process._loops.values())
    for loop in loops:
        loop.leave(5)
    ledger.wait_for(lambda: [loop._where for loop in loops] == ["follow"] * len(loops))
    ahead = {
        tp: at
        for loop in loops
        for tp, at in loop._desks.positions().items()
        if ledger.log.ends([tp])[tp] < at <= ledger.log.ends([tp], "read_uncommitted")[tp]
    }
    assert ahead, "a store is ahead of what readers see"
    with pytest.raises(AssertionError, match="in time"):  # for longer than the patience with a log that ends too early
        ledger.wait_for(lambda: running.codes or not running.thread.is_alive(), 1)
    ledger.log.delay_markers(False)
    for loop in loops:
        loop.take()
    ledger.wait_for(lambda: len(ledger.answers()) == len(first) + len(last))
    assert running.codes == []
    assert_log_is_whole(ledger, {command.command_id for command in first + last})


def test_while_its_markers_are_late_a_transactional_id_begins_nothing_else() -> None:
    log = MemoryLog()
    log.ensure_topics(TOPICS.specs(1, 1))
    writer = log.writer("w")
    writer.start(1)
    log.delay_markers(True)
    assert writer.transact([NewRecord(*TP, b"k", b"v")]) == {TP: 1}
    assert (log.ends([TP])[TP], log.ends([TP], "read_uncommitted")[TP]) == (0, 1)
    (one,) = log.open_transactions([TP])
    assert (one.state, one.known) == ("PrepareCommit", True)
    with pytest.raises(LogUnavailable, match="markers"):
        log.writer("w").start(0.05)
    log.delay_markers(False)
    assert log.ends([TP])[TP] == 2
    log.writer("w").start(1)


@dataclass
class Clock:
    now_s: float = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(log_identity, "time", clock)
    return clock


def check_of_two() -> FoldCheck:
    return FoldCheck(MemoryLog(), MemoryStore(), TOPICS, [0, 1], {TOPICS.events: bytes(16), TOPICS.refusals: bytes(16)})


def too_low(check: FoldCheck, tp: TopicPartition = TP) -> None:
    """The log answers that it ends before the fold of `tp`."""
    check.check({p: Desk(MemoryStore(), p, 2, TOPICS, bytes(16)) for p in (0, 1)}, {tp: 8}, {tp: 7})


def test_a_log_that_answers_for_a_minute_that_it_ends_too_early_has_lost_records(clock: Clock) -> None:
    check = check_of_two()
    ends_at = clock.now_s + AHEAD_S
    while clock.now_s < ends_at:
        with pytest.raises(Discard):
            too_low(check)
        clock.now_s += 1.0
    with pytest.raises(Hole, match="ends at 7"):
        too_low(check)


def test_an_outage_is_no_evidence_that_the_log_lost_records(clock: Clock) -> None:
    """Two leaders in a row report too low an end, and between them nobody answers for an hour."""
    check = check_of_two()
    with pytest.raises(Discard):
        too_low(check)
    clock.now_s += 3600
    with pytest.raises(Discard):
        too_low(check)
    clock.now_s += AHEAD_S - BETWEEN_ANSWERS_S - 1
    with pytest.raises(Discard):
        too_low(check)


def test_each_partition_has_its_own_patience(clock: Clock) -> None:
    check = check_of_two()
    for tp in (TP, OTHER) * 40:
        with pytest.raises(Discard):
            too_low(check, tp)
        clock.now_s += 4.0
