"""An erasure that was acknowledged is finished, even by a `serve` that was killed in the middle of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ledger.contacts import BARRIER_KEY, Address, OrderContact, contact_key
from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.log import Acked, NewRecord, Record, TopicPartition
from ledger.partitioner import partition_for
from ledger.schemas.codec import contact_codec
from ledger.topics import Topics
from tests.support import loopback, processes
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.kafka

PARTITIONS, CONTACTS = 4, 40_000  # at least four seconds of work, with the pauses between slices
ADA = OrderContact("c-1", "Ada", "ada@example.org", Address("1 Mill Lane", "Leeds", "LS1 1AA", "GB"))


def until(holds: Callable[[], bool], node: processes.LedgerNode) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, node.tails()
        time.sleep(0.05)


def write_contacts(log: KafkaLog, topics: Topics) -> set[bytes]:
    """A customer's contacts, as many undecided commands would leave them."""
    sender, acks, keys = log.sender("test"), list[Acked | None](), set[bytes]()
    value = contact_codec().encode(ADA)
    try:
        for number in range(CONTACTS):
            order_id = f"ord_{number}"
            keys.add(key := contact_key(order_id, bytes(32)))
            record = NewRecord(topics.contacts, partition_for(order_id.encode(), PARTITIONS), key, value)
            sender.send(record, lambda acked, error: acks.append(acked))
            if number % 1000 == 0:
                assert sender.flush(PATIENCE_S) == 0
        assert sender.flush(PATIENCE_S) == 0
    finally:
        sender.close()
    assert len(acks) == CONTACTS
    assert None not in acks
    return keys


class Watch:
    """Follows the keys that have a tombstone as the log grows."""

    def __init__(self, log: KafkaLog, topics: Topics) -> None:
        self._reader = log.reader("test-tombstones", eof=True)
        tps = [TopicPartition(topics.contacts, p) for p in range(PARTITIONS)]
        self._reader.assign(log.ends(tps, timeout_s=PATIENCE_S))
        self.gone: set[bytes | None] = set()

    def count(self) -> int:
        records: list[Record] = self._reader.poll(5_000, 0.05)
        self.gone |= {record.key for record in records if record.value is None and record.key != BARRIER_KEY}
        return len(self.gone)

    def close(self) -> None:
        self._reader.close()


def test_an_erasure_resumes_after_a_kill_and_its_progress_is_shown(tmp_path: Path, kafka: KafkaSettings, topics: Topics) -> None:
    log, node = KafkaLog(kafka), processes.LedgerNode(tmp_path, kafka.bootstrap_servers, topics)
    log.ensure_topics(topics.specs(PARTITIONS, 1), PATIENCE_S)
    keys = write_contacts(log, topics)
    serve = node.child("serve")
    watch = Watch(log, topics)
    headers = {"Authorization": f"Bearer {processes.TOKENS['operator']}"}
    try:
        serve.start()
        node.wait_ready()
        with loopback.client(base_url=node.url, headers=headers, timeout=PATIENCE_S) as client:
            asked = client.post("/customers/c-1/erasure", headers={"Prefer": "respond-async"})
            assert (asked.status_code, asked.json()["state"]) == (202, "running")
            until(lambda: watch.count() > 0, node)
            serve.kill()
            while (before := len(watch.gone)) != watch.count():
                pass
            assert before < CONTACTS, "it was killed in the middle"
            serve.start()
            node.wait_ready()
            state = client.get("/customers/c-1/erasure")
            assert state.json()["requested_at"] == asked.json()["requested_at"], node.tails()
            until(lambda: client.get("/customers/c-1/erasure").json()["state"] == "done", node)
            until(lambda: watch.count() >= CONTACTS, node)
            assert watch.gone == keys
            metrics = client.get("/metrics").text
            assert "ledger_loop_lag_seconds_bucket" in metrics
    finally:
        watch.close()
        node.end()
