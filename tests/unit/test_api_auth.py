"""Tokens: loading, matching, rotation, and that a wrong file says what is wrong without showing a secret."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from api.callers.auth import Principal, Tokens, bearer_token, hash_token, load_tokens, new_token
from api.callers.roles import ROLES
from api.settings import Settings
from ledger.errors import ConfigError


def settings(**changes: Any) -> Settings:
    return Settings(_env_file=None, **changes)


def entry(name: str = "web", role: str = "gateway", *tokens: str) -> dict[str, Any]:
    return {"name": name, "role": role, "sha256": [hash_token(t) for t in tokens]}


def text(*entries: dict[str, Any]) -> str:
    return json.dumps({"tokens": list(entries)})


def principal_of(tokens: Tokens, token: str) -> Principal:
    known = tokens.find(token.encode())
    assert known is not None
    return known.principal


def test_both_tokens_of_a_rotation_are_the_same_principal() -> None:
    old, new, other = new_token("gateway"), new_token("gateway"), new_token("admin")
    tokens = load_tokens(settings(ledger_tokens=text(entry("web", "gateway", old, new), entry("desk", "admin", other))))
    assert principal_of(tokens, old) == principal_of(tokens, new) == Principal("web", "gateway")
    assert principal_of(tokens, other) == Principal("desk", "admin")
    assert Principal("desk", "admin").actor == "admin:desk"


def test_neither_a_hash_nor_an_empty_text_is_a_token() -> None:
    token = new_token("reader")
    tokens = load_tokens(settings(ledger_tokens=text(entry("bi", "reader", token))))
    for wrong in (hash_token(token), token[:-1], token + "x", "", "\xff"):
        assert tokens.find(wrong.encode("latin-1")) is None


def test_tokens_are_long_random_and_show_their_role() -> None:
    new_tokens = {new_token(role) for role in ROLES for _ in range(50)}
    assert len(new_tokens) == 50 * len(ROLES)
    assert all(len(token) > 45 for token in new_tokens)
    assert new_token("admin").startswith("ol_admin_")


def test_the_file_and_the_variable_hold_the_same_json(tmp_path: Path) -> None:
    token = new_token("operator")
    file = tmp_path / "tokens.json"
    file.write_text(text(entry("ops", "operator", token)))
    assert principal_of(load_tokens(settings(ledger_tokens_file=file)), token) == Principal("ops", "operator")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "no tokens"),
        ({"ledger_tokens": "{}", "ledger_tokens_file": "/nowhere"}, "not both"),
        ({"ledger_tokens_file": "/nowhere/tokens.json"}, "cannot be read"),
        ({"ledger_tokens": "not json"}, "LEDGER_TOKENS"),
        ({"ledger_tokens": '{"tokens": []}'}, "empty"),
        ({"ledger_tokens": '{"tokens": [{"name": "a", "role": "boss", "sha256": ["' + "0" * 64 + '"]}]}'}, "tokens.0.role"),
        ({"ledger_tokens": '{"tokens": [{"name": "a", "role": "admin", "sha256": []}]}'}, "tokens.0.sha256"),
        ({"ledger_tokens": '{"tokens": [{"name": "a b", "role": "admin", "sha256": ["' + "0" * 64 + '"]}]}'}, "tokens.0.name"),
        ({"ledger_tokens": text(entry("a", "admin", "x"), entry("a", "reader", "y"))}, "duplicate name a;"),
        ({"ledger_tokens": text(entry("a", "admin", "x"), entry("b", "reader", "x"))}, "same hash"),
    ],
)
def test_a_wrong_configuration_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_tokens(settings(**changes))


def test_a_token_put_where_its_hash_belongs_is_not_shown_by_the_error() -> None:
    token = new_token("admin")
    with pytest.raises(ConfigError) as caught:
        load_tokens(settings(ledger_tokens=json.dumps({"tokens": [{"name": "a", "role": "admin", "sha256": [token]}]})))
    assert token not in str(caught.value)
    assert "tokens.0.sha256.0" in str(caught.value)


def basic(user: str, password: str) -> bytes:
    return b"Basic " + base64.b64encode(f"{user}:{password}".encode())


@pytest.mark.parametrize(
    ("header", "basic_too", "token"),
    [
        (b"Bearer abc", False, b"abc"),
        (b"bearer  abc ", False, b"abc"),
        (b"Bearer", False, None),
        (b"abc", False, None),
        (basic("any", "abc"), True, b"abc"),
        (basic("", "a:b"), True, b"a:b"),
        (basic("any", "abc"), False, None),
        (b"Basic !!!", True, None),
        (basic("any", ""), True, None),
        (b"Digest x", True, None),
    ],
)
def test_the_token_is_taken_from_these_headers(header: bytes, basic_too: bool, token: bytes | None) -> None:
    assert bearer_token(header, basic_too) == token
