"""Signed tokens of an issuer (OpenID Connect), accepted beside those of the tokens file.

A token is checked once; then it is known by its hash until it expires, the keys change, or MAX_ACCEPTED others came after it.
A check takes about a tenth of a millisecond on the event loop. Nothing here waits: a token whose key is unknown raises
`KeysWanted`, and the route waits for the keys (`api.edge`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable

from api.callers.auth import Token
from api.callers.issuer import Issuer
from api.callers.issuer_rules import RefusedToken, Rules, Verifier, principal_of
from ledger.clock import now_ms

MAX_ACCEPTED = 10_000
ACCEPTED, UNAVAILABLE = "accepted", "issuer_unavailable"  # outcomes of checks, beside the reasons of `RefusedToken`


class KeysWanted(Exception):
    """The key of a token is unknown, and a fetch may bring it."""


class IssuerUnavailable(Exception):
    """The key of a token is unknown, and the issuer does not answer: whether the token is genuine is unknown."""


class Oidc:
    """The signed tokens of one issuer. `checks`: how often a token was checked, by outcome."""

    def __init__(self, rules: Rules, issuer: Issuer, verifier: Verifier, clock: Callable[[], int] = now_ms) -> None:
        self.rules, self.issuer = rules, issuer
        self.checks: Counter[str] = Counter()
        self._verifier, self._clock = verifier, clock
        self._accepted: dict[bytes, Token] = {}  # by SHA-256, the oldest first
        self._keys = issuer.keys  # with which they were accepted

    def find(self, token: bytes, may_fetch: bool) -> Token:
        """What is known about a valid token. Raises `RefusedToken`, `IssuerUnavailable`, and with `may_fetch` `KeysWanted`."""
        if self._keys is not self.issuer.keys:
            self._keys = self.issuer.keys
            self._accepted.clear()
        digest = hashlib.sha256(token).digest()
        known = self._accepted.get(digest)
        if known is not None and not known.is_expired(self._clock()):
            return known
        try:
            known = self._check(token, digest)
        except RefusedToken as refused:
            self._refuse(refused, may_fetch)
            raise
        self.checks[ACCEPTED] += 1
        self._accepted[digest] = known
        if len(self._accepted) > MAX_ACCEPTED:
            del self._accepted[next(iter(self._accepted))]
        return known

    def accepts(self, token: Token) -> bool:
        """Whether an accepted token is still valid: neither expired, nor its key withdrawn since."""
        keys = self.issuer.keys
        return keys is not None and token.key in keys.thumbprints and not token.is_expired(self._clock())

    def gauges(self) -> Iterable[tuple[str, str, str, dict[str, float]]]:
        """For `/metrics`: (name, help, label name, {label value: value})."""
        issuer = self.issuer
        yield "ledger_oidc_keys", "Usable keys of the issuer.", "", {"": float(len(issuer.keys or ()))}
        text = "1 while the issuer's keys cannot be fetched, and those that are known are used."
        yield "ledger_oidc_issuer_failing", text, "", {"": float(bool(issuer.failure))}
        if issuer.confirmed_at_ms is not None:
            age_s = (self._clock() - issuer.confirmed_at_ms) / 1000
            yield "ledger_oidc_keys_age_seconds", "Time since the issuer last confirmed its keys.", "", {"": age_s}

    def _check(self, token: bytes, digest: bytes) -> Token:
        """Raises `RefusedToken`."""
        if self._keys is None:
            raise RefusedToken("unknown_key")
        verified = self._verifier.verify(token, self._keys, self._clock() / 1000)
        expires_at_ms = int((verified.expires_at_s + self.rules.leeway_s) * 1000)
        return Token(digest, principal_of(verified.claims, self.rules), expires_at_ms, verified.thumbprint)

    def _refuse(self, refused: RefusedToken, may_fetch: bool) -> None:
        """Count the outcome. Raises `KeysWanted` or `IssuerUnavailable` instead of a key that is unknown."""
        if refused.reason == "unknown_key":
            if may_fetch and self.issuer.may_fetch:
                raise KeysWanted
            if self.issuer.failure or self._keys is None:
                self.checks[UNAVAILABLE] += 1
                raise IssuerUnavailable
        self.checks[refused.reason] += 1
