"""Forged and foreign tokens over HTTP: none is accepted, and each is refused for its reason."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from joserfc import jwe, jws

from api.callers.issuer_rules import FORBIDDEN, Reason, RefusedToken
from tests.support.issuer import AUDIENCE, CONSOLE, sign
from tests.support.trusted import SKEW_S, Trusted, running_trusted


@pytest.fixture(scope="module")
def trusted() -> Iterator[Trusted]:
    with running_trusted() as trusted:
        yield trusted


def b64(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def parts(token: str) -> list[str]:
    return token.split(".")


def hmac_with(t: Trusted, secret: bytes, kid: str = "first", **header: Any) -> str:
    """What a library signs that takes whatever key it has for the secret of an HMAC."""
    text = f"{b64({'alg': 'HS256', 'kid': kid} | header)}.{b64(t.claims(roles=['shop-admin']))}"
    return f"{text}.{b64(hmac.new(secret, text.encode(), hashlib.sha256).digest())}"


def raw(t: Trusted, header: Any, payload: Any = None, signature: str = "AAAA") -> str:
    return f"{b64(header)}.{b64(t.claims() if payload is None else payload)}.{signature}"


def good(t: Trusted, **changes: Any) -> str:
    return t.issuer.token(t.now_s, **changes)


def forged(t: Trusted, **header: Any) -> str:
    """Signed by somebody else, who names the issuer's key."""
    return sign(t.claims(), t.attacker, **({"kid": "first"} | header))


def published(t: Trusted) -> dict[str, Any]:
    return dict(t.issuer.published[0].as_dict(private=False))


def der_instead_of_raw(t: Trusted) -> str:
    token = sign(t.claims(), t.elliptic, algorithm="ES256")
    signature = base64.urlsafe_b64decode(parts(token)[2] + "==")
    r, s = signature[:32].lstrip(b"\0"), signature[32:].lstrip(b"\0")
    der = b"".join(b"\x02" + bytes([len(n := (b"\0" + i if i[0] > 127 else i))]) + n for i in (r, s))
    return ".".join([*parts(token)[:2], b64(b"\x30" + bytes([len(der)]) + der)])


Make = Callable[[Trusted], str]
FORGED: dict[str, tuple[Reason, Make]] = {
    # no signature, or one that needs no key of the issuer
    "alg none": ("algorithm", lambda t: raw(t, {"alg": "none", "kid": "first"}, signature="")),
    "alg None": ("algorithm", lambda t: raw(t, {"alg": "None", "kid": "first"}, signature="")),
    "alg nOnE": ("algorithm", lambda t: raw(t, {"alg": "nOnE", "kid": "first"}, signature="")),
    "alg none with a signature": ("algorithm", lambda t: raw(t, {"alg": "none", "kid": "first"}, signature=parts(good(t))[2])),
    "alg empty": ("algorithm", lambda t: raw(t, {"alg": "", "kid": "first"})),
    "alg null": ("algorithm", lambda t: raw(t, {"alg": None, "kid": "first"})),
    "alg a list": ("algorithm", lambda t: raw(t, {"alg": ["RS256"], "kid": "first"})),
    "alg rs256": ("algorithm", lambda t: raw(t, {"alg": "rs256", "kid": "first"})),
    "no alg": ("malformed", lambda t: raw(t, {"kid": "first"})),
    "signature stripped": ("signature", lambda t: ".".join([*parts(good(t))[:2], ""])),
    "signature cut": ("signature", lambda t: good(t)[:-8]),
    "signature of another token": ("signature", lambda t: ".".join([*parts(good(t))[:2], parts(good(t, sub="u-2"))[2]])),
    "ECDSA of zeros": ("signature", lambda t: raw(t, {"alg": "ES256", "kid": "elliptic"}, signature=b64(bytes(64)))),
    "ECDSA in DER": ("signature", der_instead_of_raw),
    # a public key taken for a secret
    "HMAC with the public key as PEM": ("algorithm", lambda t: hmac_with(t, t.issuer.published[0].as_pem(private=False))),
    "HMAC with the public key as DER": ("algorithm", lambda t: hmac_with(t, t.issuer.published[0].as_der(private=False))),
    "HMAC with the modulus": ("algorithm", lambda t: hmac_with(t, published(t)["n"].encode())),
    "HMAC with the key as JSON": ("algorithm", lambda t: hmac_with(t, json.dumps(published(t)).encode())),
    "HMAC with no secret": ("algorithm", lambda t: hmac_with(t, b"")),
    "HMAC with a published secret": ("algorithm", lambda t: hmac_with(t, t.issuer.published[3].raw_value, kid="shared")),
    # another key
    "another's key under the issuer's kid": ("signature", forged),
    "with its own key inside": ("signature", lambda t: forged(t, jwk=t.attacker.as_dict(private=False))),
    "with an address of keys": ("unknown_key", lambda t: forged(t, kid="attacker", jku="https://evil.example/keys")),
    "with an address of a certificate": ("unknown_key", lambda t: forged(t, kid="attacker", x5u="https://evil.example/c")),
    "with a certificate": ("signature", lambda t: forged(t, x5c=["MIIB"])),
    "kid of a file": ("unknown_key", lambda t: forged(t, kid="../../../../dev/null")),
    "kid of a query": ("unknown_key", lambda t: forged(t, kid="x' UNION SELECT 'first")),
    "kid a number": ("malformed", lambda t: raw(t, {"alg": "RS256", "kid": 1})),
    "kid a list": ("malformed", lambda t: raw(t, {"alg": "RS256", "kid": ["first"]})),
    "no kid": ("malformed", lambda t: raw(t, {"alg": "RS256"}, signature=parts(good(t))[2])),
    "key for encryption": ("unknown_key", lambda t: sign(t.claims(), t.issuer.published[2])),
    "RS512, not allowed": ("algorithm", lambda t: sign(t.claims(), t.issuer.published[0], algorithm="RS512", kid="first")),
    "PS256, not allowed": ("algorithm", lambda t: sign(t.claims(), t.issuer.published[0], algorithm="PS256", kid="first")),
    "ES256 with an RSA key": ("algorithm", lambda t: sign(t.claims(), t.elliptic, algorithm="ES256", kid="first")),
    "RS256 with an elliptic key": ("algorithm", lambda t: sign(t.claims(), t.issuer.published[0], kid="elliptic")),
    # changed
    "claims changed": (
        "signature",
        lambda t: ".".join([parts(good(t))[0], b64(t.claims(roles=["shop-admin"])), parts(good(t))[2]]),
    ),
    "header changed": ("signature", lambda t: ".".join([b64({"alg": "RS256", "kid": "first"}), *parts(good(t))[1:]])),
    "two algorithms": (
        "signature",
        lambda t: ".".join([b64(b'{"alg":"none","kid":"first","alg":"RS256"}'), *parts(good(t))[1:]]),
    ),
    "critical extension": ("malformed", lambda t: raw(t, {"alg": "RS256", "kid": "first", "crit": ["exp"], "exp": 1})),
    "critical nonsense": ("malformed", lambda t: raw(t, {"alg": "RS256", "kid": "first", "crit": 5})),
    "payload not encoded": ("malformed", lambda t: raw(t, {"alg": "RS256", "kid": "first", "crit": ["b64"], "b64": False})),
    # not a JWT
    "padded": ("malformed", lambda t: ".".join([parts(good(t))[0] + "==", *parts(good(t))[1:]])),
    "two parts": ("malformed", lambda t: ".".join(parts(good(t))[:2])),
    "encrypted": (
        "malformed",
        lambda t: jwe.encrypt_compact(
            {"alg": "RSA-OAEP", "enc": "A128GCM", "kid": "first"},
            good(t).encode(),
            t.issuer.published[2],
            ["RSA-OAEP", "A128GCM"],
        ),
    ),
    "header a list": ("malformed", lambda t: raw(t, ["alg", "kid"])),
    "header a text": ("malformed", lambda t: raw(t, "alg b64")),
    "header not JSON": ("malformed", lambda t: raw(t, b"{alg:RS256}")),
    "header of brackets": ("malformed", lambda t: raw(t, b"[" * 3_000)),
    "claims a list": ("malformed", lambda t: _signed_payload(t, b'["iss"]')),
    "claims a token": ("malformed", lambda t: _signed_payload(t, good(t).encode())),
    "too long": ("malformed", lambda t: good(t, note="x" * 16_384)),
    # not an access token for here
    "ID token by its type": ("type", lambda t: sign(t.claims(), t.issuer.published[0], typ="id_token+jwt")),
    "logout token": ("type", lambda t: sign(t.claims(), t.issuer.published[0], typ="logout+jwt")),
    "proof of possession": ("type", lambda t: sign(t.claims(), t.issuer.published[0], typ="dpop+jwt")),
    "bound to a client's key": ("bound", lambda t: good(t, cnf={"jkt": "abc"})),
    "another issuer": ("issuer", lambda t: good(t, iss="https://evil.example")),
    "issuer with a slash": ("issuer", lambda t: good(t, iss=f"{t.issuer.url}/")),
    "issuers in a list": ("issuer", lambda t: good(t, iss=[t.issuer.url])),
    "no issuer": ("issuer", lambda t: good(t, iss=None)),
    "audience of another service": ("audience", lambda t: good(t, aud="https://other.example")),
    "audience is the console, as of an ID token": ("audience", lambda t: good(t, aud=CONSOLE)),
    "audience longer": ("audience", lambda t: good(t, aud=f"{AUDIENCE}.evil.example")),
    "audience in capitals": ("audience", lambda t: good(t, aud=AUDIENCE.upper())),
    "audience an object": ("audience", lambda t: good(t, aud={AUDIENCE: True})),
    "no audience": ("audience", lambda t: good(t, aud=None)),
    "empty audience": ("audience", lambda t: good(t, aud=[])),
    # not now
    "expired": ("expired", lambda t: good(t, exp=int(t.now_s) - SKEW_S - 1)),
    "expired in 1970": ("expired", lambda t: good(t, exp=0)),
    "expired before 1970": ("expired", lambda t: good(t, exp=-1e300)),
    "no end": ("claims", lambda t: good(t, exp=None)),
    "end as a text": ("claims", lambda t: good(t, exp="4102444800")),
    "end true": ("claims", lambda t: good(t, exp=True)),
    "end never": ("claims", lambda t: good(t, exp=float("inf"))),
    "end no number": ("claims", lambda t: good(t, exp=float("nan"))),
    "not yet": ("not_yet_valid", lambda t: good(t, nbf=int(t.now_s) + SKEW_S + 2)),
    "of the future": ("not_yet_valid", lambda t: good(t, iat=int(t.now_s) + SKEW_S + 2)),
    # nobody, or nobody with a role
    "no subject": ("claims", lambda t: good(t, sub=None)),
    "subject a number": ("claims", lambda t: good(t, sub=7)),
    "subject empty": ("claims", lambda t: good(t, sub="")),
    "no role": ("no_role", lambda t: good(t, roles=None)),
    "role by our name": ("no_role", lambda t: good(t, roles=["admin"])),
    "role in words": ("no_role", lambda t: good(t, roles="shop-admin shop-desk")),
    "role an object": ("no_role", lambda t: good(t, roles={"shop-admin": True})),
}


def _signed_payload(t: Trusted, payload: bytes) -> str:
    return jws.serialize_compact({"alg": "RS256", "kid": "first"}, payload, t.issuer.published[0], algorithms=["RS256"])


def test_the_table_is_long_enough() -> None:
    assert len(FORGED) > 80


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_or_foreign_token_is_refused_and_counted(trusted: Trusted, name: str) -> None:
    reason, make = FORGED[name]
    token, before = make(trusted), trusted.oidc.checks.copy()
    answer = trusted.get(token)
    status = 403 if reason in FORBIDDEN else 401
    assert (answer.status_code, answer.json()["code"]) == (status, "forbidden" if status == 403 else "unauthenticated"), (
        answer.text
    )
    error = "insufficient_scope" if status == 403 else "invalid_token"
    description = RefusedToken(reason).description
    challenge = f'Bearer realm="order-ledger", error="{error}", error_description="{description}"'
    assert answer.headers["www-authenticate"] == challenge
    assert answer.json()["detail"] == f"{description}."
    assert trusted.oidc.checks - before == {reason: 1}
    assert token not in answer.text


def test_a_forged_token_is_refused_by_every_kind_of_route(trusted: Trusted) -> None:
    token = FORGED["another's key under the issuer's kid"][1](trusted)
    for path in ("/orders/ord_x", "/metrics", "/openapi.json", "/subjects", "/commands/cmd_x", "/problems/forbidden"):
        assert trusted.get(token, path).status_code == 401, path
    no_role = FORGED["no role"][1](trusted)
    for path in ("/metrics", "/subjects", "/orders"):
        assert trusted.get(no_role, path).status_code == 403, path
