"""All HTTP clients of the project, based on aiohttp, which only this module imports. Redirects are not followed.

proxies     never used for a loopback address. For others, HTTPS_PROXY, HTTP_PROXY or ALL_PROXY applies unless NO_PROXY names
            the host; looked up once per client. A SOCKS proxy or an invalid address is a `ConfigError`
addresses   with `resolve`, a call goes to the addresses that it returns and to no others, without any proxy
time        no time-outs here: callers limit a call as a whole, with `asyncio.timeout`
connections kept for the next call; a cancelled or aborted call closes its connection, and its slot is free again
answers     read completely, up to `max_bytes`
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias
from urllib.parse import SplitResult, unquote, urlencode, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

from msgspec import Struct

from ledger import tracing
from ledger.errors import ConfigError, LedgerError

if TYPE_CHECKING:
    import aiohttp  # takes a quarter of a second: only processes that make a request should pay for it

MAX_ANSWER_BYTES = 8 * 1024 * 1024
MAX_CONNECTIONS = 32
Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]  # raises `OSError`

_SCHEMES = ("http", "https")
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104  # a server on all interfaces is reached on this machine


class NoAnswer(LedgerError):
    """No valid answer: no connection, a broken connection, invalid HTTP, or too many bytes.

    `broken`: the connection failed or broke; a retry may succeed.
    """

    code = "no_answer"

    def __init__(self, why: str, broken: bool = True) -> None:
        super().__init__(why)
        self.broken = broken


class HttpAnswer(Struct, frozen=True):
    """`headers` are case-insensitive."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    reason: str = ""

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """Raises `ValueError` for a body that is not JSON."""
        return json.loads(self.body)

    def json_object(self) -> dict[str, Any]:
        """The JSON object of the body; empty if it is none."""
        try:
            value = self.json()
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


class HttpClient:
    """Client of one service. `base_url` may contain `user:password@` for Basic authentication.

    Use and close it on one event loop. Raises `ConfigError` for an invalid address or an unusable proxy. `tls_ca_file` replaces
    the trusted CA certificates.
    """

    def __init__(
        self,
        base_url: str,
        *,
        headers: Mapping[str, str] | None = None,
        connections: int = MAX_CONNECTIONS,
        max_bytes: int = MAX_ANSWER_BYTES,
        tls_ca_file: str | None = None,
        resolve: Resolve | None = None,
    ) -> None:
        """`resolve(host, port)` is not asked about a host that is an address."""
        parts = _parsed(base_url)
        self.base_url = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))
        self._proxy, self._resolve = (proxy_for(base_url) if resolve is None else None), resolve
        self._headers, self._connections, self._max_bytes = dict(headers or {}), connections, max_bytes
        if parts.username:
            named = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = f"Basic {base64.b64encode(named.encode()).decode()}"
        self._tls = parts.scheme == "https"
        self._tls_ca_file = tls_ca_file
        self._trusted: ssl.SSLContext | None = None
        self._open_session: aiohttp.ClientSession | None = None

    async def request(
        self, method: str, path: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> HttpAnswer:
        """Request `path` below the base URL, already encoded, or a full URL of the same service. Raises `NoAnswer`."""
        import aiohttp
        from yarl import URL

        url = URL(path if "://" in path else self.base_url + path, encoded=True)
        if context := tracing.current():
            headers = {**(headers or {}), tracing.NAME: context.decode()}
        try:
            async with self._session().request(method, url, data=body, headers=headers, allow_redirects=False) as response:
                raw = b""
                async for chunk in response.content.iter_any():
                    raw = raw + chunk if raw else chunk
                    if len(raw) > self._max_bytes:
                        raise NoAnswer(f"an answer of more than {self._max_bytes} bytes", broken=False)
                return HttpAnswer(response.status, response.headers, raw, response.reason or "")
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError) as exc:
            raise NoAnswer(_why(exc)) from None
        except (aiohttp.ClientError, ValueError) as exc:  # ValueError: an invalid request header
            raise NoAnswer(_why(exc), broken=False) from None

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> HttpAnswer:
        return await self.request("GET", path, headers=headers)

    async def prepare(self) -> None:
        """Import aiohttp and read the trusted certificates on a thread; else the first request would do so on the event loop."""
        await asyncio.to_thread(self._load)

    def _load(self) -> None:
        import aiohttp  # noqa: F401

        if self._tls and self._trusted is None:
            self._trusted = self._context()

    async def close(self) -> None:
        if self._open_session is not None:
            await self._open_session.close()
            self._open_session = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    def _session(self) -> aiohttp.ClientSession:
        """Created with the first request, when an event loop is certain to run."""
        import aiohttp

        if self._open_session is None:
            self._open_session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._connections,
                    ssl=(self._trusted or self._context()) if self._tls else True,
                    resolver=None if self._resolve is None else _pinned(self._resolve),
                    use_dns_cache=self._resolve is None,
                ),
                headers=self._headers,
                proxy=self._proxy,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._open_session

    def _context(self) -> ssl.SSLContext:
        import certifi

        ca_file = self._tls_ca_file or os.environ.get("SSL_CERT_FILE") or certifi.where()
        return ssl.create_default_context(cafile=ca_file, capath=os.environ.get("SSL_CERT_DIR"))


class BlockingHttp:
    """The same for code without an event loop, as a context manager. Each call takes at most `timeout_s`."""

    def __init__(self, base_url: str, timeout_s: float, headers: Mapping[str, str] | None = None) -> None:
        self._client, self._timeout_s = HttpClient(base_url, headers=headers, connections=1), timeout_s
        self.base_url = self._client.base_url

    def request(
        self, method: str, path: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> HttpAnswer:
        """Like `HttpClient.request`; a time-out is also a `NoAnswer`."""

        async def call() -> HttpAnswer:
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await self._client.request(method, path, body=body, headers=headers)
            except TimeoutError:
                raise NoAnswer(f"no answer in {self._timeout_s:g} s") from None

        return self._runner.run(call())

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> HttpAnswer:
        return self.request("GET", path, headers=headers)

    def __enter__(self) -> Self:
        self._runner = asyncio.Runner()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._runner.run(self._client.close())
        finally:
            self._runner.close()


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address without port, denotes this machine."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback


def url_of(host: str, port: int) -> str:
    """Where a server that listens on `host` answers. `host` may be an IPv6 address, without brackets."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def proxy_for(url: str) -> str | None:
    """The proxy for `url`; None for a direct connection. Raises `ConfigError` if the environment names an unusable one."""
    parts = _parsed(url)
    host = parts.hostname or ""
    if is_loopback(host) or host in _EVERYWHERE:
        return None
    proxies = getproxies()
    name = parts.scheme if proxies.get(parts.scheme) else "all"
    proxy = proxies.get(name)
    if not proxy or proxy_bypass(host):
        return None
    variable = f"{name.upper()}_PROXY"
    try:
        named = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        usable = bool(named.hostname) and (named.port is None or named.port > 0)
    except ValueError:
        named, usable = urlsplit(""), False
    if named.scheme.startswith("socks"):
        raise ConfigError(
            f"{variable} names a SOCKS proxy, but only HTTP proxies are supported: set HTTPS_PROXY or HTTP_PROXY, "
            f"or add {host} to NO_PROXY"
        )
    if not usable or named.scheme not in _SCHEMES:
        raise ConfigError(f"{variable} is not the address of a proxy (http://host:port)")
    return urlunsplit(named)


def with_query(path: str, params: Mapping[str, str | int]) -> str:
    """`path` with `params` as query string."""
    return f"{path}?{urlencode(params)}" if params else path


def retry_after_s(headers: Mapping[str, str], now_s: float) -> float:
    """The pause in `Retry-After` (seconds or a date), in seconds; 0 if there is none.

    `headers` are those of an `HttpAnswer`; `now_s` is since the epoch.
    """
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now_s)
    except (ValueError, OverflowError):
        return 0.0


def _pinned(resolve: Resolve) -> aiohttp.abc.AbstractResolver:
    """A resolver with exactly the addresses of `resolve`: what was checked is where the connection goes."""
    from aiohttp import abc

    class Pinned(abc.AbstractResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[abc.ResolveResult]:
            return [
                abc.ResolveResult(
                    hostname=host,
                    host=address,
                    port=port,
                    family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                    proto=0,
                    flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                )
                for address in await resolve(host, port)
            ]

        async def close(self) -> None:
            """Nothing is kept."""

    return Pinned()


def _parsed(url: str) -> SplitResult:
    """Raises `ConfigError`, without the address: it may contain a password."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in _SCHEMES and bool(parts.hostname) and (parts.port is None or parts.port >= 0)
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError("not an address of the form http://host:port or https://host")
    return parts


def _why(exc: Exception) -> str:
    """The failure in words, without any text of the other side."""
    import aiohttp

    if isinstance(exc, aiohttp.ClientConnectorError):
        return exc.os_error.strerror or type(exc.os_error).__name__
    return type(exc).__name__
