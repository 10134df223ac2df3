"""The command processor against a log that fails in every way the port allows (the in-memory log)."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from api.processes.commands_metrics import readiness
from commands.messages import OrderCommand
from commands.processor.process import EXIT_FAILED, to_follow
from ledger.log import Reader, Record, TopicPartition
from ledger.memory.log import MemoryLog
from ledger.transitions import Code
from tests.support.one_log import PARTITIONS, TOPICS, WRITERS, Ledger, assert_log_is_whole, cancel, place
from tests.support.patience import PATIENCE_S


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    ledger = Ledger()
    yield ledger
    for running in list(ledger.running):
        ledger.stop(running)


def test_each_accepted_command_is_one_event_and_each_refused_one_refusal(ledger: Ledger) -> None:
    ledger.start()
    first, second = place("a"), place("b")
    for command in (first, second, cancel(first, "x"), cancel(first, "y")):
        ledger.send(command)
    ledger.wait_for(lambda: sum(ledger.answers().values()) == 4)
    assert [r.code for r in ledger.refusals()] == [Code.NOTHING_TO_CHANGE]
    assert Counter(e.type for e in ledger.events()) == {"OrderPlaced": 2, "OrderCancelled": 1}


def test_a_duplicate_leaves_no_record_and_another_body_is_refused_once(ledger: Ledger) -> None:
    ledger.start()
    command, other = place("a"), place("a", fingerprint=b"g" * 16)
    for sent in (command, command, other, other, command, place("end")):
        ledger.send(sent)
    ledger.wait_for(lambda: place("end").command_id in ledger.answers())
    ledger.wait_for(lambda: len(ledger.refusals()) == 1)
    assert [e.version for e in ledger.events() if e.command_id == command.command_id] == [1]
    assert [(r.code, r.fingerprint) for r in ledger.refusals()] == [(Code.IDEMPOTENCY_KEY_REUSED, b"g" * 16)]


def test_an_unreadable_command_is_kept_once_even_when_it_is_read_again(ledger: Ledger) -> None:
    running = ledger.start()
    ledger.send(b"\x00junk", "ord_x")
    ledger.wait_for(lambda: len(ledger.refusals()) == 1)
    ledger.stop(running)
    ledger.stores.clear()  # the next incarnation reads from the first command of the last batch
    ledger.start()
    ledger.send(place("after"))
    ledger.wait_for(lambda: len(ledger.events()) == 1)
    assert [(r.code, r.original) for r in ledger.refusals()] == [(Code.UNDECODABLE, b"\x00junk")]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_commit_of_unknown_outcome_loses_nothing_and_repeats_nothing(ledger: Ledger, when: str) -> None:
    ledger.start()
    sent = set()
    for i in range(12):
        command = place(f"k{i}")
        sent.add(command.command_id)
        if i % 3 == 1:
            ledger.log.fail_next_commit(when)  # type: ignore[arg-type]
        ledger.send(command)
        ledger.wait_for(lambda: len(ledger.answers()) == len(sent))
    assert_log_is_whole(ledger, sent)


def test_a_fenced_writer_waits_and_takes_over_from_itself(ledger: Ledger) -> None:
    ledger.start()
    ledger.send(place("a"))
    ledger.wait_for(lambda: len(ledger.events()) == 1)
    ledger.log.fence("app-0")
    ledger.log.fence("app-1")
    ledger.send(place("b"))
    ledger.send(place("c"))
    ledger.wait_for(lambda: len(ledger.events()) == 3)
    epochs = {e.writer_epoch for e in ledger.events()}
    assert len(epochs) > 1
    assert_log_is_whole(ledger, {place(k).command_id for k in "abc"})


def test_a_store_ahead_of_the_log_ends_the_process(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commands.processor.fold_check.AHEAD_S", 0.3)
    running = ledger.start()
    for key in "abcdefgh":
        ledger.send(place(key))
    ledger.wait_for(lambda: len(ledger.events()) == 8)
    ledger.stop(running)
    for p in range(PARTITIONS):
        ledger.log.lose_end(TopicPartition(TOPICS.events, p), 0)
    again = ledger.start()
    again.thread.join(PATIENCE_S)
    assert again.codes == [EXIT_FAILED]


def test_a_leader_that_reports_too_low_an_end_for_a_while_ends_nothing(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    running = ledger.start()
    first = [place(f"a{i}") for i in range(8)]
    for command in first:
        ledger.send(command)
    ledger.wait_for(lambda: len(ledger.events()) == 8)
    ledger.stop(running)
    low, true_ends = 6, ledger.log.ends

    def ends(partitions: Iterable[TopicPartition], *options: Any) -> dict[TopicPartition, int]:
        nonlocal low
        low -= 1
        return {tp: max(0, end - (low > 0)) for tp, end in true_ends(partitions, *options).items()}

    monkeypatch.setattr(ledger.log, "ends", ends)
    ledger.start()
    more = [place(f"b{i}") for i in range(8)]
    for command in more:
        ledger.send(command)
    ledger.wait_for(lambda: low < 0 and len(ledger.events()) == 16, 60)
    assert_log_is_whole(ledger, {c.command_id for c in first + more})


def test_commands_removed_before_they_were_processed_end_the_process(ledger: Ledger) -> None:
    for key in "abcdefgh":
        ledger.send(place(key))
    for p in range(PARTITIONS):
        tp = TopicPartition(TOPICS.commands, p)
        ledger.log.truncate(tp, max(0, ledger.log.ends([tp])[tp] - 1))
    running = ledger.start()
    running.thread.join(PATIENCE_S)
    assert running.codes == [EXIT_FAILED]


def test_a_fresh_process_starts_although_old_refusals_are_gone(ledger: Ledger) -> None:
    running = ledger.start()
    first = place("a")
    for command in (first, cancel(first, "x"), cancel(first, "y"), cancel(first, "z")):
        ledger.send(command)
    ledger.wait_for(lambda: len(ledger.refusals()) == 2)
    ledger.stop(running)
    tp = TopicPartition(TOPICS.refusals, ledger.log.partition_for(first.order_id.encode(), PARTITIONS))
    ledger.log.truncate(tp, ledger.log.ends([tp])[tp] - 2)
    ledger.stores.clear()
    ledger.start()
    ledger.send(place("b"))
    ledger.wait_for(lambda: len(ledger.events()) == 3)


def test_a_standby_takes_over_when_the_owner_stops(ledger: Ledger) -> None:
    first = ledger.start("one")
    ledger.wait_for(lambda: sorted(first.process.ready_writers) == [0, 1])
    second = ledger.start("two")
    sent = [place(f"n{i}") for i in range(10)]
    for command in sent:
        ledger.send(command)
    ledger.wait_for(lambda: len(ledger.events()) == 10)
    ledger.stop(first)
    more = [place(f"m{i}") for i in range(10)]
    for command in more:
        ledger.send(command)
    ledger.wait_for(lambda: len(ledger.events()) == 20)
    assert sorted(second.process.ready_writers) == [0, 1]
    assert_log_is_whole(ledger, {c.command_id for c in sent + more})


@pytest.mark.parametrize(
    ("owned", "standby", "followed"),
    [
        (set(), 1, {0, 1, 2, 3, 4, 5}),
        ({0, 1}, 0, {0, 1}),
        ({0, 1}, 1, {0, 1, 2}),
        ({4, 5}, 1, {4, 5, 0}),
        ({0, 1, 5}, 1, {0, 1, 5, 2}),
        ({2}, 9, {0, 1, 2, 3, 4, 5}),
        ({0, 1, 2, 3, 4, 5}, 1, {0, 1, 2, 3, 4, 5}),
    ],
)
def test_a_process_follows_its_own_writers_and_the_next(owned: set[int], standby: int, followed: set[int]) -> None:
    assert to_follow(owned, 6, standby) == followed


def test_a_writer_that_was_not_followed_is_folded_when_it_is_taken(ledger: Ledger) -> None:
    first, second = ledger.start("one"), ledger.start("two")
    ledger.wait_for(lambda: len(first.process.ready_writers) == len(second.process.ready_writers) == 1)
    (own,), (other,) = second.process.ready_writers, first.process.ready_writers
    idle = second.process._loops[other]
    idle.follow(False)
    ledger.wait_for(lambda: idle._where == "idle")
    sent = [place(f"n{i}") for i in range(10)]
    for command in sent:
        ledger.send(command)
    ledger.wait_for(lambda: len(ledger.events()) == 10)
    assert [desk.meta.events for desk in idle._desks.values()] == [0] * len(idle._desks)
    assert second.process.status()["followed_writers"] == [own]
    ledger.stop(first)
    more = [place(f"m{i}") for i in range(10)]
    for command in more:
        ledger.send(command)
    ledger.wait_for(lambda: len(ledger.events()) == 20)
    assert_log_is_whole(ledger, {c.command_id for c in sent + more})


class SlowLog:
    """A log as one process sees it: who follows it gets nothing until `folds`. `asked`: how often it was asked who holds what."""

    def __init__(self, log: MemoryLog) -> None:
        self._log, self.folds, self.asked = log, threading.Event(), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def unheld(self, topic: str, group: str) -> list[int]:
        self.asked += 1
        return self._log.unheld(topic, group)

    def reader(self, name: str, **how: Any) -> Reader:
        reader = self._log.reader(name, **how)
        return SlowReader(reader, self.folds) if name.startswith("follow") else reader  # type: ignore[return-value]


class SlowReader:
    def __init__(self, reader: Reader, folds: threading.Event) -> None:
        self._reader, self._folds = reader, folds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def poll(self, most: int, timeout_s: float) -> list[Record]:
        return self._reader.poll(most, timeout_s) if self._folds.wait(timeout_s) else []


def lose_stores(ledger: Ledger, instance: str) -> None:
    """As by an upgrade that changes their version."""
    for name in [name for name in ledger.stores if name.startswith(f"{instance}/")]:
        del ledger.stores[name]


def test_a_process_that_must_fold_the_whole_log_leaves_the_writers_to_others_meanwhile(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("commands.processor.process.FAR_BEHIND", 5)
    monkeypatch.setattr("commands.processor.process.FOLD_CHECK_S", 0.02)
    first, second = ledger.start("one"), ledger.start("two")
    ledger.wait_for(lambda: len(first.process.ready_writers) == len(second.process.ready_writers) == 1)
    sent = [place(f"k{i}") for i in range(30)]
    for command in sent:
        ledger.send(command)
    ledger.wait_for(lambda: len(ledger.events()) == len(sent))
    ledger.stop(first)
    ledger.wait_for(lambda: second.process.ready_writers == [0, 1])
    lose_stores(ledger, "one")
    slow = SlowLog(ledger.log)
    for wanted in (3, 6):  # the first one is stopped meanwhile
        again = ledger.start("one", slow)  # type: ignore[arg-type]
        ledger.wait_for(lambda wanted=wanted: slow.asked >= wanted)  # type: ignore[misc]
        assert second.process.ready_writers == [0, 1]
        is_ready, checks = readiness(again.process, ledger.log)
        assert not is_ready
        assert {"log": "ok", "owned": "none", "writers": "ok", "fold": "behind"}.items() <= checks.items()
        if wanted == 3:
            ledger.stop(again)
            assert again.codes == [0]
    slow.folds.set()
    ledger.wait_for(lambda: len(again.process.ready_writers) == len(second.process.ready_writers) == 1)
    ledger.wait_for(lambda: readiness(again.process, ledger.log)[0])
    ledger.send(place("more"))
    ledger.wait_for(lambda: len(ledger.events()) == len(sent) + 1)
    assert_log_is_whole(ledger, {c.command_id for c in [*sent, place("more")]})


def test_a_process_without_a_fold_takes_writers_that_nobody_holds(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commands.processor.process.FAR_BEHIND", 5)
    first = ledger.start("one")
    sent = [place(f"k{i}") for i in range(30)]
    for command in sent:
        ledger.send(command)
    ledger.wait_for(lambda: len(ledger.events()) == len(sent))
    ledger.stop(first)
    lose_stores(ledger, "one")
    again = ledger.start("one", SlowLog(ledger.log))  # type: ignore[arg-type]
    ledger.wait_for(lambda: sorted(again.process.ready_writers) == [0, 1])


def test_a_writer_that_the_group_forgot_is_noticed_and_taken_again(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commands.processor.process.UNHELD_EVERY_S", 0.05)
    running = ledger.start()
    ledger.wait_for(lambda: sorted(running.process.ready_writers) == [0, 1])
    ledger.log.orphan("app", 1)
    ledger.wait_for(lambda: running.process.ready_writers == [0])
    sent = [place(f"k{i}") for i in range(10)]
    for command in sent:
        ledger.send(command)
    ledger.wait_for(lambda: len(ledger.events()) == 10)
    assert_log_is_whole(ledger, {c.command_id for c in sent})


def test_a_process_that_lost_its_last_writer_follows_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """It used to follow only those that it had followed before, and nobody was the hot standby for the others."""
    monkeypatch.setattr("commands.processor.process.UNHELD_EVERY_S", 10 * PATIENCE_S)
    ledger = Ledger(TOPICS.specs(PARTITIONS, PARTITIONS))
    first = ledger.start("one")
    ledger.wait_for(lambda: len(first.process.ready_writers) == PARTITIONS)
    second = ledger.start("two")
    try:
        ledger.wait_for(lambda: len(second.process.ready_writers) == 2)
        assert len(second.process.status()["followed_writers"]) == 3
        for writer in second.process.ready_writers:
            ledger.log.orphan("app", writer)
            ledger.wait_for(lambda writer=writer: writer not in second.process.ready_writers)  # type: ignore[misc]
        ledger.wait_for(lambda: second.process.status()["followed_writers"] == list(range(PARTITIONS)))
    finally:
        ledger.stop(second)
        ledger.stop(first)


def test_a_process_started_while_the_log_is_unreachable_waits_for_it(ledger: Ledger) -> None:
    ledger.log.away(True)
    running = ledger.start()
    time.sleep(0.2)
    ledger.log.away(False)
    ledger.wait_for(lambda: sorted(running.process.ready_writers) == [0, 1])
    ledger.log.away(True)
    second = ledger.start("two")
    time.sleep(0.2)
    ledger.stop(second)
    assert second.codes == [0]
    ledger.log.away(False)


def test_a_command_that_leads_to_what_the_log_refuses_is_refused_and_every_other_one_is_decided() -> None:
    # Events whose time is an hour ahead are refused: what Kafka does where a topic has no other setting.
    limit = {"message.timestamp.after.max.ms": "3600000"}
    specs = [replace(spec, settings={**spec.settings, **limit}) for spec in TOPICS.specs(PARTITIONS, WRITERS)]
    ledger = Ledger(specs)
    try:
        bad = {3, 4, 17, 40}
        sent = [place(f"k{i}") for i in range(60)]
        for number, command in enumerate(sent):
            ledger.ahead_ms = 2 * 3_600_000 if number in bad else 0
            ledger.send(command)
        ledger.ahead_ms = 0
        ledger.start()
        ledger.wait_for(lambda: len(ledger.answers()) == 60, 120)
        assert_log_is_whole(ledger, {c.command_id for c in sent})
        assert {r.command_id for r in ledger.refusals()} == {sent[number].command_id for number in bad}
        assert {r.code for r in ledger.refusals()} == {Code.COULD_NOT_DECIDE}
        assert all(not running.codes for running in ledger.running)
    finally:
        for running in list(ledger.running):
            ledger.stop(running)


def test_whatever_fails_when_every_command_is_answered_exactly_once(ledger: Ledger) -> None:
    chance = random.Random(7)
    running = ledger.start()
    sent: dict[str, OrderCommand] = {}
    placed: list[OrderCommand] = []
    for i in range(400):
        command = cancel(chance.choice(placed), f"k{i}") if placed and chance.random() < 0.4 else place(f"k{i}")
        if command.place is not None:
            placed.append(command)
        sent[command.command_id] = command
        ledger.send(command)
        if chance.random() < 0.2:
            ledger.send(chance.choice(list(sent.values())))  # a retry
        draw = chance.random()
        if draw < 0.03:
            ledger.log.fail_next_commit(chance.choice(["before", "after"]))
        elif draw < 0.04:
            ledger.stop(running)
            if chance.random() < 0.5:
                ledger.stores.clear()
            running = ledger.start()
        elif draw < 0.05:
            ledger.wait_for(lambda: len(ledger.answers()) >= len(sent) - 5)
    ledger.wait_for(lambda: len(ledger.answers()) == len(sent), 60)
    assert_log_is_whole(ledger, set(sent))
