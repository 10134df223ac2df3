"""What `doctor` says about writers nobody holds, hanging transactions, restarted work, and others in the place of `serve`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from api.cli import doctor, history
from api.cli.messages import Preview, run_preview
from api.cli.terminal import Screen, Terminal
from api.metrics import Workers
from api.settings import Settings
from commands.notifier.message_port import FAILED_TEMPLATES
from ledger.http_client import HttpClient
from ledger.log import NewRecord, TopicPartition
from ledger.memory.log import MemoryLog
from ledger.supervision import WorkerThread, workers
from ledger.topics import Topics
from tests.support.harness import running_ledger
from tests.support.one_log import TOPICS, Ledger, place
from tests.support.patience import PATIENCE_S

SETTINGS = Settings(_env_file=None, app_id="app")


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setattr(doctor, "STALL_PATIENCE_S", 0.2)
    monkeypatch.setattr(doctor, "STALL_PAUSE_S", 0.02)
    ledger = Ledger()
    yield ledger
    for running in list(ledger.running):
        ledger.stop(running)


def test_a_writer_that_nobody_holds_is_wrong_and_one_that_is_held_is_not(ledger: Ledger) -> None:
    finding = doctor._held(ledger.log, SETTINGS)
    assert finding.verdict == "wrong"
    assert "writers [0, 1] are held by no process" in finding.result
    running = ledger.start()
    ledger.wait_for(lambda: running.process.ready_writers == [0, 1])
    assert doctor._held(ledger.log, SETTINGS).verdict == "ok"
    ledger.log.orphan("app", 1)
    finding = doctor._held(ledger.log, SETTINGS)
    assert finding.verdict == "wrong"
    assert "writers [1] are held by no process" in finding.result


def test_a_transaction_that_hangs_is_wrong_and_names_the_verb(ledger: Ledger) -> None:
    assert doctor._transactions(ledger.log, SETTINGS).verdict == "ok"
    tp = TopicPartition(TOPICS.events, 2)
    ledger.log.lose_marker(tp)
    writer = ledger.log.writer("app-0")
    writer.start(PATIENCE_S)
    writer.transact([NewRecord(*tp, b"k", b"v")])
    finding = doctor._transactions(ledger.log, SETTINGS)
    assert (finding.verdict, finding.advice) == ("wrong", "order-ledger transactions")
    assert "order-events/2 from offset 0, of app-0" in finding.result
    ledger.log.away(True)
    assert doctor._transactions(ledger.log, SETTINGS).verdict == "warning"
    ledger.log.away(False)


def test_the_line_of_commands_shows_who_works_what_was_done_and_what_hangs(ledger: Ledger) -> None:
    running = ledger.start()
    ledger.send(place("a"))
    ledger.wait_for(lambda: running.process.ready_writers == [0, 1])
    status = running.process.status()
    assert (status["ready_writers"], status["unheld_writers"], status["hanging"]) == ([0, 1], [], [])
    assert {"writer-0", "writer-1"} <= {worker["name"] for worker in status["workers"] if worker["running"]}


def test_work_of_commands_that_restarted_is_a_warning_and_work_that_ended_is_wrong() -> None:
    status: dict[str, Any] = {
        "ready_writers": [0],
        "counts": {"reserve done": 7},
        "workers": [
            {"name": "notifier", "running": 1, "restarts": 3, "last_fault": "KeyError at notifier.py:1"},
            {"name": "reconciler", "running": 0, "restarts": 0, "last_fault": "OSError"},
            {"name": "writer-0", "running": 1, "restarts": 0, "last_fault": ""},
        ],
    }
    first, *others = doctor._status(status)
    assert (first.verdict, first.result) == ("ok", "writers [0] are active; 7 reserve done")
    assert [(f.subject, f.verdict) for f in others] == [("notifier of commands", "warning"), ("reconciler of commands", "wrong")]
    assert "restarted 3 times, last error: KeyError at notifier.py:1" in others[0].result


def test_templates_of_the_shop_that_fail_are_a_warning_that_names_the_verb() -> None:
    status: dict[str, Any] = {"ready_writers": [0], "counts": {"messages sent": 7, FAILED_TEMPLATES: 0}, "workers": []}
    assert [finding.verdict for finding in doctor._status(status)] == ["ok"]
    status["counts"][FAILED_TEMPLATES] = 3
    _, finding = doctor._status(status)
    assert (finding.verdict, finding.advice) == ("warning", "order-ledger messages check")
    assert finding.result.startswith("3 messages were composed from shipped templates")


def test_work_of_serve_is_read_from_its_metrics() -> None:
    failing, ended = threading.Event(), threading.Event()

    def work() -> None:
        if not failing.is_set():
            failing.set()
            raise ValueError("x")
        assert ended.wait(PATIENCE_S)

    thread = WorkerThread("one of serve", work, lambda exc: None, again=True)
    thread.start()
    deadline = time.monotonic() + PATIENCE_S
    while not any(worker.name == "one of serve" and worker.restarts for worker in workers()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    registry = CollectorRegistry()
    registry.register(Workers())

    def judged() -> list[tuple[str, str]]:
        text = generate_latest(registry).decode()
        return [(f.verdict, f.result) for f in doctor._workers_of_serve(text) if f.subject == "one of serve of serve"]

    assert judged() == [("warning", "restarted once")]
    ended.set()
    thread.join(PATIENCE_S)
    assert judged() == [("wrong", "not running")]


def test_a_serve_without_such_metrics_is_not_judged() -> None:
    assert doctor._workers_of_serve("") == []


def test_the_metrics_of_serve_are_read_with_a_token_and_missed_without() -> None:
    with running_ledger(MemoryLog(), Topics()) as running:
        ready = ("API", "ok", f"{running.url} is ready")

        def findings(token: str | None) -> list[tuple[str, str, str]]:
            return [(f.subject, f.verdict, f.result) for f in doctor._api(running.url, token)]

        assert findings(None) == [ready, ("metrics of serve", "warning", "not read: no token")]
        assert findings("of nobody") == [ready, ("metrics of serve", "warning", f"not read: {running.url} answered 401")]
        first, *others = findings(running.tokens["reader"])
        assert (first, others[-1]) == (ready, ("frozen orders", "ok", "none"))
        assert not {subject for subject, _, _ in others} & {"metrics of serve", "tokens of serve"}


def test_no_address_is_shown_with_its_password() -> None:
    with running_ledger(MemoryLog(), Topics()) as running:
        token = running.tokens["reader"]
        address = running.url.replace("http://", f"http://reader:{token}@")
        registry = doctor._registry(address, "")
        assert (registry.verdict, registry.result) == ("ok", f"{running.url} has the same schemas under the same ids")
        assert token not in repr(doctor._api(address, None))
    assert token not in repr([doctor._registry(address, ""), *doctor._api(address, None)])  # nothing answers


@contextmanager
def answering(answers: dict[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """A server that is not the ledger's and answers each path 200; yields its URL and the paths that were asked for."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            body = answers.get(self.path, answers["/"])
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}", paths
        finally:
            http.shutdown()
            thread.join()


STRANGE = [b"<html>", b"", b"[]", b'"x"', b"{}", b'{"status": "UP"}', b"\xff"]


@pytest.mark.parametrize("body", STRANGE)
def test_something_else_that_answers_there_is_wrong_in_a_line_and_gets_no_token(body: bytes) -> None:
    with answering({"/": body}) as (url, paths):
        (finding,) = doctor._api(url, "secret")
    assert (finding.verdict, finding.result) == ("wrong", f"{url} is not the ledger's API")
    assert paths == ["/ready"]


@pytest.mark.parametrize("body", [*STRANGE, b'{"data"', b'{"detail": {}}'])
def test_the_verbs_about_an_order_say_so_as_well(body: bytes) -> None:
    err = Screen(stderr=True)
    with answering({"/": body}) as (url, _):
        for ask in (
            lambda: history.run_history("ord_x", url, "t", None, False, err),
            lambda: history.run_diff("ord_x", 1, 2, url, "t", False, err),
            lambda: run_preview(SETTINGS, ("ord_x", url, "t"), Preview("placed"), Terminal(err, err, False)),
        ):
            with pytest.raises(history.ApiError, match=f"^{url} is not the ledger's API$"):
                ask()


@pytest.mark.parametrize(
    "metrics",
    [
        b"<html>{",
        b"# TYPE ledger_clock_skew_seconds gauge\nledger_clock_skew_seconds 1\n",
        b"# TYPE ledger_workers_running gauge\nledger_workers_running 1\n",
        b"ledger_orders_frozen \n",
    ],
)
def test_metrics_that_are_not_those_of_serve_are_wrong_in_a_line(metrics: bytes) -> None:
    with answering({"/": metrics, "/ready": b'{"status": "ready"}'}) as (url, _):
        first, second = doctor._api(url, "secret")
    assert (first.subject, first.verdict) == ("API", "ok")
    assert (second.subject, second.verdict) == ("metrics of serve", "wrong")


@pytest.mark.parametrize(("host", "address"), [("::1", "http://[::1]:8000"), ("::", "http://[::]:8000")])
def test_an_ipv6_host_is_in_brackets(host: str, address: str, tmp_path: Path) -> None:
    options = doctor.DoctorOptions(data_dir=tmp_path, info=None, url=None, token=None)
    url, _ = doctor._address(options, SETTINGS.model_copy(update={"host": host}))
    assert url == address
    assert HttpClient(url).base_url == address


@pytest.mark.parametrize(
    ("url", "token", "running", "expected"),
    [
        (None, None, True, ("http://up", "of up")),
        (None, "mine", True, ("http://up", "mine")),
        ("http://other", None, True, ("http://other", None)),
        ("http://other", "mine", False, ("http://other", "mine")),
        (None, None, False, ("http://127.0.0.1:8000", None)),
    ],
)
def test_options_override_the_running_ledger_and_its_token_goes_nowhere_else(
    url: str | None, token: str | None, running: bool, expected: tuple[str, str | None], tmp_path: Path
) -> None:
    info = {"url": "http://up", "tokens": {"operator": "of up"}} if running else None
    options = doctor.DoctorOptions(data_dir=tmp_path, info=info, url=url, token=token)
    assert doctor._address(options, SETTINGS) == expected


@pytest.mark.parametrize(
    ("skews_ms", "verdict", "words"),
    [
        ({"0": 40, "1": -20}, "ok", "within 0.1 s"),
        ({"0": 7_200_000, "1": 7_200_010}, "warning", "7200 s behind that of Kafka"),
        ({"0": -7_200_000}, "warning", "7200 s ahead of that of Kafka"),
        ({"0": 0, "1": 3_600_000, "2": 10}, "warning", "Kafka's brokers are 3600 s apart"),
    ],
)
def test_clocks_that_differ_are_a_warning(skews_ms: dict[str, int], verdict: str, words: str) -> None:
    status: dict[str, Any] = {"ready_writers": [0], "counts": {}, "workers": [], "clock_skews_ms": skews_ms}
    (finding,) = [f for f in doctor._status(status) if f.subject == "clock of commands"]
    assert finding.verdict == verdict
    assert words in finding.result
    lines = "".join(f'ledger_clock_skew_seconds{{partition="{p}"}} {ms / 1000}\n' for p, ms in skews_ms.items())
    (same,) = [f for f in doctor._of_metrics(f"# TYPE ledger_clock_skew_seconds gauge\n{lines}") if f.subject == "clock of serve"]
    assert (same.verdict, same.result) == (finding.verdict, finding.result)


def test_a_process_that_has_measured_no_clock_says_nothing_about_it() -> None:
    status: dict[str, Any] = {"ready_writers": [0], "counts": {}, "workers": [], "clock_skews_ms": {}}
    assert [f for f in doctor._status(status) if "clock" in f.subject] == []
    assert [f for f in doctor._of_metrics("") if "clock" in f.subject] == []
