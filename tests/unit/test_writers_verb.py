"""The number of writers changes between two runs, and no process decides by the old layout afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from api.cli import writers
from api.cli.writers import change, current, wait_until_unheld
from commands.processor.process import EXIT_FAILED
from ledger.errors import ConfigError, LogError, OtherLayout
from ledger.log import NewRecord
from ledger.topics import TopicSpec
from tests.support.one_log import PARTITIONS, TOPICS, WRITERS, Ledger, assert_log_is_whole, place
from tests.support.patience import PATIENCE_S

MORE = PARTITIONS


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    ledger = Ledger()
    yield ledger
    for running in list(ledger.running):
        ledger.stop(running)


def decides(ledger: Ledger, word: str) -> set[str]:
    sent = [place(f"{word}{n}") for n in range(10)]
    before = len(ledger.events())
    for command in sent:
        ledger.send(command)
    ledger.wait_for(lambda: len(ledger.events()) == before + 10)
    return {command.command_id for command in sent}


@pytest.mark.parametrize("count", [MORE, 1])
def test_the_partitions_are_shared_by_another_number_of_writers(ledger: Ledger, count: int) -> None:
    running = ledger.start()
    sent = decides(ledger, "before")
    ledger.stop(running)
    change(ledger.log, TOPICS, "app", WRITERS, count)
    assert current(ledger.log, TOPICS) == count
    running = ledger.start()
    ledger.wait_for(lambda: running.process.ready_writers == list(range(count)))
    sent |= decides(ledger, "after")
    assert_log_is_whole(ledger, sent)


def test_a_process_with_the_old_layout_ends_before_it_decides(ledger: Ledger) -> None:
    old = ledger.start()
    ledger.wait_for(lambda: sorted(old.process.ready_writers) == list(range(WRITERS)))
    change(ledger.log, TOPICS, "app", WRITERS, MORE)  # although it runs: as if it had been cut off
    ledger.send(place("a"))
    old.thread.join(PATIENCE_S)
    assert old.codes == [EXIT_FAILED]
    assert isinstance(old.process._fatal, OtherLayout)
    assert ledger.events() == []
    ledger.running.remove(old)
    ledger.start("new")
    ledger.wait_for(lambda: len(ledger.events()) == 1)


def test_an_interrupted_change_is_completed(ledger: Ledger) -> None:
    spec = next(spec for spec in TOPICS.specs(PARTITIONS, MORE) if spec.name == TOPICS.writers)
    ledger.log.replace_topic(spec)  # and killed there, before anybody was fenced
    writer = ledger.log.writer("app-0")
    writer.start(PATIENCE_S)
    change(ledger.log, TOPICS, "app", current(ledger.log, TOPICS), MORE)
    with pytest.raises(LogError):
        writer.transact([NewRecord(TOPICS.events, 0, b"k", b"v")])


def test_an_interrupted_change_to_fewer_writers_fences_those_that_are_no_more(ledger: Ledger) -> None:
    last = ledger.log.writer(f"app-{PARTITIONS - 1}")
    last.start(PATIENCE_S)
    spec = next(spec for spec in TOPICS.specs(PARTITIONS, 1) if spec.name == TOPICS.writers)
    ledger.log.replace_topic(spec)  # and killed there
    change(ledger.log, TOPICS, "app", current(ledger.log, TOPICS), 1)
    with pytest.raises(LogError):
        last.transact([NewRecord(TOPICS.events, 0, b"k", b"v")])


def test_it_is_refused_while_a_process_holds_a_writer(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "HELD_S", 0.0)
    running = ledger.start()
    ledger.wait_for(lambda: sorted(running.process.ready_writers) == list(range(WRITERS)))
    with pytest.raises(ConfigError, match="stop every `commands`"):
        wait_until_unheld(ledger.log, TOPICS, "app", lambda _: None)
    ledger.stop(running)
    wait_until_unheld(ledger.log, TOPICS, "app", lambda _: None)


def test_a_topic_with_records_is_not_replaced(ledger: Ledger) -> None:
    ledger.send(place("a"))
    assert ledger.sender.flush(PATIENCE_S) == 0
    with pytest.raises(LogError, match="has records"):
        ledger.log.replace_topic(TopicSpec(TOPICS.commands, 1))
