"""Signed tokens (JWT, RFC 7519) and key sets (RFC 7517). The only importer of `joserfc`, which does all cryptography.

Which key and which algorithm check a token is never the token's choice: its algorithm must be among those of the settings, its
key is found by `kid` in the issuer's key set, and must be of the type and curve of that algorithm. A key or an address inside a
token (`jwk`, `jku`, `x5c`, `x5u`) is not read. Symmetric keys are not used at all.
"""

from __future__ import annotations

import json
from copy import copy
from typing import Any, NamedTuple

from api.callers.issuer_rules import ALGORITHMS, Keys, Reason, RefusedToken, Rules, Verified, refuse_type
from ledger.extras import needs

with needs("oidc"):
    from joserfc.errors import ClaimError, ExpiredTokenError, JoseError, UnsupportedAlgorithmError
    from joserfc.jwk import JWKRegistry, Key
    from joserfc.jws import JWSRegistry, extract_compact, validate_compact
    from joserfc.jwt import JWTClaimsRegistry

MAX_TOKEN_BYTES = 16 * 1024
MAX_KEYS = 100
MAX_KEY_ID_CHARS = 1_000
# 2,048 to 8,192 bits, as characters of Base64: NIST SP 800-131A asks for the first, and a larger one makes each check slow.
MIN_MODULUS_CHARS, MAX_MODULUS_CHARS = 342, 1366
_MEMBERS = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}  # of a public key
_PRIVATE = ("d", "p", "q", "dp", "dq", "qi", "oth", "k")
_CURVES = frozenset(curve for _, curve in ALGORITHMS.values())
# What hostile text makes of code that expects the shapes of the standards.
_WRONG_SHAPE = (ValueError, TypeError, AttributeError, KeyError, RecursionError)
_OF_CLAIM: dict[str, Reason] = {"iss": "issuer", "aud": "audience", "nbf": "not_yet_valid", "iat": "not_yet_valid"}


class _SigningKey(NamedTuple):
    algorithm: str  # that it is for, if it says so
    kind: tuple[str, str]  # type and curve
    thumbprint: str
    key: Key

    def fits(self, algorithm: str) -> bool:
        kty, curve = ALGORITHMS[algorithm]
        return self.algorithm in ("", algorithm) and self.kind[0] == kty and curve in ("", self.kind[1])


class KeySet:
    """Implements `Keys`: the usable keys of an issuer, by `kid`. `ignored`: how many are for something else, or not usable."""

    def __init__(self, keys: dict[str, list[_SigningKey]], ignored: int) -> None:
        self._keys, self.ignored = keys, ignored
        self.entries = frozenset((kid, key.algorithm, key.thumbprint) for kid, same in keys.items() for key in same)
        self.thumbprints = frozenset(thumbprint for _, _, thumbprint in self.entries)

    def __len__(self) -> int:
        return len(self.thumbprints)

    def key(self, key_id: str, algorithm: str) -> _SigningKey:
        same = self._keys.get(key_id)
        if same is None:
            raise RefusedToken("unknown_key")
        for key in same:
            if key.fits(algorithm):
                return key
        raise RefusedToken("algorithm")


class TokenVerifier:
    """Implements `Verifier` for one issuer."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._registry = _PinnedAlgorithms(rules.algorithms)
        self._now_s = 0

        def now_s() -> int:
            return self._now_s

        self._claims = JWTClaimsRegistry(
            now_s,
            rules.leeway_s,
            iss={"essential": True, "value": rules.issuer},
            aud={"essential": True, "values": list(rules.audiences)},
            exp={"essential": True},
        )

    def read_keys(self, document: bytes) -> KeySet:
        try:
            rows = json.loads(document.decode("utf-8"))["keys"]
        except _WRONG_SHAPE:
            raise ValueError("it is not a key set") from None
        if not isinstance(rows, list) or len(rows) > MAX_KEYS:
            raise ValueError(f"it is not a key set of at most {MAX_KEYS} keys")
        keys: dict[str, list[_SigningKey]] = {}
        ignored = 0
        for row in rows:
            try:
                key = self._signing_key(row)
            except (*_WRONG_SHAPE, JoseError):  # one key costs itself: the others are needed
                ignored += 1
                continue
            keys.setdefault(row["kid"], []).append(key)
        if not keys:
            raise ValueError(f"none of its {ignored} keys is usable for {', '.join(self._rules.algorithms)}")
        return KeySet(keys, ignored)

    def _signing_key(self, row: Any) -> _SigningKey:
        """Raises one of `_WRONG_SHAPE` or `JoseError` for a key that is not usable here."""
        kty, use, algorithm = row["kty"], row.get("use", "sig"), row.get("alg", "")
        if not isinstance(row["kid"], str):
            raise TypeError("not a text")
        if use != "sig" or "verify" not in row.get("key_ops", ["verify"]) or not 0 < len(row["kid"]) <= MAX_KEY_ID_CHARS:
            raise ValueError("not for signatures")
        if any(member in row for member in _PRIVATE):
            raise ValueError("published with its private part, so everybody can sign with it")
        public = {member: row[member] for member in _MEMBERS[kty]}
        if not all(isinstance(value, str) for value in public.values()):
            raise TypeError("not texts")
        if kty == "RSA" and not MIN_MODULUS_CHARS <= len(public["n"]) <= MAX_MODULUS_CHARS:
            raise ValueError("too short or too long")
        curve = public.get("crv", "")
        if curve not in _CURVES:
            raise ValueError("an unknown curve")
        imported = JWKRegistry.import_key({"kty": kty, **public})
        key = _SigningKey(algorithm, (kty, curve), imported.thumbprint(), imported)
        if not any(key.fits(name) for name in self._rules.algorithms):
            raise ValueError("for other algorithms")
        return key

    def verify(self, token: bytes, keys: Keys, now_s: float) -> Verified:
        if len(token) > MAX_TOKEN_BYTES:
            raise RefusedToken("malformed")
        try:
            signed = extract_compact(token, registry=self._registry)
            header: object = signed.headers()
        except (*_WRONG_SHAPE, JoseError):
            raise RefusedToken("malformed") from None
        if not isinstance(header, dict) or "crit" in header or "b64" in header:  # no extension is understood (RFC 7515, 4.1.11)
            raise RefusedToken("malformed")
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in self._rules.algorithms:
            raise RefusedToken("algorithm")
        if not isinstance(key_id, str):
            raise RefusedToken("malformed")
        refuse_type(header.get("typ"), self._rules.types)
        signing = keys.key(key_id, algorithm)
        try:
            if not validate_compact(signed, signing.key, registry=self._registry):
                raise RefusedToken("signature")
            claims = json.loads(signed.payload)
        except (*_WRONG_SHAPE, JoseError):
            raise RefusedToken("malformed") from None
        return Verified(claims, signing.thumbprint, self._valid(claims, now_s))

    def _valid(self, claims: Any, now_s: float) -> float:
        """When the token expires. Raises `RefusedToken`."""
        if not isinstance(claims, dict):
            raise RefusedToken("malformed")
        self._now_s = int(now_s)
        try:
            self._claims.validate(claims)
        except ExpiredTokenError:
            raise RefusedToken("expired") from None
        except ClaimError as exc:
            raise RefusedToken(_OF_CLAIM.get(exc.claim, "claims")) from None
        if "cnf" in claims:  # for who shows a key (RFC 7800): accepted without it, a stolen one would work
            raise RefusedToken("bound")
        return float(min(claims["exp"], 2**40))


class _PinnedAlgorithms(JWSRegistry):
    """Only the algorithms of the settings exist. Members of a header that are not known are ignored, as RFC 7515 says."""

    max_header_length, max_payload_length = 4_096, MAX_TOKEN_BYTES

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(algorithms=names, strict_check_header=False)
        self._pinned = {name: copy(JWSRegistry.algorithms[name]) for name in names}
        for algorithm in self._pinned.values():
            algorithm.security_warning = None  # EdDSA has another name since RFC 9864, which most issuers do not use yet

    def get_alg(self, name: str) -> Any:
        if name not in self._pinned:
            raise UnsupportedAlgorithmError("not accepted")
        return self._pinned[name]
