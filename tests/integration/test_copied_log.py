"""A ledger that is copied to more partitions: the same orders, contacts and answers, new chains, the old ledger closed."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from api.cli import copying as copying_verb
from api.cli.acts import Acts
from api.cli.archive import BrokenLog, NotEmpty
from api.cli.copying import Copied, Copying, NotTheSame
from api.cli.upgrade import advice
from commands.notifier.resuming import notifier_group
from ledger.audit import WRITERS_CHANGE
from ledger.durations import MINUTE_MS
from ledger.errors import ConfigError, LogError
from ledger.levels import LEVEL
from ledger.log import NewRecord, TopicPartition
from ledger.memory.log import MemoryLog
from ledger.memory.store import MemoryStore
from ledger.partitioner import partition_for
from ledger.schemas.codec import event_codec
from ledger.store import Store
from ledger.topics import Topics
from ledger.upgrades.control import Control
from ledger.upgrades.membership import LedgerMoved, Membership, ProgramTooOld, finish
from ledger.upgrades.records import LEVEL_KEY, LIVES_MS, Moved, View, announcement, moved_records
from tests.support.harness import PARTITIONS, Clock, RunningLedger, decided, key, order_body, running_ledger
from tests.support.patience import PATIENCE_S

OLD, NEW = Topics("old."), Topics("new.")
MORE = 3 * PARTITIONS


class Quiet:
    """Shows nothing."""

    def started(self, total: int, done: int) -> None:
        """Nothing."""

    def moved(self, done: int, events: int, bytes_read: int) -> None:
        """Nothing."""

    def phase(self, text: str) -> None:
        """Nothing."""


class MemoryDoors:
    """Stores in memory for the proof."""

    def opener(self, folder: Path, loading: bool) -> Any:
        def open_store(name: str) -> Store:
            return MemoryStore()

        return open_store


@contextmanager
def copying(log: MemoryLog, ledger: RunningLedger, partitions: int = MORE) -> Iterator[Copying]:
    source = ledger.context.settings
    target = source.model_copy(update={"topic_prefix": NEW.prefix, "partitions": partitions})
    yield Copying(log, source, target, MemoryDoors(), threading.Event())  # type: ignore[arg-type]  # what it needs of them


def copy(log: MemoryLog, ledger: RunningLedger, partitions: int = MORE) -> Copied:
    with copying(log, ledger, partitions) as one:
        one.refuse_running()
        return one.run(Quiet())


def send(log: MemoryLog, topic: str, partition: int = 0, key: bytes | None = b"k", value: bytes | None = b"v") -> None:
    sender = log.sender("somebody")
    sender.send(NewRecord(topic, partition, key, value), lambda acked, error: None)
    assert sender.flush(PATIENCE_S) == 0
    sender.close()


def around_the_proof(one: Copying, work: Callable[[], object], after: Callable[[], object] = lambda: None) -> None:
    """Call `work` when all is copied and not proven yet, `after` when it is."""
    prove = one._prove

    def disturbed(bar: Any) -> None:
        work()
        prove(bar)
        after()

    one._prove = disturbed  # type: ignore[method-assign]


def test_orders_contacts_and_answers_are_the_same_and_the_ledger_continues() -> None:
    log = MemoryLog()
    headers = [key() for _ in range(40)]
    with running_ledger(log, OLD) as ledger, ledger.client() as client:
        answers = [decided(client, "/orders", order_body(), **one) for one in headers]
        orders = [answer.json() for answer in answers]
        for order in orders[:10]:
            decided(client, f"/orders/{order['order_id']}/cancel", {})
        refused = decided(client, "/orders", order_body(lines=[]), **headers[0])
        before = [client.get(f"/orders/{order['order_id']}").json() for order in orders]
        events = [client.get(f"/orders/{order['order_id']}/events").json()["data"] for order in orders]
        ledger.stop_deciding()
        copied = copy(log, ledger)
    assert copied.events == 50 + 1  # the harness places one
    assert copied.contacts >= 40
    with running_ledger(log, NEW, partitions=MORE) as ledger, ledger.client() as client:
        homes = {ledger.context.partition_of(order["order_id"]) for order in orders}
        assert homes & set(range(PARTITIONS))
        assert homes - set(range(PARTITIONS))
        assert [client.get(f"/orders/{order['order_id']}").json() for order in orders] == before
        shown = [client.get(f"/orders/{order['order_id']}/events").json()["data"] for order in orders]
        assert [[without_position(row) for row in rows] for rows in shown] == [
            [without_position(row) for row in rows] for rows in events
        ]
        again = [decided(client, "/orders", order_body(), **one) for one in headers]
        assert [answer.json()["order_id"] for answer in again] == [order["order_id"] for order in orders]
        assert all(answer.headers["idempotency-replayed"] == "true" for answer in again)
        assert decided(client, "/orders", order_body(lines=[]), **headers[0]).status_code == refused.status_code
        cancelled = decided(client, f"/orders/{orders[20]['order_id']}/cancel", {})
        assert cancelled.json()["status"] == "cancelled"
        numbers = {order["number"] for order in orders}
        numbers |= {decided(client, "/orders", order_body()).json()["number"] for _ in range(20)}
        assert len(numbers) == 60
        listed = client.get("/orders", params={"number": orders[3]["number"]}).json()["data"]
        assert [order["order_id"] for order in listed] == [orders[3]["order_id"]]


def without_position(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("partition", "offset")}


def test_each_chain_is_whole_and_an_event_differs_in_nothing_but_its_link() -> None:
    log = MemoryLog()
    with running_ledger(log, OLD) as ledger, ledger.client() as client:
        for _ in range(12):
            decided(client, "/orders", order_body())
        ledger.stop_deciding()
        before = ledger.records(OLD.events)
        copy(log, ledger)
        after = ledger.records(NEW.events)
    decode = event_codec().decode

    def content(records: list[Any]) -> dict[tuple[str, int], Any]:
        decoded = [(decode(record.value), record) for record in records]
        return {
            (event.order_id, event.version): (
                event.type,
                event.command_id,
                event.occurred_at,
                record.headers,
                record.timestamp_ms,
            )
            for event, record in decoded
        }

    assert content(after) == content(before)
    assert all(record.partition == partition_for(record.key, MORE) for record in after)
    assert {record.partition % PARTITIONS for record in after} == {record.partition for record in before}


def test_the_old_ledger_is_closed_to_every_program() -> None:
    log = MemoryLog()
    with running_ledger(log, OLD) as ledger:
        ledger.stop_deciding()
        copy(log, ledger)
        with copying(log, ledger) as again, pytest.raises(LedgerMoved, match=r"TOPIC_PREFIX=new\. with PARTITIONS=12"):
            again.refuse_running()
    member = Membership(log, OLD, "serve", "one", "9.9.9", lambda exc: None)
    with pytest.raises(LedgerMoved, match="closed"):
        member.join()
    early = Membership(log, OLD, "serve", "two", "0.2.0", lambda exc: None)
    early._view.apply([])  # a program that does not know the record sees a level that it does not have
    assert early._control.read(early._view).level > 1_000


@pytest.mark.parametrize("partitions", [PARTITIONS, PARTITIONS + 1, PARTITIONS - 1, 1])
def test_another_number_of_partitions_is_refused(partitions: int) -> None:
    log = MemoryLog()
    with (
        running_ledger(log, OLD) as ledger,
        pytest.raises(ConfigError, match=f"{partitions} is not a multiple of {PARTITIONS}"),
        copying(log, ledger, partitions),
    ):
        pass


def test_it_is_refused_while_a_node_runs() -> None:
    log = MemoryLog()
    with running_ledger(log, OLD) as ledger:
        member = Membership(log, OLD, "serve", "one", "0.2.0", lambda exc: None)
        member.join()
        with copying(log, ledger) as one, pytest.raises(ConfigError, match="stop every node first: serve/one"):
            one.refuse_running()
        member.leave()
        with copying(log, ledger) as one:
            one.refuse_running()


def test_a_command_that_nobody_decided_is_not_left_behind() -> None:
    log = MemoryLog()
    with running_ledger(log, OLD) as ledger, ledger.client() as client:
        decided(client, "/orders", order_body())
        ledger.stop_deciding()
        answer = client.post("/orders", json=order_body(), headers={**key(), "Prefer": "respond-async"})
        assert answer.status_code == 202
        with pytest.raises(ConfigError, match=r"commands are not decided.* 1 in partition"):
            copy(log, ledger)
        assert ledger.client().get("/orders").status_code == 200  # as it was


def test_a_prefix_with_records_is_not_written_to() -> None:
    log = MemoryLog()
    log.ensure_topics(NEW.specs(MORE, 1))
    send(log, NEW.events, 5)
    with running_ledger(log, OLD) as ledger:
        ledger.stop_deciding()
        with pytest.raises(NotEmpty, match=r"new\.order-events/5"):
            copy(log, ledger)


def test_a_prefix_that_was_closed_is_not_written_to() -> None:
    log = MemoryLog()
    log.ensure_topics(NEW.specs(MORE, 1))
    with closing(Control(log, NEW)) as control:
        control.write(moved_records(Moved("newer.", MORE), "0.2.0"))
    with running_ledger(log, OLD) as ledger:
        ledger.stop_deciding()
        with pytest.raises(NotEmpty, match=r"new\.order-control is not empty: .* TOPIC_PREFIX=newer\."):
            copy(log, ledger)
    assert is_open(log)


def test_a_copy_that_somebody_disturbed_is_not_proven() -> None:
    log = MemoryLog()
    with running_ledger(log, OLD) as ledger, ledger.client() as client:
        decided(client, "/orders", order_body())
        ledger.stop_deciding()
        with copying(log, ledger) as one:

            def repeat_the_last() -> None:
                event = ledger.records(NEW.events)[-1]
                send(log, NEW.events, event.partition, event.key, event.value)

            around_the_proof(one, repeat_the_last)
            with pytest.raises((BrokenLog, NotTheSame)):
                one.run(Quiet())
    assert log.ends([TopicPartition(OLD.control, 0)])[TopicPartition(OLD.control, 0)] >= 0
    member = Membership(log, OLD, "serve", "one", "0.2.0", lambda exc: None)
    member.join()  # the old ledger was not closed
    member.leave()


def is_open(log: MemoryLog) -> bool:
    """Whether a node can still start on the old ledger."""
    member = Membership(log, OLD, "serve", "late", "0.2.0", lambda exc: None)
    member.join()
    member.leave()
    return True


@pytest.mark.parametrize("topic", [OLD.commands, OLD.events, OLD.contacts])
def test_whatever_is_written_to_the_old_ledger_during_the_copy_stops_it(topic: str) -> None:
    log = MemoryLog()
    with running_ledger(log, OLD) as ledger, ledger.client() as client:
        decided(client, "/orders", order_body())
        ledger.stop_deciding()
        with copying(log, ledger) as one:
            around_the_proof(one, lambda: send(log, topic))
            with pytest.raises(NotTheSame, match=re.escape(f"during the copy: {topic}/0")):
                one.run(Quiet())
    assert is_open(log)


def test_a_node_that_starts_during_the_copy_stops_it() -> None:
    log = MemoryLog()
    with running_ledger(log, OLD) as ledger, ledger.client() as client:
        decided(client, "/orders", order_body())
        ledger.stop_deciding()
        member = Membership(log, OLD, "commands", "early", "0.2.0", lambda exc: None)
        with copying(log, ledger) as one:
            around_the_proof(one, lambda: None, after=member.join)
            with pytest.raises(ConfigError, match="stop every node first: commands/early"):
                one.run(Quiet())
    member.leave()
    assert is_open(log)


def test_it_is_refused_while_a_node_of_the_new_ledger_runs() -> None:
    log = MemoryLog()
    log.ensure_topics(NEW.specs(MORE, 1))
    member = Membership(log, NEW, "commands", "early", "0.2.0", lambda exc: None)
    member.join()
    with running_ledger(log, OLD) as ledger:
        ledger.stop_deciding()
        with pytest.raises(ConfigError, match="nodes run on the new topics: commands/early"):
            copy(log, ledger)
        member.leave()
        copy(log, ledger)


def test_a_writer_that_was_ready_on_the_empty_topics_is_fenced() -> None:
    log = MemoryLog()
    with running_ledger(log, OLD) as ledger, ledger.client() as client:
        decided(client, "/orders", order_body())
        ledger.stop_deciding()
        target = ledger.context.settings.model_copy(update={"topic_prefix": NEW.prefix})
        early = log.writer(f"{target.ledger_id}-{MORE - 1}")
        early.start(PATIENCE_S)
        copy(log, ledger)
        with pytest.raises(LogError):
            early.transact([NewRecord(NEW.events, 0, b"k", b"v")])


def test_what_a_lost_marker_hides_is_not_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying_verb, "OPEN_S", 0.0)
    log = MemoryLog()
    with running_ledger(log, OLD) as ledger, ledger.client() as client:
        decided(client, "/orders", order_body())
        ledger.stop_deciding()
        log.lose_marker(TopicPartition(OLD.events, 1))
        writer = log.writer("hanging")
        writer.start(PATIENCE_S)
        writer.transact([NewRecord(OLD.events, 1, b"k", b"v")])
        writer.close()
        with pytest.raises(ConfigError, match=r"open transactions hold back old\.order-events/1"):
            copy(log, ledger)
    assert is_open(log)


def test_an_earlier_program_does_not_copy_what_it_cannot_read() -> None:
    log = MemoryLog()
    with running_ledger(log, OLD) as ledger:
        ledger.stop_deciding()
        with closing(Control(log, OLD)) as control:
            control.write([(LEVEL_KEY, announcement(LEVEL + 1, "9.9.9"))])
        with pytest.raises(ProgramTooOld, match=r"copy it with version 9\.9\.9 or later"):
            copy(log, ledger)


def test_a_node_that_was_killed_is_forgotten_although_nobody_else_runs() -> None:
    clock = Clock()
    log = MemoryLog(clock)
    with running_ledger(log, OLD, clock=clock) as ledger:
        ledger.stop_deciding()
        Membership(log, OLD, "serve", "killed", "0.2.0", lambda exc: None).join()
        with pytest.raises(ConfigError, match="serve/killed"):
            copy(log, ledger)
        clock.ahead_ms += LIVES_MS + MINUTE_MS
        copy(log, ledger)


def test_a_message_that_waits_is_not_left_behind_and_the_new_ledger_announces_from_its_beginning() -> None:
    log = MemoryLog()
    with running_ledger(log, OLD) as ledger, ledger.client() as client:
        decided(client, "/orders", order_body())
        ledger.stop_deciding()
        source = ledger.context.settings
        bookmark = log.bookmark(notifier_group(source.ledger_id))
        events = [TopicPartition(OLD.events, p) for p in range(PARTITIONS)]
        bookmark.write(dict.fromkeys(events, 0))
        with pytest.raises(ConfigError, match=r"messages about events of partitions .* are not sent"):
            copy(log, ledger)
        bookmark.write(log.ends(events))
        log.recreate(NEW.events)
        log.recreate(NEW.refusals)
        copied = copy(log, ledger)
        target = source.model_copy(update={"topic_prefix": NEW.prefix})
        new = [TopicPartition(NEW.events, p) for p in range(MORE)]
        assert log.bookmark(notifier_group(target.ledger_id)).read(new) == log.ends(new)
        assert copied.events > 0


def test_a_refusal_that_nobody_can_read_is_copied_as_it_is() -> None:
    log = MemoryLog()
    with running_ledger(log, OLD) as ledger:
        ledger.stop_deciding()
        send(log, OLD.refusals, 2, value=b"junk")
        assert copy(log, ledger).refusals == 1
        assert b"junk" in [record.value for record in ledger.records(NEW.refusals)]


def test_verbs_say_where_a_closed_ledger_is() -> None:
    log = MemoryLog()
    with running_ledger(log, OLD) as ledger:
        ledger.stop_deciding()
        copy(log, ledger)
        acts = Acts(log, ledger.context.settings, WRITERS_CHANGE, "more")
        with pytest.raises(LedgerMoved, match=r"TOPIC_PREFIX=new\."):
            acts.request()
        with pytest.raises(LedgerMoved, match=r"TOPIC_PREFIX=new\."):
            finish(log, OLD, "0.2.0")
    assert "TOPIC_PREFIX=new." in advice(Control(log, OLD).read(View()))
