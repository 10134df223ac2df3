"""Forwarded headers count from the proxies that a setting names, and from nobody else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from api.callers.proxies import Proxies
from api.connections import ConnectionLimits, Connections
from api.settings import Settings, load_settings
from ledger.errors import ConfigError
from projections.faust_app import UVICORN_OPTIONS
from tests.support import loopback
from tests.support.patience import PATIENCE_S, until

FORGED = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https", "Forwarded": "for=203.0.113.7;proto=https"}


def proxies(text: str) -> Proxies:
    return Proxies(Settings(_env_file=None, trusted_proxies=text).proxies)


@contextmanager
def serving(options: dict[str, Any]) -> Iterator[str]:
    """A server with the options of `serve` that answers with the client and the scheme that it sees."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = f"{scope['client'][0]} {scope['scheme']}".encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})

    config = uvicorn.Config(app, port=0, lifespan="off", log_config=None, access_log=False, **{**UVICORN_OPTIONS, **options})
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    until(lambda: server.started)
    yield "http://{}:{}".format(*server.servers[0].sockets[0].getsockname())
    server.should_exit = True
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("trusted", "believed"),
    [
        ("", "127.0.0.1 http"),
        ("10.0.0.0/8,192.0.2.1", "127.0.0.1 http"),
        ("127.0.0.1", "203.0.113.7 https"),
        ("127.0.0.0/8,::1", "203.0.113.7 https"),
    ],
)
@pytest.mark.parametrize("of_environment", [None, "*", "127.0.0.1"])
def test_the_setting_alone_says_whose_headers_count(
    trusted: str, believed: str, of_environment: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
    if of_environment is not None:
        monkeypatch.setenv("FORWARDED_ALLOW_IPS", of_environment)
    with serving(proxies(trusted).uvicorn_options()) as url, loopback.client() as client:
        assert client.get(url, headers=FORGED).text == believed
        assert client.get(url).text == "127.0.0.1 http"


def test_a_client_behind_a_proxy_cannot_name_another_one_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(proxies("127.0.0.1").uvicorn_options()) as url, loopback.client() as client:
        headers = {"X-Forwarded-For": "198.51.100.1, 203.0.113.7"}  # the first by the client, the second by the proxy
        assert client.get(url, headers=headers).text == "203.0.113.7 http"


@pytest.mark.parametrize(
    ("host", "is_one"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("11.1.2.3", False),
        ("2001:db8::7", True),
        ("2001:db8::8", False),
        ("fe80::1%eth0", False),
        ("", False),
        ("socket", False),
    ],
)
def test_a_proxy_is_known_by_its_address(host: str, is_one: bool) -> None:
    assert (host in proxies("10.0.0.0/8, 2001:db8::7")) is is_one
    assert host not in proxies("")


@pytest.mark.parametrize("wrong", ["*", "proxy.internal", "10.0.0.1/8", "10.0.0.0/33", "0.0.0.0/0", "::/0", "127.0.0.1,x"])
def test_an_invalid_address_or_everybody_is_refused(wrong: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRUSTED_PROXIES", wrong)
    with pytest.raises(ConfigError, match=r"^TRUSTED_PROXIES: "):
        load_settings()


class Resting:
    """A connection that may be closed at any time."""

    class loop:
        @staticmethod
        def call_later(*_: object) -> None:
            return None

    def __init__(self, connections: Connections, name: str) -> None:
        self.connections, self.name, self.why = connections, name, ""

    def end(self, why: str) -> None:
        self.why = why
        self.connections.forget(self, self.name)  # type: ignore[arg-type]


def test_a_proxy_holds_as_many_connections_as_there_may_be_at_all() -> None:
    connections = Connections(ConnectionLimits(connections=8, per_address=2), proxies("10.0.0.7"))
    admitted = []
    for host in ["10.0.0.7"] * 5 + ["192.0.2.1"] * 3:
        one = Resting(connections, host)
        address = connections.admit(one, host, host)  # type: ignore[arg-type]
        assert address is not None
        address.silent[one] = None  # type: ignore[index]
        admitted.append(one)
    assert [one.name for one in admitted if one.why] == ["192.0.2.1"]
    for _ in range(4):  # the bound for all connections holds for it too
        one = Resting(connections, "10.0.0.7")
        assert connections.admit(one, "10.0.0.7", "10.0.0.7")  # type: ignore[arg-type]
    assert len(connections) == 8
