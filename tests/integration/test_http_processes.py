"""The API in its real process: Faust, RocksDB, Kafka, uvicorn, beside a real `commands` process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.callers.auth import hash_token, new_token
from api.connections import raise_file_limit
from ledger.audit import DONE, REFUSED, TOKENS_RELOAD, AuditRecord
from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.log import TopicPartition
from ledger.ports import free_port
from ledger.schemas.codec import audit_codec
from ledger.topics import Topics
from tests.support import loopback
from tests.support.harness import HASH_KEY, ROLES, decided, key, order_body
from tests.support.patience import PATIENCE_S, until
from tests.support.pausing import pause

pytestmark = pytest.mark.kafka


class Processes:
    """`serve` and `commands` of one ledger; their logs in `folder`."""

    def __init__(self, folder: Path, kafka: KafkaSettings, topics: Topics) -> None:
        self.folder = folder
        self._kafka, self._topics = kafka, topics
        self.tokens = {role: new_token(role) for role in ROLES}
        self.port = free_port()
        known = [{"name": role, "role": role, "sha256": [hash_token(token)]} for role, token in self.tokens.items()]
        self._env = os.environ | {
            "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
            "TOPIC_PREFIX": topics.prefix,
            "APP_ID": "app",
            "NODE_ID": "one",
            "STATE_DIR": str(folder / "state"),
            "LEDGER_HASH_KEY": HASH_KEY,
            "LEDGER_TOKENS_FILE": str(self.write_tokens(known)),
            "LIMIT_STAFF_PER_SECOND": "1000000",  # a test sends requests as fast as it can
            "PORT": str(self.port),
        }
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def write_tokens(self, known: list[dict[str, Any]]) -> Path:
        """Write the tokens file; `known` are its entries."""
        path = self.folder / "tokens.json"
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps({"tokens": known}))
        return fresh.replace(path)

    def start(self, name: str, *before: str) -> None:
        """Start a process; `before` is the command that starts Python, if any."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [*before, sys.executable, "-m", "api.cli", name], env=self._env, cwd=self.folder, stdout=log, stderr=log
            )

    def wait_ready(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            assert self._running["serve"].poll() is None, self.log("serve")
            assert time.monotonic() < deadline, self.log("serve")
            try:
                answer = loopback.get(f"http://127.0.0.1:{self.port}/ready", timeout=2)
                if answer.status_code == 200 and "stale" not in answer.json():
                    return
            except httpx.TransportError:
                pass  # it is not listening yet
            time.sleep(0.05)

    def audit(self) -> list[AuditRecord]:
        """The audit records until now."""
        tp = TopicPartition(self._topics.audit, 0)
        log = KafkaLog(self._kafka)
        reader, end = log.reader("test-audit", eof=True), log.ends([tp], timeout_s=PATIENCE_S)[tp]
        reader.assign({tp: 0})
        records = []
        while len(records) < end and reader.reached_end().get(tp, 0) < end:
            records += reader.poll(500, 0.2)
        reader.close()
        return [audit_codec().decode(record.value) for record in records]

    def send(self, name: str, number: signal.Signals) -> int:
        """Signal a process and wait for its end. Returns its exit code."""
        process = self._running.pop(name)
        process.send_signal(number)
        return process.wait(PATIENCE_S)

    def pause(self, name: str) -> None:
        """SIGSTOP: the process stays alive and does nothing."""
        pause(self._running[name].pid)

    def stop(self) -> None:
        for name in list(self._running):
            self.send(name, signal.SIGKILL)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def client(self, role: str = "gateway") -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.tokens[role]}", "Customer-Id": "c-1"}
        return loopback.client(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=PATIENCE_S)


@pytest.fixture
def processes(tmp_path: Path, kafka: KafkaSettings, topics: Topics) -> Iterator[Processes]:
    running = Processes(tmp_path, kafka, topics)
    running.start("commands")
    running.start("serve")
    try:
        running.wait_ready()
        yield running
    finally:
        running.stop()


def place(client: httpx.Client, headers: dict[str, str] | None = None) -> httpx.Response:
    """Place an order, however long the processor still takes to start."""
    headers, deadline = {"Prefer": "wait=10"} | (headers or key()), time.monotonic() + PATIENCE_S
    while (answer := client.post("/orders", json=order_body(), headers=headers)).status_code != 201:
        assert time.monotonic() < deadline, answer.text
    return answer


def test_an_answer_survives_kill_9_of_the_process_that_gave_it(processes: Processes) -> None:
    headers = key()
    with processes.client() as client:
        first = place(client, headers)
        path = first.headers["location"]
        assert client.get(path).content == first.content
        assert processes.send("serve", signal.SIGKILL) == -signal.SIGKILL
    processes.start("serve")
    processes.wait_ready()
    with processes.client() as client:
        assert client.get(path, headers={"Ledger-Position": first.headers["ledger-position"]}).content == first.content
        again = client.post("/orders", json=order_body(), headers=headers)
        assert (again.status_code, again.content, again.headers["idempotency-replayed"]) == (201, first.content, "true")
        assert decided(client, f"{path}/cancel", {}).json()["status"] == "cancelled"


def test_a_stop_ends_streams_and_answers_open_requests(processes: Processes) -> None:
    with processes.client() as client, processes.client() as other:
        order = place(client).json()
        ended: list[float] = []

        def follow() -> None:
            with other.stream("GET", f"/orders/{order['order_id']}/events", headers={"Accept": "text/event-stream"}) as answer:
                for _ in answer.iter_lines():
                    followed.set()
            ended.append(time.monotonic())

        followed = threading.Event()
        thread = threading.Thread(target=follow)
        thread.start()
        assert followed.wait(PATIENCE_S)
        began = time.monotonic()
        assert processes.send("serve", signal.SIGTERM) == 0, processes.log("serve")
        thread.join(PATIENCE_S)
        assert ended, "the stream did not end as a stream should"
        assert ended[0] - began < PATIENCE_S
        assert time.monotonic() - began < PATIENCE_S


def test_a_request_that_waits_when_the_process_stops_gets_a_problem_as_answer(processes: Processes) -> None:
    with processes.client() as client:
        place(client)
        processes.pause("commands")  # from here on nothing is decided
        answers: list[httpx.Response] = []
        all_wait = threading.Event()

        def ask(method: str, path: str, headers: dict[str, str], body: dict[str, Any] | None) -> None:
            """Again and again, because ten seconds may be over before all the others have begun to wait."""
            with processes.client() as other:
                while True:
                    answer = other.request(method, path, headers=headers | {"Prefer": "wait=10"}, json=body)
                    if all_wait.is_set():
                        answers.append(answer)
                        return

        asked = [("POST", "/orders", key(), order_body()) for _ in range(6)]
        asked += [
            ("GET", "/orders", {"Ledger-Position": f"{p}-1000000"}, None) for p in range(4)
        ]  # wait for positions that never come
        threads = [threading.Thread(target=ask, args=one) for one in asked]
        for thread in threads:
            thread.start()
        metrics = processes.client("operator")
        until(lambda: "ledger_http_requests_in_progress 11.0" in metrics.get("/metrics").text)
        all_wait.set()
        metrics.close()
        assert processes.send("serve", signal.SIGTERM) == 0, processes.log("serve")
        for thread in threads:
            thread.join(PATIENCE_S)
    assert sorted(answer.status_code for answer in answers) == [202] * 6 + [503] * 4
    for answer in answers:
        assert answer.headers["request-id"]
        if answer.status_code == 503:
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["code"] in ("ledger-unavailable", "not-caught-up")


def test_commands_without_a_processor_are_202_and_decided_when_it_is_back(processes: Processes) -> None:
    with processes.client() as client:
        place(client)
        assert processes.send("commands", signal.SIGKILL) == -signal.SIGKILL
        sent = key() | {"Prefer": "wait=1"}
        while (waiting := client.post("/orders", json=order_body(), headers=sent)).status_code == 503:
            assert waiting.json()["code"] == "ledger-unavailable", "Kafka is slow"
        assert waiting.status_code == 202
        location = waiting.headers["location"]
        assert client.get(location).json()["state"] == "pending"
        processes.start("commands")
        deadline = time.monotonic() + PATIENCE_S
        while (state := client.get(location).json())["state"] == "pending":
            assert time.monotonic() < deadline, processes.log("commands")
            time.sleep(0.1)
        assert (state["state"], state["version"]) == ("accepted", 1)


def test_logs_are_json_lines_without_secrets(processes: Processes) -> None:
    with processes.client() as client:
        place(client)
        client.post("/orders", json={"contact": {"email": "grace@example.org"}}, headers=key())
    assert processes.send("serve", signal.SIGTERM) == 0
    assert processes.send("commands", signal.SIGTERM) == 0
    for name in ("serve", "commands"):
        text = processes.log(name)
        lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
        assert lines
        for secret in (*processes.tokens.values(), HASH_KEY, "ada@example.org", "grace@example.org", "Mill Lane"):
            assert secret not in text
    served = [line for line in map(json.loads, processes.log("serve").splitlines()) if line.get("logger") == "api.access"]
    assert [(line["path"], line["status"]) for line in served][-2:] == [("/orders", 201), ("/orders", 422)]


def test_a_token_is_rotated_under_a_running_serve(processes: Processes) -> None:
    def entry(*tokens: str) -> dict[str, Any]:
        return {"name": "gateway", "role": "gateway", "sha256": [hash_token(token) for token in tokens]}

    def wait_for(status: int, client: httpx.Client) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while client.get("/orders").status_code != status:
            assert time.monotonic() < deadline, processes.log("serve")
            time.sleep(0.1)

    headers, old = key(), processes.tokens["gateway"]
    with processes.client() as before:
        first = place(before, headers)
        processes.tokens["gateway"] = new_token("gateway")
        with processes.client() as client:
            assert client.get("/orders").status_code == 401
            processes.write_tokens([entry(old, processes.tokens["gateway"])])
            wait_for(200, client)
            assert before.get("/orders").status_code == 200
            processes.write_tokens([entry(processes.tokens["gateway"])])
            wait_for(401, before)
            # the name stayed the same, and so did the key
            assert client.post("/orders", json=order_body(), headers=headers).content == first.content
            (processes.folder / "tokens.json").write_text("{")
            deadline = time.monotonic() + PATIENCE_S
            while "tokens file is invalid" not in processes.log("serve"):
                assert time.monotonic() < deadline, processes.log("serve")
                time.sleep(0.1)
            assert client.get("/orders").status_code == 200
            assert "ledger_tokens_stale 1.0" in client.get("/metrics").text
    records: list[AuditRecord] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(records) < 3:
        assert time.monotonic() < deadline, processes.log("serve")
        records = processes.audit()
    assert [(record.action, record.actor, record.outcome) for record in records] == [
        (TOKENS_RELOAD, "serve", DONE),
        (TOKENS_RELOAD, "serve", DONE),
        (TOKENS_RELOAD, "serve", REFUSED),
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="sockets are no files there")
def test_more_idle_connections_than_files_stop_nothing(processes: Processes) -> None:
    """With the usual limit of 1,024 open files, which the process may not raise here."""
    processes.send("serve", signal.SIGTERM)
    processes.start("serve", "sh", "-c", 'ulimit -n 1024 && exec "$@"', "sh")
    processes.wait_ready()
    raise_file_limit()
    with ExitStack() as stack:
        for _ in range(1_150):
            stack.enter_context(socket.create_connection(("127.0.0.1", processes.port), PATIENCE_S))
        with processes.client() as client:
            for _ in range(5):
                place(client)
        with processes.client("operator") as client:
            text = client.get("/metrics").text
    assert 'ledger_http_connections_ended_total{why="crowded out"}' in text
    assert "Too many open files" not in processes.log("serve")
    assert processes.send("serve", signal.SIGTERM) == 0


def test_serve_measures_how_late_its_event_loop_is(processes: Processes) -> None:
    def count() -> float:
        lines = client.get("/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith("ledger_loop_lag_seconds_count ")).split()[1])

    with processes.client("operator") as client:
        before, deadline = count(), time.monotonic() + PATIENCE_S
        while count() < before + 3:
            assert time.monotonic() < deadline, processes.log("serve")
            time.sleep(0.05)
