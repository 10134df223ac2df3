"""Health, metrics, documents; headers of every answer, unexpected errors, what the logs say and do not say."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from starlette.responses import Response

from api import app
from api.app import build_app
from api.call import Call
from api.context import AppContext
from api.problems import PROBLEMS
from ledger.memory.log import MemoryLog
from ledger.schemas.versions import EVENTS, versions_of
from ledger.topics import Topics
from tests.support import loopback
from tests.support.harness import HASH_KEY, RunningLedger, key, order_body, running_ledger

MINE = "7f6c2d1e-8a3b-4c5d-9e0f-a1b2c3d4e5f6"  # a request's id


@pytest.fixture(scope="module")
def ledger() -> Iterator[RunningLedger]:
    with running_ledger(MemoryLog(), Topics()) as running:
        yield running


def test_live_and_ready_are_open_and_say_what_is_wrong(ledger: RunningLedger) -> None:
    with loopback.client(base_url=ledger.url) as client:
        assert client.get("/live").json() == {"status": "live", "checks": {}}
        assert client.get("/ready").json() == {"status": "ready", "checks": {"fold": "ok", "caught_up": "ok", "log": "ok"}}
        before = ledger.status.folding
        try:
            ledger.status.folding = False
            answer = client.get("/ready")
            assert (answer.status_code, answer.json()["checks"]["fold"]) == (503, "stopped")
            assert client.get("/live").status_code == 200
        finally:
            ledger.status.folding = before


def test_metrics_are_prometheus_text_and_count_what_was_done(ledger: RunningLedger) -> None:
    client = ledger.client()

    def samples() -> dict[str, float]:
        text = client.get("/metrics").text
        return {
            s.name + json.dumps(s.labels, sort_keys=True): s.value
            for f in text_string_to_metric_families(text)
            for s in f.samples
        }

    before = samples()
    headers = key()
    for _ in range(3):
        assert client.post("/orders", json=order_body(), headers=headers).status_code == 201
    client.get("/nowhere/at/all")
    client.request("PROPFIND", "/orders")
    after = samples()

    def grew(name: str, **labels: str) -> float:
        at = name + json.dumps(labels, sort_keys=True)
        return after[at] - before.get(at, 0)

    assert grew("ledger_http_requests_total", method="POST", route="/orders", status="201") == 3
    assert grew("ledger_http_requests_total", method="GET", route="unmatched", status="404") == 1
    assert grew("ledger_http_requests_total", method="other", route="/orders", status="405") == 1
    assert grew("ledger_http_request_duration_seconds_count", method="POST", route="/orders") == 3
    assert grew("ledger_http_request_duration_seconds_bucket", method="POST", route="/orders", le="10.0") == 3
    assert grew("ledger_command_answers_total", outcome="accepted") == 1
    assert grew("ledger_command_answers_total", outcome="replayed") == 2
    assert grew("ledger_commands_sent") == 1
    assert grew("ledger_orders", status="pending") == 1
    assert sum(grew("ledger_fold_position", partition=str(p)) for p in range(4)) >= 1
    assert after["ledger_commands_waiting{}"] == after["ledger_orders_frozen{}"] == 0
    assert after["ledger_fold_connected{}"] == 1


def test_metrics_have_what_commands_beside_it_did(ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    client = ledger.client("reader")
    assert "ledger_commands_work{" not in client.get("/metrics").text
    monkeypatch.setattr(ledger.context, "commands_counts", lambda: {"messages sent": 7, "messages given up": 0})
    text = client.get("/metrics").text
    assert 'ledger_commands_work{kind="messages sent"} 7.0' in text
    assert 'ledger_commands_work{kind="messages given up"} 0.0' in text


def test_every_problem_has_its_page(ledger: RunningLedger) -> None:
    client = ledger.client("reader")
    for slug, kind in PROBLEMS.items():
        described = client.get(f"/problems/{slug}").json()
        assert described == {"type": f"/problems/{slug}", "title": kind.title, "status": kind.status, "meaning": kind.meaning}
    page = client.get("/problems/total-mismatch", headers={"Accept": "text/html,*/*"})
    assert page.headers["content-type"].startswith("text/html")
    assert "<h1>Total mismatch</h1>" in page.text
    answer = client.get("/problems/nothing")
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")


def test_the_asyncapi_document_has_the_topics_and_the_schemas_themselves(ledger: RunningLedger) -> None:
    document = ledger.client("reader").get("/asyncapi.json").json()
    assert document["asyncapi"] == "3.1.0"
    assert {c["address"] for c in document["channels"].values()} == {
        "order-commands",
        "order-events",
        "order-refusals",
        "order-contacts",
        "order-audit",
    }
    message = document["components"]["messages"][EVENTS]
    assert message["payload"]["schema"] == versions_of(EVENTS)[-1].parsed
    assert message["bindings"]["kafka"]["schemaIdLocation"] == "payload"
    assert document["channels"][EVENTS]["bindings"]["kafka"]["partitions"] == 4
    for operation in document["operations"].values():
        for ref in (operation["channel"]["$ref"], operation["messages"][0]["$ref"]):
            node = document
            for part in ref.removeprefix("#/").split("/"):
                node = node[part]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/orders", "GET, HEAD, POST"),
        ("PATCH", "/orders/x", "GET, HEAD"),
        ("POST", "/orders/x/status", "PUT"),
        ("PUT", "/customers/x/erasure", "GET, HEAD, POST"),
        ("GET", "/orders/x/attention", "POST"),
        ("POST", "/live", "GET, HEAD"),
        ("OPTIONS", "/orders", "GET, HEAD, POST"),
    ],
)
def test_another_method_is_405_with_the_allowed_ones(ledger: RunningLedger, method: str, path: str, allow: str) -> None:
    answer = ledger.client().request(method, path)
    assert (answer.status_code, answer.json()["code"], answer.headers["allow"]) == (405, "method-not-allowed", allow)


def gets(ledger: RunningLedger) -> list[str]:
    """A path for every route with GET, with an order that exists."""
    client = ledger.client()
    order = client.post("/orders", json=order_body(), headers=key()).json()
    pay = {"total_minor": order["total_minor"], "currency": order["currency"]}
    client.post(f"/orders/{order['order_id']}/payment", json=pay, headers=key() | {"Prefer": "wait=0"})
    known = {
        "order_id": order["order_id"],
        "command_id": "cmd_none",
        "customer_id": "nobody",
        "slug": "total-mismatch",
        "asset": "swagger-ui.css",
        "subject": "order-events-value",
        "version": "latest",
        "id": str(versions_of(EVENTS)[0].id),
        "name": "none",
    }
    queries = {"/reports/daily": "?from=2030-01-01&to=2030-01-31"}
    templates = [route.path for route in ledger.app.routes if "GET" in (getattr(route, "methods", None) or ())]
    return [template.format(**known) + queries.get(template, "") for template in templates]


def test_every_get_answers_head_with_the_same_status_and_headers_and_no_body(ledger: RunningLedger) -> None:
    paths = gets(ledger)
    assert len(paths) >= 20
    statuses = set()
    for role in ("admin", "gateway"):
        client = ledger.client(role)
        for path in paths:
            get, head = client.get(path), client.head(path)
            statuses.add(get.status_code)
            assert (head.status_code, head.content) == (get.status_code, b""), path
            assert set(head.headers) == set(get.headers), path
            for name in set(get.headers) - {"date", "request-id"}:
                if (path, name) != ("/metrics", "content-length"):  # its numbers grow
                    assert head.headers[name] == get.headers[name], (path, name)
            assert int(head.headers["content-length"]) > 0
    assert {200, 403, 404} <= statuses


def test_head_of_an_event_stream_describes_it_and_does_not_begin_it(ledger: RunningLedger) -> None:
    path = next(path for path in gets(ledger) if path.startswith("/orders/") and path.endswith("/events"))
    head = ledger.client().head(path, headers={"Accept": "text/event-stream"})
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"].startswith("text/event-stream")
    assert "ledger-position" in head.headers


def test_head_where_there_is_no_get_is_405_and_without_a_token_401(ledger: RunningLedger) -> None:
    answer = ledger.client("admin").head("/orders/x/status")
    assert (answer.status_code, answer.headers["allow"], answer.content) == (405, "PUT", b"")
    with loopback.client(base_url=ledger.url) as stranger:
        answer = stranger.head("/orders")
        assert (answer.status_code, answer.content) == (401, b"")
        assert "www-authenticate" in answer.headers


def test_head_is_a_rule_that_the_document_states(ledger: RunningLedger) -> None:
    assert "**HEAD**" in ledger.app.openapi()["info"]["description"]


@pytest.mark.parametrize("path", ["/", "/order", "/orders/", "/orders/x/y", "/ORDERS", "/orders//x", "/%00", "/\u00e9"])
def test_another_path_is_404_and_never_a_redirect(ledger: RunningLedger, path: str) -> None:
    answer = ledger.client("admin").get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")
    assert answer.json()["instance"].startswith("/")


def test_every_answer_has_an_id_and_is_not_to_be_stored(ledger: RunningLedger) -> None:
    with loopback.client(base_url=ledger.url) as client:
        ids = set()
        for path in ("/live", "/nowhere", "/orders", "/subjects"):
            answer = client.get(path)
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"
            ids.add(answer.headers["request-id"])
        assert len(ids) == 4
        for mine in (MINE, MINE.upper(), MINE.replace("-", "")):
            assert client.get("/live", headers={"Request-Id": mine}).headers["request-id"] == mine
        card = "4242424242424242" * 2
        for wrong in (
            "",
            "a b",
            "x" * 129,
            "\u00e9",
            "ada@example.org",
            "mine-1",
            MINE[:-1],
            f"{MINE}x",
            card,
            f"{card[:8]}-{card[:4]}",
        ):
            answer = client.get("/live", headers={b"Request-Id": wrong.encode()})
            assert re.fullmatch(r"[0-9a-f]{16}-[0-9a-f]+", answer.headers["request-id"]), wrong
        assert "traceparent" not in client.get("/live", headers={"traceparent": "00-xyz"}).headers


def test_a_body_that_is_too_large_is_refused_before_it_is_read(ledger: RunningLedger) -> None:
    client = ledger.client()
    answer = client.post("/orders", content=b"x" * (64 * 1024 + 1), headers=key() | {"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "body-too-large")

    def endless() -> Iterator[bytes]:
        for _ in range(70):
            yield b"x" * 1024

    answer = client.post("/orders", content=endless(), headers=key() | {"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "body-too-large")
    assert client.get("/orders").status_code == 200


def test_a_client_that_leaves_in_the_middle_of_its_body_hurts_nobody(ledger: RunningLedger) -> None:
    host, port = ledger.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ledger.tokens['gateway']}\r\nCustomer-Id: c\r\n"
        head += "Idempotency-Key: leaver\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
        connection.sendall(head.encode())
    assert ledger.client().post("/orders", json=order_body(), headers=key()).status_code == 201


def test_a_bug_is_a_500_that_shows_nothing_but_its_request_id(capfd: pytest.CaptureFixture[str]) -> None:
    async def broken(call: Call) -> Response:
        raise RuntimeError("secret detail")

    def with_a_bug(ctx: AppContext) -> FastAPI:
        app = build_app(ctx)
        app.router.add_api_route("/broken", broken, methods=["GET"], include_in_schema=False)
        return app

    with running_ledger(MemoryLog(), Topics(), make_app=with_a_bug) as ledger:
        answer = loopback.get(f"{ledger.url}/broken", headers={"Request-Id": MINE})
        assert (answer.status_code, answer.json()["code"], answer.headers["request-id"]) == (500, "internal-error", MINE)
        assert answer.headers["content-type"] == "application/problem+json"
        assert "secret" not in answer.text
        assert loopback.get(f"{ledger.url}/live").status_code == 200
    said = "".join(capfd.readouterr())
    assert MINE in said
    assert "RuntimeError" in said
    assert "test_http_system.py" in said, "where it was raised"
    assert "secret detail" not in said, "it may be what a client sent"


def test_no_line_of_the_access_log_repeats_what_a_client_wrote(capfd: pytest.CaptureFixture[str]) -> None:
    with running_ledger(MemoryLog(), Topics(), log_level="INFO") as ledger:
        client, operator = ledger.client(customer="canary-customer"), ledger.client("operator")
        order_id = client.post("/orders", json=order_body(), headers=key() | {"Request-Id": "canary@example.org"}).json()[
            "order_id"
        ]
        for path in (f"/orders/{order_id}", "/orders/canary-order", "/orders/canary-order/events", "/commands/canary-command"):
            client.get(path, params={"canary-name": "canary-value"})
            client.get(
                path, headers={"traceparent": "canary", "Prefer": "canary", "If-None-Match": '"canary"', "Accept": "canary/x"}
            )
        client.post("/orders/canary-order/cancel", headers=key())
        client.post("/orders", content=b'{"canary": "canary"}', headers=key() | {"Content-Type": "application/json"})
        client.get("/problems/canary-slug")
        client.get("/subjects/canary-subject/versions")
        client.get("/canary-path")
        client.request("PROPFIND", "/orders")
        operator.post("/customers/canary-customer/erasure", json={"force": True})
        operator.get("/customers/canary-customer/erasure")
    err = capfd.readouterr().err
    lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert "canary" not in err.lower()
    paths = {line["path"] for line in lines}
    assert paths >= {
        "/orders",
        f"/orders/{order_id}",
        "/orders/{order_id}",
        "/orders/{order_id}/cancel",
        "/commands/{command_id}",
        "/problems/{slug}",
        "/subjects/{subject}/versions",
        "/customers/{customer_id}/erasure",
        "unmatched",
    }
    assert {line["method"] for line in lines} <= {"GET", "POST", "other"}


def test_above_level_info_there_is_no_access_log(capfd: pytest.CaptureFixture[str]) -> None:
    with running_ledger(MemoryLog(), Topics(), log_level="WARNING") as ledger:
        ledger.client().get("/orders", headers={"Request-Id": MINE})
    assert MINE not in capfd.readouterr().err


def test_the_access_log_names_the_request_and_no_secret(capfd: pytest.CaptureFixture[str]) -> None:
    with running_ledger(MemoryLog(), Topics(), log_level="INFO") as ledger:
        client = ledger.client()
        order = client.post("/orders", json=order_body(), headers=key() | {"Request-Id": MINE}).json()
        client.get("/orders", params={"cursor": "a-cursor-value"})
        client.get(f"/nowhere/{ledger.tokens['admin']}")
        client.get("/live")
        tokens = list(ledger.tokens.values())
    err = capfd.readouterr().err
    lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    placed = next(line for line in lines if line.get("request_id") == MINE)
    assert (placed["event"], placed["method"], placed["path"], placed["status"]) == ("request", "POST", "/orders", 201)
    assert (placed["principal"], placed["level"]) == ("gateway:gateway", "info")
    assert list(placed) == [
        *("method", "path", "status", "ms", "request_id", "principal", "traceparent"),
        *("event", "logger", "service", "level", "timestamp"),
    ]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", placed["timestamp"])
    assert abs(datetime.fromisoformat(placed["timestamp"]) - datetime.now(UTC)) < timedelta(minutes=1)
    assert not [line for line in lines if line["path"] == "/live"]
    for secret in (*tokens, HASH_KEY, "ada@example.org", "Mill Lane", "a-cursor-value"):
        assert secret not in err
    assert order["order_id"]


@pytest.mark.parametrize(("path", "role"), [("/openapi.json", "reader"), ("/docs/start.js", "reader")])
def test_the_document_is_built_once_and_not_by_the_event_loop(path: str, role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a tenth of a second."""
    makers: list[int] = []
    make = app.openapi_document

    def counted_make(*arguments: Any) -> dict[str, Any]:
        makers.append(threading.get_ident())
        return make(*arguments)

    monkeypatch.setattr(app, "openapi_document", counted_make)
    with running_ledger(MemoryLog(), Topics()) as ledger:
        makers.clear()
        ledger.app.openapi_schema = None
        headers = {"Authorization": f"Bearer {ledger.tokens[role]}"}
        answers = [loopback.get(f"{ledger.url}{path}", headers=headers) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200] * 3
        assert answers[0].content == answers[1].content == answers[2].content

        async def here() -> int:
            return threading.get_ident()

        assert len(makers) == 1
        assert makers[0] != ledger.run(here())
