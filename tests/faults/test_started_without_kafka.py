"""Processes started while Kafka is unreachable: they answer what they can, say how old it is, and recover on their own."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from commands.sandbox.catalogue import order_body
from ledger.broker.node import EmbeddedBroker
from ledger.topics import Topics
from tests.support import loopback
from tests.support.folds import projection_differences
from tests.support.patience import PATIENCE_S
from tests.support.processes import TOKENS, Child, LedgerNode
from tests.support.sandboxed import WEBHOOK_SECRET, running_sandbox

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    """A running broker for this test alone."""
    node = EmbeddedBroker(tmp_path / "broker", log_file=tmp_path / "broker.log", jit="quick")
    node.start()
    yield node
    node.stop()


@pytest.fixture
def ledger(tmp_path: Path, broker: EmbeddedBroker, topics: Topics) -> Iterator[LedgerNode]:
    """A ledger of which no process has started."""
    node = LedgerNode(tmp_path, broker.bootstrap_servers, topics)
    yield node
    node.end()


def until(met: Callable[[], bool], missing: str, ledger: LedgerNode) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not met():
        assert time.monotonic() < deadline, f"{missing}: {ledger.tails()}"
        time.sleep(0.05)


class Client:
    """A gateway and an operator of one `serve`."""

    def __init__(self, ledger: LedgerNode) -> None:
        self._ledger = ledger
        self._http = loopback.client(base_url=ledger.url, timeout=PATIENCE_S)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ask(self, method: str, path: str, role: str = "gateway", body: Any = None, **headers: str) -> httpx.Response:
        sent = {"Authorization": f"Bearer {TOKENS[role]}"} | {name.replace("_", "-"): value for name, value in headers.items()}
        if role == "gateway":
            sent["Customer-Id"] = "c-1"
        return self._http.request(method, path, headers=sent, json=body)

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.ask("GET", path, **headers)

    def post(self, key: str, number: int = 1) -> httpx.Response:
        """Post order `number` under `key`, once."""
        return self.ask("POST", "/orders", body=order_body(number), Idempotency_Key=key, Prefer="wait=10")

    def place(self, key: str, number: int = 1) -> httpx.Response:
        """Repeat that until it is placed."""
        answers: list[httpx.Response] = []

        def is_placed() -> bool:
            answers.append(self.post(key, number))
            return answers[-1].status_code == 201

        until(is_placed, "not placed", self._ledger)
        return answers[-1]

    def cancel(self, path: str, key: str) -> dict[str, Any]:
        """The order, once it is cancelled: `wait_ready` does not promise that the processor is back, too."""
        answers: list[httpx.Response] = []

        def is_cancelled() -> bool:
            answers.append(self.ask("POST", f"{path}/cancel", body={}, Idempotency_Key=key, Prefer="wait=10"))
            return answers[-1].status_code == 200

        until(is_cancelled, "not cancelled", self._ledger)
        order: dict[str, Any] = answers[-1].json()
        return order

    def wait_live(self) -> None:
        until(self._is_live, "/live is not answered", self._ledger)

    def _is_live(self) -> bool:
        try:
            return self.get("/live").status_code == 200
        except httpx.TransportError:
            return False  # it is not listening yet

    def wait_for_reason(self, reason: str) -> dict[str, Any]:
        """The answer of `/ready` once its reason is `reason`."""
        until(lambda: self.get("/ready").json().get("reason") == reason, reason, self._ledger)
        body: dict[str, Any] = self.get("/ready").json()
        return body


def wait_noted(ledger: LedgerNode, node: str) -> None:
    """Wait until the time at which that node's read models were current is on disk."""
    folder = ledger.state_dir(node) / "projections"
    until(lambda: any(folder.glob("g*/current_at.json")), "never noted as current", ledger)


def test_serve_answers_from_its_databases_while_kafka_is_unreachable_and_recovers_when_it_is_back(
    ledger: LedgerNode, broker: EmbeddedBroker
) -> None:
    commands, serve = ledger.child("commands"), ledger.child("serve")
    commands.start()
    serve.start()
    ledger.wait_ready()
    with Client(ledger) as client:
        placed = client.place("before")
        path = placed.headers["Location"]
        history = client.get(f"{path}/events").content
        wait_noted(ledger, "one")
        serve.kill()
        other = ledger.child("serve", "two")  # continues to fold while the first is down
        other.start()
        ledger.wait_ready()
        unknown = client.place("meanwhile", 2).headers["Location"]
        other.kill()
        os.kill(broker.pid, signal.SIGKILL)
        broker.wait(PATIENCE_S)
        away_at = time.monotonic()

        serve.start()
        client.wait_live()
        ready = client.wait_for_reason("log-unavailable")
        assert client.get("/ready").status_code == 200
        assert (ready["status"], ready["stale"]) == ("ready", True)
        assert ready["checks"] == {"fold": "waiting", "caught_up": "behind by ?", "log": "away"}
        away_ms = (time.monotonic() - away_at) * 1000
        assert client.get("/ready").json()["staleness_ms"] >= away_ms, "it was current before the outage"

        for read, content in ((path, placed.content), (f"{path}?version=1", placed.content), (f"{path}/events", history)):
            answer = client.get(read)
            assert (answer.status_code, answer.content) == (200, content)
            assert int(answer.headers["Ledger-Staleness-Ms"]) >= away_ms
        assert [order["order_id"] for order in client.get("/orders").json()["data"]] == [placed.json()["order_id"]]
        for read in ("/orders", "/reports/daily?from=2020-01-01&to=2020-01-31"):
            answer = client.ask("GET", read, role="admin")
            assert (answer.status_code, int(answer.headers["Ledger-Staleness-Ms"]) >= away_ms) == (200, True), read
        lacking = client.get(unknown)
        assert (lacking.status_code, int(lacking.headers["Ledger-Staleness-Ms"]) >= away_ms) == (404, True)
        assert "Ledger-Staleness-Ms" in client.ask("HEAD", path).headers
        first, later = (int(client.get(path).headers["Ledger-Staleness-Ms"]) for _ in range(2))
        assert later >= first
        assert client.get(path, Ledger_Position="0-1000000", Prefer="wait=0").json()["code"] == "not-caught-up"

        check_only_a_retry_is_answered(client, placed)
        assert "ledger_fold_connected 0.0" in client.ask("GET", "/metrics", role="operator").text

        pid = serve.pid
        broker.start()
        ledger.wait_ready()
        assert (client.get(unknown).status_code, serve.ended(), serve.pid) == (200, None, pid)
        assert "Ledger-Staleness-Ms" not in client.get(path).headers
        assert client.place("new").json()["version"] == 1
        assert client.cancel(path, "cancel")["status"] == "cancelled"
        assert (client.get("/ready").status_code, client.get("/ready").json()["status"]) == (200, "ready")
    assert [serve.stop(), commands.stop()] == [0, 0], ledger.tails()
    assert projection_differences(ledger.state_dir("one"), ledger.bootstrap, ledger.topics, ledger.partitions) == []


def check_only_a_retry_is_answered(client: Client, placed: httpx.Response) -> None:
    """Of all changes, while Kafka is unreachable. `placed` is the answer to the order "before"."""
    path = placed.headers["Location"]
    refused = [
        client.post("new"),
        client.ask("POST", f"{path}/cancel", body={}, Idempotency_Key="cancel"),
        client.ask("PUT", f"{path}/status", role="admin", body={"status": "shipped"}, Idempotency_Key="ship"),
        client.ask("POST", "/customers/c-1/erasure", role="operator", body={"force": True}),
    ]
    for answer in refused:
        assert (answer.status_code, answer.json()["code"]) == (503, "ledger-unavailable")
        assert (answer.headers["Retry-After"], answer.headers["content-type"]) == ("1", "application/problem+json")
    again = client.post("before")
    assert (again.status_code, again.content, again.headers["Idempotency-Replayed"]) == (201, placed.content, "true")


def test_a_first_start_without_kafka_is_live_says_why_it_is_not_ready_and_does_everything_later(
    broker: EmbeddedBroker, topics: Topics, tmp_path: Path
) -> None:
    outbox = tmp_path / "outbox"
    with running_sandbox(tmp_path) as sandbox:
        world = {"SANDBOX_URL": sandbox.url, "PAYMENT_GATEWAY_WEBHOOK_SECRETS": WEBHOOK_SECRET, "OUTBOX_DIR": str(outbox)}
        ledger = LedgerNode(tmp_path, broker.bootstrap_servers, topics, env=world)
        try:
            start_first_without_kafka(ledger, broker, outbox)
        finally:
            ledger.end()


def start_first_without_kafka(ledger: LedgerNode, broker: EmbeddedBroker, outbox: Path) -> None:
    broker.stop()
    commands, serve = ledger.child("commands"), ledger.child("serve")
    serve.start()
    commands.start()
    with Client(ledger) as client:
        client.wait_live()
        ready = client.wait_for_reason("no-read-models")
        assert (client.get("/ready").status_code, client.get("/ready").headers["Retry-After"]) == (503, "1")
        assert (ready["status"], ready["checks"]["fold"]) == ("not_ready", "waiting")
        until(lambda: client.get("/ready").json()["checks"]["log"] == "away", "not reported as unreachable", ledger)
        refused = [
            client.post("first"),
            client.get("/orders"),
            client.get("/orders/ord_1"),
            client.get("/orders/ord_1/events"),
            client.get("/orders/ord_1/payment"),
            client.get("/commands/cmd_1?at=0-1"),
            client.ask("GET", "/reports/daily?from=2020-01-01&to=2020-01-31", role="admin"),
            client.ask("POST", "/webhooks/stripe", body={}),
            client.ask("POST", "/customers/c-1/erasure", role="operator", body={"force": True}),
            client.get("/asyncapi.json"),
        ]
        for answer in refused:
            assert (answer.status_code, answer.json()["code"]) == (503, "ledger-unavailable"), answer.request.url
            assert answer.headers["Retry-After"] == "1"
        for path in ("/openapi.json", "/problems/not-found", "/subjects", "/metrics"):
            assert client.ask("GET", path, role="operator").status_code == 200, "it says nothing about orders"
        broker.start()
        ledger.wait_ready()
        path = client.place("first").headers["Location"]
        assert client.get("/asyncapi.json").status_code == 200
        until(lambda: client.get(path).json()["axes"]["stock"] != "pending", "the reconciler does nothing", ledger)
        until(lambda: any(outbox.glob("*.eml")), "the notifier does nothing", ledger)
    assert [child.ended() for child in (serve, commands)] == [None, None]
    assert [serve.stop(), commands.stop()] == [0, 0], ledger.tails()
    assert projection_differences(ledger.state_dir("one"), ledger.bootstrap, ledger.topics, ledger.partitions) == []


def test_processes_that_wait_for_kafka_stop_in_order(ledger: LedgerNode, broker: EmbeddedBroker) -> None:
    commands, serve = ledger.child("commands"), ledger.child("serve")
    broker.stop()
    commands.start()
    serve.start()

    def says(child: Child, text: str) -> bool:
        return text in child.log_file.read_text("utf-8", "replace")

    for child in (commands, serve):
        until(lambda: says(child, "waiting for Kafka"), "it does not say what it waits for", ledger)  # noqa: B023
        assert child.stop() == 0, ledger.tails()
        for line in child.log_file.read_text().splitlines():
            assert json.loads(line)["level"] in ("info", "warning"), line


def test_read_models_of_another_cluster_end_a_start_with_one_line(
    ledger: LedgerNode, broker: EmbeddedBroker, tmp_path: Path
) -> None:
    serve = ledger.child("serve")
    serve.start()
    ledger.wait_ready()
    wait_noted(ledger, "one")
    assert serve.stop() == 0
    broker.stop()
    with EmbeddedBroker(tmp_path / "other", log_file=tmp_path / "other.log", jit="quick") as other:
        stranger = LedgerNode(tmp_path, other.bootstrap_servers, ledger.topics, partitions=2)
        again = stranger.child("serve")
        try:
            again.start()
            until(lambda: again.ended() is not None, "it does not end", stranger)
            assert again.ended() == 1
            assert "has 2 partitions" in again.log_file.read_text()
            assert "Traceback" not in again.log_file.read_text()
        finally:
            stranger.end()
