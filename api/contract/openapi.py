"""The OpenAPI 3.1 document: FastAPI's description of the routes, with the components of this package."""

from __future__ import annotations

import inspect
import json
from types import ModuleType
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.contract import desk_responses, registry, registry_responses, requests, responses, webhook_responses
from api.contract.describing import SCHEMAS, component_name
from api.contract.examples import CURSOR
from api.contract.members import MEMBERS
from api.contract.patterns import KEY, NAME, POSITION, VERSION_TAG, whole
from api.contract.webhook_operations import MESSAGES
from api.settings import Settings, program_version

_DESCRIPTION = """\
Orders as an event-sourced ledger on Kafka.

**Commands** have an `Idempotency-Key`: a retry gets the first answer. 2xx with an order means decided and committed, 202 means
durable but not decided yet, 503 means that durability is unknown; a retry with the same key is always safe.

**Reads** on the node that answered a command show its result. On another node, send the `Ledger-Position` of that answer.

**HEAD** is answered on every path that has GET: the same status and headers, `Content-Length` included, and no body.

Money is integer minor units, times are RFC 3339 in UTC. Bodies are JSON in UTF-8 of at most 64 KiB and 8 levels: no duplicate
keys, no unknown members, integers only, strings in NFC without control characters. Errors are RFC 9457 problems.

Connections are limited: headers must be complete within 10 s and the body within another 10 s (408, `/problems/request-timeout`),
headers have at most 32 KiB (431, `/problems/header-too-large`), invalid HTTP gets 400 (`/problems/malformed-request`), and if all
connections are busy, a new one gets 503 (`/problems/too-many-connections`). Each of these closes the connection.
"""
_CONTACT = {"name": "Order Ledger", "url": "https://order-ledger.example/issues"}  # the `Issues` of pyproject.toml
_SERVERS = [{"url": "/", "description": "The node that answered this document, or the proxy before it."}]
_TAGS = {
    "orders": "Place, read, set status, cancel.",
    "events": "The events of all orders.",
    "webhooks": "Events delivered to endpoints of others.",
    "payments": "Pay for an order.",
    "commands": "The state of a command.",
    "customers": "Erasure of personal data.",
    "reports": "Daily totals.",
    "system": "Health, metrics, documents.",
    "schema registry": "The schemas, read-only, at the paths of the Confluent registry and with its errors.",
}


def _parameter(name: str, text: str, schema: dict[str, Any], example: str, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": required, "description": text, "schema": schema, "example": example}


_TEXT = {"type": "string"}
_POSITION = {"type": "string", "pattern": whole(POSITION)}
_PARAMETERS = {
    "CustomerId": _parameter(
        "Customer-Id",
        "The customer for whom a gateway acts, a pseudonym. Required for gateways, ignored for others.",
        {"type": "string", "pattern": whole(NAME)},
        "c-1",
    ),
    "IdempotencyKey": _parameter(
        "Idempotency-Key",
        "Identifies this command within principal, customer, operation and order.",
        {"type": "string", "pattern": whole(KEY)},
        "cart-1017",
        True,
    ),
    "OptionalKey": _parameter(
        "Idempotency-Key",
        "As for every command; required only with `initiate`.",
        {"type": "string", "pattern": whole(KEY)},
        "pay-1017",
    ),
    "StripeSignature": _parameter(
        "Stripe-Signature",
        "`t=<seconds>,v1=<HMAC-SHA-256 of t, a dot and the body>`; t may differ by at most 5 minutes.",
        _TEXT,
        "t=1926244800,v1=5257a869e7ecebeda32affa62cdca3fa51cad7e77a0e56ff536d0ce8e108d8bd",
        True,
    ),
    "Prefer": _parameter(
        "Prefer",
        "`wait=N` (0 to 10 s) for a decision, or for `Ledger-Position`; `respond-async` waits only for durability.",
        _TEXT,
        "wait=3",
    ),
    "IfMatch": _parameter(
        "If-Match",
        "Only if the order is at this version, else 412; `*`: any version.",
        {"type": "string", "pattern": whole(rf"\*|{VERSION_TAG}")},
        '"7"',
    ),
    "IfNoneMatch": _parameter("If-None-Match", "304 if the order is at this version.", _TEXT, '"7"'),
    "LedgerPosition": _parameter(
        "Ledger-Position", "Wait (1 s, or `Prefer`) until this node has folded up to this position.", _POSITION, "3-1017"
    ),
    "LastEventId": _parameter("Last-Event-ID", "Version of the last received event; resumes a stream.", _TEXT, "7"),
    "LastCursor": _parameter("Last-Event-ID", "`id` of the last received event of the feed; resumes a stream.", _TEXT, CURSOR),
    "RequestId": _parameter(
        "Request-Id",
        "A UUID, or 32 hexadecimal digits: echoed and logged. Anything else is replaced by a generated id.",
        _TEXT,
        "7f6c2d1e-8a3b-4c5d-9e0f-a1b2c3d4e5f6",
    ),
    "Traceparent": _parameter(
        "traceparent",
        "W3C trace context; passed on with the command.",
        _TEXT,
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ),
}
_HEADERS = {
    "RequestId": {"description": "The id of the request.", "schema": _TEXT},
    "ETag": {"description": "The version of the order, quoted.", "schema": _TEXT, "example": '"7"'},
    "Location": {"description": "URL of the result.", "schema": {"type": "string", "format": "uri-reference"}},
    "LedgerPosition": {
        "description": "Partition, and the offset up to which this node has folded it.",
        "schema": _POSITION,
        "example": "3-1017",
    },
    "LedgerOutcome": {
        "description": "Whether the command changed the order.",
        "schema": {"type": "string", "enum": ["changed", "unchanged"]},
    },
    "Replayed": {
        "description": "This is the answer of an earlier request with this key.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "Applied": {"description": "The preferences that were honoured.", "schema": _TEXT},
    "Staleness": {
        "description": "How old the answer may be in ms, while this node is not at the end of the log.",
        "schema": {"type": "integer"},
    },
    "RetryAfter": {"description": "Seconds.", "schema": {"type": "integer"}},
    "Challenge": {"description": "How to authenticate.", "schema": _TEXT},
}
_SECURITY = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token of the role gateway, admin, reader or operator: one of the tokens file, or a JWT of the issuer.",
    },
    "basic": {"type": "http", "scheme": "basic", "description": "The token as password, with any user; only on registry paths."},
}


def openapi_document(app: FastAPI, settings: Settings) -> dict[str, Any]:
    """The document for the routes of `app`, with the limits of `settings`."""
    document = get_openapi(
        title="Order Ledger",
        version=program_version(),
        summary="Every change of an order is an immutable event.",
        description=_DESCRIPTION,
        routes=app.routes,
        tags=[{"name": name, "description": text} for name, text in _TAGS.items()],
        servers=_SERVERS,
        contact=_CONTACT,
        license_info={"name": "Apache 2.0", "identifier": "Apache-2.0"},
    )
    for route in app.routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            for method in route.methods or ():
                # Verbatim, not as encoded by FastAPI, which drops all nulls, including those that examples need.
                operation = document["paths"][route.path][method.lower()]
                operation |= (route.openapi_extra or {}) | {"responses": route.responses}
    document["components"] = {
        "schemas": _bounded(component_schemas(), settings),
        "parameters": _PARAMETERS,
        "headers": _HEADERS,
        "securitySchemes": _SECURITY,
    }
    document["webhooks"] = MESSAGES
    document["security"] = [{"bearer": []}]
    return document


def component_schemas() -> dict[str, Any]:
    """Schemas of all requests and responses, by component name."""
    bodies: list[type[BaseModel]] = [registry.SchemaToFindBody]
    bodies += [m for m in _classes(requests) if issubclass(m, requests.RequestBody) and m is not requests.RequestBody]
    classes = _classes(responses) + _classes(desk_responses) + _classes(registry_responses) + _classes(webhook_responses)
    answers = [m for m in classes if issubclass(m, responses.Response) and m is not responses.Response]
    _, models = models_json_schema([(model, "validation") for model in bodies], ref_template=SCHEMAS)
    _, described = msgspec.json.schema_components(answers, ref_template="#/components/schemas/{name}")
    for model in answers:
        if model.EXAMPLES:
            described[model.__name__]["examples"] = list(model.EXAMPLES)
    schemas = {component_name(name): _renamed(schema) for name, schema in {**models["$defs"], **described}.items()}
    for name, schema in schemas.items():
        schema["title"] = name
        _describe_members(name, schema.get("properties", {}))
    return schemas


def _describe_members(component: str, members: dict[str, Any]) -> None:
    """Describe the members that neither describe themselves nor are a component, which has a description of its own.

    A default becomes words: generators of clients take a member with a default for one that is always there.
    """
    for name, member in members.items():
        if (
            "description" not in member
            and "$ref" not in member
            and (text := MEMBERS.get(f"{component}.{name}", MEMBERS.get(name)))
        ):
            member["description"] = text
        if (default := member.pop("default", None)) is not None and "description" in member:
            member["description"] += f"; default: `{json.dumps(default)}`"


def _classes(module: ModuleType) -> list[type]:
    return [m for _, m in inspect.getmembers(module, inspect.isclass) if m.__module__ == module.__name__]


def _bounded(schemas: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """`schemas` with the limits for the time to pay from the settings."""
    window = schemas[component_name(requests.PlaceOrderBody.__name__)]["properties"]["payment_window_seconds"]
    integer = next(kind for kind in window["anyOf"] if kind["type"] == "integer")
    integer |= {"minimum": settings.payment_window_min_seconds, "maximum": settings.payment_window_max_seconds}
    window["description"] += f", {settings.payment_window_seconds} s"
    return schemas


def _renamed(value: Any) -> Any:
    """`value` with all references to schemas replaced by component names, and without `default: null`."""
    if isinstance(value, dict):
        renamed = {key: _renamed(member) for key, member in value.items() if not (key == "default" and member is None)}
        if isinstance(target := value.get("$ref"), str):
            renamed["$ref"] = SCHEMAS.format(model=component_name(target.rpartition("/")[2]))
        return renamed
    return [_renamed(item) for item in value] if isinstance(value, list) else value
