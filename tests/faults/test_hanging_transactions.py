"""A real hanging transaction on a real broker: named by the writer and by `doctor`, ended by the verb, and nothing is lost."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from api.cli.verbs import app
from commands.messages import OrderCommand, command_codec
from commands.processor.desk import Desk
from ledger.broker.node import EmbeddedBroker
from ledger.envelope import Written
from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.log import NewRecord, Record, TopicPartition
from ledger.memory.store import MemoryStore
from ledger.topics import Topics
from tests.support.hanging import leave_hanging, unchecking_broker
from tests.support.patience import PATIENCE_S
from tests.support.processes import LedgerNode
from tests.support.topic_load import place, wait_answered

pytestmark = pytest.mark.kafka
PARTITIONS = 4
HUNG = 1


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    with unchecking_broker(tmp_path_factory.mktemp("unchecking")) as broker:
        yield broker


@pytest.fixture(scope="module")
def kafka(broker: EmbeddedBroker) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers=broker.bootstrap_servers, client_id="tests")


@pytest.fixture
def node(tmp_path: Path, kafka: KafkaSettings, topics: Topics) -> Iterator[LedgerNode]:
    KafkaLog(kafka).ensure_topics(topics.specs(PARTITIONS, 1), PATIENCE_S)
    created = LedgerNode(tmp_path, kafka.bootstrap_servers, topics, partitions=PARTITIONS)
    yield created
    created.end()


def in_each_partition(log: KafkaLog, first: int) -> dict[int, OrderCommand]:
    commands: dict[int, OrderCommand] = {}
    while len(commands) < PARTITIONS:
        command = place(first, "c-1")
        commands.setdefault(log.partition_for(command.order_id.encode(), PARTITIONS), command)
        first += 1
    return commands


def send(log: KafkaLog, topics: Topics, commands: dict[int, OrderCommand]) -> None:
    sender = log.sender("orders")
    for partition, command in commands.items():
        record = NewRecord(topics.commands, partition, command.order_id.encode(), command_codec().encode(command))
        sender.send(record, lambda acked, error: None)
    assert sender.flush(PATIENCE_S) == 0
    sender.close()


def next_event(log: KafkaLog, topics: Topics, command: OrderCommand) -> NewRecord:
    """The record that the writer of the hung partition would write for `command` in the log: folded and decided as it would."""
    tp, commands = TopicPartition(topics.events, HUNG), TopicPartition(topics.commands, HUNG)
    desk = Desk(MemoryStore(), HUNG, PARTITIONS, topics, log.topic_id(topics.commands))
    for record in read(log, tp):
        desk.fold(record)
    at = next(r for r in read(log, commands) if command_codec().decode(r.value).command_id == command.command_id)
    event = desk.deal(at, Written(log.topic_id(topics.commands), at.offset, desk.meta.epoch))
    assert event is not None
    return event


def read(log: KafkaLog, tp: TopicPartition) -> list[Record]:
    reader, records = log.reader("test", eof=True), list[Record]()
    deadline = time.monotonic() + PATIENCE_S
    try:
        reader.assign({tp: 0})
        while tp not in reader.reached_end():
            assert time.monotonic() < deadline
            records += reader.poll(100, 0.2)
    finally:
        reader.close()
    return records


def verb(node: LedgerNode, *arguments: str) -> tuple[int, Any]:
    ran = CliRunner().invoke(app, [*arguments, "--json"], env=node.child("doctor").env)
    assert ran.stdout, (ran.stderr, ran.exception)
    return ran.exit_code, json.loads(ran.stdout)


def until(condition: Callable[[], bool], node: LedgerNode) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, node.tails()
        time.sleep(0.05)


@pytest.mark.parametrize("how", ["commit", "abort"])
def test_it_is_named_affects_its_partition_alone_and_is_ended_by_the_verb(
    node: LedgerNode, kafka: KafkaSettings, topics: Topics, how: str
) -> None:
    log = KafkaLog(kafka)
    deciding = node.child("commands")
    deciding.start()
    first = in_each_partition(log, 0)
    send(log, topics, first)
    wait_answered(node.bootstrap, topics.prefix, PATIENCE_S)
    deciding.kill()

    # The writer decided and wrote; its coordinator has finished the transaction; the marker of one partition is missing.
    lost = in_each_partition(log, 100)[HUNG]
    send(log, topics, {HUNG: lost})
    tp = TopicPartition(topics.events, HUNG)
    leave_hanging(kafka, f"{topics.prefix}ledger-0", [next_event(log, topics, lost)])
    stable = log.ends([tp], timeout_s=PATIENCE_S)[tp]
    deciding.start()
    until(lambda: '"hanging_transaction"' in deciding.log_file.read_text(), node)
    named = next(line for line in deciding.log_file.read_text().splitlines() if '"code": "hanging_transaction"' in line)
    logged = json.loads(named)
    assert (logged["topic"], logged["partition"], logged["offset"]) == (topics.events, HUNG, stable)
    assert logged["transactional_id"] == f"{topics.prefix}ledger-0"

    more = in_each_partition(log, 200)
    send(log, topics, more)
    elsewhere = [TopicPartition(topics.events, p) for p in range(PARTITIONS) if p != HUNG]
    until(lambda: all(len(read(log, other)) == 2 for other in elsewhere), node)
    assert log.ends([tp], timeout_s=PATIENCE_S) == {tp: stable}

    code, shown = verb(node, "transactions")
    assert code == 1
    (row,) = shown["transactions"]
    assert (row["code"], row["partition"], row["offset"], row["records"]) == ("hanging_transaction", HUNG, stable, 1)
    assert row["advice"] == "commit"

    arguments = ["transactions", "end", "--partition", str(HUNG)]
    asked = subprocess.run(
        [sys.executable, "-m", "api.cli", *arguments],
        env=node.child("doctor").env | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        stdin=subprocess.DEVNULL,
        cwd=node.folder,
    )
    assert (asked.returncode, log.ends([tp], timeout_s=PATIENCE_S)) == (2, {tp: stable}), asked.stderr
    assert (
        "The record in it cannot be read, and nothing later in this partition can be decided. It will be committed: "
        in asked.stdout
    )

    code, done = verb(node, *arguments, "--yes", *([] if how == "commit" else ["--as", "abort"]))
    assert (code, [row["as"] for row in done["ended"]], done["refused"]) == (0, [how], [])
    ledger = wait_answered(node.bootstrap, topics.prefix, PATIENCE_S)
    assert ledger.problems == [], f"{ledger.problems[:3]}\n{node.tails()}"
    assert deciding.ended() is None
    assert verb(node, "transactions") == (0, {"ok": True, "transactions": []})
    assert verb(node, *arguments, "--yes") == (0, {"ok": True, "ended": [], "refused": []})


def test_the_verb_leaves_alone_what_its_coordinator_will_end(node: LedgerNode, kafka: KafkaSettings, topics: Topics) -> None:
    from confluent_kafka import Producer

    producer = Producer(kafka.client_config() | {"transactional.id": f"{topics.prefix}somebody", "log_level": 0})
    producer.init_transactions(PATIENCE_S)
    producer.begin_transaction()
    producer.produce(topics.events, b"\0junk", b"key", 2)
    assert producer.flush(PATIENCE_S) == 0
    code, shown = verb(node, "transactions")
    assert code == 0
    assert [(row["partition"], row["state"], row["hangs"]) for row in shown["transactions"]] == [(2, "Ongoing", False)]
    code, done = verb(node, "transactions", "end", "--partition", "2", "--as", "abort", "--yes")
    assert (code, done["ended"]) == (1, [])
    assert "its coordinator reports Ongoing and ends it by itself" in done["refused"][0]["why"]
    producer.abort_transaction(PATIENCE_S)
    assert verb(node, "transactions")[1] == {"ok": True, "transactions": []}


@pytest.mark.parametrize(("option", "value"), [("--as", "perhaps"), ("--topic", "order-events"), ("--partition", "-1")])
def test_invalid_options_of_the_verb_are_refused(node: LedgerNode, option: str, value: str) -> None:
    ran = CliRunner().invoke(app, ["transactions", "end", "--partition", "0", option, value], env=node.child("doctor").env)
    assert ran.exit_code == 2
    assert option in ran.stderr
