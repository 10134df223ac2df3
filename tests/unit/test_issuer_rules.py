"""Settings about the issuer, and the mapping of claims to callers."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.callers.auth import Principal, hash_token, read_tokens
from api.callers.issuer_rules import RefusedToken, claim_at, name_of, principal_of, rules_of
from api.settings import Settings
from ledger.errors import ConfigError
from tests.support.issuer import AUDIENCE, ROLES, rules

ISSUER = "https://login.example.org/realms/shop"


def settings(**chosen: Any) -> Settings:
    return Settings(_env_file=None, **chosen)


def test_without_an_issuer_there_are_no_rules() -> None:
    assert rules_of(settings()) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"oidc_issuer": None}, "OIDC_AUDIENCE, OIDC_ROLES without OIDC_ISSUER"),
        ({"oidc_issuer": "login.example.org"}, "OIDC_ISSUER is not an address"),
        ({"oidc_issuer": "https://user:secret@login.example.org"}, "OIDC_ISSUER is not an address"),
        ({"oidc_issuer": f"{ISSUER}?tenant=1"}, "OIDC_ISSUER is not an address"),
        ({"oidc_issuer": f"{ISSUER}#x"}, "OIDC_ISSUER is not an address"),
        ({"oidc_issuer": "https://login.example.org:0"}, "OIDC_ISSUER is not an address"),
        ({"oidc_jwks_url": "ftp://login.example.org"}, "OIDC_JWKS_URL is not an address"),
        ({"oidc_audience": " , "}, "OIDC_AUDIENCE is not set"),
        ({"oidc_algorithms": ""}, "OIDC_ALGORITHMS is empty"),
        ({"oidc_algorithms": "RS256,none"}, "tokens without a signature are never accepted"),
        ({"oidc_algorithms": "NONE"}, "tokens without a signature are never accepted"),
        ({"oidc_algorithms": "RS256,HS256"}, "HS256: its key is a shared secret"),
        ({"oidc_algorithms": "hs512"}, "hs512: its key is a shared secret"),
        ({"oidc_algorithms": "RS257"}, "RS257: known are RS256"),
        ({"oidc_algorithms": "rs256"}, "rs256: known are RS256"),
        ({"oidc_roles": ""}, "OIDC_ROLES is not set"),
        ({"oidc_roles": "{}"}, "OIDC_ROLES is not a JSON object"),
        ({"oidc_roles": "desk=admin"}, "OIDC_ROLES is not a JSON object"),
        ({"oidc_roles": '["admin"]'}, "OIDC_ROLES is not a JSON object"),
        ({"oidc_roles": '{"desk": "boss"}'}, "OIDC_ROLES names boss: roles are gateway"),
        ({"oidc_roles": '{"desk": ["admin"]}'}, "OIDC_ROLES names"),
        ({"oidc_role_claim": "/a~b"}, "OIDC_ROLE_CLAIM is not a JSON pointer"),
        ({"oidc_token_types": ""}, "OIDC_TOKEN_TYPES is empty"),
        ({"oidc_console_client_id": AUDIENCE}, "its ID tokens would be accepted"),
    ],
)
def test_a_wrong_setting_is_named(changes: dict[str, Any], said: str) -> None:
    chosen = {"oidc_issuer": ISSUER, "oidc_audience": AUDIENCE, "oidc_roles": ROLES} | changes
    with pytest.raises(ConfigError, match=said) as caught:
        rules_of(settings(**chosen))
    assert "secret@" not in str(caught.value)


def test_all_wrong_settings_are_named_together() -> None:
    with pytest.raises(ConfigError) as caught:
        rules_of(settings(oidc_issuer=ISSUER, oidc_algorithms="none"))
    assert len(str(caught.value).splitlines()) == 3


def test_the_discovery_document_is_below_the_issuer() -> None:
    assert rules(ISSUER).discovery_url == f"{ISSUER}/.well-known/openid-configuration"
    assert rules(f"{ISSUER}/").discovery_url == f"{ISSUER}/.well-known/openid-configuration"


def test_an_issuer_needs_no_tokens_file_and_keeps_its_names_for_itself() -> None:
    assert read_tokens(settings(oidc_issuer=ISSUER)) == []
    entry = {"name": "oidc.web", "role": "gateway", "sha256": [hash_token("x")]}
    tokens = json.dumps({"tokens": [entry]})
    assert len(read_tokens(settings(ledger_tokens=tokens))) == 1
    with pytest.raises(ConfigError, match=r"oidc\.web"):
        read_tokens(settings(ledger_tokens=tokens, oidc_issuer=ISSUER))


# ---- claims ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("7f6c2d1e-8a3b-4c5d-9e0f-a1b2c3d4e5f6", "oidc.7f6c2d1e-8a3b-4c5d-9e0f-a1b2c3d4e5f6"),
        ("u_1", "oidc.u_1"),
        ("ada@example.org", f"oidc.h.{hashlib.sha256(b'ada@example.org').hexdigest()[:40]}"),
        ("ada.example", f"oidc.h.{hashlib.sha256(b'ada.example').hexdigest()[:40]}"),
        ("x" * 59, f"oidc.{'x' * 59}"),
        ("x" * 60, f"oidc.h.{hashlib.sha256(b'x' * 60).hexdigest()[:40]}"),
    ],
)
def test_names_of_callers(value: str, name: str) -> None:
    assert name_of(value) == name


@given(st.text(max_size=80), st.text(max_size=80))
def test_two_callers_never_share_a_name_and_every_name_fits_the_log(one: str, other: str) -> None:
    names = {name_of(one), name_of(other), name_of(name_of(one).removeprefix("oidc."))}
    assert (name_of(one) == name_of(other)) == (one == other)
    assert all(
        len(name) <= 64 and set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
        for name in names
    )


CLAIMS: dict[str, Any] = {
    "sub": "u-1",
    "realm_access": {"roles": ["shop-admin"]},
    "https://shop.example/roles": ["shop-desk"],
    "a/b": {"c~d": "shop-ops"},
    "scope": "openid shop-web",
}


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("sub", "u-1"),
        ("/sub", "u-1"),
        ("/realm_access/roles", ["shop-admin"]),
        ("https://shop.example/roles", ["shop-desk"]),
        ("/https:~1~1shop.example~1roles", ["shop-desk"]),
        ("/a~1b/c~0d", "shop-ops"),
        ("realm_access.roles", None),
        ("/realm_access/roles/0", None),
        ("/sub/x", None),
        ("", None),
    ],
)
def test_a_claim_is_named_or_pointed_at(place: str, value: Any) -> None:
    assert claim_at(CLAIMS, place) == value


@pytest.mark.parametrize(
    ("claim", "principal"),
    [
        ("/realm_access/roles", Principal("oidc.u-1", "admin")),
        ("https://shop.example/roles", Principal("oidc.u-1", "reader")),
        ("/a~1b/c~0d", Principal("oidc.u-1", "operator")),
        ("scope", Principal("oidc.u-1", "gateway")),
    ],
)
def test_the_role_is_that_of_the_claim(claim: str, principal: Principal) -> None:
    assert principal_of(CLAIMS, rules(ISSUER, oidc_role_claim=claim)) == principal


def test_of_several_roles_the_first_of_the_setting_counts() -> None:
    ordered = rules(ISSUER, oidc_roles='{"b": "reader", "a": "admin"}')
    assert principal_of({"sub": "u", "roles": ["a", "b"]}, ordered).role == "reader"


@pytest.mark.parametrize("wrong", [None, 5, True, {}, [], ["unknown"], [["shop-admin"]], "shop-admin shop-desk"])
def test_a_token_without_a_known_role_is_nobody(wrong: Any) -> None:
    with pytest.raises(RefusedToken) as caught:
        principal_of({"sub": "u", "roles": wrong}, rules(ISSUER))
    assert caught.value.reason == "no_role"


def test_staff_need_no_customer_and_are_for_none() -> None:
    one = rules(ISSUER, oidc_customer_claim="customer")
    assert principal_of({"sub": "u", "roles": ["shop-admin"], "customer": "c-1"}, one) == Principal("oidc.u", "admin")
    assert principal_of({"sub": "u", "roles": ["shop-web"], "customer": "c-1"}, one) == Principal("oidc.u", "gateway", "c-1")
    assert principal_of({"sub": "u", "roles": ["shop-web"], "customer": "*"}, one) == Principal("oidc.u", "gateway")
