"""Who sees what: every route of the application, asked as every role about everybody's orders.

`ROWS` has a row per route; a route without one fails. A cell is the status and what the answer shows of the order:

    id        its id, as a member of the answer          contact   name, address, number, note
    order     its reference, and with it all other data   secret    what the customer's browser pays with
    frozen    where its fold stopped

An order that a gateway may not see must be answered, word for word, like one that does not exist.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import pytest
from fastapi.routing import APIRoute

from api.callers.roles import ROLES
from api.visibility import SIGHT
from tests.support.everybodys_orders import (
    CUSTOMERS,
    FROZEN_OTHERS,
    FROZEN_OWN,
    FROZEN_UNKNOWN,
    MISSING,
    OTHERS,
    OWN,
    OWNERS,
    World,
    everybodys_orders,
    next_number,
)
from tests.support.harness import key, order_body

Cell = tuple[int, set[str]]
FORBIDDEN: Cell = (403, set())
HIDDEN: Cell = (404, set())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with everybodys_orders(tmp_path_factory.mktemp("sandbox")) as world:
        yield world


# ---- the matrix -----------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """`send(world, role, owner)` asks about the owner's order, a gateway as customer c-1. `cells` are by role, then by owner."""

    send: Callable[[World, str, str], httpx.Response]
    cells: dict[str, dict[str, Cell]]


def asks(method: str, path: str, body: Any = None) -> Callable[[World, str, str], httpx.Response]:
    """A call about an order that exists, and does not change it."""

    def send(world: World, role: str, owner: str) -> httpx.Response:
        headers = key() if method != "GET" else {}
        return world.client(role).request(method, path.format(order_id=world.ids[owner]), json=body, headers=headers)

    return send


def changes(method: str, path: str, body: Any) -> Callable[[World, str, str], httpx.Response]:
    """A call about a new order, because it would change the existing one."""

    def send(world: World, role: str, owner: str) -> httpx.Response:
        order_id = world.place(owner) if owner in (OWN, OTHERS) else world.ids[owner]
        return world.client(role).request(method, path.format(order_id=order_id), json=body, headers=key())

    return send


def places(world: World, role: str, owner: str) -> httpx.Response:
    return world.client(role, owner).post("/orders", json=world.body(owner), headers=key())


def imports(world: World, role: str, owner: str) -> httpx.Response:
    body = world.body(owner) | {
        "old_id": next_number(),
        "customer_id": CUSTOMERS.get(owner, "c-1"),
        "placed_at": "2024-11-30T10:15:00Z",
        "status": "paid",
        "captured_minor": order_body()["total_minor"],
    }
    return world.client(role).post("/imports", json=body)


def resolves(world: World, role: str, owner: str) -> httpx.Response:
    order_id, flag = world.flagged(owner) if owner in (OWN, OTHERS) else (world.ids[owner], "none")
    body = {"code": "stuck", "obligation_key": flag, "action": "retry"}
    return world.client(role).post(f"/orders/{order_id}/attention", json=body, headers=key())


def follows(world: World, role: str, owner: str) -> httpx.Response:
    return world.client(role).get(f"/commands/{world.commands.get(owner, 'cmd_none')}")


def cells(status: int, *shown: str, frozen: Cell, unknown: Cell) -> dict[str, Cell]:
    """Cells of a role that sees everybody's orders: the same for each owner."""
    whole = (status, set(shown))
    return dict(zip(OWNERS, (whole, whole, HIDDEN, frozen, frozen, unknown), strict=True))


def of_gateway(status: int, *shown: str, frozen: Cell) -> dict[str, Cell]:
    """Cells of a role that sees its customer's orders."""
    return dict.fromkeys(OWNERS, HIDDEN) | {OWN: (status, set(shown)), FROZEN_OWN: frozen}


def table(**by_role: dict[str, Cell]) -> dict[str, dict[str, Cell]]:
    return {role: by_role.get(role, dict.fromkeys(OWNERS, FORBIDDEN)) for role in ROLES}


STOPPED: Cell = (409, {"id", "frozen"})
STAFF_ORDER = cells(200, "id", "order", "contact", frozen=(200, {"id", "order", "contact", "frozen"}), unknown=STOPPED)
READER_ORDER = cells(200, "id", "order", frozen=(200, {"id", "order", "frozen"}), unknown=STOPPED)
EVENTS = cells(200, "order", frozen=(200, {"order"}), unknown=STOPPED)
PAYMENT = cells(200, frozen=(200, set()), unknown=STOPPED)
UNIT = {"service": "product", "sku": "espresso-1kg", "quantity": 1}
LISTED = dict.fromkeys(OWNERS, (200, {"order"})) | dict.fromkeys((MISSING, FROZEN_UNKNOWN), (200, set[str]()))
NOT_THEIRS = dict.fromkeys(OWNERS, HIDDEN)

ROWS: dict[tuple[str, str], Row] = {
    ("POST", "/orders"): Row(places, table(gateway={owner: (201, {"id", "order", "contact"}) for owner in (OWN, OTHERS)})),
    ("POST", "/imports"): Row(imports, table(admin={owner: (201, {"id", "order", "contact"}) for owner in (OWN, OTHERS)})),
    ("GET", "/orders"): Row(
        asks("GET", "/orders?limit=100"),
        table(
            gateway=dict.fromkeys(OWNERS, (200, set[str]())) | dict.fromkeys((OWN, FROZEN_OWN), (200, {"order"})),
            admin=LISTED,
            reader=LISTED,
        ),
    ),
    ("GET", "/events"): Row(
        asks("GET", "/events?limit=500"),
        table(
            gateway=dict.fromkeys(OWNERS, (200, set[str]())) | dict.fromkeys((OWN, FROZEN_OWN), (200, {"order"})),
            admin=LISTED,
            reader=LISTED,
        ),
    ),
    ("GET", "/orders/{order_id}"): Row(
        asks("GET", "/orders/{order_id}"),
        table(
            gateway=of_gateway(200, "id", "order", "contact", frozen=(200, {"id", "order", "contact", "frozen"})),
            admin=STAFF_ORDER,
            reader=READER_ORDER,
        ),
    ),
    ("GET", "/orders/{order_id}/events"): Row(
        asks("GET", "/orders/{order_id}/events"),
        table(gateway=of_gateway(200, "order", frozen=(200, {"order"})), admin=EVENTS, reader=EVENTS),
    ),
    ("PUT", "/orders/{order_id}/status"): Row(
        changes("PUT", "/orders/{order_id}/status", {"status": "cancelled"}),
        table(admin=cells(200, "id", "order", "contact", frozen=STOPPED, unknown=STOPPED)),
    ),
    ("POST", "/orders/{order_id}/cancel"): Row(
        changes("POST", "/orders/{order_id}/cancel", {}),
        table(
            gateway=of_gateway(200, "id", "order", "contact", frozen=STOPPED),
            admin=cells(200, "id", "order", "contact", frozen=STOPPED, unknown=STOPPED),
        ),
    ),
    ("POST", "/orders/{order_id}/lines/cancel"): Row(
        changes("POST", "/orders/{order_id}/lines/cancel", {"lines": [UNIT]}),
        table(
            gateway=of_gateway(200, "id", "order", "contact", frozen=STOPPED),
            admin=cells(200, "id", "order", "contact", frozen=STOPPED, unknown=STOPPED),
        ),
    ),
    ("POST", "/orders/{order_id}/refunds"): Row(
        changes("POST", "/orders/{order_id}/refunds", {"amount_minor": 1, "reason": "goodwill"}),
        table(admin=cells(409, "id", frozen=STOPPED, unknown=STOPPED)),  # nothing is paid
    ),
    ("GET", "/orders/{order_id}/refunds"): Row(
        asks("GET", "/orders/{order_id}/refunds"),
        table(gateway=of_gateway(200, frozen=(200, set())), admin=PAYMENT, reader=PAYMENT),
    ),
    ("GET", "/orders/{order_id}/outlook"): Row(
        asks("GET", "/orders/{order_id}/outlook"),
        table(admin=PAYMENT, reader=PAYMENT),
    ),
    ("POST", "/orders/{order_id}/shipments"): Row(
        changes("POST", "/orders/{order_id}/shipments", {"lines": [UNIT]}),
        table(admin=cells(409, "id", frozen=STOPPED, unknown=STOPPED)),
    ),
    ("POST", "/orders/{order_id}/shipments/{number}/delivered"): Row(
        changes("POST", "/orders/{order_id}/shipments/1/delivered", {}),
        table(admin=cells(404, "id", frozen=STOPPED, unknown=STOPPED)),
    ),
    ("POST", "/orders/{order_id}/notes"): Row(
        asks("POST", "/orders/{order_id}/notes", {"text": "n"}),
        table(admin=cells(201, frozen=(201, set()), unknown=STOPPED)),
    ),
    ("GET", "/orders/{order_id}/notes"): Row(
        asks("GET", "/orders/{order_id}/notes"),
        table(admin=cells(200, frozen=(200, set()), unknown=STOPPED)),
    ),
    ("DELETE", "/orders/{order_id}/notes/{note_id}"): Row(
        asks("DELETE", "/orders/{order_id}/notes/none"),
        table(admin=cells(404, frozen=(404, set()), unknown=STOPPED)),
    ),
    ("PATCH", "/orders/{order_id}/metadata"): Row(
        changes("PATCH", "/orders/{order_id}/metadata", {"metadata": {"till": "7"}}),
        table(admin=cells(200, "id", "order", "contact", frozen=STOPPED, unknown=STOPPED)),
    ),
    ("POST", "/orders/{order_id}/payment"): Row(
        asks("POST", "/orders/{order_id}/payment", {"action": "confirm"}),
        table(gateway=of_gateway(200, "secret", frozen=(200, {"secret"}))),
    ),
    ("GET", "/orders/{order_id}/payment"): Row(
        asks("GET", "/orders/{order_id}/payment"),
        table(gateway=of_gateway(200, "secret", frozen=(200, {"secret"})), admin=PAYMENT, reader=PAYMENT),
    ),
    ("POST", "/orders/{order_id}/attention"): Row(
        resolves,
        table(
            admin=cells(200, "id", "order", "contact", frozen=STOPPED, unknown=STOPPED),
            operator=cells(200, "id", "order", frozen=STOPPED, unknown=STOPPED),
        ),
    ),
    ("GET", "/commands/{command_id}"): Row(
        follows,
        dict.fromkeys(ROLES, NOT_THEIRS) | {"gateway": NOT_THEIRS | dict.fromkeys((OWN, FROZEN_OWN), (200, {"id"}))},
    ),
}
# Routes that answer about no order: their answers may hold nothing of any customer, whoever asks.
ABOUT_NO_ORDER: dict[tuple[str, str], tuple[str, Any]] = {
    ("POST", "/customers/{customer_id}/erasure"): ("/customers/c-3/erasure", {}),
    ("GET", "/customers/{customer_id}/erasure"): ("/customers/c-3/erasure", None),
    ("GET", "/reports/daily"): ("/reports/daily?from=2020-01-01&to=2020-12-31", None),
    ("POST", "/webhooks/stripe"): ("/webhooks/stripe", {}),
    ("GET", "/webhook-endpoints"): ("/webhook-endpoints", None),
    ("GET", "/webhook-endpoints/{name}"): ("/webhook-endpoints/none", None),
    ("PUT", "/webhook-endpoints/{name}"): ("/webhook-endpoints/none", {}),
    ("DELETE", "/webhook-endpoints/{name}"): ("/webhook-endpoints/none", None),
    ("GET", "/webhook-endpoints/{name}/secret"): ("/webhook-endpoints/none/secret", None),
    ("POST", "/webhook-endpoints/{name}/secret"): ("/webhook-endpoints/none/secret", {}),
    ("POST", "/webhook-endpoints/{name}/replay"): ("/webhook-endpoints/none/replay", {}),
    ("GET", "/webhook-endpoints/{name}/deliveries"): ("/webhook-endpoints/none/deliveries", None),
    ("GET", "/live"): ("/live", None),
    ("GET", "/ready"): ("/ready", None),
    ("GET", "/console/config.json"): ("/console/config.json", None),
    ("GET", "/metrics"): ("/metrics", None),
    ("GET", "/openapi.json"): ("/openapi.json", None),
    ("GET", "/asyncapi.json"): ("/asyncapi.json", None),
    ("GET", "/console"): ("/console", None),
    ("GET", "/console/{asset}"): ("/console/main.js", None),
    ("GET", "/problems/{slug}"): ("/problems/forbidden", None),
    ("GET", "/config"): ("/config", None),
    ("GET", "/config/{subject}"): ("/config/visibility.order-events-value", None),
    ("GET", "/contexts"): ("/contexts", None),
    ("GET", "/mode"): ("/mode", None),
    ("GET", "/mode/{subject}"): ("/mode/visibility.order-events-value", None),
    ("POST", "/subjects/{subject}"): ("/subjects/visibility.order-events-value", {}),
    ("POST", "/compatibility/subjects/{subject}/versions"): (
        "/compatibility/subjects/visibility.order-events-value/versions",
        {},
    ),
    ("POST", "/compatibility/subjects/{subject}/versions/{version}"): (
        "/compatibility/subjects/visibility.order-events-value/versions/1",
        {},
    ),
    ("GET", "/schemas/ids/{id}"): ("/schemas/ids/1", None),
    ("GET", "/schemas/ids/{id}/schema"): ("/schemas/ids/1/schema", None),
    ("GET", "/schemas/ids/{id}/subjects"): ("/schemas/ids/1/subjects", None),
    ("GET", "/schemas/ids/{id}/versions"): ("/schemas/ids/1/versions", None),
    ("GET", "/schemas/types"): ("/schemas/types", None),
    ("GET", "/subjects"): ("/subjects", None),
    ("GET", "/subjects/{subject}/versions"): ("/subjects/visibility.order-events-value/versions", None),
    ("GET", "/subjects/{subject}/versions/{version}"): ("/subjects/visibility.order-events-value/versions/1", None),
    ("GET", "/subjects/{subject}/versions/{version}/schema"): ("/subjects/visibility.order-events-value/versions/1/schema", None),
}


def test_every_route_has_a_row_and_every_role_a_cell(world: World) -> None:
    routes = {
        (method, route.path)
        for route in world.ledger.app.router.routes
        if isinstance(route, APIRoute)
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert routes == ROWS.keys() | ABOUT_NO_ORDER.keys()
    assert not ROWS.keys() & ABOUT_NO_ORDER.keys()
    assert set(SIGHT) == set(ROLES)
    for row in ROWS.values():
        assert set(row.cells) == set(ROLES)


def shown(world: World, answer: httpx.Response, owner: str) -> set[str]:
    """The parts of the owner's orders that are in the answer."""
    parts, text = set(), answer.text
    body = answer.json()
    if f'"reference-{OWNERS.index(owner)}"' in text:
        parts.add("order")
    if world.mark(owner) in text:
        parts.add("contact")
    if isinstance(body, dict):
        parts |= {"id"} if body.get("order_id") else set()
        parts |= {"secret"} if body.get("client_secret") else set()
        parts |= {"frozen"} if body.get("frozen") else set()
    return parts


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("method", "path"), list(ROWS))
def test_a_role_sees_the_parts_of_everybodys_orders_that_its_row_says(world: World, method: str, path: str, role: str) -> None:
    row = ROWS[method, path]
    seen: dict[str, Cell] = {}
    for owner in row.cells[role]:
        if row.send in (places, imports) and owner not in CUSTOMERS:
            continue
        answer = row.send(world, role, owner)
        seen[owner] = answer.status_code, shown(world, answer, owner)
        for other in set(CUSTOMERS) - {owner}:
            if (method, path) not in (("GET", "/orders"), ("GET", "/events")):
                assert not shown(world, answer, other) & {"order", "contact"}, "of another owner's"
    assert seen == {owner: cell for owner, cell in row.cells[role].items() if owner in seen}


def plain(answer: httpx.Response) -> tuple[int, Any]:
    """The answer without the ids of the request."""
    return answer.status_code, json.loads(re.sub(r"\b(ord|cmd)_[a-z0-9]+", r"\1_x", answer.text))


@pytest.mark.parametrize(
    ("method", "path"), [place for place, row in ROWS.items() if row.cells["gateway"].get(MISSING) == HIDDEN]
)
def test_an_order_that_a_gateway_may_not_see_is_answered_like_a_missing_one(world: World, method: str, path: str) -> None:
    send = ROWS[method, path].send
    missing = send(world, "gateway", MISSING)
    for owner in (OTHERS, FROZEN_OTHERS, FROZEN_UNKNOWN):
        answer = send(world, "gateway", owner)
        assert plain(answer) == plain(missing), owner
        assert set(answer.headers) == set(missing.headers), owner


def test_a_stream_of_events_is_for_those_who_may_see_the_order(world: World) -> None:
    for owner in OWNERS:
        headers = {"Accept": "text/event-stream"}
        with world.client("gateway").stream("GET", f"/orders/{world.ids[owner]}/events", headers=headers) as answer:
            assert answer.status_code == (200 if owner in (OWN, FROZEN_OWN) else 404), owner


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("method", "path"), list(ABOUT_NO_ORDER))
def test_routes_that_are_about_no_order_say_nothing_about_any(world: World, method: str, path: str, role: str) -> None:
    asked, body = ABOUT_NO_ORDER[method, path]
    text = world.client(role).request(method, asked, json=body, headers=key()).text
    marks = [world.mark(owner) for owner in CUSTOMERS] + [f"reference-{OWNERS.index(owner)}" for owner in CUSTOMERS]
    assert not [mark for mark in [*marks, *world.ids.values(), *world.commands.values()] if mark in text]
