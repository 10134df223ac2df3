"""Limits over HTTP: a client that asks for too much gets 429 and a time to wait, on every route; nobody else notices."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from api.callers.auth import Principal
from api.callers.limits import BURST_S, RateLimits
from api.settings import Settings
from ledger.memory.log import MemoryLog
from ledger.topics import Topics
from tests.support.harness import ROLES, RunningLedger, key, order_body, running_ledger

OPEN = {("GET", "/live"), ("GET", "/ready"), ("POST", "/webhooks/stripe")}
OPEN |= {("GET", path) for path in ("/console", "/console/config.json", "/console/{asset}")}
OPEN |= {("GET", path) for path in ("/docs", "/docs/start.js", "/docs/{asset}")}  # in development


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def ledger() -> Iterator[RunningLedger]:
    with running_ledger(MemoryLog(), Topics()) as running:
        yield running


@pytest.fixture
def clock(ledger: RunningLedger) -> Clock:
    """Fresh limits with a clock that stands still: three requests a second for everybody."""
    clock = Clock()
    settings = Settings(_env_file=None, limit_gateway_per_second=3_000, limit_customer_per_second=3, limit_staff_per_second=3)
    ledger.context.limits = RateLimits(settings, clock)
    return clock


BURST = int(3 * BURST_S)


def test_a_customer_who_asks_for_too_much_waits_and_another_one_does_not(ledger: RunningLedger, clock: Clock) -> None:
    greedy, other = ledger.client(customer="greedy"), ledger.client(customer="other")
    answers = [greedy.get("/orders/ord_x") for _ in range(BURST + 2)]
    assert [answer.status_code for answer in answers] == [404] * BURST + [429] * 2
    refused = answers[-1]
    assert (refused.json()["code"], refused.headers["retry-after"]) == ("too-many-requests", "1")
    assert other.post("/orders", json=order_body(), headers=key()).status_code == 201
    clock.now += 1
    assert [greedy.get("/orders/ord_x").status_code for _ in range(4)] == [404, 404, 404, 429]


def test_long_work_for_a_customer_is_counted(ledger: RunningLedger, clock: Clock) -> None:
    client = ledger.client(customer="reader-of-lists")
    principal = Principal("gateway", "gateway")
    before = ledger.context.limits._customers._left("reader-of-lists", 3.0, clock.now)
    assert client.get("/orders").status_code == 200
    after = ledger.context.limits._customers._left("reader-of-lists", 3.0, clock.now)
    assert after < before - 1, "the request, and the work for it"
    ledger.context.limits.charge(principal, "reader-of-lists", 5.0)
    answer = client.get("/orders")
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 1_600
    clock.now += int(answer.headers["retry-after"])
    assert client.get("/orders").status_code == 200


def test_every_route_with_a_token_is_limited(ledger: RunningLedger, clock: Clock) -> None:
    """Generated from the routes, so that a new one is included."""
    known = {
        "order_id": "ord_x",
        "command_id": "cmd_x",
        "customer_id": "c-1",
        "number": "1",
        "note_id": "n",
        "name": "erp",
        "slug": "forbidden",
        "subject": "order-events-value",
        "version": "latest",
        "id": "1",
    }
    operations = {
        (method, route.path.format(**known))
        for route in ledger.app.routes
        for method in (getattr(route, "methods", None) or ())
        if (method, route.path) not in OPEN
    }
    assert len(operations) >= 26
    for role in ROLES:
        for customer in {"gateway": ("c-1",)}.get(role, (None,)):
            client = ledger.client(role, customer)
            while client.get("/orders" if role == "gateway" else "/problems/forbidden").status_code == 200:
                pass
            if role == "gateway":
                ledger.context.limits._principals.charge("gateway:gateway", 3_000.0, 40_000.0)
            for method, path in sorted(operations):
                answer = client.request(method, path, json={} if method != "GET" else None, headers=key())
                assert (answer.status_code, "retry-after" in answer.headers) == (429, True), (role, method, path)


def test_routes_that_need_no_token_are_not_limited(ledger: RunningLedger, clock: Clock) -> None:
    client = ledger.client()
    for _ in range(BURST + 5):
        assert client.get("/live").status_code == 200
