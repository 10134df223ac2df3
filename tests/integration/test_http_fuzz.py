"""Anything at all, sent to every operation: a documented answer below 500, and nothing written for a refused request."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.memory.log import MemoryLog
from ledger.topics import Topics
from tests.support.harness import ROLES, RunningLedger, key, order_body, running_ledger


@pytest.fixture(scope="module")
def ledger() -> Iterator[RunningLedger]:
    with running_ledger(MemoryLog(), Topics()) as running:
        yield running


@pytest.fixture(scope="module")
def clients(ledger: RunningLedger) -> dict[str, httpx.Client]:
    return {role: ledger.client(role) for role in ROLES}


fuzz = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=15,
)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in children:
        yield from _paths(child, (*path, name))


@st.composite
def nearly_orders(draw: st.DrawFn) -> Any:
    """A valid order with one to three values replaced, removed or added."""
    body: Any = json.loads(json.dumps(order_body()))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from([p for p in _paths(body) if p]))
        parent = body
        for step in path[:-1]:
            parent = parent[step]
        match draw(st.sampled_from(["replace", "remove", "add"])):
            case "replace":
                parent[path[-1]] = draw(_json)
            case "remove":
                del parent[path[-1]]
            case "add" if isinstance(parent, dict):
                parent[draw(st.text(max_size=8))] = draw(_json)
    return body


def written(ledger: RunningLedger) -> tuple[int, ...]:
    t = ledger.topics
    return tuple(ledger.count(topic) for topic in (t.commands, t.contacts))


def check(ledger: RunningLedger, before: tuple[int, ...], answer: httpx.Response) -> None:
    """The answer is documented (the client checks that) and never a 5xx, and a refusal at the door writes nothing."""
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400 and "command_id" not in answer.text:
        assert written(ledger) == before, (answer.status_code, answer.text)


@fuzz
@given(body=nearly_orders())
def test_any_nearly_valid_order_is_placed_or_refused_by_name(
    ledger: RunningLedger, clients: dict[str, httpx.Client], body: Any
) -> None:
    before = written(ledger)
    sent = json.dumps(body).encode()
    answer = clients["gateway"].post("/orders", content=sent, headers=key() | {"Content-Type": "application/json"})
    check(ledger, before, answer)
    assert answer.status_code in (201, 400, 422)


@fuzz
@given(
    body=st.binary(max_size=200) | _json.map(lambda v: json.dumps(v).encode()),
    kind=st.sampled_from(["application/json", "x", ""]),
)
def test_any_bytes_to_any_command_are_refused_by_name(
    ledger: RunningLedger, clients: dict[str, httpx.Client], body: bytes, kind: str
) -> None:
    nobody = "ord_" + "a" * 26
    for role, method, path in (
        ("gateway", "POST", "/orders"),
        ("admin", "PUT", f"/orders/{nobody}/status"),
        ("gateway", "POST", f"/orders/{nobody}/cancel"),
        ("operator", "POST", "/customers/nobody/erasure"),
    ):
        before = written(ledger)
        answer = clients[role].request(method, path, content=body, headers=key() | {"Content-Type": kind})
        check(ledger, before, answer)


_header_text = st.text(st.characters(min_codepoint=32, max_codepoint=255, blacklist_characters="\x7f"), max_size=40)
_headers = st.dictionaries(
    st.sampled_from(
        [
            "Prefer",
            "If-Match",
            "If-None-Match",
            "Ledger-Position",
            "Last-Event-ID",
            "Accept",
            "Request-Id",
            "traceparent",
            "Customer-Id",
        ]
    ),
    _header_text.map(str.strip),
    max_size=4,
)


@fuzz
@given(headers=_headers)
def test_any_headers_are_obeyed_ignored_or_refused_by_name(
    ledger: RunningLedger, clients: dict[str, httpx.Client], headers: dict[str, str]
) -> None:
    raw = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
    order_id = clients["gateway"].post("/orders", json=order_body(), headers=key()).json()["order_id"]
    for method, path in (("GET", f"/orders/{order_id}"), ("GET", "/orders"), ("POST", f"/orders/{order_id}/cancel")):
        before = written(ledger)
        sent = {**raw, b"Idempotency-Key": key()["Idempotency-Key"].encode()}
        if not sent.get(b"Prefer", b"").strip():
            sent[b"Prefer"] = b"wait=0"
        answer = clients["gateway"].request(method, path, headers=sent)
        if answer.status_code == 503:
            assert answer.json()["code"] == "not-caught-up"
        else:
            check(ledger, before, answer)


@fuzz
@given(
    segments=st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=4),
    first=st.sampled_from(["orders", "commands", "customers", "schemas/ids", "subjects", "problems", "reports", ""]),
    query=st.dictionaries(
        st.text(string.ascii_lowercase, min_size=1, max_size=8) | st.sampled_from(["at", "limit", "cursor"]), st.text(max_size=12)
    ),
)
def test_any_path_and_query_is_answered_by_name(
    ledger: RunningLedger, clients: dict[str, httpx.Client], segments: list[str], first: str, query: dict[str, str]
) -> None:
    from urllib.parse import quote

    path = "/" + "/".join([first, *(quote(s.encode("utf-8", "surrogatepass"), safe="") for s in segments)])
    answer = clients["admin"].get(path, params={k: v.encode("utf-8", "surrogatepass") for k, v in query.items()})  # type: ignore[misc]
    assert answer.status_code < 500, answer.text
    assert answer.headers["content-type"].split(";")[0].endswith("json")
