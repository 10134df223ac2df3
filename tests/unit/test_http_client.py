"""The project's HTTP clients: which calls go through a proxy, what counts as an answer, and that nothing is left open."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from commands.reconciler.answers import Done, Unknown
from commands.reconciler.stock_http import HttpStock
from ledger.errors import ConfigError
from ledger.http_client import BlockingHttp, HttpClient, NoAnswer, is_loopback, proxy_for, retry_after_s
from tests.support.patience import PATIENCE_S

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


Serve = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def service(serve: Serve) -> AsyncIterator[str]:
    """Yields its address. `serve(head, writer)` answers each request; connections are kept open."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = [int(x.split(b":")[1]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-length")]
                await reader.readexactly(sum(length))
                await serve(head, writer)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def reply(body: bytes = b"{}") -> bytes:
    return ANSWER % (len(body), body)


# ---- proxies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "LOCALHOST.", "::1", "[::1]", "::ffff:127.0.0.1"])
def test_a_loopback_host_is_recognised(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "127.0.0.1.example.org", "localhost.example.org", "10.0.0.1", "example.org", "::2", "0.0.0.0", "::"]
)
def test_another_host_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("proxy", ["http://proxy.example:3128", "socks5://proxy.example:1080", "http://:x", "nonsense://"])
def test_calls_to_loopback_use_no_proxy_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name.lower(), proxy)

    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b'"direct"'))

    async def main() -> str:
        async with service(answer) as url, HttpClient(url) as client:
            return str((await client.get("/")).json())

    assert asyncio.run(main()) == "direct"


def test_calls_to_another_host_use_the_proxy_unless_it_is_named_as_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    heads: list[bytes] = []

    async def proxy(head: bytes, writer: asyncio.StreamWriter) -> None:
        heads.append(head)
        writer.write(reply(b'"by proxy"'))

    async def main() -> str:
        async with service(proxy) as url:
            monkeypatch.setenv("http_proxy", url.replace("http://", "http://user:pa%20ss@"))
            async with HttpClient("http://stock.example/v1") as client:
                return str((await client.get("/items")).json())

    assert asyncio.run(main()) == "by proxy"
    assert heads[0].startswith(b"GET http://stock.example/v1/items HTTP/1.1\r\n")
    assert b"proxy-authorization: basic dxnlcjpwysbzcw==" in heads[0].lower()
    monkeypatch.setenv("no_proxy", "other.example,stock.example")
    assert proxy_for("http://stock.example/v1") is None
    assert proxy_for("http://elsewhere.example/v1") is not None
    assert proxy_for("http://0.0.0.0:8000") is proxy_for("http://[::]:8000") is None
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("https_proxy", "proxy.example:3128")
    assert proxy_for("https://stock.example/v1") == "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("HTTPS_PROXY", "socks5://user:canary@127.0.0.1:1080", "HTTPS_PROXY names a SOCKS proxy"),
        ("ALL_PROXY", "socks5h://user:canary@127.0.0.1:1080", "ALL_PROXY names a SOCKS proxy"),
        ("HTTPS_PROXY", "http://user:canary@:3128", "HTTPS_PROXY is not the address of a proxy"),
        ("HTTPS_PROXY", "http://canary:canary", "HTTPS_PROXY is not the address of a proxy"),
        ("HTTPS_PROXY", "http://[canary", "HTTPS_PROXY is not the address of a proxy"),
        ("HTTPS_PROXY", "ftp://canary:21", "HTTPS_PROXY is not the address of a proxy"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_one_line_that_names_the_variable_and_no_password(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name.lower(), value)
    with pytest.raises(ConfigError, match=said) as caught:
        HttpClient("https://stock.example")
    assert "canary" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert HttpClient("https://127.0.0.1:1")


@pytest.mark.parametrize("url", ["", "stock.example", "ftp://stock.example", "http://", "http://x:canary", "http://[canary"])
def test_an_invalid_address_is_an_error_that_says_so(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        HttpClient(url)
    assert "canary" not in str(caught.value)


# ---- answers --------------------------------------------------------------------------------------------------------


def test_a_password_in_the_address_is_sent_and_not_kept_in_it() -> None:
    heads: list[bytes] = []

    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        heads.append(head)
        writer.write(reply())

    async def main() -> None:
        async with service(answer) as url, HttpClient(url.replace("http://", "http://user:pa%20ss@") + "/") as client:
            assert client.base_url == url
            assert (await client.get("/x?y=%2F")).ok

    asyncio.run(main())
    assert heads[0].startswith(b"GET /x?y=%2F HTTP/1.1\r\n")
    assert b"authorization: basic dxnlcjpwysbzcw==" in heads[0].lower()


def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    asked: list[bytes] = []

    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        asked.append(head)
        writer.write(b"HTTP/1.1 302 Found\r\nlocation: http://example.org/\r\ncontent-length: 0\r\n\r\n")

    async def main() -> int:
        async with service(answer) as url, HttpClient(url) as client:
            return (await client.get("/")).status

    assert asyncio.run(main()) == 302
    assert len(asked) == 1


def test_an_answer_that_is_too_large_is_an_error_and_its_connection_is_closed() -> None:
    gone = asyncio.Event()

    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
                await writer.drain()
        except OSError:
            gone.set()
            raise

    async def main() -> None:
        async with service(answer) as url, HttpClient(url, max_bytes=10_000) as client:
            with pytest.raises(NoAnswer, match="more than 10000 bytes") as caught:
                await client.get("/")
            assert not caught.value.broken
            await asyncio.wait_for(gone.wait(), PATIENCE_S)

    asyncio.run(main())


def test_code_without_a_loop_makes_the_same_calls_with_one_limit_for_the_whole_call() -> None:
    with threaded_service() as url, BlockingHttp(url, timeout_s=PATIENCE_S) as http:
        assert http.get("/").json() == {}
        assert http.request("POST", "/", body=b"{}").status == 200
        http._timeout_s = 0.3
        with pytest.raises(NoAnswer, match=r"no answer in 0\.3 s"):
            http.get("/drip")
        http._timeout_s = PATIENCE_S
        assert http.get("/").ok
    with BlockingHttp("http://127.0.0.1:1", timeout_s=PATIENCE_S) as http, pytest.raises(NoAnswer):
        http.get("/")


@contextmanager
def threaded_service() -> Iterator[str]:
    address: list[str] = []
    there, loop = threading.Event(), asyncio.new_event_loop()
    done = asyncio.Event()

    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        if b"/drip" not in head:
            writer.write(reply())
            return
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        while not done.is_set():
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.05)

    async def main() -> None:
        async with service(answer) as url:
            address.append(url)
            there.set()
            await done.wait()
            await asyncio.sleep(0.1)

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    there.wait()
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(PATIENCE_S)
        loop.close()


def test_how_long_a_service_asks_its_client_to_wait() -> None:
    assert retry_after_s({}, 0) == 0
    assert retry_after_s({"Retry-After": "7"}, 0) == 7
    assert retry_after_s({"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}, 946_684_790) == 9
    assert retry_after_s({"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}, 946_684_800) == 0
    for nonsense in ("", "-1", "soon", "1e9", "٣"):
        assert retry_after_s({"Retry-After": nonsense}, 0) == 0


# ---- nothing is left open -------------------------------------------------------------------------------------------


def open_sockets() -> int:
    return sum(str(fd.readlink()).startswith("socket:") for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink())


def test_calls_that_end_in_the_middle_of_everything_leave_no_place_taken_and_no_socket_open() -> None:
    """Time-outs that fire while a connection is being made left places in httpx's pool that were never free again."""
    choice = random.Random(1)
    stalls = True

    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        if stalls:
            await asyncio.sleep(choice.uniform(0.005, 0.15))
        writer.write(reply(b'{"status":"reserved","reservation_ref":"x"}'))

    async def main() -> None:
        nonlocal stalls
        async with service(answer) as url:
            before = open_sockets()
            stock, slots = HttpStock("product", f"{url}/stock/product", 60), asyncio.Semaphore(32)

            async def one(number: int) -> Done | Unknown:
                async with slots:
                    return await stock.reserve(f"order-{number}", "EUR", (), f"key-{number}")  # type: ignore[return-value]

            ends: set[str] = set()
            for _ in range(6):
                calls = [asyncio.create_task(one(number)) for number in range(150)]
                for call in calls[::7]:  # some callers give up on their own, at any moment
                    asyncio.get_running_loop().call_later(choice.uniform(0, 0.2), call.cancel)
                ends |= {type(end).__name__ for end in await asyncio.gather(*calls, return_exceptions=True)}
            assert ends - {"Done"} == {"Unknown", "CancelledError"}  # on a slow machine, none may be done in time
            stalls = False
            stock._timeout_s = PATIENCE_S  # from here on the question is whether there is a place at all, not how soon
            after = await asyncio.gather(*(one(number) for number in range(200)))
            assert {type(end).__name__ for end in after} == {"Done"}
            connector = stock._client._session().connector
            assert connector is not None
            assert not connector._acquired
            assert not connector._waiters
            await stock.close()
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while open_sockets() > before - 1:  # the listening socket is closed too
            assert asyncio.get_running_loop().time() < deadline, (before, open_sockets())
            await asyncio.sleep(0.02)

    asyncio.run(main())


def test_certificates_are_read_before_the_first_request_if_that_is_wanted() -> None:
    async def prepared(url: str) -> object:
        async with HttpClient(url) as client:
            await client.prepare()
            return client._trusted

    assert isinstance(asyncio.run(prepared("https://login.example.org")), ssl.SSLContext)
    assert asyncio.run(prepared("http://127.0.0.1:9")) is None
