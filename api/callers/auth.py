"""Bearer tokens and their principals. Stores only hashes of tokens, never tokens.

The tokens file (`LEDGER_TOKENS_FILE`, or the same JSON in `LEDGER_TOKENS`):

    {"tokens": [{"name": "web", "role": "gateway", "expires_at": "2031-01-31T12:00:00Z",
                 "sha256": ["<64 hex digits>", {"sha256": "<64 hex digits>", "expires_at": "2030-02-01T00:00:00Z"}]}]}

Several hashes under one name allow rotation: the name stays, and with it the scope of its idempotency keys. Times are RFC 3339
and optional; a hash expires at its own time or at that of its entry, whichever comes first. `tokens_file` reloads the file.

Signed tokens of an issuer are accepted beside these (`oidc`). Names that begin with `oidc.` are theirs alone.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from api.callers.roles import Role
from api.settings import Settings
from ledger.bounds import DOTTED_ID
from ledger.clock import now_ms
from ledger.errors import ConfigError
from ledger.rfc3339 import parse_ms

ISSUERS_NAMES = "oidc."  # begins the names of an issuer's callers


class Principal(NamedTuple):
    """The owner of a token. `actor` is its name in commands and events.

    `customer`: the only one for whom this gateway may act; empty for every one, and for other roles.
    """

    name: str
    role: Role
    customer: str = ""

    @property
    def actor(self) -> str:
        return f"{self.role}:{self.name}"


class Token(NamedTuple):
    """What is known about one token. `expires_at_ms` is since the epoch; None means never.

    `key`: thumbprint of the issuer's key that signed it; empty for a token of the file.
    """

    sha256: bytes
    principal: Principal
    expires_at_ms: int | None = None
    key: str = ""

    def is_expired(self, now_ms: int) -> bool:
        return self.expires_at_ms is not None and self.expires_at_ms <= now_ms


def _time_ms(value: object) -> int:
    at_ms = parse_ms(value) if isinstance(value, str) else None
    if at_ms is None:
        raise ValueError("must be an RFC 3339 time, for example 2030-01-31T12:00:00Z")
    return at_ms


_Time = Annotated[int, BeforeValidator(_time_ms)]


class _Hash(BaseModel):
    model_config = ConfigDict(extra="forbid")

    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]
    expires_at: _Time | None = None


def _as_hash(value: object) -> object:
    return {"sha256": value} if isinstance(value, str) else value


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(pattern=f"^{DOTTED_ID}$")]
    role: Role
    sha256: Annotated[list[Annotated[_Hash, BeforeValidator(_as_hash)]], Field(min_length=1)]
    expires_at: _Time | None = None

    def tokens(self) -> Iterator[Token]:
        principal = Principal(self.name, self.role)
        for one in self.sha256:
            ends = [at for at in (one.expires_at, self.expires_at) if at is not None]
            yield Token(bytes.fromhex(one.sha256), principal, min(ends, default=None))


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tokens: list[_Entry]


class Tokens:
    """The current tokens; a reload replaces all of them atomically."""

    def __init__(self, known: Sequence[Token], clock: Callable[[], int] = now_ms) -> None:
        self.known, self._clock = tuple(known), clock
        self.reloads = Counter(taken=0, refused=0)
        self.is_stale = False  # the file has changed, but is invalid

    def replace(self, known: Sequence[Token]) -> None:
        self.known, self.is_stale = tuple(known), False

    def find(self, token: bytes) -> Token | None:
        """The matching token, even if expired. Takes the same time whichever token matches, or none."""
        digest = hashlib.sha256(token).digest()
        match = None
        for known in self.known:
            if hmac.compare_digest(known.sha256, digest):
                match = known
        return match

    def is_expired(self, token: Token) -> bool:
        return token.is_expired(self._clock())

    def accepts(self, token: Token) -> bool:
        """Whether an accepted token is still valid: neither removed nor expired since."""
        now = self._clock()
        return any(known[:2] == token[:2] and not known.is_expired(now) for known in self.known)

    def expiries_s(self) -> dict[str, float]:
        """By role: seconds until its first token expires, negative after that. Omits roles whose tokens never expire."""
        now = self._clock()
        expiries: dict[str, float] = {}
        for token in self.known:
            if token.expires_at_ms is not None:
                left_s = (token.expires_at_ms - now) / 1000
                expiries[token.principal.role] = min(left_s, expiries.get(token.principal.role, left_s))
        return expiries


def load_tokens(settings: Settings) -> Tokens:
    """Read the tokens of the settings, once."""
    return Tokens(read_tokens(settings))


def read_tokens(settings: Settings) -> list[Token]:
    """The tokens of the settings; none are required if there is an issuer. Raises `ConfigError`, whose message has no value."""
    where, text = tokens_text(settings)
    if text is None:
        return []
    try:
        entries = _File.model_validate_json(text).tokens
    except ValidationError as exc:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in exc.errors(include_input=False))
        raise ConfigError(f"{where}: {wrong}") from None
    if settings.oidc_issuer is not None and (taken := [e.name for e in entries if e.name.startswith(ISSUERS_NAMES)]):
        raise ConfigError(f"{where}: {', '.join(taken)} begins like the names of the issuer's callers: give it another name")
    return _flatten(entries, where)


def tokens_text(settings: Settings) -> tuple[str, str | None]:
    """(name of the setting, its JSON), not checked; None if there is only an issuer. Raises `ConfigError` if there is neither."""
    if settings.ledger_tokens is not None and settings.ledger_tokens_file is not None:
        raise ConfigError("set LEDGER_TOKENS_FILE or LEDGER_TOKENS, not both")
    if settings.ledger_tokens is not None:
        return "LEDGER_TOKENS", settings.ledger_tokens.get_secret_value()
    if settings.ledger_tokens_file is not None:
        where = f"LEDGER_TOKENS_FILE ({settings.ledger_tokens_file})"
        try:
            return where, settings.ledger_tokens_file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"{where} cannot be read: {exc}") from exc
    if settings.oidc_issuer is not None:
        return "LEDGER_TOKENS_FILE", None
    raise ConfigError("no tokens: set LEDGER_TOKENS_FILE or LEDGER_TOKENS. Create a token with: order-ledger token gateway")


def _flatten(entries: list[_Entry], where: str) -> list[Token]:
    known: dict[bytes, Token] = {}
    names: set[str] = set()
    for entry in entries:
        if entry.name in names:
            raise ConfigError(f"{where}: duplicate name {entry.name}; list all its hashes in one entry")
        names.add(entry.name)
        for token in entry.tokens():
            if token.sha256 in known:
                raise ConfigError(f"{where}: the same hash is listed for {known[token.sha256].principal.name} and {entry.name}")
            known[token.sha256] = token
    if not known:
        raise ConfigError(f"{where}: the list of tokens is empty")
    return list(known.values())


def bearer_token(header: bytes, basic_too: bool = False) -> bytes | None:
    """The token in an `Authorization` header, with `basic_too` also the password of Basic; None if there is none."""
    scheme, _, value = header.strip(b" \t").partition(b" ")
    value = value.strip(b" \t")
    if scheme.lower() == b"bearer":
        return value or None
    if basic_too and scheme.lower() == b"basic":
        try:
            _, _, password = base64.b64decode(value, validate=True).partition(b":")
        except binascii.Error:
            return None
        return password or None
    return None


def new_token(role: str) -> str:
    """A new token: 256 random bits. The prefix lets secret scanners and people recognise it."""
    return f"ol_{role}_{secrets.token_urlsafe(32)}"


def hash_token(token: str) -> str:
    """The hash for the tokens file: SHA-256 in hex. A token has 256 random bits, so no slow hash is needed."""
    return hashlib.sha256(token.encode()).hexdigest()
