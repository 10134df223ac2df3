"""Who may do what over HTTP: every role at every route, and what a stranger gets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http.client import HTTPConnection

import httpx
import pytest

from api.callers.auth import Principal, Token, hash_token
from ledger.clock import now_ms
from ledger.memory.log import MemoryLog
from ledger.rfc3339 import format_ms
from ledger.topics import Topics
from tests.support import loopback
from tests.support.harness import ROLES, RunningLedger, key, order_body, running_ledger
from tests.support.patience import PATIENCE_S

NOBODY = "ord_" + "a" * 26
ALL = set(ROLES)
TODAY = "from=2030-01-01&to=2030-01-01"

# method, path, roles, and the status that shows that the role passed
TABLE = [
    ("POST", "/orders", {"gateway"}, 422),
    ("GET", "/orders", {"gateway", "admin", "reader"}, 200),
    ("GET", f"/orders/{NOBODY}", {"gateway", "admin", "reader"}, 404),
    ("GET", f"/orders/{NOBODY}/events", {"gateway", "admin", "reader"}, 404),
    ("GET", "/events", {"gateway", "admin", "reader"}, 200),
    ("PUT", f"/orders/{NOBODY}/status", {"admin"}, 422),
    ("POST", f"/orders/{NOBODY}/cancel", {"gateway", "admin"}, 404),
    ("POST", f"/orders/{NOBODY}/payment", {"gateway"}, 503),
    ("GET", f"/orders/{NOBODY}/payment", {"gateway", "admin", "reader"}, 404),
    ("POST", f"/orders/{NOBODY}/attention", {"admin", "operator"}, 422),
    ("POST", f"/orders/{NOBODY}/lines/cancel", {"gateway", "admin"}, 422),
    ("POST", f"/orders/{NOBODY}/refunds", {"admin"}, 422),
    ("GET", f"/orders/{NOBODY}/refunds", {"gateway", "admin", "reader"}, 404),
    ("GET", f"/orders/{NOBODY}/outlook", {"admin", "reader"}, 404),
    ("POST", f"/orders/{NOBODY}/shipments", {"admin"}, 422),
    ("POST", f"/orders/{NOBODY}/shipments/1/delivered", {"admin"}, 404),
    ("PATCH", f"/orders/{NOBODY}/metadata", {"admin"}, 422),
    ("POST", f"/orders/{NOBODY}/notes", {"admin"}, 404),
    ("GET", f"/orders/{NOBODY}/notes", {"admin"}, 404),
    ("DELETE", f"/orders/{NOBODY}/notes/1", {"admin"}, 404),
    ("POST", "/imports", {"admin"}, 422),
    ("GET", "/webhook-endpoints", {"admin"}, 200),
    ("GET", "/webhook-endpoints/none", {"admin"}, 404),
    ("PUT", "/webhook-endpoints/none", {"admin"}, 422),
    ("DELETE", "/webhook-endpoints/none", {"admin"}, 404),
    ("GET", "/webhook-endpoints/none/secret", {"admin"}, 404),
    ("POST", "/webhook-endpoints/none/secret", {"admin"}, 404),
    ("POST", "/webhook-endpoints/none/replay", {"admin"}, 404),
    ("GET", "/webhook-endpoints/none/deliveries", {"admin"}, 404),
    ("GET", "/commands/cmd_x", ALL, 404),
    ("POST", "/customers/nobody/erasure", {"operator"}, 200),
    ("GET", "/customers/somebody/erasure", {"operator"}, 404),
    ("GET", f"/reports/daily?{TODAY}", {"admin", "reader"}, 200),
    ("GET", "/metrics", ALL, 200),
    ("GET", "/openapi.json", ALL, 200),
    ("GET", "/asyncapi.json", ALL, 200),
    ("GET", "/problems/forbidden", ALL, 200),
    ("GET", "/subjects", ALL, 200),
    ("GET", "/subjects/order-events-value/versions/latest", ALL, 200),
    ("GET", "/schemas/types", ALL, 200),
    ("GET", "/config/order-events-value", ALL, 200),
    ("GET", "/mode", ALL, 200),
    ("GET", "/contexts", ALL, 200),
    ("POST", "/subjects/order-events-value", ALL, 422),
    ("POST", "/compatibility/subjects/order-events-value/versions/latest", ALL, 422),
]


@pytest.fixture(scope="module")
def ledger() -> Iterator[RunningLedger]:
    with running_ledger(MemoryLog(), Topics(), env="production") as running:
        yield running


def ask(client: httpx.Client, method: str, path: str) -> httpx.Response:
    body = {} if method != "GET" else None
    return client.request(method, path, json=body, headers=key())


@pytest.mark.parametrize(("method", "path", "roles", "status"), TABLE)
def test_each_operation_is_for_these_roles_and_no_other(
    ledger: RunningLedger, method: str, path: str, roles: set[str], status: int
) -> None:
    for role in ROLES:
        answer = ask(ledger.client(role), method, path)
        if role in roles:
            assert answer.status_code == status, (role, answer.text)
        else:
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), role


@pytest.mark.parametrize(("method", "path"), [row[:2] for row in TABLE])
@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer wrong", "Basic d3Jvbmc=", "Basic !", "wrong"])
def test_without_a_known_token_every_request_is_401(ledger: RunningLedger, method: str, path: str, header: str | None) -> None:
    with loopback.client(base_url=ledger.url, headers={} if header is None else {"Authorization": header}) as client:
        answer = ask(client, method, path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith('Bearer realm="order-ledger"')
    assert "invalid_token" in answer.headers["www-authenticate"] or header != "Bearer wrong"


def test_the_table_has_every_operation_of_the_document(ledger: RunningLedger) -> None:
    paths = ledger.app.openapi()["paths"]
    described = {(m.upper(), p) for p, operations in paths.items() for m in operations}
    secured = {(m, p) for m, p in described if paths[p][m.lower()].get("security") != []}
    assert described - secured == {
        ("GET", "/live"),
        ("GET", "/ready"),
        ("GET", "/console/config.json"),
        ("POST", "/webhooks/stripe"),
    }
    templates = {"/subjects", "/schemas", "/config", "/mode", "/contexts", "/compatibility"}
    covered = {(m, p) for m, p in secured if not any(p.startswith(t) for t in templates)}
    asked = {(m, p.split("?")[0].replace(NOBODY, "{order_id}")) for m, p, _, _ in TABLE}
    asked = {
        (m, re.sub("/(no|some)body/", "/{customer_id}/", p.replace("cmd_x", "{command_id}").replace("/forbidden", "/{slug}")))
        for m, p in asked
    }
    asked = {(m, p.replace("/shipments/1/", "/shipments/{number}/").replace("/notes/1", "/notes/{note_id}")) for m, p in asked}
    asked = {(m, p.replace("/webhook-endpoints/none", "/webhook-endpoints/{name}")) for m, p in asked}
    assert covered == {(m, p) for m, p in asked if not any(p.startswith(t) for t in templates)}


@pytest.mark.parametrize("customer", [None, "", "a@example.org", "a b", "x" * 65, "ä"])
@pytest.mark.parametrize(
    ("method", "path"), [row[:2] for row in TABLE if row[1].startswith(("/orders", "/commands")) and "gateway" in row[2]]
)
def test_a_gateway_must_name_its_customer(ledger: RunningLedger, method: str, path: str, customer: str | None) -> None:
    with loopback.client(base_url=ledger.url, headers={"Authorization": f"Bearer {ledger.tokens['gateway']}"}) as client:
        headers = {} if customer is None else {b"Customer-Id": customer.encode()}
        answer = client.request(method, path, json={} if method != "GET" else None, headers={**headers, b"Idempotency-Key": b"k"})
    assert (answer.status_code, answer.json()["code"]) == (400, "customer-required")


@pytest.mark.parametrize("customer", [b"c-1\xa0", b"\xa0c-1", b"c-1\x85", b"c-1\xc2\xa0", b"c-1\xad", b"\xe2\x80\x8bc-1"])
def test_no_other_white_space_around_a_customer_is_removed(ledger: RunningLedger, customer: bytes) -> None:
    token = f"Bearer {ledger.tokens['gateway']}".encode()
    with loopback.client(base_url=ledger.url) as client:
        answer = client.get("/orders", headers=[(b"Authorization", token), (b"Customer-Id", customer)])
        assert (answer.status_code, answer.json()["code"]) == (400, "customer-required")


def test_a_space_or_a_tab_around_a_customer_is_removed(ledger: RunningLedger) -> None:
    address = httpx.URL(ledger.url)
    connection = HTTPConnection(address.host, address.port or 0, timeout=PATIENCE_S)  # the other client sends no such header
    connection.request(
        "GET", "/orders", headers={"Authorization": f"Bearer {ledger.tokens['gateway']}", "Customer-Id": " \tc-1\t "}
    )
    assert connection.getresponse().status == 200
    connection.close()


def test_a_card_number_as_the_customers_id_is_stored_nowhere(ledger: RunningLedger) -> None:
    client = ledger.client(customer="4242-4242-4242-4242")
    before = [ledger.count(topic) for topic in (ledger.topics.commands, ledger.topics.contacts)]
    for answer in (
        client.post("/orders", json=order_body(), headers=key()),
        client.post(f"/orders/{NOBODY}/cancel", headers=key()),
        client.post(f"/orders/{NOBODY}/payment", json={"total_minor": 1, "currency": "EUR"}, headers=key()),
    ):
        assert (answer.status_code, answer.json()["errors"]) == (
            422,
            [{"pointer": "/Customer-Id", "code": "card-number", "in": "header"}],
        )
        assert "4242" not in answer.text
    assert client.get("/orders").json() == {"data": [], "next_cursor": None}, "a read stores nothing"
    assert [ledger.count(topic) for topic in (ledger.topics.commands, ledger.topics.contacts)] == before


def test_a_header_that_names_the_caller_is_not_accepted_twice(ledger: RunningLedger) -> None:
    token = f"Bearer {ledger.tokens['gateway']}"
    twice = [("Authorization", token), ("Customer-Id", "c-1"), ("Customer-Id", "c-2")]
    with loopback.client(base_url=ledger.url) as client:
        answer = client.get("/orders", headers=twice)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/Customer-Id")
        assert client.get("/orders", headers=twice[:2]).status_code == 200


def test_a_token_in_the_query_or_a_cookie_is_no_token(ledger: RunningLedger) -> None:
    token = ledger.tokens["admin"]
    with loopback.client(base_url=ledger.url, cookies={"token": token, "Authorization": token}) as client:
        assert client.get("/orders", params={"access_token": token, "token": token}).status_code == 401


def test_the_registry_takes_the_token_as_basic_password_and_other_paths_do_not(ledger: RunningLedger) -> None:
    with loopback.client(base_url=ledger.url, auth=("anybody", ledger.tokens["reader"])) as client:
        assert client.get("/subjects").status_code == 200
        assert client.get("/orders").status_code == 401


def test_no_answer_allows_other_origins_and_the_docs_page_is_for_development_only(ledger: RunningLedger) -> None:
    answer = ledger.client().get("/orders", headers={"Origin": "https://evil.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    for path in ("/docs", "/docs/start.js", "/docs/swagger-ui.css"):
        assert ledger.client("admin").get(path).status_code == 404
    with running_ledger(MemoryLog(), Topics()) as development:
        assert loopback.get(f"{development.url}/docs").status_code == 200
        shown = loopback.get(f"{development.url}/docs/start.js")
        assert (shown.status_code, "placeOrder" in shown.text) == (200, True)


def test_an_expired_token_is_refused_as_such_and_ends_the_stream_it_began(ledger: RunningLedger) -> None:
    token, known = "ol_reader_x", ledger.context.tokens
    expires_at_ms = now_ms() + 3_600_000
    before, clock = known.known, known._clock
    known.replace([*before, Token(bytes.fromhex(hash_token(token)), Principal("bi", "reader"), expires_at_ms)])
    order = ledger.client().post("/orders", json=order_body(), headers=key()).json()["order_id"]
    with loopback.client(base_url=ledger.url, headers={"Authorization": f"Bearer {token}"}) as client:
        assert client.get(f"/orders/{order}").status_code == 200
        with client.stream("GET", f"/orders/{order}/events", headers={"Accept": "text/event-stream"}) as stream:
            parts = stream.iter_text()
            while "OrderPlaced" not in next(parts):
                pass
            known._clock = lambda: expires_at_ms
            try:
                ledger.client().post(f"/orders/{order}/cancel", json={}, headers=key())  # wakes the stream
                assert "".join(parts).count("OrderCancelled") <= 1  # ends: otherwise this would wait for half an hour
                answer = client.get(f"/orders/{order}")
            finally:
                known._clock = clock
                known.replace(before)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert answer.json()["detail"] == f"The token expired at {format_ms(expires_at_ms)}."
    challenge = 'Bearer realm="order-ledger", error="invalid_token", error_description="The token expired"'
    assert answer.headers["www-authenticate"] == challenge


def test_metrics_show_how_long_tokens_last_and_whether_the_file_is_valid(ledger: RunningLedger) -> None:
    known = ledger.context.tokens
    before = known.known
    try:
        known.replace([*before, Token(bytes(32), Principal("bi", "reader"), now_ms() + 3_600_000)])
        known.is_stale = True
        known.reloads["refused"] += 1
        text = ledger.client("operator").get("/metrics").text
    finally:
        known.replace(before)
        known.reloads.clear()
    assert "\nledger_tokens_stale 1.0\n" in text
    assert '\nledger_token_reloads_total{outcome="refused"} 1.0\n' in text
    (line,) = [line for line in text.splitlines() if line.startswith("ledger_token_expires_in_seconds{")]
    assert line.startswith('ledger_token_expires_in_seconds{role="reader"} 3')
    assert "\nledger_tokens_stale 0.0\n" in ledger.client("operator").get("/metrics").text


def test_a_body_is_not_read_before_the_token(ledger: RunningLedger) -> None:
    answer = loopback.post(f"{ledger.url}/orders", content=b"{", headers={"Content-Type": "application/json"})
    assert answer.status_code == 401
    assert ledger.client("reader").post("/orders", json=order_body(), headers=key()).status_code == 403
