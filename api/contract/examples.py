"""Values for the examples in the OpenAPI document: one shop, one customer, one order."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

ORDER_ID = "ord_2cumvh5jpkvhcxsfqqzwnmx5ei"
COMMAND_ID = "cmd_wq6v6d3cbq5plkmwqcxkcqv4aa"
AT = "2030-01-31T12:00:00.000Z"

ADDRESS: Json = {"line1": "1 Mill Lane", "city": "Leeds", "postcode": "LS1 1AA", "country": "GB"}
CONTACT: Json = {"name": "Ada Example", "email": "ada@example.org", "shipping_address": ADDRESS, "locale": "en-GB"}
LINE: Json = {
    "service": "product",
    "sku": "espresso-1kg",
    "name": "Espresso 1 kg",
    "quantity": 1,
    "unit_price_minor": 2490,
}
UNITS: Json = {"service": "product", "sku": "espresso-1kg", "quantity": 1}
SHIPPING: Json = {"kind": "shipping", "label": "Parcel", "amount_minor": 400}

SUMMARY: Json = {
    "order_id": ORDER_ID,
    "number": "AMWK-446T-4",
    "version": 1,
    "status": "pending",
    "axes": {"order": "open", "payment": "unpaid", "stock": "pending", "fulfilment": "none"},
    "cancel_reason": None,
    "attention": [],
    "frozen": None,
    "customer_id": "c-1",
    "currency": "EUR",
    "total_minor": 2890,
    "captured_minor": 0,
    "refunded_minor": 0,
    "reference": "cart-1017",
    "placed_at": AT,
    "updated_at": AT,
    "expires_at": "2030-01-31T12:30:00.000Z",
    "payment": {"attempt": 0, "state": "unpaid"},
    "shipped_at": None,
    "delivered_at": None,
}
ORDER: Json = SUMMARY | {
    "lines": [LINE],
    "adjustments": [SHIPPING],
    "shipments": [],
    "metadata": {"campaign": "winter-30"},
    "contact": CONTACT,
}
EVENT: Json = {
    "version": 2,
    "type": "OrderCancelled",
    "occurred_at": AT,
    "actor": "gateway:web",
    "status": "cancelled",
    "detail": {"reason": "customer_request", "by": "customer"},
    "partition": 3,
    "offset": 1017,
}
FEED_EVENT: Json = EVENT | {
    "event_id": f"{ORDER_ID}/2",
    "order_id": ORDER_ID,
    "customer_id": "c-1",
    "payment_state": "unpaid",
    "currency": "EUR",
    "total_minor": 2890,
    "captured_minor": 0,
    "refunded_minor": 0,
}
CURSOR = "9uV9lGnPq4Vd2e7mO2Z1kZPEAsDAkgCDAJIqkA"
NOTE: Json = {
    "note_id": "2cumvh5jpkvhcxsfqqzwnmx5ei",
    "text": "The customer called: leave the parcel with the neighbour.",
    "by": "admin:desk",
    "at": AT,
}
OUTLOOK: Json = {
    "version": 7,
    "owes": [{"kind": "refund", "key": f"ref:{ORDER_ID}:1", "since": AT, "due_at": None}],
    "actions": [
        {"operation": "setOrderStatus", "status": "processing"},
        {"operation": "requestRefund", "lines": [UNITS], "amount_minor": 2390},
    ],
}
REFUND: Json = {
    "number": 1,
    "state": "settled",
    "amount_minor": 500,
    "provider_ref": "re_3PKb2eLk",
    "code": None,
    "updated_at": AT,
}
PAYMENT: Json = {
    "attempt": 1,
    "state": "open",
    "provider": "stripe",
    "provider_ref": "pi_3PKb2eLk",
    "client_secret": "pi_3PKb2eLk_secret_hidden",
    "amount_minor": 2890,
    "currency": "EUR",
    "expires_at": "2030-01-31T12:30:00.000Z",
}
ACCEPTED: Json = {"command_id": COMMAND_ID, "state": "accepted", "order_id": ORDER_ID, "version": 1, "problem": None}
UNDECIDED: Json = {"command_id": COMMAND_ID, "state": "pending", "order_id": ORDER_ID, "version": None, "problem": None}
DAY: Json = {
    "day": "2030-01-31",
    "currency": "EUR",
    "placed": 2,
    "placed_minor": 5780,
    "cancelled": 1,
    "shipped": 0,
    "delivered": 0,
    "captured_minor": 0,
    "refunded_minor": 0,
}
ERASURE: Json = {"state": "running", "contacts_deleted": 40_000, "requested_at": AT, "done_at": None}
READY: Json = {"status": "ready", "checks": {"fold": "ok", "log": "ok", "caught_up": "ok"}}
READY_WITHOUT_LOG: Json = {
    "status": "ready",
    "checks": {"fold": "waiting", "log": "away", "caught_up": "behind by ?"},
    "reason": "log-unavailable",
    "stale": True,
    "staleness_ms": 61_000,
}
CONSOLE_CONFIG: Json = {
    "login": {
        "issuer": "https://login.example.org/realms/shop",
        "client_id": "order-ledger-console",
        "scopes": "openid",
        "parameters": {"audience": "https://ledger.example.org"},
        "authorization_endpoint": "https://login.example.org/realms/shop/authorize",
        "token_endpoint": "https://login.example.org/realms/shop/token",
        "end_session_endpoint": "https://login.example.org/realms/shop/logout",
    }
}
CONSOLE_CONFIG_WITHOUT_ISSUER: Json = {}
PROBLEM_TYPE: Json = {
    "type": "/problems/total-mismatch",
    "title": "Total mismatch",
    "status": 422,
    "meaning": "The total does not equal the sum of lines and adjustments, or the total of the order.",
}
REGISTRY_ERROR: Json = {"error_code": 40403, "message": "Schema not found"}
