"""The keys of an issuer: fetched by HTTP, kept in a file for a start without it, fetched again when they may have changed.

When they are fetched:

    at the start, and every REFRESH_S after that    new keys arrive before they are needed, withdrawn ones go
    when a token names a key that is unknown        at most every FETCH_AGAIN_S, whatever tokens name; requests share the fetch
    after a failure                                 after FIRST_RETRY_S, then twice as long each time, up to REFRESH_S

A fetch ends after FETCH_S, reads at most MAX_DOCUMENT_BYTES of each document, and follows no redirect. One that fails changes
nothing: the keys that are known stay in use, also those of the file, however old. A key set without a usable key is a failure.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from api.callers.issuer_rules import Keys, Rules, Verifier, is_url
from ledger.clock import now_ms
from ledger.errors import ConfigError, LedgerError
from ledger.files import write_whole
from ledger.http_client import HttpClient, NoAnswer
from ledger.jitter import between

FETCH_S = 5.0
MAX_DOCUMENT_BYTES = 256 * 1024
REFRESH_S = 300.0
FETCH_AGAIN_S = 10.0
FIRST_RETRY_S = 5.0

log = structlog.get_logger(__name__)


class NoKeys(LedgerError):
    """The issuer's documents cannot be used. The message has nothing of them."""

    code = "no_keys"


class Discovery(NamedTuple):
    """What the issuer says about itself (OpenID Connect Discovery 1.0). Addresses that it does not name are empty."""

    jwks_uri: str = ""
    authorization_endpoint: str = ""
    token_endpoint: str = ""
    end_session_endpoint: str = ""


class Issuer:
    """The keys of one issuer, and its discovery document. Use it on one event loop.

    `file` keeps both for the next start; None: they are not kept. `confirmed_at_ms`: when the issuer last confirmed them, since
    the epoch. `failure`: why the last fetch failed; empty after one that did not.
    """

    def __init__(
        self,
        rules: Rules,
        verifier: Verifier,
        file: Path | None,
        clock: Callable[[], int] = now_ms,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rules = rules
        self.keys: Keys | None = None
        self.discovery = Discovery()
        self.confirmed_at_ms: int | None = None
        self.failure = ""
        self.fetches = Counter(taken=0, unchanged=0, failed=0)
        self._verifier, self._file, self._clock, self._monotonic = verifier, file, clock, monotonic
        self._began_at_s: float | None = None  # the last fetch
        self._ended = 0  # how many fetches have
        self._lock = asyncio.Lock()
        self._read_file()

    @property
    def may_fetch(self) -> bool:
        """Whether an unknown key is a reason to fetch: a fetch is under way, or the last one is not recent."""
        return self._lock.locked() or self._began_at_s is None or self._monotonic() - self._began_at_s >= FETCH_AGAIN_S

    async def keep_for_ever(self) -> None:
        """Fetch the keys again and again. A failure is logged once, and so is its end."""
        retry_s = FIRST_RETRY_S
        while True:
            await self.fetch()
            if self.failure:
                await asyncio.sleep(retry_s * between(0.8, 1.2))
                retry_s = min(2 * retry_s, REFRESH_S)
            else:
                retry_s = FIRST_RETRY_S
                await asyncio.sleep(REFRESH_S * between(0.8, 1.2))

    async def fetch(self) -> None:
        """Fetch the keys, or wait for the fetch that is under way. Takes at most FETCH_S. No fault of the issuer is raised."""
        ended = self._ended
        async with self._lock:
            if self._ended != ended:
                return
            self._began_at_s = self._monotonic()
            try:
                async with asyncio.timeout(FETCH_S):
                    await self._take(*await self._documents())
            except TimeoutError:
                self._failed(f"no answer in {FETCH_S:g} s")
            except (NoAnswer, NoKeys, ConfigError) as exc:
                self._failed(str(exc))
            finally:
                self._ended += 1

    async def _documents(self) -> tuple[bytes, Discovery]:
        """Key set and discovery document. Raises `NoAnswer`, `NoKeys`, `ConfigError`."""
        discovery = self.discovery
        if self.rules.needs_discovery:
            discovery = self._discovered(await self._get(self.rules.discovery_url))
        return await self._get(self.rules.jwks_url or discovery.jwks_uri), discovery

    async def _get(self, url: str) -> bytes:
        if not self._may_use(url):
            raise NoKeys("its address is not https://, which production needs, or oidc in ALLOW_PLAINTEXT")
        async with HttpClient(url, connections=1, max_bytes=MAX_DOCUMENT_BYTES) as client:
            await client.prepare()
            answer = await client.get(url, {"Accept": "application/json", "Accept-Encoding": "identity"})
        if answer.status != 200:
            raise NoKeys(f"it answered {answer.status}")
        return answer.body

    def _may_use(self, url: str) -> bool:
        return self.rules.plaintext or url.startswith("https://")

    def _discovered(self, document: bytes) -> Discovery:
        """Raises `NoKeys`."""
        try:
            members: Any = json.loads(document)
            named = {name: str(members.get(name) or "") for name in Discovery._fields}
            issuer = members["issuer"]
        except (ValueError, AttributeError, KeyError, RecursionError):
            raise NoKeys("its discovery document cannot be read") from None
        if issuer != self.rules.issuer:  # section 4.3: they must be the same, or one issuer could speak for another
            raise NoKeys("its discovery document is of another issuer: OIDC_ISSUER must be exactly what it names")
        for name, url in named.items():
            if (url or name == "jwks_uri") and not (is_url(url) and self._may_use(url)):
                raise NoKeys(f"{name} of its discovery document is not an address that may be used")
        return Discovery(**named)

    async def _take(self, document: bytes, discovery: Discovery) -> None:
        """Use these keys from now on, and keep them. Raises `NoKeys`."""
        try:
            keys = await asyncio.to_thread(self._verifier.read_keys, document)
        except ValueError as exc:
            raise NoKeys(f"its key set cannot be used: {exc}") from None
        before = self.keys.entries if self.keys is not None else frozenset()
        changed = keys.entries != before
        if changed:
            self.keys = keys
            log.info("keys of the issuer taken", keys=len(keys), added=len(keys.entries - before))
        elif self.failure:
            log.info("issuer answers again")
        self.discovery, self.confirmed_at_ms, self.failure = discovery, self._clock(), ""
        self.fetches["taken" if changed else "unchanged"] += 1
        await self._keep(document, discovery, self.confirmed_at_ms)

    def _failed(self, why: str) -> None:
        self.fetches["failed"] += 1
        if why != self.failure:
            log.error("keys of the issuer not fetched, keeping those that are known", why=why, keys=len(self.keys or ()))
        self.failure = why

    # ---- the file

    async def _keep(self, document: bytes, discovery: Discovery, at_ms: int) -> None:
        """A full disk, which others report too, costs a later start without the issuer its keys."""
        if self._file is None:
            return
        kept = {"issuer": self.rules.issuer, "jwks_url": self.rules.jwks_url, "confirmed_at_ms": at_ms}
        text = json.dumps(kept | {"discovery": discovery._asdict(), "keys": document.decode("utf-8")})
        try:
            await asyncio.to_thread(write_whole, self._file, text, private=True, durable=True)
        except OSError as exc:
            log.warning("keys of the issuer not kept for the next start", why=exc.strerror)

    def _read_file(self) -> None:
        """Take the keys of the last run, if it had the same issuer."""
        if self._file is None:
            return
        try:
            kept: Any = json.loads(self._file.read_text("utf-8"))
            if (kept["issuer"], kept["jwks_url"]) != (self.rules.issuer, self.rules.jwks_url):
                return
            keys = self._verifier.read_keys(kept["keys"].encode())
            discovery, at_ms = Discovery(**kept["discovery"]), int(kept["confirmed_at_ms"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
            log.warning("kept keys of the issuer cannot be read, fetching them", why=type(exc).__name__)
            return
        self.keys, self.discovery, self.confirmed_at_ms = keys, discovery, at_ms
