"""A ledger that is copied to more partitions: the same orders, contacts and answers, new chains, the old ledger closed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from api.cli.archive import BrokenLog, NotEmpty
from api.cli.copying import Copied, Copying, NotTheSame
from ledger.errors import ConfigError
from ledger.log import NewRecord, TopicPartition
from ledger.memory.log import MemoryLog
from ledger.memory.store import MemoryStore
from ledger.partitioner import partition_for
from ledger.schemas.codec import event_codec
from ledger.store import Store
from ledger.topics import Topics
from ledger.upgrades.membership import LedgerMoved, Membership
from tests.support.harness import PARTITIONS, RunningLedger, decided, key, order_body, running_ledger

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
        assert {ledger.context.partition_of(order["order_id"]) for order in orders} > set(range(PARTITIONS))
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
    sender = log.sender("somebody")
    sender.send(NewRecord(NEW.events, 5, b"k", b"v"), lambda acked, error: None)
    sender.flush(10.0)
    sender.close()
    with running_ledger(log, OLD) as ledger:
        ledger.stop_deciding()
        with pytest.raises(NotEmpty, match=r"new\.order-events/5"):
            copy(log, ledger)


def test_a_copy_that_somebody_disturbed_is_not_proven() -> None:
    log = MemoryLog()
    with running_ledger(log, OLD) as ledger, ledger.client() as client:
        decided(client, "/orders", order_body())
        ledger.stop_deciding()
        with copying(log, ledger) as one:
            prove = one._prove

            def disturbed(bar: Any) -> None:
                event = ledger.records(NEW.events)[-1]
                sender = log.sender("somebody")
                sender.send(NewRecord(NEW.events, event.partition, event.key, event.value), lambda acked, error: None)
                sender.flush(10.0)
                sender.close()
                prove(bar)

            one._prove = disturbed  # type: ignore[method-assign]
            with pytest.raises((BrokenLog, NotTheSame)):
                one.run(Quiet())
    assert log.ends([TopicPartition(OLD.control, 0)])[TopicPartition(OLD.control, 0)] >= 0
    member = Membership(log, OLD, "serve", "one", "0.2.0", lambda exc: None)
    member.join()  # the old ledger was not closed
    member.leave()
