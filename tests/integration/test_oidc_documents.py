"""Documents of an issuer that are wrong, and the file that keeps its keys: neither takes known keys away."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc.jwk import ECKey, OctKey

from api.callers import issuer as issuer_keys
from api.callers.issuer_rules import RefusedToken
from api.callers.oidc import Oidc
from tests.support.issuer import DISCOVERY, JWKS, Clocks, RunningIssuer, running_issuer, trusting
from tests.support.patience import until_async


class Lone(NamedTuple):
    """An issuer and who trusts it, without a ledger. No time passes by itself."""

    issuer: RunningIssuer
    oidc: Oidc
    clocks: Clocks

    def fetch(self) -> None:
        asyncio.run(self.oidc.issuer.fetch())

    def accepts(self, token: str) -> bool:
        try:
            self.oidc.find(token.encode(), may_fetch=False)
        except RefusedToken:
            return False
        return True

    def token(self) -> str:
        return self.issuer.token(self.clocks.now_ms / 1000)


@pytest.fixture
def lone(tmp_path: Path) -> Iterator[Lone]:
    clocks = Clocks()
    with running_issuer() as issuer:
        yield Lone(issuer, trusting(issuer.url, clocks, tmp_path / "oidc.json"), clocks)


# ---- the file ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace('"confirmed_at_ms"', '"at_ms"'),
        lambda text: text.replace('\\"kty\\"', '\\"x\\"'),
        lambda text: text.replace('"discovery"', '"other"'),
        lambda text: json.dumps(json.loads(text) | {"keys": 5}),
        lambda text: json.dumps(json.loads(text) | {"confirmed_at_ms": None}),
    ],
)
def test_a_damaged_file_is_reported_and_replaced(lone: Lone, tmp_path: Path, damage: Callable[[str], str]) -> None:
    lone.fetch()
    file = tmp_path / "oidc.json"
    file.write_text(damage(file.read_text()))
    with structlog.testing.capture_logs() as lines:
        again = trusting(lone.issuer.url, lone.clocks, file)
    assert [line["event"] for line in lines] == ["kept keys of the issuer cannot be read, fetching them"]
    assert again.issuer.keys is None
    asyncio.run(again.issuer.fetch())
    assert trusting(lone.issuer.url, lone.clocks, file).issuer.keys is not None


def test_the_file_of_another_issuer_is_not_used(lone: Lone, tmp_path: Path) -> None:
    lone.fetch()
    assert trusting(f"{lone.issuer.url}/other", lone.clocks, tmp_path / "oidc.json").issuer.keys is None
    other_place = trusting(lone.issuer.url, lone.clocks, tmp_path / "oidc.json", oidc_jwks_url="https://keys.example.org")
    assert other_place.issuer.keys is None


def test_a_full_disk_costs_the_file_and_nothing_else(lone: Lone, tmp_path: Path) -> None:
    oidc = trusting(lone.issuer.url, lone.clocks, tmp_path / "nowhere" / "oidc.json")
    with structlog.testing.capture_logs() as lines:
        asyncio.run(oidc.issuer.fetch())
    assert "keys of the issuer not kept for the next start" in [line["event"] for line in lines]
    assert (oidc.issuer.failure, len(oidc.issuer.keys or ())) == ("", 1)


# ---- wrong documents --------------------------------------------------------------------------------------------------


def good_keys(issuer: RunningIssuer) -> bytes:
    return json.dumps(issuer.documents()[JWKS]).encode()


def weak_key() -> dict[str, Any]:
    modulus = rsa.generate_private_key(65537, 1024).public_key().public_numbers().n
    return {"kty": "RSA", "kid": "weak", "e": "AQAB", "n": base64.urlsafe_b64encode(modulus.to_bytes(128, "big")).decode()[:171]}


Answer = tuple[int, bytes, dict[str, str]]
WRONG: dict[str, tuple[str, Callable[[RunningIssuer], Answer]]] = {
    "an error": (JWKS, lambda i: (500, b"{}", {})),
    "not found": (DISCOVERY, lambda i: (404, b"{}", {})),
    "a redirect": (JWKS, lambda i: (302, b"", {"Location": f"{i.url}{DISCOVERY}"})),
    "no JSON": (JWKS, lambda i: (200, b"<html>", {})),
    "no object": (DISCOVERY, lambda i: (200, b"[]", {})),
    "no keys": (JWKS, lambda i: (200, b'{"keys": []}', {})),
    "keys no list": (JWKS, lambda i: (200, b'{"keys": {"kty": "RSA"}}', {})),
    "UTF-16": (JWKS, lambda i: (200, good_keys(i).decode().encode("utf-16"), {})),
    "too deep": (JWKS, lambda i: (200, b"[" * 100_000, {})),
    "too many keys": (JWKS, lambda i: (200, json.dumps({"keys": [{}] * 101}).encode(), {})),
    "too long": (JWKS, lambda i: (200, good_keys(i) + b" " * issuer_keys.MAX_DOCUMENT_BYTES, {})),
    "unpacked too long": (JWKS, lambda i: (200, _packed(b" " * 50_000_000), {"Content-Encoding": "gzip"})),
    "only useless keys": (JWKS, lambda i: (200, json.dumps({"keys": useless_keys()}).encode(), {})),
    "another issuer": (
        DISCOVERY,
        lambda i: (200, json.dumps(i.documents()[DISCOVERY] | {"issuer": "https://evil.example"}).encode(), {}),
    ),
    "no place of keys": (DISCOVERY, lambda i: (200, json.dumps({"issuer": i.url}).encode(), {})),
    "keys in a file": (DISCOVERY, lambda i: (200, json.dumps({"issuer": i.url, "jwks_uri": "file:///etc/passwd"}).encode(), {})),
    "a page in a script": (
        DISCOVERY,
        lambda i: (200, json.dumps(i.documents()[DISCOVERY] | {"authorization_endpoint": "javascript:alert(1)"}).encode(), {}),
    ),
}


def _packed(body: bytes) -> bytes:
    return gzip.compress(body)


def useless_keys() -> list[Any]:
    elliptic = dict(ECKey.generate_key("P-256", {"kid": "e"}).as_dict(private=False))
    return [
        None,
        "key",
        {},
        {"kty": "RSA"},
        {"kty": "RSA", "kid": "a", "n": 5, "e": "AQAB"},
        {"kty": "RSA", "kid": "a", "n": "A" * 400, "e": "!"},
        {"kty": "new", "kid": "a"},
        {"kty": "AKP", "kid": "a", "alg": "ML-DSA-44", "pub": "AA"},
        elliptic | {"x": elliptic["y"]},
        elliptic | {"crv": "secp256k1"},
        elliptic | {"use": "enc"},
        elliptic | {"key_ops": ["sign"]},
        elliptic | {"alg": "ES512"},
        elliptic | {"kid": 5},
        elliptic | {"kid": ["a"]},
        elliptic | {"kid": {"a": 1}},
        elliptic | {"kid": ""},
        {name: value for name, value in elliptic.items() if name != "kid"},
        dict(ECKey.generate_key("P-256", {"kid": "private"}).as_dict(private=True)),
        dict(OctKey.generate_key(256, {"kid": "secret"}).as_dict(private=True)),
        weak_key(),
    ]


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_document_changes_nothing_and_is_counted(lone: Lone, name: str) -> None:
    lone.fetch()
    known, thumbprints = lone.token(), lone.oidc.issuer.keys
    path, make = WRONG[name]
    lone.issuer.instead[path] = make(lone.issuer)
    with structlog.testing.capture_logs() as lines:
        lone.fetch()
        lone.fetch()
    assert [line["event"] for line in lines] == ["keys of the issuer not fetched, keeping those that are known"], "once"
    assert "evil" not in str(lines)
    assert lone.oidc.issuer.fetches["failed"] == 2
    assert lone.oidc.issuer.keys is thumbprints
    assert lone.accepts(known)
    lone.issuer.instead.clear()
    lone.fetch()
    assert lone.oidc.issuer.failure == ""


def test_one_useless_key_costs_itself(lone: Lone) -> None:
    usable = lone.issuer.documents()[JWKS]["keys"]
    lone.issuer.instead[JWKS] = 200, json.dumps({"keys": [*useless_keys(), *usable]}).encode(), {}
    lone.fetch()
    assert lone.accepts(lone.token())
    keys = lone.oidc.issuer.keys
    assert keys is not None
    assert len(keys) == 1


def test_keys_may_be_at_a_place_of_their_own(lone: Lone) -> None:
    oidc = trusting(lone.issuer.url, lone.clocks, oidc_jwks_url=f"{lone.issuer.url}{JWKS}")
    asyncio.run(oidc.issuer.fetch())
    assert oidc.issuer.keys is not None
    assert lone.issuer.asked == {JWKS: 1}


def test_production_fetches_keys_over_tls_only(lone: Lone) -> None:
    strict = trusting(lone.issuer.url, lone.clocks, app_env="production")
    asyncio.run(strict.issuer.fetch())
    assert "https" in strict.issuer.failure
    assert lone.issuer.asked == {}
    allowed = trusting(lone.issuer.url, lone.clocks, app_env="production", allow_plaintext="oidc")
    asyncio.run(allowed.issuer.fetch())
    assert allowed.issuer.keys is not None


def test_the_keys_are_kept_up_to_date_without_any_token(lone: Lone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(issuer_keys, "REFRESH_S", 0.01)
    monkeypatch.setattr(issuer_keys, "FIRST_RETRY_S", 0.01)

    async def life() -> None:
        oidc = trusting(lone.issuer.url, lone.clocks)
        keeping = asyncio.create_task(oidc.issuer.keep_for_ever())
        try:
            await until_async(lambda: oidc.issuer.keys is not None)
            lone.issuer.rotate("second")
            await until_async(lambda: len(oidc.issuer.keys or ()) == 2)
            lone.issuer.instead[JWKS] = 503, b"", {}
            await until_async(lambda: oidc.issuer.failure == "it answered 503")
            lone.issuer.instead.clear()
            await until_async(lambda: not oidc.issuer.failure)
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    asyncio.run(life())
