"""Who is calling: bearer tokens, the principals behind them, and what a role may do. Knows hashes only, never a token.

The tokens file (`LEDGER_TOKENS_FILE`, or the same JSON in `LEDGER_TOKENS`):

    {"tokens": [{"name": "web", "role": "gateway", "sha256": ["<64 hex digits>", ...]}]}

Several hashes of one name let a token be rotated while the name stays, and with it the scope of its idempotency keys.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from typing import Annotated, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ledger.config import Settings
from ledger.errors import ConfigError

Role = Literal["gateway", "admin", "reader", "operator"]
ROLES: tuple[str, ...] = get_args(Role)


class Principal(NamedTuple):
    """Who a token belongs to. `actor` is how commands and events name it."""

    name: str
    role: Role

    @property
    def actor(self) -> str:
        return f"{self.role}:{self.name}"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    role: Role
    sha256: Annotated[list[Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]], Field(min_length=1)]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tokens: list[_Entry]


class Tokens:
    """The known tokens, as (SHA-256, principal)."""

    def __init__(self, known: list[tuple[bytes, Principal]]) -> None:
        self._known = known

    def identify(self, token: bytes) -> Principal | None:
        """Whose token it is. Takes the same time whichever entry matches, or none."""
        digest = hashlib.sha256(token).digest()
        found = None
        for known, principal in self._known:
            if hmac.compare_digest(known, digest):
                found = principal
        return found


def load_tokens(settings: Settings) -> Tokens:
    """The tokens of the settings. Raises `ConfigError` when there are none, or naming what is wrong (never a value)."""
    if settings.ledger_tokens is not None and settings.ledger_tokens_file is not None:
        raise ConfigError("set LEDGER_TOKENS_FILE or LEDGER_TOKENS, not both")
    if settings.ledger_tokens is not None:
        where, text = "LEDGER_TOKENS", settings.ledger_tokens.get_secret_value()
    elif settings.ledger_tokens_file is not None:
        where = f"LEDGER_TOKENS_FILE ({settings.ledger_tokens_file})"
        try:
            text = settings.ledger_tokens_file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"{where} cannot be read: {exc}") from exc
    else:
        raise ConfigError("no tokens: set LEDGER_TOKENS_FILE or LEDGER_TOKENS. Make one: order-ledger token gateway")
    try:
        entries = _File.model_validate_json(text).tokens
    except ValidationError as exc:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in exc.errors(include_input=False))
        raise ConfigError(f"{where}: {wrong}") from None
    return Tokens(_flatten(entries, where))


def _flatten(entries: list[_Entry], where: str) -> list[tuple[bytes, Principal]]:
    known: dict[bytes, Principal] = {}
    names: set[str] = set()
    for entry in entries:
        if entry.name in names:
            raise ConfigError(f"{where}: name {entry.name} is there twice; list all its hashes in one entry")
        names.add(entry.name)
        for text in entry.sha256:
            digest = bytes.fromhex(text)
            if digest in known:
                raise ConfigError(f"{where}: the same hash is listed for {known[digest].name} and {entry.name}")
            known[digest] = Principal(entry.name, entry.role)
    if not known:
        raise ConfigError(f"{where}: the list of tokens is empty")
    return list(known.items())


def bearer_token(header: bytes, basic_too: bool = False) -> bytes | None:
    """The token in an `Authorization` header; with `basic_too` also as the password of Basic. None when there is none."""
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
    """A fresh token: 256 random bits. The prefix lets secret scanners and people recognise it."""
    return f"ol_{role}_{secrets.token_urlsafe(32)}"


def hash_token(token: str) -> str:
    """What the tokens file holds of a token: SHA-256 in hex. A token has 256 random bits, so no slow hash is needed."""
    return hashlib.sha256(token.encode()).hexdigest()
