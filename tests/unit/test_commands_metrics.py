"""Health and metrics of `commands`, over HTTP, with a log in memory behind them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from urllib.parse import urlsplit

import httpx
import pytest
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from api.processes import commands_metrics
from api.processes import health as health_module
from api.processes.commands_metrics import readiness, registry_of
from api.processes.health import HealthServer
from commands.processor.process import CommandsProcess
from ledger.log_clock import LogClock
from tests.support import loopback
from tests.support.one_log import PARTITIONS, TOPICS, WRITERS, KeptStore, Ledger, Running, cancel, place, places
from tests.support.patience import PATIENCE_S, until

BOUNDED = {
    "outcome",
    "cause",
    "writer",
    "partition",
    "worker",
    "kind",
    "state",
    "port",
    "answer",
    "channel",
    "fate",
    "result",
    "le",
}


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    ledger = Ledger()
    yield ledger
    for running in list(ledger.running):
        ledger.stop(running)


@pytest.fixture
def running(ledger: Ledger) -> Running:
    running = ledger.start()
    ledger.wait_for(lambda: sorted(running.process.ready_writers) == list(range(WRITERS)))
    return running


@pytest.fixture
def health(ledger: Ledger, running: Running) -> Iterator[HealthServer]:
    registry = registry_of(running.process, ledger.log, LogClock(), lambda: None, lambda: None)
    server = HealthServer("commands", "127.0.0.1", 0, registry, lambda: readiness(running.process, ledger.log))
    server.start()
    yield server
    server.stop()


def values(health: HealthServer) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    answer = loopback.get(f"{health.url}/metrics")
    assert answer.status_code == 200
    families = text_string_to_metric_families(answer.text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_what_was_decided_is_counted(ledger: Ledger, health: HealthServer) -> None:
    order = place("a")
    for command in (order, order, cancel(order, "x"), cancel(order, "y")):
        ledger.send(command)
    name = "ledger_commands_decided_total"
    wanted = {"accepted": 2.0, "refused": 1.0, "repeated": 1.0}
    ledger.wait_for(lambda: {o: values(health).get((name, (("outcome", o),))) for o in wanted} == wanted)
    shown = values(health)
    assert [shown["ledger_commands_behind", (("partition", str(p)),)] for p in range(PARTITIONS)] == [0.0] * PARTITIONS
    assert sum(value for (one, _), value in shown.items() if one == "ledger_commands_batch_size_sum") == 4
    assert shown["ledger_commands_log_reachable", ()] == 1
    assert {shown["ledger_commands_writer_ready", (("writer", str(w)),)] for w in range(WRITERS)} == {1.0}
    labels = {label for _, pairs in shown for label, _ in pairs}
    assert labels <= BOUNDED


def test_a_process_is_ready_when_it_decides_for_each_of_its_writers(
    ledger: Ledger, running: Running, health: HealthServer
) -> None:
    assert loopback.get(f"{health.url}/live").json() == {"status": "live"}
    answer = loopback.get(f"{health.url}/ready")
    assert (answer.status_code, answer.json()["status"]) == (200, "ready")
    assert answer.json()["checks"]["owned"] == "0, 1"
    ledger.log.away(True)
    running.process._loops[0].ready.clear()
    answer = loopback.get(f"{health.url}/ready")
    assert (answer.status_code, answer.json()["checks"]["writers"]) == (503, "not deciding: 0")
    assert values(health)["ledger_commands_log_reachable", ()] == 0
    ledger.log.away(False)
    assert loopback.get(f"{health.url}/orders").status_code == 404


def test_a_start_that_waits_for_the_log_does_not_say_that_it_is_reachable(ledger: Ledger) -> None:
    ledger.log.away(True)
    process = CommandsProcess(ledger.log, lambda _: KeptStore(), TOPICS, "app", "one")
    registry = registry_of(process, ledger.log, LogClock(), lambda: None, lambda: None)
    assert registry.get_sample_value("ledger_commands_log_reachable") == 0


def test_a_standby_is_ready_when_it_has_folded_almost_everything(
    ledger: Ledger, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = ledger.start("two")
    ledger.wait_for(lambda: all(len(one.process.ready_writers) == 1 for one in (running, other)))
    for order in places("a"):
        ledger.send(order)
    ledger.wait_for(lambda: [readiness(one.process, ledger.log)[0] for one in (running, other)] == [True, True])
    monkeypatch.setattr(commands_metrics, "STANDBY_BEHIND", -1)  # nobody folds that much
    is_ready, checks = readiness(other.process, ledger.log)
    assert (is_ready, checks["writers"]) == (False, "ok")
    assert checks["standby"].startswith("behind by ")


def test_starts_over_are_counted_by_cause(ledger: Ledger, health: HealthServer) -> None:
    ledger.log.fail_next_commit("before")
    ledger.send(place("a"))
    ledger.wait_for(lambda: len(ledger.events()) == 1)
    assert values(health)["ledger_commands_starts_over_total", (("cause", "discard"),)] == 1


def test_a_port_in_use_costs_the_process_nothing_else(ledger: Ledger, running: Running) -> None:
    registry = registry_of(running.process, ledger.log, LogClock(), lambda: None, lambda: None)
    with closing(socket.create_server(("127.0.0.1", 0))) as taken, structlog.testing.capture_logs() as logs:
        server = HealthServer("commands", "127.0.0.1", taken.getsockname()[1], registry, lambda: (True, {}))
        server.start()
        server.stop()
    assert server.url is None
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["health and metrics are not served"]


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
@pytest.mark.parametrize("host", ["::1", "::"])
def test_health_is_served_on_an_ipv6_address(ledger: Ledger, running: Running, host: str) -> None:
    server = HealthServer("commands", host, 0, CollectorRegistry(), lambda: readiness(running.process, ledger.log))
    server.start()
    try:
        assert server.url is not None
        assert server.url.startswith(f"http://[{host}]:")
        assert loopback.get(f"{server.url.replace('[::]', '[::1]')}/live").json() == {"status": "live"}
    finally:
        server.stop()


# ---- whoever reaches the port takes no more than is meant for it ---------------------------------------------------------


@contextmanager
def reachable() -> Iterator[tuple[HealthServer, Callable[[], socket.socket]]]:
    """A server, and a function that connects to it."""
    server = HealthServer("commands", "127.0.0.1", 0, CollectorRegistry(), lambda: (True, {}))
    server.start()
    address = urlsplit(server.url or "")
    try:
        with ExitStack() as open_until_then:
            yield (
                server,
                lambda: open_until_then.enter_context(
                    socket.create_connection((address.hostname, address.port), timeout=PATIENCE_S)
                ),
            )
    finally:
        server.stop()


def answer(connection: socket.socket) -> bytes:
    connection.sendall(b"GET /live HTTP/1.0\r\n\r\n")
    return connection.recv(12)


def is_live(server: HealthServer) -> bool:
    try:
        return loopback.get(f"{server.url}/live").status_code == 200
    except httpx.TransportError:
        return False


def test_a_connection_beyond_the_bound_is_closed_and_the_others_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "REQUEST_S", 10 * PATIENCE_S)
    monkeypatch.setattr(health_module, "MOST_CONNECTIONS", 3)
    with reachable() as (server, connect):
        silent = [connect() for _ in range(3)]
        assert connect().recv(1) == b""
        assert [answer(connection) for connection in silent] == [b"HTTP/1.0 200"] * 3
        until(lambda: is_live(server))


def test_a_request_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "REQUEST_S", 0.3)
    with reachable() as (_, connect):
        connection = connect()
        connection.settimeout(0.02)
        connection.sendall(b"GET /live HTTP/1.0\r\nA: ")

        def is_ended() -> bool:
            try:
                connection.sendall(b"a")
                return connection.recv(1) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        until(is_ended)


def test_a_stop_ends_open_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "REQUEST_S", 10 * PATIENCE_S)
    with reachable() as (server, connect):
        connection = connect()
        until(lambda: is_live(server))  # so the first one is accepted, too
        server.stop()
        assert connection.recv(1) == b""
