"""The tokens of a running `serve`: reloads the file when it changes, and warns about tokens that expire soon.

An invalid file changes nothing: the previous tokens stay in use; that is logged once, and shown in `/metrics` while it lasts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from api.callers.auth import Token, Tokens, read_tokens
from api.settings import Settings
from ledger.clock import now_ms
from ledger.durations import DAY_MS
from ledger.errors import ConfigError
from ledger.rfc3339 import format_ms

EVERY_S = 1.0
WARN_MS = (14 * DAY_MS, DAY_MS, 0)  # before a token expires; each once

log = structlog.get_logger(__name__)

_Identity = tuple[int, int, int, int]  # device, inode, size in bytes, time of the last change in ns


class TokensFile:
    """`tokens` are those of the settings. Raises `ConfigError` if there are none at the start.

    `on_reload(outcome)` is called with "taken" or "refused", once per change of the file.
    """

    def __init__(self, settings: Settings, clock: Callable[[], int] = now_ms) -> None:
        self._settings, self._clock = settings, clock
        self._taken = self._last = self._identity()
        self._said = ""
        self._warned: dict[bytes, int] = {}  # by hash: the least of WARN_MS that was logged
        self.on_reload: Callable[[str], object] = lambda outcome: None
        self.tokens = Tokens(read_tokens(settings), clock)

    async def check_for_ever(self) -> None:
        while True:
            self.check()
            await asyncio.sleep(EVERY_S)

    def check(self) -> None:
        """Reload the file if it has changed, but not since the last check: it may still be being written."""
        identity = self._identity()
        is_still, self._last = identity == self._last, identity
        if self._settings.ledger_tokens_file is not None and is_still:
            if identity != self._taken:
                self._reload(identity)
            elif self.tokens.is_stale:
                log.info("tokens file is valid again, unchanged")
                self.tokens.is_stale, self._said = False, ""
        self._warn()

    def _identity(self) -> _Identity | None:
        """Identity of the file; None if there is none."""
        path = self._settings.ledger_tokens_file
        if path is None:
            return None
        try:
            status = path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def _reload(self, identity: _Identity | None) -> None:
        try:
            known = read_tokens(self._settings)
        except ConfigError as exc:  # checked again the next time: it may be readable later
            self.tokens.is_stale = True
            if str(exc) != self._said:
                self._said = str(exc)
                log.error("tokens file is invalid, keeping the previous tokens", why=self._said)
                self._note("refused")
            return
        before, now = ({token.sha256 for token in tokens} for tokens in (self.tokens.known, known))
        self.tokens.replace(known)
        self._taken, self._said = identity, ""
        log.info("tokens reloaded from the file", added=len(now - before), removed=len(before - now), known=len(now))
        self._note("taken")

    def _note(self, outcome: str) -> None:
        self.tokens.reloads[outcome] += 1
        self.on_reload(outcome)

    def _warn(self) -> None:
        """Log each token that expires within one of WARN_MS, once for each."""
        now = self._clock()
        for token in self.tokens.known:
            if (warning := _warning(token, now)) is None or warning >= self._warned.get(token.sha256, warning + 1):
                continue
            self._warned[token.sha256] = warning
            assert token.expires_at_ms is not None
            log.warning(
                "token has expired" if warning == 0 else "token expires soon",
                principal=token.principal.actor,
                expires_at=format_ms(token.expires_at_ms),
                sha256_begins=token.sha256.hex()[:8],
            )


def _warning(token: Token, now: int) -> int | None:
    """The entry of WARN_MS that the token has reached. `now` is in ms since the epoch."""
    if token.expires_at_ms is None:
        return None
    left_ms = token.expires_at_ms - now
    return min((before for before in WARN_MS if left_ms <= before), default=None)
