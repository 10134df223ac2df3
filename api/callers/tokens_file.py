"""The tokens of a running `serve`: the file is read again when it changes, and whoever holds a token that ends soon is named.

A file that cannot be used changes nothing: the tokens of before stay, one line says so, and `/metrics` as long as it lasts.
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
WARN_MS = (14 * DAY_MS, DAY_MS, 0)  # before the end of a token, each once

log = structlog.get_logger(__name__)

_Identity = tuple[int, int, int, int]  # device, inode, size in bytes, time of the last change in ns


class TokensFile:
    """`tokens` as the settings have them. Raises `ConfigError` when there are none to begin with.

    `on_reload(outcome)` hears "taken" and "refused", each once for a change of the file.
    """

    def __init__(self, settings: Settings, clock: Callable[[], int] = now_ms) -> None:
        self._settings, self._clock = settings, clock
        self._taken = self._last = self._identity()
        self._said = ""
        self._warned: dict[bytes, int] = {}  # the least of WARN_MS that was said of a hash
        self.on_reload: Callable[[str], object] = lambda outcome: None
        self.tokens = Tokens(read_tokens(settings), clock)

    async def look_for_ever(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(EVERY_S)

    def look(self) -> None:
        """Take the file if it has changed, and was left alone since the last look: it is not half written then."""
        found = self._identity()
        is_still, self._last = found == self._last, found
        if self._settings.ledger_tokens_file is not None and is_still:
            if found != self._taken:
                self._reload(found)
            elif self.tokens.is_stale:
                log.info("the tokens file is again what it was")
                self.tokens.is_stale, self._said = False, ""
        self._warn()

    def _identity(self) -> _Identity | None:
        """Which file it is; None when there is none, or none to be looked at."""
        path = self._settings.ledger_tokens_file
        if path is None:
            return None
        try:
            found = path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    def _reload(self, found: _Identity | None) -> None:
        try:
            known = read_tokens(self._settings)
        except ConfigError as exc:  # looked at again the next time: what cannot be read now may be later
            self.tokens.is_stale = True
            if str(exc) != self._said:
                self._said = str(exc)
                log.error("the tokens file is not taken, the tokens of before stay", why=self._said)
                self._note("refused")
            return
        before, now = ({token.sha256 for token in tokens} for tokens in (self.tokens.known, known))
        self.tokens.replace(known)
        self._taken, self._said = found, ""
        log.info("tokens taken from the file", added=len(now - before), removed=len(before - now), known=len(now))
        self._note("taken")

    def _note(self, outcome: str) -> None:
        self.tokens.reloads[outcome] += 1
        self.on_reload(outcome)

    def _warn(self) -> None:
        """A line for each token that ends within one of WARN_MS, and was not said to."""
        now = self._clock()
        for token in self.tokens.known:
            if (warning := _warning(token, now)) is None or warning >= self._warned.get(token.sha256, warning + 1):
                continue
            self._warned[token.sha256] = warning
            assert token.expires_at_ms is not None
            log.warning(
                "a token has expired" if warning == 0 else "a token expires soon",
                principal=token.principal.actor,
                expires_at=format_ms(token.expires_at_ms),
                sha256_begins=token.sha256.hex()[:8],
            )


def _warning(token: Token, now: int) -> int | None:
    """Which of WARN_MS the token has come to. `now` in ms since the epoch."""
    if token.expires_at_ms is None:
        return None
    left_ms = token.expires_at_ms - now
    return min((before for before in WARN_MS if left_ms <= before), default=None)
