"""One delivery over HTTP: where it may go, how long it may take, how much may come back, and what the answer means.

    2xx                 delivered
    410                 the receiver wants nothing more: the endpoint is disabled
    anything else       failed, tried again later; a redirect is not followed. `Retry-After` of 429 and 503 lengthens the pause
    no answer           failed: no connection, a broken one, no HTTP, more than `MAX_ANSWER_BYTES`, longer than `TIMEOUT_S`

The name in the URL is resolved for each new connection, every address is checked, and the connection goes to one of the checked
ones, never through a proxy. So neither a name that changes its addresses nor a redirect reaches an address that is not public.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from typing import Literal
from urllib.parse import urlsplit

from msgspec import Struct

from commands.webhooks.addresses import address_in, is_odd_number, is_public
from ledger.errors import ConfigError
from ledger.http_client import HttpClient, NoAnswer, retry_after_s

TIMEOUT_S = 15.0
MAX_ANSWER_BYTES = 64 * 1024
MAX_CONNECTIONS = 8
RETRY_AFTER_MAX_S = 24 * 60 * 60.0
_BUSY = (429, 503)
_GONE = 410

Result = Literal["delivered", "refused", "gone", "timed_out", "no_answer", "private_address", "unreadable", "not_wanted"]


class Attempt(Struct, frozen=True):
    """What became of one try. `status` is 0 without an answer; `detail` has no text of the other side."""

    result: Result
    status: int = 0
    detail: str = ""
    pause_s: float = 0.0


class NotPublic(OSError):
    """A name has an address to which nothing may be delivered."""


class WebhookDoor:
    """Posts to one endpoint. Use and close it on one event loop. With an invalid URL, each delivery fails."""

    def __init__(self, url: str, *, allow_private: bool, timeout_s: float | None = None, tls_ca_file: str | None = None) -> None:
        self._allow_private, self._timeout_s = allow_private, timeout_s or TIMEOUT_S
        self._url, self._was_private = url, False
        self._client: HttpClient | None = None
        try:
            self._host = urlsplit(url).hostname or ""
            if is_odd_number(self._host):
                raise ValueError("a host that some resolvers take for another address")
            self._client = HttpClient(
                url,
                connections=MAX_CONNECTIONS,
                max_bytes=MAX_ANSWER_BYTES,
                resolve=self._addresses,
                tls_ca_file=tls_ca_file,
            )
        except (ValueError, ConfigError):
            self._host = ""  # of an endpoint that was set by an earlier program; `post` says what is wrong

    async def post(self, body: bytes, headers: Mapping[str, str], now_s: float) -> Attempt:
        """Deliver `body`. Raises nothing that the other side could cause."""
        if self._client is None:
            return Attempt("no_answer", detail="the URL cannot be used")
        literal = address_in(self._host)
        if literal is not None and not self._allow_private and not is_public(literal):
            return Attempt("private_address")
        self._was_private = False
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._client.request("POST", self._url, body=body, headers=headers)
        except TimeoutError:
            return Attempt("timed_out", detail=f"no answer in {self._timeout_s:g} s")
        except NoAnswer as exc:
            return Attempt("private_address") if self._was_private else Attempt("no_answer", detail=str(exc))
        if answer.ok:
            return Attempt("delivered", answer.status)
        if answer.status == _GONE:
            return Attempt("gone", answer.status)
        pause_s = retry_after_s(answer.headers, now_s) if answer.status in _BUSY else 0.0
        return Attempt("refused", answer.status, pause_s=min(pause_s, RETRY_AFTER_MAX_S))

    async def _addresses(self, host: str, port: int) -> Sequence[str]:
        """The addresses of a host. Raises `OSError`, `NotPublic` if one of them is not public."""
        answers = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(one[4][0]) for one in answers))
        for text in addresses:
            address = address_in(text)
            if not self._allow_private and (address is None or not is_public(address)):
                self._was_private = True
                raise NotPublic("not a public address")
        return addresses

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
