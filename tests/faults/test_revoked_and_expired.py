"""On Kafka: writers that are revoked right after a commit, and a log from which everything that may be deleted is deleted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
from confluent_kafka import TopicPartition as KafkaTopicPartition
from confluent_kafka.admin import AdminClient

from commands.messages import OrderCommand, command_codec
from commands.processor.fold_check import FoldCheck
from commands.processor.process import Books, CommandsProcess, Companion, Fatal
from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.log import NewRecord, TopicPartition
from ledger.memory.store import MemoryStore
from ledger.order import Order
from ledger.progress import claimed, read_claims
from ledger.schemas.codec import event_codec, refusal_codec
from ledger.topics import Topics
from tests.support.one_log import cancel, place
from tests.support.patience import PATIENCE_S, until

pytestmark = pytest.mark.kafka
PARTITIONS, WRITERS = 12, 2
REVOCATIONS = 60


class Revoking:
    """A companion that takes each writer away from its process as soon as it has committed, and gives it back a moment later."""

    def __init__(self) -> None:
        self.process: CommandsProcess | None = None
        self.revoked = 0

    def changed(self, orders: Sequence[Order]) -> None:
        """Called by the thread of the writer that has just committed."""
        assert self.process is not None
        if not orders or self.revoked >= REVOCATIONS:
            return
        loop = next(loop for loop in self.process._loops.values() if loop is threading.current_thread())
        self.revoked += 1
        loop._owned.clear()
        threading.Timer(0.2, loop.take).start()

    def own(self, partitions: Sequence[int]) -> None:
        pass

    def disown(self, partitions: Sequence[int]) -> None:
        pass

    def asked(self, order_ids: Sequence[str]) -> None:
        pass

    def start(self) -> None:
        pass

    def stop(self, timeout_s: float) -> None:
        pass

    def counts(self) -> dict[str, int]:
        return {}


class Ledger:
    """Topics on Kafka, and what is sent to them and read from them."""

    def __init__(self, kafka: KafkaSettings, topics: Topics, partitions: int, writers: int) -> None:
        self.log, self.topics, self.partitions = KafkaLog(kafka), topics, partitions
        self.log.ensure_topics(topics.specs(partitions, writers), PATIENCE_S)
        self._admin = AdminClient(kafka.client_config())
        self._sender = self.log.sender("test")

    def send(self, *commands: OrderCommand) -> None:
        for command in commands:
            key = command.order_id.encode()
            partition = self.log.partition_for(key, self.partitions)
            record = NewRecord(self.topics.commands, partition, key, command_codec().encode(command))
            self._sender.send(record, lambda acked, error: None)
        assert self._sender.flush(PATIENCE_S) == 0

    def tps(self, topic: str) -> list[TopicPartition]:
        return [TopicPartition(topic, p) for p in range(self.partitions)]

    def answers(self) -> list[str]:
        """The command of each event and each refusal that the log still has."""
        ids: list[str] = []
        for topic, codec in ((self.topics.events, event_codec()), (self.topics.refusals, refusal_codec())):
            starts = self.log.starts(self.tps(topic), timeout_s=PATIENCE_S)
            ends = self.log.ends(self.tps(topic), timeout_s=PATIENCE_S)
            reader = self.log.reader("test", eof=True)
            reader.assign({tp: at for tp, at in starts.items() if at < ends[tp]})
            while any(reader.reached_end().get(tp, 0) < end for tp, end in ends.items() if starts[tp] < end):
                ids += [codec.decode(record.value).command_id or "" for record in reader.poll(1000, 0.2)]  # type: ignore[attr-defined]
            reader.close()
        return ids

    def delete_everything(self, topic: str) -> None:
        ends = self.log.ends(self.tps(topic), "read_uncommitted", PATIENCE_S)
        wanted = [KafkaTopicPartition(topic, tp.partition, end) for tp, end in ends.items()]
        for future in self._admin.delete_records(wanted).values():
            future.result(PATIENCE_S)
        until(lambda: self.log.starts(self.tps(topic)) == ends)

    def close(self) -> None:
        self._sender.close()


@contextmanager
def running(
    ledger: Ledger, name: str, companions: Callable[[Books, Fatal, int], Sequence[Companion]] = lambda books, fatal, count: ()
) -> Iterator[tuple[CommandsProcess, list[int]]]:
    """A `commands` process without any store of before; and its exit code, once it has ended."""
    codes: list[int] = []
    app_id = f"{ledger.topics.prefix}app"
    process = CommandsProcess(ledger.log, lambda store: MemoryStore(), ledger.topics, app_id, name, companions)
    thread = threading.Thread(target=lambda: codes.append(process.run()), name=name)
    thread.start()
    try:
        yield process, codes
    finally:
        process.stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_writers_that_are_revoked_right_after_a_commit_decide_each_command_once(
    kafka: KafkaSettings, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, revoking, ahead_count = Ledger(kafka, topics, PARTITIONS, WRITERS), Revoking(), 0
    ahead_of_open = FoldCheck.ahead_of_open

    def counted(check: FoldCheck, *ends: dict[TopicPartition, int]) -> set[int]:
        nonlocal ahead_count
        ahead = ahead_of_open(check, *ends)
        ahead_count += bool(ahead)
        return ahead

    monkeypatch.setattr(FoldCheck, "ahead_of_open", counted)
    sent: list[str] = []
    try:
        with running(ledger, "one", lambda books, fatal, count: [revoking]) as (process, codes):
            revoking.process = process
            until(lambda: len(process.ready_writers) == WRITERS)
            number = 0
            while revoking.revoked < REVOCATIONS:
                some = [place(f"k{n}") for n in range(number, number + 2 * PARTITIONS)]
                number += len(some)
                sent += [command.command_id for command in some]
                ledger.send(*some)
                time.sleep(0.3)
                assert codes == []
            until(lambda: codes != [] or set(ledger.answers()) == set(sent))
            assert codes == []
        print(f"\n{revoking.revoked} revocations right after a commit: {ahead_count} times the markers came later")
        assert sorted(ledger.answers()) == sorted(sent)
    finally:
        ledger.close()


@pytest.mark.parametrize("last", ["retry", "refusal"])
def test_a_node_without_any_store_decides_when_all_that_may_expire_has_expired(
    kafka: KafkaSettings, topics: Topics, last: str
) -> None:
    ledger = Ledger(kafka, topics, 1, 1)
    order, command_log = place("a"), ledger.log.topic_id(topics.commands)
    commands = [order, order] if last == "retry" else [order, cancel(order, "x"), cancel(order, "y")]
    try:
        with running(ledger, "one"):
            ledger.send(*commands)
            (end,) = ledger.log.ends(ledger.tps(topics.commands), timeout_s=PATIENCE_S).values()
            until(lambda: claimed(read_claims(ledger.log, topics, command_log), 0, 1 << 60) == end)
        ledger.delete_everything(topics.commands)
        ledger.delete_everything(topics.refusals)
        with running(ledger, "two") as (process, codes):
            until(lambda: codes != [] or process.ready_writers == [0])
            ledger.send(place("after"), order)
            until(lambda: codes != [] or place("after").command_id in ledger.answers())
            assert codes == []
        assert ledger.answers().count(order.command_id) == 1
    finally:
        ledger.close()
