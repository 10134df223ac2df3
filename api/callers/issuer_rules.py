"""Whose signed tokens are accepted, and who their callers are: the settings `OIDC_*`, and the mapping of claims.

A caller's name begins with `oidc.`, so that no issuer can take the name of a token of the file:

    oidc.<value>            the name claim, if it has only letters, digits, hyphens and underscores, at most 59
    oidc.h.<40 hex digits>  else: the beginning of its SHA-256. So an e-mail address does not get into the log

The name, and with it the scope of idempotency keys, stays the same as long as the claim does.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol, get_args
from urllib.parse import parse_qsl, urlsplit

from api.callers.auth import ISSUERS_NAMES, Principal
from api.callers.roles import ROLES, Role
from api.settings import Settings
from ledger.bounds import ID_PATTERN
from ledger.errors import ConfigError

# algorithm -> type of the key, and its curve unless several are possible (RFC 7518, RFC 8037, RFC 9864)
ALGORITHMS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", "")),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "Ed25519": ("OKP", "Ed25519"),
    "EdDSA": ("OKP", "Ed25519"),
}
EVERYBODY = "*"  # value of the customer claim: the gateway acts for every customer
MAX_NAME_CHARS = 1_000
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]{1,59}")
_WORDS_OF = ("scope", "scp")  # claims whose text is a list of words (RFC 8693, RFC 9068)

Reason = Literal[
    "malformed",
    "algorithm",
    "type",
    "unknown_key",
    "signature",
    "issuer",
    "audience",
    "expired",
    "not_yet_valid",
    "claims",
    "bound",
    "no_role",
    "no_customer",
]
REASONS: tuple[Reason, ...] = get_args(Reason)
_DESCRIPTIONS: dict[Reason, str] = {
    "malformed": "The token is not a signed JWT",
    "algorithm": "The algorithm of the token is not accepted, or is not that of its key",
    "type": "The token is not an access token",
    "unknown_key": "The key of the token is unknown",
    "signature": "The signature of the token is wrong",
    "issuer": "The token is of another issuer",
    "audience": "The token is for another audience",
    "expired": "The token expired",
    "not_yet_valid": "The token is not valid yet",
    "claims": "A claim of the token is missing or has a wrong form",
    "bound": "The token is bound to a key of its client, which is not supported",
    "no_role": "The token gives no role here",
    "no_customer": "The token names no customer for whom its caller may act",
}
FORBIDDEN: frozenset[Reason] = frozenset({"no_role", "no_customer"})  # genuine tokens that permit nothing here: 403


class RefusedToken(Exception):
    """A signed token that is not accepted. `reason` is a stable word; `description` contains nothing of the token."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason
        self.description = _DESCRIPTIONS[reason]


class ConsoleRules(NamedTuple):
    """How the console asks the issuer to log somebody in."""

    client_id: str
    scopes: str
    parameters: dict[str, str]


class Rules(NamedTuple):
    """The settings `OIDC_*`, checked. `roles`: by value of the role claim, the first match first."""

    issuer: str
    audiences: tuple[str, ...]
    algorithms: tuple[str, ...]
    types: frozenset[str]
    leeway_s: int
    jwks_url: str | None
    name_claim: str
    role_claim: str
    roles: Mapping[str, Role]
    customer_claim: str
    console: ConsoleRules | None
    plaintext: bool

    @property
    def discovery_url(self) -> str:
        """OpenID Connect Discovery 1.0, section 4.1."""
        return f"{self.issuer.rstrip('/')}/.well-known/openid-configuration"

    @property
    def needs_discovery(self) -> bool:
        return self.jwks_url is None or self.console is not None


class Keys(Protocol):
    """The public keys of an issuer. `thumbprints`: of all of them (RFC 7638); `entries`: with their ids and algorithms."""

    thumbprints: frozenset[str]
    entries: frozenset[tuple[str, str, str]]

    def __len__(self) -> int: ...

    def key(self, key_id: str, algorithm: str) -> Any:
        """The key that checks such tokens, as its verifier keeps it. Raises `RefusedToken` `unknown_key`, `algorithm`."""
        ...


class Verified(NamedTuple):
    """The claims of a genuine token, and the thumbprint of the key that signed it. `expires_at_s` is since the epoch."""

    claims: dict[str, Any]
    thumbprint: str
    expires_at_s: float


class Verifier(Protocol):
    """Checks signed tokens by the rules of one issuer."""

    def read_keys(self, document: bytes) -> Keys:
        """The usable keys of a key set. Raises `ValueError` if it is none or has none; the message has nothing of it."""
        ...

    def verify(self, token: bytes, keys: Keys, now_s: float) -> Verified:
        """The claims of a token that is genuine and valid. Raises `RefusedToken`."""
        ...


# ---- settings -------------------------------------------------------------------------------------------------------


def rules_of(settings: Settings) -> Rules | None:
    """The rules of the settings; None without an issuer. Raises `ConfigError`, with a line for each fault."""
    if settings.oidc_issuer is None:
        names = ("oidc_audience", "oidc_roles", "oidc_jwks_url", "oidc_console_client_id", "oidc_customer_claim")
        if useless := [name.upper() for name in names if getattr(settings, name)]:
            raise ConfigError(f"{', '.join(useless)} without OIDC_ISSUER: set the issuer, or remove them")
        return None
    faults: list[str] = []
    if not is_url(settings.oidc_issuer) or "?" in settings.oidc_issuer:
        faults.append("OIDC_ISSUER is not an address of the form https://host/path")
    if settings.oidc_jwks_url is not None and not is_url(settings.oidc_jwks_url):
        faults.append("OIDC_JWKS_URL is not an address of the form https://host/path")
    audiences, algorithms = _listed(settings.oidc_audience), _listed(settings.oidc_algorithms)
    if not audiences:
        faults.append("OIDC_AUDIENCE is not set: without it, tokens for other services of the issuer would be accepted")
    faults += _wrong_algorithms(algorithms)
    roles = _roles(settings.oidc_roles)
    if isinstance(roles, str):
        faults.append(roles)
        roles = {}
    for name in ("oidc_name_claim", "oidc_role_claim", "oidc_customer_claim"):
        if re.search(r"~(?![01])", getattr(settings, name)) and getattr(settings, name).startswith("/"):
            faults.append(f"{name.upper()} is not a JSON pointer: ~ must be ~0, and / in a name ~1")
    types = frozenset(_type_of(word) for word in _listed(settings.oidc_token_types))
    if not types:
        faults.append("OIDC_TOKEN_TYPES is empty: set at+jwt, JWT or both")
    if settings.oidc_console_client_id in audiences and "jwt" in types:
        faults.append(
            "OIDC_AUDIENCE names the client of the console, so its ID tokens would be accepted: set OIDC_TOKEN_TYPES=at+jwt"
        )
    if faults:
        raise ConfigError("\n".join(faults))
    return Rules(
        issuer=settings.oidc_issuer,
        audiences=audiences,
        algorithms=algorithms,
        types=types,
        leeway_s=settings.oidc_leeway_seconds,
        jwks_url=settings.oidc_jwks_url,
        name_claim=settings.oidc_name_claim,
        role_claim=settings.oidc_role_claim,
        roles=roles,
        customer_claim=settings.oidc_customer_claim,
        console=_console(settings),
        plaintext=settings.app_env != "production" or "oidc" in settings.plaintext_allowed,
    )


def is_url(text: str) -> bool:
    """Whether `text` is an absolute HTTP address without user, query fragment or control character."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
    return usable and text.isascii() and text.isprintable() and not set(text) & set(' "<>\\#@')


def _listed(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _wrong_algorithms(names: tuple[str, ...]) -> list[str]:
    faults = [] if names else ["OIDC_ALGORITHMS is empty: set for instance RS256,ES256"]
    for name in names:
        if name.lower() == "none":
            faults.append("OIDC_ALGORITHMS names none: tokens without a signature are never accepted")
        elif name.upper().startswith("HS"):
            faults.append(f"OIDC_ALGORITHMS names {name}: its key is a shared secret, and keys of an issuer are public")
        elif name not in ALGORITHMS:
            faults.append(f"OIDC_ALGORITHMS names {name}: known are {', '.join(ALGORITHMS)}")
    return faults


def _roles(text: str) -> dict[str, Role] | str:
    """The roles, or the fault in them."""
    example = 'set a JSON object of values and roles, such as {"shop-desk": "admin"}'
    if not text:
        return f"OIDC_ROLES is not set: {example}"
    try:
        roles = json.loads(text)
    except (ValueError, RecursionError):
        roles = None
    if not isinstance(roles, dict) or not roles:
        return f"OIDC_ROLES is not a JSON object with an entry: {example}"
    if unknown := [str(role) for role in roles.values() if role not in ROLES]:
        return f"OIDC_ROLES names {', '.join(unknown)}: roles are {', '.join(ROLES)}"
    return roles


def _type_of(text: str) -> str:
    """A value of `typ` as it is compared: a media type without the `application/` that may be omitted (RFC 7515, 4.1.9)."""
    return text.lower().removeprefix("application/")


def _console(settings: Settings) -> ConsoleRules | None:
    if settings.oidc_console_client_id is None:
        return None
    parameters = dict(parse_qsl(settings.oidc_console_parameters, keep_blank_values=True))
    return ConsoleRules(settings.oidc_console_client_id, settings.oidc_console_scopes, parameters)


# ---- tokens ---------------------------------------------------------------------------------------------------------


def refuse_type(header_typ: object, types: frozenset[str]) -> None:
    """Raises `RefusedToken` for a token whose `typ` is not among `types`. One without `typ` counts as `JWT`."""
    if header_typ is None:
        header_typ = "JWT"
    if not isinstance(header_typ, str) or _type_of(header_typ) not in types:
        raise RefusedToken("type")


def principal_of(claims: Mapping[str, Any], rules: Rules) -> Principal:
    """The caller. Raises `RefusedToken` `claims`, `no_role`, `no_customer`."""
    name = claim_at(claims, rules.name_claim)
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_CHARS:
        raise RefusedToken("claims")
    role = _role(claim_at(claims, rules.role_claim), rules)
    return Principal(name_of(name), role, _customer(claims, rules) if role == "gateway" else "")


def name_of(value: str) -> str:
    """The name of the caller whose name claim is `value`; no two values lead to one name."""
    if _PLAIN_NAME.fullmatch(value):
        return f"{ISSUERS_NAMES}{value}"
    return f"{ISSUERS_NAMES}h.{hashlib.sha256(value.encode('utf-8', 'surrogatepass')).hexdigest()[:40]}"


def claim_at(claims: Mapping[str, Any], place: str) -> Any:
    """The claim of that name or, if it begins with a slash, at that JSON pointer (RFC 6901); None if there is none."""
    if not place.startswith("/"):
        return claims.get(place)
    value: Any = claims
    for step in place[1:].split("/"):
        if not isinstance(value, dict):
            return None
        value = value.get(step.replace("~1", "/").replace("~0", "~"))
    return value


def _role(value: Any, rules: Rules) -> Role:
    values = [value] if isinstance(value, str) else value
    if isinstance(value, str) and rules.role_claim in _WORDS_OF:
        values = value.split(" ")
    if isinstance(values, list):
        for known, role in rules.roles.items():
            if known in values:
                return role
    raise RefusedToken("no_role")


def _customer(claims: Mapping[str, Any], rules: Rules) -> str:
    """The only customer of a gateway; empty if it acts for every one. A claim that is missing permits nobody."""
    if not rules.customer_claim:
        return ""
    value = claim_at(claims, rules.customer_claim)
    if value == EVERYBODY:
        return ""
    if not isinstance(value, str) or not ID_PATTERN.fullmatch(value):
        raise RefusedToken("no_customer")
    return value
