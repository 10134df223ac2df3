"""The OpenAPI and AsyncAPI documents as their own tools judge them: Redocly, Spectral, AsyncAPI's parser and schema, from npm."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from jsonschema import Draft7Validator

from api.contract.asyncapi import asyncapi_document
from ledger.topics import Topics
from tests.support.node import Workbench, node_modules
from tests.support.openapi_document import openapi_of_a_ledger

pytestmark = [pytest.mark.node, pytest.mark.timeout(1_800)]  # the first one installs the packages


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    return Workbench(tmp_path_factory.mktemp("node"))


@pytest.fixture(scope="module")
def openapi() -> dict[str, Any]:
    return openapi_of_a_ledger()


def redocly(bench: Workbench, document: dict[str, Any]) -> list[dict[str, Any]]:
    """The problems that Redocly reports in a document."""
    (bench.folder / "openapi.json").write_text(json.dumps(document))
    done = bench.tool("redocly", "lint", "openapi.json", "--config", "redocly.yaml", "--format", "json")
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        pytest.fail(f"{done.stdout}\n{done.stderr}")
    problems: list[dict[str, Any]] = report["problems"]
    assert (done.returncode == 0) is (not problems), done.stderr
    return problems


def spectral(bench: Workbench, document: dict[str, Any]) -> list[dict[str, Any]]:
    """The problems that Spectral reports in a document, hints included."""
    (bench.folder / "openapi.json").write_text(json.dumps(document))
    arguments = (
        "--ruleset",
        "spectral.yaml",
        "--format",
        "json",
        "--fail-severity",
        "hint",
        "--output",
        "spectral.json",
        "--quiet",
    )
    done = bench.tool("spectral", "lint", "openapi.json", *arguments)
    assert done.returncode in (0, 1), f"{done.stdout}\n{done.stderr}"
    problems: list[dict[str, Any]] = json.loads((bench.folder / "spectral.json").read_text())
    assert (done.returncode == 0) is (not problems), done.stderr
    return problems


def said(problems: list[dict[str, Any]]) -> list[str]:
    """The problems in lines, for an assertion's message."""
    return [f"{p.get('ruleId') or p.get('code')}: {p['message']} {p.get('location') or p.get('path')}" for p in problems]


def test_redocly_finds_nothing(bench: Workbench, openapi: dict[str, Any]) -> None:
    assert said(redocly(bench, openapi)) == []


def test_spectral_finds_nothing(bench: Workbench, openapi: dict[str, Any]) -> None:
    assert said(spectral(bench, openapi)) == []


def test_both_see_what_is_missing(bench: Workbench, openapi: dict[str, Any]) -> None:
    broken = copy.deepcopy(openapi)
    del broken["servers"]
    del broken["paths"]["/orders"]["post"]["summary"]
    del broken["paths"]["/orders"]["get"]["description"]
    assert {p["ruleId"] for p in redocly(bench, broken)} >= {"operation-summary", "no-empty-servers"}
    assert {p["code"] for p in spectral(bench, broken)} >= {"oas3-api-servers", "operation-description"}


# ---- AsyncAPI -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asyncapi() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(asyncapi_document(Topics("eu."), 4, 2)))
    return document


def parsed(bench: Workbench, document: dict[str, Any]) -> dict[str, Any]:
    """AsyncAPI's own parser about a document: its version, and diagnostics with a severity (0 is an error)."""
    (bench.folder / "asyncapi.json").write_text(json.dumps(document))
    done = bench.node("validate_asyncapi.mjs", "asyncapi.json")
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def faults(document: dict[str, Any]) -> list[str]:
    """The faults by the official schema of AsyncAPI 3.1."""
    schema = json.loads((node_modules() / "@asyncapi/specs/schemas/3.1.0-without-$id.json").read_text("utf-8"))
    return [f"{'/'.join(map(str, e.absolute_path))}: {e.message[:300]}" for e in Draft7Validator(schema).iter_errors(document)]


def test_the_asyncapi_document_is_valid_by_the_official_schema(asyncapi: dict[str, Any]) -> None:
    assert asyncapi["asyncapi"] == "3.1.0"
    assert faults(asyncapi) == []
    assert faults(asyncapi | {"asyncapi": "3.0.0"})
    assert faults(asyncapi | {"madeUp": {}})
    broken = copy.deepcopy(asyncapi)
    broken["components"]["messages"]["order-events"]["payload"]["schema"]["fields"][0]["type"] = 7
    assert faults(broken), "the Avro schemas are judged too"


def test_asyncapis_parser_has_nothing_to_say(bench: Workbench, asyncapi: dict[str, Any]) -> None:
    assert parsed(bench, asyncapi) == {"version": "3.1.0", "diagnostics": []}
    broken = copy.deepcopy(asyncapi)
    broken["channels"]["order-events"]["messages"]["order-events"] = {"$ref": "#/components/messages/nothing"}
    judged = parsed(bench, broken)
    assert (judged["version"], [d["code"] for d in judged["diagnostics"] if d["severity"] == 0]) == (None, ["invalid-ref"])
