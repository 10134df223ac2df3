"""Retention up to the very end, with time that is moved: which deleted records a writer needs, and which it does not."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from commands.messages import OrderCommand
from commands.processor.process import EXIT_FAILED
from ledger.durations import DAY_MS
from ledger.errors import LogUnavailable
from ledger.log import TopicPartition
from ledger.memory.store import MemoryStore
from ledger.progress import Claim, accept_gap, claimed, read_claims, record_of
from ledger.topics import COMMANDS_MS, REFUSALS_MS
from ledger.transitions import Code
from projections.bulk import BulkFold
from projections.projector import Projector
from projections.queries import Queries
from tests.support.one_log import PARTITIONS, TOPICS, Ledger, Running, assert_log_is_whole, cancel, place, places
from tests.support.patience import PATIENCE_S


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    ledger = Ledger()
    yield ledger
    for running in list(ledger.running):
        ledger.stop(running)


def partition_of(ledger: Ledger, command: OrderCommand) -> int:
    return ledger.log.partition_for(command.order_id.encode(), PARTITIONS)


def claims(ledger: Ledger) -> tuple[Claim, ...]:
    return read_claims(ledger.log, TOPICS, ledger.log.topic_id(TOPICS.commands))


def end_of_commands(ledger: Ledger, partition: int) -> int:
    tp = TopicPartition(TOPICS.commands, partition)
    return ledger.log.ends([tp])[tp]


def wait_for_claim(ledger: Ledger, partition: int) -> None:
    """Until everything in the partition is decided, and that is claimed."""
    ledger.wait_for(lambda: claimed(claims(ledger), partition, 1 << 60) == end_of_commands(ledger, partition))


def later(ledger: Ledger, ms: int) -> None:
    ledger.ahead_ms += ms
    ledger.log.clean()


def decides(ledger: Ledger, running: Running, word: str) -> None:
    """Orders in every partition are decided, and the process continues."""
    sent = places(word)
    for command in sent:
        ledger.send(command)
    ledger.wait_for(lambda: running.codes != [] or {c.command_id for c in sent} <= set(ledger.answers()))
    assert running.codes == []


def quiet_partition(ledger: Ledger, last: str) -> int:
    """A partition whose last command was a retry, or was refused."""
    order = place("a")
    ledger.send(order)
    ledger.wait_for(lambda: len(ledger.events()) == 1)
    if last == "retry":
        ledger.send(order)
    else:
        ledger.send(cancel(order, "x"))
        ledger.send(cancel(order, "y"))
        ledger.wait_for(lambda: len(ledger.refusals()) == 1)
    partition = partition_of(ledger, order)
    wait_for_claim(ledger, partition)
    return partition


LAST = [("retry", COMMANDS_MS + DAY_MS), ("refusal", REFUSALS_MS + DAY_MS)]


@pytest.mark.parametrize(("last", "age_ms"), LAST)
def test_a_node_without_the_old_store_decides_after_a_quiet_month_or_two(ledger: Ledger, last: str, age_ms: int) -> None:
    running = ledger.start()
    partition = quiet_partition(ledger, last)
    ledger.stop(running)
    later(ledger, age_ms)
    tp = TopicPartition(TOPICS.commands, partition)
    assert ledger.log.starts([tp])[tp] == end_of_commands(ledger, partition) > 1, "every command is deleted"
    ledger.stores.clear()
    decides(ledger, ledger.start(), "after")


@pytest.mark.parametrize(("last", "age_ms"), LAST)
def test_a_standby_takes_over_after_a_quiet_month_or_two(ledger: Ledger, last: str, age_ms: int) -> None:
    first = ledger.start("one")
    second = ledger.start("two")
    ledger.wait_for(lambda: len(first.process.ready_writers) == len(second.process.ready_writers) == 1)
    quiet_partition(ledger, last)
    later(ledger, age_ms)
    ledger.stop(first)
    ledger.wait_for(lambda: second.codes != [] or sorted(second.process.ready_writers) == [0, 1])
    decides(ledger, second, "after")


def test_a_claim_outlives_its_process_and_the_compaction_of_all_the_others(ledger: Ledger) -> None:
    for name in ("one", "two", "one"):
        running = ledger.start(name)
        ledger.wait_for(lambda running=running: sorted(running.process.ready_writers) == [0, 1])  # type: ignore[misc]
        partition = quiet_partition(ledger, "retry")
        ledger.send(place("a"))
        wait_for_claim(ledger, partition)
        ledger.stop(running)
    ledger.log.clean()
    assert {claim.by for claim in claims(ledger)} == {"one", "two"}
    assert claimed(claims(ledger), partition, 1 << 60) == end_of_commands(ledger, partition)


def test_commands_that_nobody_decided_are_a_hole_until_a_person_accepts_it(ledger: Ledger) -> None:
    running = ledger.start()
    partition = quiet_partition(ledger, "retry")
    ledger.stop(running)
    lost = place("a", total=2000)
    ledger.send(cancel(lost, "lost"))
    later(ledger, COMMANDS_MS + DAY_MS)
    again = ledger.start()
    again.thread.join(PATIENCE_S)
    assert again.codes == [EXIT_FAILED]
    tp, end = TopicPartition(TOPICS.commands, partition), end_of_commands(ledger, partition)
    assert f"commands {end - 1} to {end - 1} of {tp.topic}/{partition} were deleted" in str(again.process._fatal)
    assert "order-ledger accept-gap" in str(again.process._fatal)
    ledger.running.remove(again)

    accept_gap(ledger.log, TOPICS, partition, end, "operator:ada")
    decides(ledger, ledger.start(), "after")


def test_a_gap_that_could_not_be_noted_is_not_accepted(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    topic_id = ledger.log.topic_id

    def topic_id_before_an_outage(topic: str) -> bytes:
        known = topic_id(topic)
        ledger.log.away(True)
        return known

    with monkeypatch.context() as patched:
        patched.setattr(ledger.log, "topic_id", topic_id_before_an_outage)
        with pytest.raises(LogUnavailable):
            accept_gap(ledger.log, TOPICS, 0, 1, "operator:ada")
    ledger.log.away(False)
    assert claims(ledger) == ()


@pytest.mark.parametrize("flaw", ["another log", "later events"])
def test_a_claim_about_another_log_or_about_lost_events_is_ignored(ledger: Ledger, flaw: str) -> None:
    ledger.send(place("a"))
    partition = partition_of(ledger, place("a"))
    command_log = bytes(16) if flaw == "another log" else ledger.log.topic_id(TOPICS.commands)
    claim = Claim(partition, command_log.hex(), 1, 1 if flaw == "later events" else 0, "one")
    ledger.sender.send(record_of(TOPICS, claim), lambda acked, error: None)
    assert ledger.sender.flush(PATIENCE_S) == 0
    later(ledger, COMMANDS_MS + DAY_MS)
    running = ledger.start()
    running.thread.join(PATIENCE_S)
    assert running.codes == [EXIT_FAILED]
    ledger.running.remove(running)


def test_an_unreadable_claim_affects_nothing_else(ledger: Ledger) -> None:
    running = ledger.start()
    partition = quiet_partition(ledger, "retry")
    ledger.stop(running)
    junk = record_of(TOPICS, Claim(partition, "", 0, 0, "junk"))._replace(value=b"junk")
    ledger.sender.send(junk, lambda acked, error: None)
    assert ledger.sender.flush(PATIENCE_S) == 0
    later(ledger, COMMANDS_MS + DAY_MS)
    ledger.stores.clear()
    decides(ledger, ledger.start(), "after")


def test_a_retry_of_a_command_whose_refusal_has_expired_is_refused_again_and_once(ledger: Ledger) -> None:
    running = ledger.start()
    order, other = place("a"), place("a", fingerprint=b"g" * 16)
    refused = cancel(order, "y")
    for command in (order, cancel(order, "x"), refused, other):
        ledger.send(command)
    ledger.wait_for(lambda: len(ledger.refusals()) == 2)
    first = {r.command_id: (r.code, r.detail, r.order_version, r.fingerprint, r.actor) for r in ledger.refusals()}
    assert {code for code, *_ in first.values()} == {Code.NOTHING_TO_CHANGE, Code.IDEMPOTENCY_KEY_REUSED}
    for age_ms in (REFUSALS_MS - 2 * DAY_MS, 3 * DAY_MS, DAY_MS):
        later(ledger, age_ms)
        for command in (refused, other, order, refused, other):
            ledger.send(command)
        decides(ledger, running, f"after {age_ms} {ledger.ahead_ms} ")
    again = {r.command_id: (r.code, r.detail, r.order_version, r.fingerprint, r.actor) for r in ledger.refusals()}
    assert len(ledger.refusals()) == 2
    assert again == first
    assert [e.version for e in ledger.events() if e.command_id == order.command_id] == [1]


def test_a_fresh_fold_does_not_decide_an_old_retry_again_that_its_refusal_no_longer_explains(ledger: Ledger) -> None:
    """Refused because there was no such order; a retry after 50 days; then a fold that has the retry and not the refusal."""
    running = ledger.start()
    order = place("a")
    early = cancel(order, "early")
    ledger.send(early)
    ledger.wait_for(lambda: len(ledger.refusals()) == 1)
    ledger.send(order)
    ledger.wait_for(lambda: len(ledger.events()) == 1)
    later(ledger, 50 * DAY_MS)
    ledger.send(early)
    wait_for_claim(ledger, partition_of(ledger, order))
    ledger.stop(running)
    later(ledger, 11 * DAY_MS)
    assert ledger.refusals() == []
    ledger.stores.clear()
    decides(ledger, ledger.start(), "after")
    assert [e.type for e in ledger.events() if e.order_id == order.order_id] == ["OrderPlaced"]


@pytest.mark.parametrize("topic", [TOPICS.refusals, TOPICS.commands])
def test_records_that_are_deleted_while_a_writer_is_about_to_read_them_are_skipped(
    ledger: Ledger, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = ledger.start()
    order = place("a")
    ledger.send(order)
    for number in range(4):
        ledger.send(cancel(order, f"x{number}"))
    ledger.wait_for(lambda: len(ledger.refusals()) == 3)
    ledger.stop(running)
    if topic == TOPICS.refusals:
        ledger.stores.clear()
    tp = TopicPartition(topic, partition_of(ledger, order))
    end, true_starts, deleted = ledger.log.ends([tp])[tp], ledger.log.starts, []

    def starts(partitions: Iterable[TopicPartition], *options: Any) -> dict[TopicPartition, int]:
        asked = true_starts(partitions, *options)
        # Not when the test itself reads the log.
        if tp in asked and not deleted and threading.current_thread() is not threading.main_thread():
            deleted.append(tp)
            ledger.log.truncate(tp, end)
        return asked

    monkeypatch.setattr(ledger.log, "starts", starts)
    decides(ledger, ledger.start(), "after")
    assert deleted


@pytest.mark.parametrize("all_of_them", [True, False])
def test_refusals_that_are_deleted_while_read_models_are_built_are_skipped(
    ledger: Ledger, all_of_them: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = ledger.start()
    decides(ledger, running, "before")
    order = place("a")
    ledger.send(order)
    for number in range(6):
        ledger.send(cancel(order, f"x{number}"))
    ledger.wait_for(lambda: len(ledger.refusals()) == 5)
    ledger.stop(running)
    tp = TopicPartition(TOPICS.refusals, partition_of(ledger, order))
    end, true_starts, deleted = ledger.log.ends([tp])[tp], ledger.log.starts, []

    def starts(partitions: Iterable[TopicPartition], *options: Any, **named: Any) -> dict[TopicPartition, int]:
        asked = true_starts(partitions, *options, **named)
        if tp in asked and not deleted:
            deleted.append(tp)
            ledger.log.truncate(tp, end if all_of_them else end - 2)
        return asked

    monkeypatch.setattr(ledger.log, "starts", starts)
    projector = Projector.open(lambda name: MemoryStore(), TOPICS, PARTITIONS)
    bulk = BulkFold(ledger.log, projector.databases, "test")
    bulk.run(bulk.ends())
    assert deleted
    assert sum(Queries(projector).counts().values()) == len(ledger.events()) - 1  # one of the events cancels the first order
    bulk.close()
    projector.close()


def test_events_that_are_deleted_are_a_hole(ledger: Ledger) -> None:
    running = ledger.start()
    decides(ledger, running, "before")
    ledger.stop(running)
    ledger.log.truncate(TopicPartition(TOPICS.events, 1), 1)
    ledger.stores.clear()
    again = ledger.start()
    again.thread.join(PATIENCE_S)
    assert again.codes == [EXIT_FAILED]
    assert f"events 0..0 of {TOPICS.events}/1 are gone" in str(again.process._fatal)
    ledger.running.remove(again)


def test_answers_are_whole_when_nothing_expires(ledger: Ledger) -> None:
    running = ledger.start()
    sent = [place(f"k{i}") for i in range(12)]
    for command in (*sent, *sent):
        ledger.send(command)
    ledger.wait_for(lambda: len(ledger.answers()) == 12)
    ledger.stop(running)
    assert_log_is_whole(ledger, {c.command_id for c in sent})
