"""A transaction that Kafka left open affects its partition alone, is named, and leaves every fold right however it ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from api.cli.transactions import find
from commands.messages import OrderCommand
from ledger.errors import Discard, NotAllowed
from ledger.hanging import advise, open_transactions, why_not_to_end
from ledger.log import NewRecord, OpenTransaction, TopicPartition
from tests.support.one_log import PARTITIONS, TOPICS, KeptStore, Ledger, Running, assert_log_is_whole, cancel, place
from tests.support.patience import PATIENCE_S


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setattr("commands.processor.held_back.CHECK_EVERY_S", 0.2)
    monkeypatch.setattr("commands.processor.writer_loop.CHECK_EVERY_S", 0.2)
    ledger = Ledger()
    yield ledger
    for running in list(ledger.running):
        ledger.stop(running)


def partition_of(ledger: Ledger, command: OrderCommand) -> int:
    return ledger.log.partition_for(command.order_id.encode(), PARTITIONS)


def one_in_each_partition(ledger: Ledger, word: str) -> dict[int, OrderCommand]:
    commands: dict[int, OrderCommand] = {}
    number = 0
    while len(commands) < PARTITIONS:
        command = place(f"{word}{number}")
        commands.setdefault(partition_of(ledger, command), command)
        number += 1
    return commands


def hang(ledger: Ledger, command: OrderCommand, topic: str = TOPICS.events) -> OpenTransaction:
    """`command` is decided, its writer believes in the commit, and the marker of its partition is never written."""
    tp = TopicPartition(topic, partition_of(ledger, command))
    before = ledger.log.ends([tp], "read_uncommitted")[tp]
    ledger.log.lose_marker(tp)
    ledger.send(command)
    ledger.wait_for(lambda: ledger.log.ends([tp], "read_uncommitted")[tp] > before)
    ledger.wait_for(lambda: len(ledger.log.open_transactions([tp])) == 1 and not ledger.log.open_transactions([tp])[0].known)
    return ledger.log.open_transactions([tp])[0]


def hanging(running: Running) -> list[OpenTransaction]:
    return [one for loop in running.process._loops.values() for one in loop.held.hanging]


def answered(ledger: Ledger, *commands: OrderCommand) -> bool:
    return {c.command_id for c in commands} <= set(ledger.answers())


@pytest.mark.parametrize("commit", [True, False])
@pytest.mark.parametrize("topic", [TOPICS.events, TOPICS.refusals])
def test_it_affects_its_partition_alone_and_every_fold_is_right_when_it_has_ended(
    ledger: Ledger, topic: str, commit: bool
) -> None:
    """The owner's store is ahead of the committed records: Kafka confirmed a commit that nobody else sees."""
    running = ledger.start()
    first = one_in_each_partition(ledger, "first")
    for command in first.values():
        ledger.send(command)
    ledger.wait_for(lambda: answered(ledger, *first.values()))
    # A placed order that is cancelled leads to an event, one that is cancelled twice to a refusal.
    last = cancel(first[1], "once")
    sent = [*first.values(), last]
    if topic == TOPICS.refusals:
        ledger.send(last)
        ledger.wait_for(lambda: answered(ledger, last))
        last = cancel(first[1], "twice")
        sent.append(last)
    one = hang(ledger, last, topic)
    with capture_logs() as lines:
        ledger.wait_for(lambda: [h[:1] + h[4:5] for h in hanging(running)] == [(one.partition, one.start_offset)])
        named = [line for line in lines if line.get("code") == "hanging_transaction"]
        assert [(n["topic"], n["partition"], n["producer_id"]) for n in named] == [(topic, 1, one.producer_id)]
        assert named[0]["since"].startswith("20")

    more = one_in_each_partition(ledger, "more")
    for command in more.values():
        ledger.send(command)
    elsewhere = [command for p, command in more.items() if p != 1]
    ledger.wait_for(lambda: answered(ledger, *elsewhere))
    assert not answered(ledger, more[1])
    assert not answered(ledger, last)

    ledger.log.end_transaction(one, commit)
    ledger.wait_for(lambda: answered(ledger, more[1], last))
    ledger.wait_for(lambda: hanging(running) == [])
    assert running.codes == []
    ledger.send(cancel(more[1], "after"))
    sent += [*more.values(), cancel(more[1], "after")]
    ledger.wait_for(lambda: answered(ledger, *sent))
    assert_log_is_whole(ledger, {c.command_id for c in sent})


def test_a_process_that_starts_behind_an_abort_does_not_trust_its_earlier_fold(ledger: Ledger) -> None:
    running = ledger.start()
    first = one_in_each_partition(ledger, "first")
    for command in first.values():
        ledger.send(command)
    ledger.wait_for(lambda: answered(ledger, *first.values()))
    lost = cancel(first[2], "lost")
    one = hang(ledger, lost)
    ledger.wait_for(lambda: len(hanging(running)) == 1)
    ledger.stop(running)
    ledger.log.end_transaction(one, commit=False)
    assert not answered(ledger, lost)
    ledger.start()
    ledger.wait_for(lambda: answered(ledger, lost))
    assert_log_is_whole(ledger, {c.command_id for c in [*first.values(), lost]})


def test_a_standby_that_is_ahead_waits_and_takes_over(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was the owner when Kafka confirmed the commit, then lost the writer: it must not end as if the log were another."""
    monkeypatch.setattr("commands.processor.fold_check.AHEAD_S", 0.5)
    running = ledger.start()
    first = one_in_each_partition(ledger, "first")
    for command in first.values():
        ledger.send(command)
    ledger.wait_for(lambda: answered(ledger, *first.values()))
    lost = cancel(first[3], "lost")
    one = hang(ledger, lost)
    second = ledger.start("two")
    for loop in running.process._loops.values():
        loop.leave(5)
    ledger.wait_for(lambda: running.process.ready_writers == [])
    follows = [loop for loop in running.process._loops.values() if 3 in loop._desks]
    ledger.wait_for(lambda: follows[0]._where == "follow")
    with pytest.raises(AssertionError, match="in time"):  # longer than AHEAD_S, after which the process used to end
        ledger.wait_for(lambda: running.codes != [] or not running.thread.is_alive(), 2)
    ledger.log.end_transaction(one, commit=True)
    ledger.wait_for(lambda: answered(ledger, lost))
    assert running.codes == second.codes == []


def test_an_open_transaction_that_will_end_is_waited_for_and_not_named(ledger: Ledger) -> None:
    """The transaction of another producer, known to its coordinator."""
    ledger.log.fail_next_commit("before")
    foreign = ledger.log.writer("somebody-else")
    foreign.start(5)
    with pytest.raises(Discard):
        foreign.transact([NewRecord(TOPICS.events, 0, b"k", b"\0junk")])
    with capture_logs() as lines:
        running = ledger.start()
        ledger.wait_for(lambda: any("somebody-else" in str(line.get("why")) for line in lines))
        assert hanging(running) == []
        assert not [line for line in lines if line.get("code") == "hanging_transaction"]
        successor = ledger.log.writer("somebody-else")
        successor.start(5)
        ledger.wait_for(lambda: sorted(running.process.ready_writers) == [0, 1])


def test_a_commit_that_readers_do_not_see_is_noticed_while_nothing_else_happens(ledger: Ledger) -> None:
    running = ledger.start()
    command = place("a")
    one = hang(ledger, command)
    ledger.wait_for(lambda: [h.start_offset for h in hanging(running)] == [one.start_offset])


@pytest.mark.parametrize("refused", [False, True])
def test_records_that_hang_and_are_aborted_with_the_next_transaction_are_decided_again(ledger: Ledger, refused: bool) -> None:
    """One marker ends all that a producer has open in a partition: an abort also takes what was confirmed to be committed."""
    ledger.start()
    order = one_in_each_partition(ledger, "first")[0]
    if refused:
        for command in (order, cancel(order, "x")):
            ledger.send(command)
        ledger.wait_for(lambda: answered(ledger, order, cancel(order, "x")))
    hidden, after = (cancel(order, "y"), cancel(order, "z")) if refused else (order, cancel(order, "x"))
    hang(ledger, hidden, TOPICS.refusals if refused else TOPICS.events)
    ledger.log.fail_next_commit("before")
    ledger.send(after)
    ledger.wait_for(lambda: answered(ledger, hidden, after))
    assert_log_is_whole(ledger, {c.command_id for c in (order, cancel(order, "x"), hidden, after)})


def test_the_records_of_a_hanging_transaction_show_how_it_should_end(ledger: Ledger) -> None:
    running = ledger.start()
    first = one_in_each_partition(ledger, "first")
    for command in first.values():
        ledger.send(command)
    ledger.wait_for(lambda: answered(ledger, *first.values()))
    one = hang(ledger, cancel(first[0], "x"))
    ledger.stop(running)
    advice = advise(ledger.log, TOPICS, one)
    assert (advice.end, advice.records) == ("commit", 1)
    assert advise(ledger.log, TOPICS, one._replace(state="CompleteAbort")).end == "abort"
    assert why_not_to_end(one, 0) == ""

    # An older batch, appended late: it follows nothing that is committed.
    ledger.log.end_transaction(one, commit=True)
    late = ledger.records(TOPICS.events)
    old = next(r for r in late if r.partition == 0)
    ledger.log.lose_marker(TopicPartition(TOPICS.events, 0))
    zombie = ledger.log.writer("app-0")
    zombie.start(5)
    zombie.transact([NewRecord(TOPICS.events, 0, old.key, old.value)])
    (late_transaction,) = ledger.log.open_transactions([TopicPartition(TOPICS.events, 0)])
    advice = advise(ledger.log, TOPICS, late_transaction)
    assert advice.end is None
    assert "does not follow" in advice.why


@pytest.mark.parametrize(
    ("change", "now_ms", "refused"),
    [
        ({}, 10**12, ""),
        ({"known": True, "state": "PrepareCommit"}, 10**13, "about to write the marker itself"),
        ({"known": True, "state": "PrepareAbort"}, 10**13, "about to write the marker itself"),
        ({"known": True, "state": "Ongoing"}, 10**12 + 10_000, "ends it by itself 10 s after its start"),
        ({"known": True, "state": "Ongoing"}, 10**12 + 310_001, ""),
    ],
)
def test_a_transaction_that_its_coordinator_will_end_is_left_to_it(change: dict[str, Any], now_ms: int, refused: str) -> None:
    one = OpenTransaction(TopicPartition("t", 0), 1, 0, 0, 0, 10**12, "w", "Empty", 10_000, False)._replace(**change)
    said = why_not_to_end(one, now_ms)
    assert refused in said
    assert bool(said) == bool(refused)


def test_who_may_not_describe_a_writer_cannot_see_whether_its_transaction_hangs(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To such a user, a live transaction looks like one that its coordinator has forgotten: no verb may end it."""
    tp = TopicPartition(TOPICS.events, 0)
    nameless = OpenTransaction(tp, 1, 0, 0, 0, 10**12, None, "", 0, False)
    monkeypatch.setattr(ledger.log, "open_transactions", lambda wanted: [nameless])
    assert open_transactions(ledger.log, TOPICS, "app", [tp]) == [nameless]  # every id is shown, and it is of none: it hangs
    monkeypatch.setattr(ledger.log, "hidden_ids", lambda ids: [one for one in ids if one == "app-1"])
    with pytest.raises(NotAllowed, match=r"order-events/0 .* transactional id app-1; .* grant Describe"):
        find(ledger.log, TOPICS, "app")
    named = nameless._replace(transactional_id="app-0")
    monkeypatch.setattr(ledger.log, "open_transactions", lambda wanted: [named])
    assert open_transactions(ledger.log, TOPICS, "app", [tp]) == [named]


def test_a_store_of_another_log_is_a_hole_and_not_folded_again(ledger: Ledger) -> None:
    """The same offsets, other records: nothing was aborted, so a person has to check."""
    running = ledger.start()
    ledger.send(place("a"))
    ledger.wait_for(lambda: len(ledger.events()) == 1)
    ledger.stop(running)
    kept = ledger.stores
    other = Ledger()
    again = other.start()
    other.send(place("a", total=2000))
    other.wait_for(lambda: len(other.events()) == 1)
    other.stop(again)
    other.stores = {name: KeptStore() for name in kept}
    for name, store in kept.items():
        other.stores[name].write(dict(store.scan(b"")))
    last = other.start()
    last.thread.join(PATIENCE_S)
    assert [exc.code for exc in last.refused] == ["not_this_log"], "at its start, because the topic has another id"
    assert "has another record before that" in str(last.refused[0])
