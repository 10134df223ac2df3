"""Free ports for servers: never from the range from which the system takes ports for outgoing connections."""

from __future__ import annotations

import ast
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ledger import ports
from ledger.errors import NoFreePort

ROOT = Path(__file__).parents[2]
EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
# Keeps the socket it has bound, so no other process can take the port in between.
KEEPS_ITS_SOCKET = {"tests/benchmarks/noop_server.py"}


def test_a_free_port_is_below_the_ephemeral_range() -> None:
    lowest = int(EPHEMERAL.read_text().split()[0]) if EPHEMERAL.exists() else 32_768
    assert {ports.free_port() for _ in range(50)} <= set(range(20_000, min(30_000, lowest)))


def test_the_preferred_port_is_taken_only_while_it_is_free() -> None:
    port = ports.free_port()
    assert ports.free_port(port) == port
    with socket.create_server(("127.0.0.1", port)):
        assert not ports.is_free(port)
        assert ports.free_port(port) != port
    assert ports.is_free(port)
    assert ports.free_port(port, avoid=port) != port


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not let a server listen on a port that is held")
def test_a_port_is_given_to_one_process_before_its_server_starts_and_between_two_starts() -> None:
    port = ports.free_port()
    other = ports.free_port()
    ports._held.pop(other).close()
    ask = f"from ledger import ports; ports.PORTS = [{port}, {other}]; ports._ATTEMPTS = 2; print(ports.free_port())"
    for _ in range(3):
        elsewhere = subprocess.run([sys.executable, "-c", ask], check=True, capture_output=True, text=True).stdout
        assert int(elsewhere) == other
        with socket.create_server(("127.0.0.1", port)) as server, socket.create_connection(("127.0.0.1", port)) as client:
            server.accept()[0].close()
            assert client.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_a_machine_without_a_free_port_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_bound", lambda port, shared: None)
    with pytest.raises(NoFreePort, match="200 ports between 20000 and 30000") as caught:
        ports.free_port()
    assert caught.value.code == "port_taken"


def binds_port_0_and_lets_go(path: Path) -> bool:
    """Whether a file asks the system for a port by `bind((host, 0))`, which is right only for a socket that stays open."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "bind":
            address = node.args[0] if node.args else None
            if isinstance(address, ast.Tuple) and isinstance(address.elts[-1], ast.Constant) and address.elts[-1].value == 0:
                return True
    return False


def test_nobody_takes_a_port_of_the_ephemeral_range_to_hand_it_on(tmp_path: Path) -> None:
    files = [p for folder in ("ledger", "commands", "projections", "api", "tests") for p in (ROOT / folder).rglob("*.py")]
    assert len(files) > 150
    wrong = {p.relative_to(ROOT).as_posix() for p in files if binds_port_0_and_lets_go(p)}
    assert wrong == KEEPS_ITS_SOCKET
    (tmp_path / "own.py").write_text("import socket\nwith socket.socket() as s:\n    s.bind(('127.0.0.1', 0))\n")
    assert binds_port_0_and_lets_go(tmp_path / "own.py")
