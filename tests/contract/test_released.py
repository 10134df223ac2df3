"""What a release promised is still there: schemas by their ids, operations and members of the HTTP API. Contracts only grow."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import released_contract
from tests.support.released_contract import broken, contract, main, of_this_tree, released

RELEASES = released()
IDS = {"order-teas-value.v1": 7}
OPENAPI: dict[str, Any] = {
    "paths": {
        "/teas": {
            "post": {
                "parameters": [
                    {"in": "header", "name": "Key", "required": True},
                    {"$ref": "#/components/parameters/Trace"},
                ],
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Order"}}}},
                "responses": {"201": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Tea"}}}}},
            }
        }
    },
    "components": {
        "parameters": {"Trace": {"in": "header", "name": "Trace"}},
        "schemas": {
            "Order": {
                "properties": {
                    "name": {"type": "string", "maxLength": 9},
                    "cups": {"type": "array", "items": {"$ref": "#/components/schemas/Cup"}},
                },
                "required": ["name"],
            },
            "Cup": {"properties": {"size": {"type": ["integer", "null"]}}, "required": ["size"]},
            "Tea": {
                "properties": {
                    "id": {"type": "string"},
                    "order": {"anyOf": [{"$ref": "#/components/schemas/Order"}, {"type": "null"}]},
                    "place": {"type": "object", "properties": {"town": {"type": "string"}}},
                }
            },
        },
    },
}


def changed(*path: str | int, to: Any = None) -> dict[str, Any]:
    """The document with another value at that place; without one, the place is removed."""
    document: Any = copy.deepcopy(OPENAPI)
    node = document
    for step in path[:-1]:
        node = node[step]
    if to is None:
        del node[path[-1]]
    else:
        node[path[-1]] = to
    assert isinstance(document, dict)
    return document


BEFORE = contract(IDS, OPENAPI)
SCHEMAS = ("components", "schemas")
OPERATION = ("paths", "/teas", "post")


@pytest.mark.parametrize("version", RELEASES)
def test_this_program_keeps_what_every_release_promised(version: str) -> None:
    problems = broken(RELEASES[version], of_this_tree())
    assert problems == [], "\n".join(problems)


def test_the_first_release_has_version_one_of_every_schema() -> None:
    first = RELEASES["0.2.0"]
    assert len(first["schemas"]) == 5
    assert all(name.endswith(".v1") for name in first["schemas"])
    assert len(first["offered"]) > 1_000


def test_the_facts_of_a_document_are_all_there() -> None:
    assert BEFORE["offered"] == sorted(
        [
            "POST /teas",
            "POST /teas takes header Key",
            "POST /teas takes header Trace",
            "POST /teas takes application/json Order",
            "POST /teas answers 201",
            "POST /teas answers 201 application/json Tea",
            "Order.name: string",
            "Order.cups: Cup[]",
            "Cup.size: integer",
            "Tea.id: string",
            "Tea.order: Order",
            "Tea.place: Tea.place",
            "Tea.place.town: string",
        ]
    )
    assert BEFORE["required"] == ["Cup.size", "Order.name", "POST /teas takes header Key"]
    assert broken(BEFORE, BEFORE) == []


@pytest.mark.parametrize(
    ("now", "problem"),
    [
        (changed("paths", "/teas"), "is gone: POST /teas"),
        (changed(*OPERATION, "parameters", 1), "is gone: POST /teas takes header Trace"),
        (changed(*OPERATION, "responses", "201"), "is gone: POST /teas answers 201"),
        (changed(*SCHEMAS, "Tea", "properties", "id"), "is gone: Tea.id: string"),
        (changed(*SCHEMAS, "Tea", "properties", "id", "type", to="integer"), "is gone: Tea.id: string"),
        (changed(*SCHEMAS, "Tea", "properties", "place", "properties", "town"), "is gone: Tea.place.town: string"),
        (changed(*SCHEMAS, "Cup", "properties", "size"), "is gone: Cup.size: integer"),
        (changed(*SCHEMAS, "Order", "required", to=["name", "cups"]), "is required now: Order.cups"),
        (
            changed("components", "parameters", "Trace", "required", to=True),
            "is required now: POST /teas takes header Trace",
        ),
    ],
)
def test_a_promise_that_is_not_kept_is_seen(now: dict[str, Any], problem: str) -> None:
    assert problem in broken(BEFORE, contract(IDS, now))


@pytest.mark.parametrize(
    "now",
    [
        changed(
            "paths",
            "/cups",
            to={"get": {"responses": {"200": {}}, "parameters": [{"in": "query", "name": "q", "required": True}]}},
        ),
        changed(*OPERATION, "responses", "409", to={}),
        changed(*SCHEMAS, "Tea", "properties", "colour", to={"type": "string"}),
        changed(*SCHEMAS, "Order", "required", to=[]),
        changed(*SCHEMAS, "Order", "properties", "name", "maxLength", to=99),
    ],
)
def test_a_contract_may_grow(now: dict[str, Any]) -> None:
    assert broken(BEFORE, contract(IDS | {"order-teas-value.v2": 8}, now)) == []


@pytest.mark.parametrize(
    ("ids", "problem"),
    [({}, "is missing"), ({"order-teas-value.v1": 8}, "has id 8, was 7")],
)
def test_a_changed_schema_is_seen(ids: dict[str, int], problem: str) -> None:
    assert broken(BEFORE, contract(ids, OPENAPI)) == [f"schema order-teas-value.v1: {problem}"]


def test_the_facts_of_a_release_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(released_contract, "FOLDER", tmp_path / "released")
    assert main(["9.9.9"]) == 0
    written = (tmp_path / "released" / "9.9.9.json").read_text()
    assert json.loads(written) == of_this_tree()
    assert main(["9.9.9"]) == 1
    assert main([]) == 2
    assert (tmp_path / "released" / "9.9.9.json").read_text() == written
