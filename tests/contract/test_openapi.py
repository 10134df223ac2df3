"""The OpenAPI document: complete and consistent, every operation with parameters, bodies, errors and examples that fit."""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from api.bodies import parse, validated
from api.contract.members import MEMBERS
from api.contract.requests import (
    AddNoteBody,
    CancelLinesBody,
    CancelOrderBody,
    ChangeMetadataBody,
    CreateShipmentBody,
    EmptyBody,
    EraseBody,
    ImportOrderBody,
    PayOrderBody,
    PlaceOrderBody,
    RequestRefundBody,
    ResolveAttentionBody,
    SetStatusBody,
)
from api.problems import PROBLEMS, UNCHANGED, slug_of
from ledger.transitions import REQUESTS, Code, Operation
from tests.support.described import validate
from tests.support.harness import HASH_KEY
from tests.support.openapi_document import openapi_of_a_ledger

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


OPERATIONS = {
    "POST /orders",
    "GET /orders",
    "GET /orders/{order_id}",
    "GET /orders/{order_id}/events",
    "GET /events",
    "GET /webhook-endpoints",
    "GET /webhook-endpoints/{name}",
    "PUT /webhook-endpoints/{name}",
    "DELETE /webhook-endpoints/{name}",
    "GET /webhook-endpoints/{name}/secret",
    "POST /webhook-endpoints/{name}/secret",
    "POST /webhook-endpoints/{name}/replay",
    "GET /webhook-endpoints/{name}/deliveries",
    "PUT /orders/{order_id}/status",
    "POST /orders/{order_id}/cancel",
    "POST /orders/{order_id}/payment",
    "GET /orders/{order_id}/payment",
    "POST /orders/{order_id}/attention",
    "POST /orders/{order_id}/lines/cancel",
    "POST /orders/{order_id}/refunds",
    "GET /orders/{order_id}/refunds",
    "GET /orders/{order_id}/outlook",
    "POST /orders/{order_id}/shipments",
    "POST /orders/{order_id}/shipments/{number}/delivered",
    "PATCH /orders/{order_id}/metadata",
    "POST /orders/{order_id}/notes",
    "GET /orders/{order_id}/notes",
    "DELETE /orders/{order_id}/notes/{note_id}",
    "POST /imports",
    "POST /webhooks/stripe",
    "GET /commands/{command_id}",
    "POST /customers/{customer_id}/erasure",
    "GET /customers/{customer_id}/erasure",
    "GET /reports/daily",
    "GET /live",
    "GET /console/config.json",
    "GET /ready",
    "GET /metrics",
    "GET /openapi.json",
    "GET /asyncapi.json",
    "GET /problems/{slug}",
    "GET /config",
    "GET /config/{subject}",
    "GET /contexts",
    "GET /mode",
    "GET /mode/{subject}",
    "POST /compatibility/subjects/{subject}/versions",
    "POST /compatibility/subjects/{subject}/versions/{version}",
    "POST /subjects/{subject}",
    "GET /schemas/ids/{id}",
    "GET /schemas/ids/{id}/schema",
    "GET /schemas/ids/{id}/subjects",
    "GET /schemas/ids/{id}/versions",
    "GET /schemas/types",
    "GET /subjects",
    "GET /subjects/{subject}/versions",
    "GET /subjects/{subject}/versions/{version}",
    "GET /subjects/{subject}/versions/{version}/schema",
}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi_of_a_ledger()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def resolve(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        target: Any = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    return node


def test_every_operation_of_the_contract_is_there(document: dict[str, Any]) -> None:
    assert {name for name, _ in operations(document)} == OPERATIONS


def test_every_reference_points_to_something_and_no_component_is_unused(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    refs = set(re.findall(r'"\$ref": "([^"]+)"', text))
    for ref in refs:
        assert resolve(document, {"$ref": ref})
    for kind in ("schemas", "parameters", "headers"):
        unused = {name for name in document["components"][kind] if f"#/components/{kind}/{name}" not in refs}
        assert not unused, f"{kind} that nothing refers to"


def test_every_operation_is_described_with_examples_for_bodies_answers_and_errors(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(names) == len(set(names))
    for name, operation in operations(document):
        assert operation["summary"], name
        assert operation["tags"][0] in {tag["name"] for tag in document["tags"]}, name
        contents = [("body", operation.get("requestBody", {}).get("content", {}))]
        contents += [(status, response.get("content", {})) for status, response in operation["responses"].items()]
        for where, content in contents:
            for media, described in content.items():
                schema = described["schema"]
                examples = [e["value"] for e in described.get("examples", {}).values()] or resolve(document, schema).get(
                    "examples"
                )
                assert examples, f"{name} {where} {media}: no example"
                for example in examples:
                    if media.endswith("json"):
                        validate(document, schema, example, f"{name} {where}")


def test_every_placeholder_of_a_path_is_a_parameter(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        placeholders = {p["name"] for p in (resolve(document, p) for p in operation.get("parameters", [])) if p["in"] == "path"}
        assert placeholders == set(re.findall(r"\{(\w+)\}", name)), name


def test_every_schema_is_a_valid_json_schema(document: dict[str, Any]) -> None:
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_generators_of_clients_find_names_and_optional_members(document: dict[str, Any]) -> None:
    """Titles name the generated types; a member with a default counts as always there, even in a request."""
    schemas = document["components"]["schemas"]
    assert {name: schema["title"] for name, schema in schemas.items()} == {name: name for name in schemas}
    assert [path for path, member in members(schemas) if isinstance(member, dict) and "default" in member] == []


def test_everything_is_described_in_words(document: dict[str, Any]) -> None:
    """Operations, parameters, headers, bodies, answers, schemas and their members."""
    missing = [f"tag {tag['name']}" for tag in document["tags"] if not tag.get("description")]
    for name, operation in operations(document):
        described = [("summary", operation.get("summary")), ("description", operation.get("description"))]
        described += [(f"parameter {p['name']}", p.get("description")) for p in map(resolved(document), operation["parameters"])]
        if "requestBody" in operation:
            described.append(("body", operation["requestBody"].get("description")))
        for status, response in operation["responses"].items():
            described.append((status, response.get("description")))
            headers = response.get("headers", {}).items()
            described += [(f"{status} {header}", resolve(document, of).get("description")) for header, of in headers]
        missing += [f"{name}: {part}" for part, text in described if not text or not text.strip()]
    for component, schema in document["components"]["schemas"].items():
        missing += [component] if not schema.get("description") else []
        for member, described_member in schema.get("properties", {}).items():
            if not (described_member.get("description") or resolve(document, described_member).get("description")):
                missing.append(f"{component}.{member}")
    assert missing == []


def resolved(document: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda node: resolve(document, node)


def test_every_description_of_a_member_is_used_and_none_is_said_twice(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    used = set()
    for component, schema in schemas.items():
        for member, described in schema.get("properties", {}).items():
            name = f"{component}.{member}" if f"{component}.{member}" in MEMBERS else member
            if described.get("description", "").startswith(MEMBERS.get(name, "?")):
                used.add(name)
    assert set(MEMBERS) - used == set()
    special = {name: text for name, text in MEMBERS.items() if "." in name}
    assert [name for name, text in special.items() if MEMBERS.get(name.partition(".")[2]) == text] == []


def test_the_document_says_where_and_from_whom_it_is(document: dict[str, Any]) -> None:
    assert [server["url"] for server in document["servers"]] == ["/"], "wherever a proxy puts the node"
    assert document["info"]["contact"]["url"] == tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]["urls"]["Issues"]
    assert document["info"]["license"]["identifier"] == "Apache-2.0"


def members(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything inside a JSON value, with its path."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in inside:
        yield f"{path}/{key}", member
        yield from members(member, f"{path}/{key}")


def test_the_examples_of_bodies_are_accepted_by_the_api_itself(document: dict[str, Any]) -> None:
    for component, model in (
        ("PlaceOrder", PlaceOrderBody),
        ("SetStatus", SetStatusBody),
        ("CancelOrder", CancelOrderBody),
        ("Erase", EraseBody),
        ("PayOrder", PayOrderBody),
        ("ResolveAttention", ResolveAttentionBody),
        ("CancelLines", CancelLinesBody),
        ("RequestRefund", RequestRefundBody),
        ("CreateShipment", CreateShipmentBody),
        ("ChangeMetadata", ChangeMetadataBody),
        ("Empty", EmptyBody),
        ("AddNote", AddNoteBody),
        ("ImportOrder", ImportOrderBody),
    ):
        for example in document["components"]["schemas"][component]["examples"]:
            validated(model, parse(json.dumps(example).encode()))


def test_every_refusal_of_a_request_is_among_the_answers(document: dict[str, Any]) -> None:
    always = {
        Code.ORDER_NOT_FOUND,
        Code.IDEMPOTENCY_KEY_REUSED,
        Code.VERSION_CONFLICT,
        Code.ORDER_FROZEN,
        Code.COULD_NOT_DECIDE,
    }
    asked_by = {
        "PUT /orders/{order_id}/status": [
            Operation.START_FULFILMENT,
            Operation.SHIP_ORDER,
            Operation.CONFIRM_DELIVERY,
            Operation.CANCEL_ORDER,
        ],
        "POST /orders/{order_id}/cancel": [Operation.CANCEL_ORDER],
        "POST /orders/{order_id}/payment": [Operation.REQUEST_PAYMENT],
        "POST /orders/{order_id}/lines/cancel": [Operation.CANCEL_LINES],
        "POST /orders/{order_id}/refunds": [Operation.REQUEST_REFUND],
        "POST /orders/{order_id}/shipments": [Operation.SHIP_PARCEL],
        "POST /orders/{order_id}/shipments/{number}/delivered": [Operation.CONFIRM_PARCEL],
        "PATCH /orders/{order_id}/metadata": [Operation.CHANGE_METADATA],
    }
    for name, requested in asked_by.items():
        codes = always | {c for o in requested for c in REQUESTS[o].values() if isinstance(c, Code)}
        codes |= {Code.ORDER_FULL} if Operation.REQUEST_PAYMENT in requested else set()
        wanted = {slug_of(c) for c in codes if c not in UNCHANGED}
        operation = dict(operations(document))[name]
        described = {
            slug
            for response in operation["responses"].values()
            for slug in response.get("content", {}).get("application/problem+json", {}).get("examples", {})
        }
        assert wanted <= described, name


def test_every_problem_that_can_be_answered_is_described_somewhere(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    missing = {slug for slug in PROBLEMS if f"/problems/{slug}" not in text}
    never_over_http = {"not-due", "unknown-attempt", "undecodable", "method-not-allowed"}
    assert missing == never_over_http


@pytest.mark.parametrize(
    ("operation", "name", "taken", "refused"),
    [
        ("POST /orders/{order_id}/cancel", "If-Match", ['"0"', '"7"', "*"], ["7", 'W/"7"', '"07"', '""', '"x"']),
        ("GET /orders", "Ledger-Position", ["0-0", "3-1017"], ["7934000-1", "3", "3-", "-1-0", "3-1017 "]),
        ("GET /commands/{command_id}", "at", ["3-1017"], ["4394256829077415292-7403", "x"]),
        ("GET /orders", "customer_id", ["c-1"], ["", "ada@example.org", "c" * 65]),
        ("POST /customers/{customer_id}/erasure", "customer_id", ["c-1"], ["", "ada@example.org", "c" * 65]),
        ("GET /subjects/{subject}/versions/{version}", "version", ["latest", "-1", "1"], ["newest", "1.0", "-2"]),
        ("GET /orders/{order_id}", "version", [1, 2**31 - 1], [0, 2**31]),
        ("GET /orders/{order_id}/events", "after", [0, 2**31 - 1], [-1, 2**31]),
        ("GET /events", "type", ["OrderPlaced", "OrderPlaced,OrderShipped"], ["", "OrderPlaced, OrderShipped", ",OrderPlaced"]),
        ("GET /events", "customer", ["c-1"], ["", "ada@example.org", "c" * 65]),
    ],
)
def test_parameters_that_the_api_refuses_are_refused_by_the_document_too(
    document: dict[str, Any], operation: str, name: str, taken: list[Any], refused: list[Any]
) -> None:
    parameters = (resolve(document, p) for p in dict(operations(document))[operation]["parameters"])
    schema = Draft202012Validator(next(p for p in parameters if p["name"] == name)["schema"])
    assert [value for value in taken if not schema.is_valid(value)] == []
    assert [value for value in refused if schema.is_valid(value)] == []


def test_an_order_may_hold_values_that_requests_may_no_longer_hold(document: dict[str, Any]) -> None:
    order = copy.deepcopy(document["components"]["schemas"]["Order"]["examples"][0])
    order["lines"][0] |= {"sku": "x" * 300, "name": "", "quantity": 100_000}
    order["adjustments"][0] |= {"kind": "stamp", "label": ""}
    order["contact"] |= {"name": "", "email": "no address", "phone": "0" * 40}
    validate(document, {"$ref": "#/components/schemas/Order"}, order, "an order")


def test_no_secret_and_no_name_of_a_machine_is_in_the_document(document: dict[str, Any]) -> None:
    assert HASH_KEY not in json.dumps(document)
    assert "127.0.0.1" not in json.dumps(document)
