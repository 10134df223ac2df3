"""Audit records while the log is unreachable: they wait, in memory and in a file; those that cannot are counted and logged."""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from api.services import audit as audit_module
from api.services.audit import BY_ITSELF, Audit, By
from api.services.audit_spool import AuditSpool
from ledger.audit import CONTACT_READ, DONE, TOKENS_RELOAD, AuditRecord
from ledger.errors import LogUnavailable
from ledger.log import Acked, NewRecord, OnAck, TopicPartition
from ledger.memory.log import MemoryLog
from ledger.schemas.codec import audit_codec
from ledger.topics import Topics
from tests.support.patience import PATIENCE_S

TOPICS = Topics()
DESK = By("admin:desk", "admin", "f" * 32)


class Node:
    """The audit of one process on a log in memory, driven by the test."""

    def __init__(self, log: MemoryLog, spool: Path | None = None) -> None:
        self.log, self.sender = log, log.sender("serve")
        self.audit = Audit(self.sender, self._send_all, TOPICS, "serve-1", spool, clock=lambda: 1_700_000_000_000)

    async def _send_all(self, records: object) -> list[Acked]:
        raise AssertionError("nothing is recorded through `keep` here")

    def read(self, *orders: str) -> None:
        for order in orders:
            self.audit.note(DESK, CONTACT_READ, DONE, order_id=order, customer_id="c-1")

    def tend_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, (self.audit.waiting, self.audit.written, self.audit.lost)
            self.audit.tend()
            time.sleep(0.005)

    def stop(self) -> None:
        self.audit.close()
        self.sender.close()
        self.audit.end()

    def kill(self) -> None:
        """End without closing the audit."""
        self.sender.close()


@pytest.fixture
def log() -> MemoryLog:
    log = MemoryLog()
    log.ensure_topics(TOPICS.specs(4, 1))
    return log


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Waiting records are written to the file at the next check, and sent again at the one after."""
    monkeypatch.setattr(audit_module, "SPOOL_AFTER_S", 0.0)
    monkeypatch.setattr(audit_module, "RETRY_S", 0.0)
    with structlog.testing.capture_logs():
        yield


def durable(log: MemoryLog) -> list[AuditRecord]:
    reader = log.reader("test", eof=True)
    reader.assign({TopicPartition(TOPICS.audit, 0): 0})
    records = reader.poll(100_000, 0.1)
    reader.close()
    return [audit_codec().decode(record.value) for record in records]


def orders(log: MemoryLog) -> list[str | None]:
    return [record.order_id for record in durable(log)]


def in_any_order(log: MemoryLog) -> list[str]:
    """Records that were sent again may be out of order; their times are not."""
    return sorted(str(order) for order in orders(log))


def test_records_are_durable_in_the_order_in_which_things_happened(log: MemoryLog) -> None:
    node = Node(log)
    node.read(*(f"ord_{n}" for n in range(300)))
    node.tend_until(lambda: not node.audit.waiting)
    node.stop()
    assert orders(log) == [f"ord_{n}" for n in range(300)]
    assert +node.audit.written == {CONTACT_READ: 300}
    assert len({record.audit_id for record in durable(log)}) == 300


def test_the_key_is_what_a_record_is_about(log: MemoryLog) -> None:
    node = Node(log)
    node.read("ord_1")
    node.audit.note(DESK, CONTACT_READ, DONE, customer_id="c-7")
    node.audit.note(BY_ITSELF, TOKENS_RELOAD, DONE)
    node.stop()
    reader = log.reader("test", eof=True)
    reader.assign({TopicPartition(TOPICS.audit, 0): 0})
    assert [record.key for record in reader.poll(10, 0.1)] == [b"ord_1", b"c-7", None]
    reader.close()


def test_waiting_records_are_written_when_the_log_is_back_and_the_file_is_deleted(log: MemoryLog, tmp_path: Path) -> None:
    node = Node(log, spool := tmp_path / "state" / "audit.waiting")
    log.away(True)
    node.read("ord_1", "ord_2", "ord_3")
    node.tend_until(spool.exists)
    assert node.audit.waiting == 3
    assert node.audit.written.total() == node.audit.lost.total() == 0
    log.away(False)
    node.tend_until(lambda: not node.audit.waiting)
    assert in_any_order(log) == ["ord_1", "ord_2", "ord_3"]
    assert not spool.exists()
    node.stop()


def test_an_unreachable_log_is_reported_once_and_so_is_its_return(log: MemoryLog) -> None:
    node = Node(log)
    with structlog.testing.capture_logs() as logs:
        log.away(True)
        node.read(*(f"ord_{n}" for n in range(50)))
        node.tend_until(lambda: logs != [])
        for _ in range(20):
            node.audit.tend()
        log.away(False)
        node.tend_until(lambda: not node.audit.waiting)
    assert [entry["event"] for entry in logs] == ["audit records are waiting for the log", "all audit records are durable"]
    node.stop()


class Refusing:
    """A sender to which the log answers that it does not take the record."""

    def send(self, record: NewRecord, on_ack: OnAck) -> None:
        on_ack(None, LogUnavailable("refused"))

    def flush(self, timeout_s: float) -> int:
        return 0

    def close(self) -> None: ...


def test_refused_records_count_as_waiting_in_the_line_about_them(log: MemoryLog) -> None:
    node = Node(log)
    node.audit = Audit(Refusing(), node._send_all, TOPICS, "serve-1")
    node.read("ord_1", "ord_2", "ord_3")
    with structlog.testing.capture_logs() as logs:
        node.audit.tend()
    assert [(entry["waiting"], entry["why"]) for entry in logs] == [(3, "refused")]
    node.kill()


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_the_next_start_sends_what_the_last_process_could_not(end: str, log: MemoryLog, tmp_path: Path) -> None:
    spool = tmp_path / "audit.waiting"
    node = Node(log, spool)
    node.read("ord_0")
    node.tend_until(lambda: not node.audit.waiting)
    log.away(True)
    node.read("ord_1", "ord_2")
    node.tend_until(spool.exists)
    getattr(node, end)()
    assert node.audit.lost.total() == 0
    log.away(False)
    heir = Node(log, spool)
    assert heir.audit.waiting == 2
    heir.tend_until(lambda: not heir.audit.waiting)
    heir.stop()
    assert in_any_order(log) == ["ord_0", "ord_1", "ord_2"]
    assert not spool.exists()


def test_a_stop_keeps_the_records_of_a_moment_ago(log: MemoryLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_module, "SPOOL_AFTER_S", 3600.0)
    node = Node(log, spool := tmp_path / "audit.waiting")
    log.away(True)
    node.read("ord_1")
    with structlog.testing.capture_logs() as logs:
        node.stop()
    assert (logs[-1]["event"], logs[-1]["count"]) == ("audit records are kept for the next start", 1)
    log.away(False)
    heir = Node(log, spool)
    heir.tend_until(lambda: not heir.audit.waiting)
    heir.stop()
    assert orders(log) == ["ord_1"]


def test_a_record_written_twice_is_recognised_by_its_id(log: MemoryLog, tmp_path: Path) -> None:
    """Killed between the log's answer and the end of the file."""
    spool = tmp_path / "audit.waiting"
    node = Node(log, spool)
    log.away(True)
    node.read("ord_1")
    node.tend_until(spool.exists)
    kept = spool.read_bytes()
    log.away(False)
    node.tend_until(lambda: not node.audit.waiting)
    node.kill()
    spool.write_bytes(kept)
    heir = Node(log, spool)
    heir.tend_until(lambda: not heir.audit.waiting)
    heir.stop()
    first, second = durable(log)
    assert first == second


def test_without_a_file_records_that_a_stop_could_not_write_are_counted_and_logged(log: MemoryLog) -> None:
    node = Node(log)
    log.away(True)
    node.read("ord_1", "ord_2")
    with structlog.testing.capture_logs() as logs:
        node.stop()
    assert +node.audit.lost == {CONTACT_READ: 2}
    assert "audit records are lost" in [entry["event"] for entry in logs]


def test_records_beyond_the_limit_are_counted_and_harm_nobody(log: MemoryLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_module, "MAX_WAITING", 5)
    node = Node(log)
    log.away(True)
    node.read(*(f"ord_{n}" for n in range(8)))
    assert (node.audit.waiting, +node.audit.lost) == (5, {CONTACT_READ: 3})
    log.away(False)
    node.tend_until(lambda: not node.audit.waiting)
    node.stop()
    assert in_any_order(log) == [f"ord_{n}" for n in range(5)]


def test_commands_keep_their_places_in_the_sender(log: MemoryLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_module, "MAX_IN_PROGRESS", 10)
    node = Node(log)
    held: list[NewRecord] = []
    monkeypatch.setattr(node.sender, "send", lambda record, on_ack: held.append(record))
    node.read(*(f"ord_{n}" for n in range(50)))
    for _ in range(5):
        node.audit.tend()
    assert (len(held), node.audit.waiting) == (10, 50)
    node.sender.close()


def test_a_file_that_cannot_be_written_leaves_the_records_in_memory(log: MemoryLog, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    node = Node(log, tmp_path / "file" / "audit.waiting")
    log.away(True)
    node.read("ord_1")
    for _ in range(10):
        node.audit.tend()
        time.sleep(0.001)
    log.away(False)
    node.tend_until(lambda: not node.audit.waiting)
    node.stop()
    assert orders(log) == ["ord_1"]


def test_a_torn_line_costs_itself_and_is_counted(log: MemoryLog, tmp_path: Path) -> None:
    spool = tmp_path / "audit.waiting"
    node = Node(log, spool)
    log.away(True)
    node.read("ord_1")
    node.tend_until(spool.exists)
    with spool.open("ab") as file:
        file.write(b'{"action": "contact_read", "key": "ord_2", "val')  # the disk was full
    node.read("ord_3")
    node.tend_until(lambda: b'"ord_3"' in spool.read_bytes())
    node.kill()
    log.away(False)
    heir = Node(log, spool)
    assert +heir.audit.lost == {"unknown": 1}
    heir.tend_until(lambda: not heir.audit.waiting)
    heir.stop()
    assert in_any_order(log) == ["ord_1", "ord_3"]


@pytest.mark.parametrize("line", [b"", b"\0", b"[]", b"{}", b'{"action": 1, "key": 2, "value": "!"}', b"\xff", b"null", b"7"])
def test_any_line_is_read_or_counted(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "audit.waiting"
    path.write_bytes(line + b"\n")
    assert AuditSpool(path).read() == ([], int(line != b""))


@pytest.mark.skipif(sys.platform == "win32", reason="no such modes there")
def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        AuditSpool(tmp_path / "audit.waiting").add([("contact_read", None, b"x")])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "audit.waiting").stat().st_mode) == 0o600
    line = json.loads((tmp_path / "audit.waiting").read_bytes())
    assert line == {"action": "contact_read", "key": None, "value": "eA=="}
