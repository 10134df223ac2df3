"""What an order owes and what staff may do with it, over HTTP: every action that is shown is accepted, and only those."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.harness import key
from tests.support.paying_shop import Shop

pytestmark = pytest.mark.usefixtures("calm")


def paid(shop: Shop) -> dict[str, Any]:
    order = shop.place()
    assert shop.sandbox.pay(shop.open_payment(order)) == "requires_capture"
    return shop.until_status(order, "paid")


def outlook(shop: Shop, order: dict[str, Any]) -> dict[str, Any]:
    answer = shop.admin.get(f"/orders/{order['order_id']}/outlook")
    assert answer.status_code == 200, answer.text
    assert answer.headers["etag"] == f'"{answer.json()["version"]}"'
    body: dict[str, Any] = answer.json()
    return body


def done(shop: Shop, order: dict[str, Any], action: dict[str, Any], version: int) -> httpx.Response:
    """The answer to an action, as the outlook names it."""
    headers = key() | {"If-Match": f'"{version}"'}
    lines = action.get("lines", [])
    method, path, body = {
        "setOrderStatus": ("PUT", "/status", {"status": action.get("status")}),
        "createShipment": ("POST", "/shipments", {"lines": lines}),
        "confirmShipment": ("POST", f"/shipments/{action.get('number')}/delivered", {}),
        "requestRefund": ("POST", "/refunds", {"amount_minor": action.get("amount_minor"), "reason": "other"}),
        "cancelLines": ("POST", "/lines/cancel", {"lines": lines}),
        "cancelOrder": ("POST", "/cancel", {}),
        "changeMetadata": ("PATCH", "/metadata", {"metadata": {"till": "7"}}),
        "addNote": ("POST", "/notes", {"text": "n"}),
    }[action["operation"]]
    return shop.admin.request(method, f"/orders/{order['order_id']}{path}", json=body, headers=headers)


def name(action: dict[str, Any]) -> str:
    return " ".join(str(action[part]) for part in ("operation", "status", "number") if part in action)


def test_every_action_of_a_paid_order_is_accepted(shop: Shop) -> None:
    actions = outlook(shop, paid(shop))["actions"]
    assert [name(action) for action in actions] == [
        *("setOrderStatus processing", "createShipment", "setOrderStatus shipped", "requestRefund"),
        *("cancelLines", "cancelOrder", "changeMetadata", "addNote"),
    ]
    for action in actions:
        order = paid(shop)
        answer = done(shop, order, action, outlook(shop, order)["version"])
        assert answer.status_code in (200, 201), (action, answer.text)


def test_what_is_not_shown_is_refused(shop: Shop) -> None:
    order = shop.place()
    shop.until_axes(order, stock="reserved")
    shown = {name(action) for action in outlook(shop, order)["actions"]}
    assert shown == {"cancelLines", "cancelOrder", "changeMetadata", "addNote"}
    for status in ("processing", "shipped", "delivered"):
        answer = shop.admin.put(f"/orders/{order['order_id']}/status", json={"status": status}, headers=key())
        assert answer.status_code == 409, status


def test_each_parcel_can_be_reported_until_it_arrived(shop: Shop) -> None:
    order = paid(shop)
    for line in outlook(shop, order)["actions"][1]["lines"]:
        assert done(shop, order, {"operation": "createShipment", "lines": [line]}, shop.read(order)["version"]).status_code == 200
    actions = outlook(shop, order)["actions"]
    assert [name(action) for action in actions][:3] == ["confirmShipment 1", "confirmShipment 2", "setOrderStatus delivered"]
    for action in actions[:2]:
        assert done(shop, order, action, shop.read(order)["version"]).status_code == 200
    assert shop.read(order)["status"] == "delivered"
    assert [name(action) for action in outlook(shop, order)["actions"]] == ["requestRefund", "changeMetadata", "addNote"]


def test_what_is_owed_has_the_time_of_the_event_that_began_it(shop: Shop) -> None:
    order = shop.place()
    shop.until_axes(order, stock="reserved")
    (expiry,) = outlook(shop, order)["owes"]
    assert expiry == {
        "kind": "expire",
        "key": f"exp:{order['order_id']}",
        "since": order["placed_at"],
        "due_at": order["expires_at"],
    }
    shop.open_payment(order)
    events = shop.admin.get(f"/orders/{order['order_id']}/events").json()["data"]
    opened = next(event for event in events if event["type"] == "PaymentOpened")
    owes = {owed["kind"]: owed for owed in outlook(shop, order)["owes"]}
    assert owes["look_at_payment"]["since"] == opened["occurred_at"]
    assert outlook(shop, paid(shop))["owes"] == []


def test_a_reader_is_shown_what_is_owed_and_may_do_nothing(shop: Shop) -> None:
    order = shop.place()
    body = shop.ledger.client("reader").get(f"/orders/{order['order_id']}/outlook").json()
    assert body["actions"] == []
    assert body["owes"]
