"""A log that is not the one from before: each fold continues correctly, or refuses with the sentence that says what to do."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from commands.processor.process import EXIT_FAILED
from ledger.errors import Gap, NotThisLog
from ledger.log import TopicPartition
from tests.support.changed_logs import (
    CONTINUES,
    REFUSES,
    Change,
    live,
    lost_its_end,
    mirrored,
    read_all,
    restored,
    send,
)
from tests.support.one_log import PARTITIONS, TOPICS, Ledger, Running, assert_log_is_whole, cancel, place
from tests.support.patience import PATIENCE_S

ADVICE = r"TOPIC_PREFIX.*restore it whole.*order-ledger adopt-log"

# ---- the ledger before ----------------------------------------------------------------------------------------------


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    for module in ("ledger.log_identity", "commands.processor.fold_check"):
        monkeypatch.setattr(f"{module}.AHEAD_S", 0.3)
    ledger = Ledger()
    yield ledger
    for running in list(ledger.running):
        ledger.stop(running)


# ---- commands -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", CONTINUES)
def test_commands_continue_on_a_copy_and_on_a_restored_log(ledger: Ledger, change: Change) -> None:
    sent = live(ledger)
    change(ledger)
    running = ledger.start()
    more = [cancel(sent[20], "later"), *[place(f"more{n}") for n in range(12)]]
    send(ledger, more)
    for command in sent:  # what was decided before stays decided
        ledger.send(command)
    send(ledger, [place("end")])
    assert_log_is_whole(ledger, {c.command_id for c in [*sent, *more, place("end")]})
    ledger.stop(running)
    assert (running.codes, running.refused) == ([0], [])


@pytest.mark.parametrize("change", REFUSES)
def test_commands_refuse_any_other_log_and_write_nothing(ledger: Ledger, change: Change) -> None:
    live(ledger)
    change(ledger)
    before = read_all(ledger)
    for _ in range(2):  # a restart changes nothing
        running = ledger.start()
        running.thread.join(PATIENCE_S)
        if change is lost_its_end:  # the topic has the same id: first it may be a new leader
            assert running.codes == [EXIT_FAILED]
        else:
            assert [exc.code for exc in running.refused] == ["not_this_log"]
            with pytest.raises(NotThisLog, match=ADVICE):
                raise running.refused[0]
        ledger.stop(running)
    assert read_all(ledger) == before


@pytest.mark.parametrize("change", REFUSES)
def test_stores_of_an_earlier_version_refuse_by_their_links(ledger: Ledger, change: Change) -> None:
    """They have no topic ids, so too low an end may first be that of a new leader."""
    live(ledger)
    forget_ids(ledger)
    change(ledger)
    running = ledger.start()
    running.thread.join(PATIENCE_S)
    assert (running.codes, running.refused) == ([EXIT_FAILED], [])


def test_stores_of_an_earlier_version_fold_a_restored_log_again(ledger: Ledger) -> None:
    sent = live(ledger)
    forget_ids(ledger)
    restored(ledger)
    running = ledger.start()
    send(ledger, [place("more")])
    assert_log_is_whole(ledger, {c.command_id for c in [*sent, place("more")]})
    ledger.stop(running)
    assert running.codes == [0]


def forget_ids(ledger: Ledger) -> None:
    """As a store of an earlier version: `Meta` ends with the link of the last refusal."""
    for store in ledger.stores.values():
        for key, row in list(store.scan(b"")):
            if key.endswith(b"/meta"):
                store.write({key: msgspec.msgpack.encode(msgspec.msgpack.decode(row)[:8])})


def test_mirrored_commands_of_which_the_first_have_expired_are_no_gap(ledger: Ledger) -> None:
    sent = live(ledger)
    mirrored(ledger)
    for p in range(PARTITIONS):
        tp = TopicPartition(TOPICS.commands, p)
        ledger.log.truncate(tp, ledger.log.ends([tp])[tp] - 1)  # the last one is still there, and its outcome names it
    running = ledger.start()
    send(ledger, [place("more")])
    assert_log_is_whole(ledger, {c.command_id for c in [*sent, place("more")]})
    ledger.stop(running)
    assert (running.codes, running.refused) == ([0], [])


def test_mirrored_commands_that_have_all_expired_are_a_gap_that_says_that_they_may_be_a_mirror(ledger: Ledger) -> None:
    live(ledger)
    tps = [TopicPartition(TOPICS.commands, p) for p in range(PARTITIONS)]
    before = ledger.log.topic_id(TOPICS.commands)
    mirrored(ledger)
    for tp, end in ledger.log.ends(tps).items():
        ledger.log.truncate(tp, end)
    running = ledger.start()
    running.thread.join(PATIENCE_S)
    assert running.codes == [EXIT_FAILED]
    assert f"mirror with the same offsets of the one with the id {before.hex()}" in str(running.process._fatal)


def started_without_commands(ledger: Ledger) -> Running:
    """A process that met the deletion of all commands, and ended."""
    for p in range(PARTITIONS):
        tp = TopicPartition(TOPICS.commands, p)
        ledger.log.truncate(tp, ledger.log.ends([tp])[tp])
    running = ledger.start()
    running.thread.join(PATIENCE_S)
    assert running.codes == [EXIT_FAILED]
    return running


def test_commands_that_are_gone_after_a_restore_are_a_gap(ledger: Ledger) -> None:
    """Its last events name offsets of commands that the new topic has not reached, where nothing can be read."""
    live(ledger)
    restored(ledger)
    for n in range(12):
        ledger.send(place(f"unheard{n}"))
    running = started_without_commands(ledger)
    assert isinstance(running.process._fatal, Gap)


def test_commands_that_are_gone_without_an_outcome_are_a_gap_that_says_what_to_do(ledger: Ledger) -> None:
    live(ledger)
    for n in range(40):
        ledger.send(place(f"unheard{n}"))
    running = started_without_commands(ledger)
    assert running.process._fatal is not None
    assert "order-ledger accept-gap" in str(running.process._fatal)
    assert "mirror" not in str(running.process._fatal)
