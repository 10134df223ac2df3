"""When something behind the API is unreachable or full: broker, processor, queue. Commands fail immediately, reads continue."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from api import call
from api import replies as outcomes
from api.services import submissions
from commands.idempotency import command_id_of, order_id_of
from ledger.errors import LogUnavailable, NotDurable
from ledger.log import Acked, NewRecord, OnAck, Sender, TopicPartition
from ledger.memory.log import MemoryLog
from ledger.memory.store import MemoryStore
from ledger.topics import Topics
from projections.bulk import BulkFold
from projections.databases import Databases
from projections.opening import nothing
from projections.projector import Projector
from tests.support.harness import RunningLedger, another_node, key, order_body, running_ledger
from tests.support.patience import PATIENCE_S, until
from tests.support.serving import AdjustableStatus


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
def ledger(log: MemoryLog) -> Iterator[RunningLedger]:
    with running_ledger(log, Topics()) as running:
        yield running
        log.away(False)


def wait_for(ledger: RunningLedger, connected: bool) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while ledger.status.connected is not connected:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_without_the_broker_commands_are_503_immediately_and_reads_continue_marked_stale(
    log: MemoryLog, ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_the_asked_for_wait(monkeypatch)
    monkeypatch.setattr(submissions, "ACK_S", 2 * PATIENCE_S)
    client, headers = ledger.client(), key()
    order = client.post("/orders", json=order_body(), headers=headers).json()
    log.away(True)
    wait_for(ledger, connected=False)
    until(lambda: ledger.status.staleness_ms)
    began = time.monotonic()
    answer = client.post("/orders", json=order_body(), headers=key())
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "ledger-unavailable", "1")
    assert time.monotonic() - began < PATIENCE_S  # it did not wait
    read = client.get(f"/orders/{order['order_id']}")
    assert (read.status_code, read.json()) == (200, order)
    for path in (f"/orders/{order['order_id']}", "/orders", f"/orders/{order['order_id']}/events"):
        assert int(client.get(path).headers["ledger-staleness-ms"]) > 0
    replay = client.post("/orders", json=order_body(), headers=headers)
    assert (replay.status_code, replay.json()) == (201, order), "known results are answered"
    ready = client.get("/ready")
    assert (ready.status_code, ready.json()["checks"]["log"]) == (200, "away")
    assert ledger.client("operator").post("/customers/c-1/erasure", json={"force": True}).status_code == 503
    log.away(False)
    wait_for(ledger, connected=True)
    assert "ledger-staleness-ms" not in client.get("/orders").headers
    assert client.post("/orders", json=order_body(), headers=key()).status_code == 201


def test_a_node_that_is_behind_marks_its_reads_and_erases_nothing(ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connected again, or started a moment ago: orders that are in the log and not here are not known to be missing."""
    client, operator = ledger.client(), ledger.client("operator")
    path = client.post("/orders", json=order_body(), headers=key()).headers["location"]
    with monkeypatch.context() as behind:
        behind.setattr(ledger.context, "status", AdjustableStatus(behind=3, staleness_ms=4711))
        for read in (path, "/orders", f"{path}/events", "/orders/ord_unknown"):
            assert client.get(read).headers["ledger-staleness-ms"] == "4711"
        for other in ("/live", "/ready", "/problems/not-found", "/subjects"):
            assert "ledger-staleness-ms" not in client.get(other).headers, "it says nothing about orders"
        erasure = operator.post("/customers/c-1/erasure", json={"force": True})
        assert (erasure.status_code, erasure.json()["code"], erasure.headers["retry-after"]) == (503, "not-caught-up", "1")
    assert operator.post("/customers/c-1/erasure", json={"force": True}).json() == {"contacts_deleted": 1}


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        ({}, 200, None),
        ({"connected": False, "staleness_ms": 60_000}, 200, "log-unavailable"),
        (
            {"connected": False, "answered": False, "begun": False, "folding": False, "caught_up": False, "staleness_ms": 60_000},
            200,
            "log-unavailable",
        ),
        ({"connected": False, "caught_up": False, "staleness_ms": 60_000}, 200, "log-unavailable"),
        (
            {"connected": False, "answered": True, "begun": False, "folding": False, "caught_up": False, "staleness_ms": 60_000},
            200,
            "log-unavailable",
        ),
        (
            {"connected": False, "answered": False, "connecting": True, "begun": False, "folding": False, "caught_up": False},
            503,
            "connecting",
        ),
        ({"caught_up": False, "behind": 7, "staleness_ms": 60_000}, 503, "behind"),
        ({"folding": False}, 503, "fold-stopped"),
        ({"folding": False, "connected": False, "staleness_ms": 60_000}, 503, "fold-stopped"),
    ],
)
def test_ready_says_whether_and_why(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch, status: dict[str, Any], code: int, reason: str | None
) -> None:
    monkeypatch.setattr(ledger.context, "status", AdjustableStatus(**status))
    answer = ledger.client().get("/ready")
    assert (answer.status_code, answer.json().get("reason")) == (code, reason)
    stale = code == 200 and reason == "log-unavailable"
    assert (answer.json().get("stale"), answer.json().get("staleness_ms")) == ((True, 60_000) if stale else (None, None))
    assert answer.json()["status"] == ("ready" if code == 200 else "not_ready")
    metrics = ledger.client("reader").get("/metrics").text
    answers_a_start = not status.get("begun", True) and status.get("answered", True)
    assert f"ledger_fold_connected {float(status.get('connected', True) or answers_a_start)}\n" in metrics
    if answers_a_start:
        assert answer.json()["checks"]["log"] == "not followed yet"


def test_a_node_without_read_models_says_what_it_waits_for_and_answers_nothing_about_orders(ledger: RunningLedger) -> None:
    placed = ledger.client().post("/orders", json=order_body(), headers=key())
    path = placed.headers["location"]
    with another_node(ledger, folding=False, projector=Projector(nothing(ledger.topics))) as node:
        client, operator = node.client(), node.client("operator")
        node.status.begun = node.status.folding = node.status.caught_up = False
        node.status.staleness_ms = None
        asked = (
            ("GET", path),
            ("HEAD", path),
            ("GET", "/orders"),
            ("GET", f"{path}/events"),
            ("GET", "/commands/cmd_1?at=0-1"),
            ("GET", "/asyncapi.json"),
            ("POST", "/orders"),
        )
        for making, connected, code, reason in (
            (False, False, "ledger-unavailable", "no-read-models"),
            (True, False, "not-caught-up", "making-read-models"),
        ):
            node.context.making, node.status.connected = making, connected
            ready = client.get("/ready")
            assert (ready.status_code, ready.json()["reason"], ready.json()["checks"]["fold"]) == (503, reason, "waiting")
            for method, asked_for in asked:
                answer = client.request(method, asked_for)
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "1"), asked_for
                assert method == "HEAD" or answer.json()["code"] == code
            assert client.get("/live").status_code == 200
            for document in ("/metrics", "/openapi.json", "/problems/not-found", "/subjects"):
                assert operator.get(document).status_code == 200
        databases = Databases(lambda name: MemoryStore(), ledger.topics, range(4), 4)
        bulk = BulkFold(ledger.log, databases, "first")
        bulk.run(bulk.ends())
        bulk.close()

        async def take_over() -> None:
            node.context.projector.take_over(databases).close()

        node.run(take_over())
        node.status.begun = node.status.folding = node.status.caught_up = node.status.connected = True
        node.status.staleness_ms = 0
        assert client.get("/ready").status_code == 200
        assert (client.get(path).status_code, client.get(path).content) == (200, placed.content)
        assert len(client.get("/asyncapi.json").json()["channels"]) > 0


def test_a_command_the_broker_does_not_accept_is_503_and_its_retry_is_safe(log: MemoryLog, ledger: RunningLedger) -> None:
    client, headers = ledger.client(), key()
    ledger.folding.pause()  # so that nothing has noticed yet
    log.away(True)
    answer = client.post("/orders", json=order_body(), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (503, "ledger-unavailable")
    assert answer.json()["command_id"].startswith("cmd_")
    log.away(False)
    ledger.folding.resume()
    wait_for(ledger, connected=True)
    deadline = time.monotonic() + PATIENCE_S
    while (retried := client.post("/orders", json=order_body(), headers=headers)).status_code == 503:
        assert time.monotonic() < deadline, retried.text  # the fold may only now notice the outage, which is over
    assert retried.status_code == 201
    assert client.post("/orders", json=order_body(), headers=headers).content == retried.content


def only_the_asked_for_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every other wait for an answer longer than a test's patience."""
    monkeypatch.setattr(outcomes, "DEFAULT_WAIT_S", 2 * PATIENCE_S)
    monkeypatch.setattr(call, "MAX_WAIT_S", 2 * PATIENCE_S)


class SilentSender:
    """A sender whose broker has stopped answering: it accepts records and calls nothing back until `answer`."""

    def __init__(self, below: Sender) -> None:
        self._below = below
        self.held: list[tuple[NewRecord, OnAck]] = []

    def send(self, record: NewRecord, on_ack: OnAck) -> None:
        self.held.append((record, on_ack))

    def flush(self, timeout_s: float) -> int:
        return len(self.held)

    def close(self) -> None:
        self._below.close()


def test_without_an_acknowledgement_a_command_is_503_after_the_wait(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_the_asked_for_wait(monkeypatch)
    monkeypatch.setattr(submissions, "ACK_S", 0.6)
    silent = SilentSender(ledger.context.sender)
    monkeypatch.setattr(ledger.context.submissions, "_sender", silent)
    client = ledger.client()
    for prefer, took_s in (("wait=0", 0.6), ("wait=1", 1.0), ("respond-async", 0.6)):
        began = time.monotonic()
        answer = client.post("/orders", json=order_body(), headers=key() | {"Prefer": prefer})
        assert (answer.status_code, answer.json()["code"]) == (503, "ledger-unavailable")
        assert took_s - 0.05 < time.monotonic() - began < PATIENCE_S
    assert {record.topic for record, _ in silent.held} == {"order-contacts"}, "no command before its contact is durable"


def test_a_contact_that_is_refused_sends_no_command(ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(SilentSender):
        def send(self, record: NewRecord, on_ack: OnAck) -> None:
            self.held.append((record, on_ack))
            threading.Thread(target=on_ack, args=(None, LogUnavailable("gone"))).start()

    only_the_asked_for_wait(monkeypatch)
    monkeypatch.setattr(submissions, "ACK_S", 2 * PATIENCE_S)
    refusing = Refusing(ledger.context.sender)
    monkeypatch.setattr(ledger.context.submissions, "_sender", refusing)
    began = time.monotonic()
    answer = ledger.client().post("/orders", json=order_body(), headers=key())
    assert (answer.status_code, answer.json()["code"]) == (503, "ledger-unavailable")
    assert time.monotonic() - began < PATIENCE_S, "an error is answered when it is known, not after the wait"
    assert [record.topic for record, _ in refusing.held] == ["order-contacts"]


def test_a_full_queue_behind_an_acknowledged_contact_is_503(ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(SilentSender):
        def send(self, record: NewRecord, on_ack: OnAck) -> None:
            if record.topic == "order-commands":
                raise LogUnavailable("20000 records wait")
            threading.Thread(target=on_ack, args=(Acked(record.partition, 0, 0), None)).start()

    monkeypatch.setattr(ledger.context.submissions, "_sender", Full(ledger.context.sender))
    answer = ledger.client().post("/orders", json=order_body(), headers=key())
    assert (answer.status_code, answer.json()["code"]) == (503, "ledger-unavailable")


def key_of(ledger: RunningLedger, partition: int) -> dict[str, str]:
    """A new key whose order is in this partition."""
    while True:
        headers = key()
        command_id = command_id_of("gateway", "c-1", "PlaceOrder", "-", headers["Idempotency-Key"])
        if ledger.context.partition_of(order_id_of(command_id)) == partition:
            return headers


def test_an_undecided_command_is_202_and_many_old_ones_mean_decisions_are_behind(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submissions, "BEHIND_COMMANDS", 5)
    client, waiting = ledger.client(), {"Prefer": "wait=0"}
    ledger.folding.pause()
    places = [
        client.post("/orders", json=order_body(), headers=key_of(ledger, 2) | waiting).headers["location"] for _ in range(5)
    ]
    assert {place.split("at=")[1].split("-")[0] for place in places} == {"2"}
    monkeypatch.setattr(submissions, "BEHIND_S", 1000)
    assert client.post("/orders", json=order_body(), headers=key_of(ledger, 2) | waiting).status_code == 202, "many, but young"
    assert "ledger_commands_undecided 6.0" in client.get("/metrics").text
    monkeypatch.setattr(submissions, "BEHIND_S", 0.01)
    time.sleep(0.02)
    answer = client.post("/orders", json=order_body(), headers=key_of(ledger, 2) | waiting)
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "decisions-behind", "5")
    for other in (0, 1, 3):
        assert client.post("/orders", json=order_body(), headers=key_of(ledger, other) | waiting).status_code == 202
    assert client.get(places[0]).json()["state"] == "pending"
    ledger.folding.resume()
    deadline = time.monotonic() + PATIENCE_S
    while client.post("/orders", json=order_body(), headers=key()).status_code != 201:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert [client.get(place).json()["state"] for place in places] == ["accepted"] * 5
    assert "ledger_commands_undecided 0.0" in client.get("/metrics").text


def test_more_waiting_commands_than_there_is_room_for_are_429(ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, "MAX_WAITING", 3)
    only_the_asked_for_wait(monkeypatch)
    client = ledger.client()
    ledger.folding.pause()
    waiting = [
        threading.Thread(
            target=client.post,
            args=("/orders",),
            kwargs={"json": order_body(), "headers": key() | {"Prefer": f"wait={PATIENCE_S:.0f}"}},
        )
        for _ in range(3)
    ]
    for thread in waiting:
        thread.start()
    deadline = time.monotonic() + PATIENCE_S
    while ledger.context.submissions.waiting < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    answer = client.post("/orders", json=order_body(), headers=key())
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (429, "too-many-requests", "1")
    assert client.get("/orders").status_code == 200
    ledger.folding.resume()
    for thread in waiting:
        thread.join(PATIENCE_S)
    assert client.post("/orders", json=order_body(), headers=key()).status_code == 201
    assert ledger.context.submissions.waiting == 0


def test_nobody_is_left_waiting_in_the_projector(ledger: RunningLedger) -> None:
    client = ledger.client()
    for _ in range(5):
        client.post("/orders", json=order_body(), headers=key())
        client.post("/orders", json=order_body(), headers=key() | {"Prefer": "wait=0"})
    deadline = time.monotonic() + PATIENCE_S
    while ledger.context.projector.waiters._outcomes:
        assert time.monotonic() < deadline, ledger.context.projector.waiters._outcomes
        time.sleep(0.01)


def test_a_partition_without_a_leader_refuses_only_its_own_commands(ledger: RunningLedger) -> None:
    with another_node(ledger, folding=False) as node:  # so that nothing but the test sets the status
        lost = TopicPartition(node.topics.events, 0)
        node.status.staleness_ms, node.status.leaderless = 2 * submissions.LAGGING_MS, frozenset({lost})
        partitions = set()
        for number in range(40):
            order_id = f"ord_{number}"
            partitions.add(partition := node.context.partition_of(order_id))
            if partition == 0:
                with pytest.raises(NotDurable, match="no broker leads partition 0"):
                    node.context.submissions.refuse_overload(order_id)
            else:
                node.context.submissions.refuse_overload(order_id)
        assert partitions == {0, 1, 2, 3}
        ready = node.client().get("/ready")
        assert (ready.status_code, ready.json()["checks"]["log"]) == (200, f"no leader: {lost.topic}/0")
        assert int(node.client().get("/orders").headers["ledger-staleness-ms"]) > 0
