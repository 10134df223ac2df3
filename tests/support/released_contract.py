"""What the releases promise, as facts that can be compared: ids of schemas, and what HTTP clients send and receive.

    uv run python -m tests.support.released_contract 0.2.0        writes `tests/support/released/0.2.0.json`, at the release

A released file never changes afterwards. `broken` says which of its promises a later program does not keep: contracts only grow.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("released")
Facts = dict[str, Any]
Document = Mapping[str, Any]


def contract(schema_ids: Mapping[str, int], openapi: Document) -> Facts:
    """The facts of a program: `schema_ids` by file name, and its OpenAPI document.

    `offered` must all be there in later programs; whatever is `required` of clients must have been required before. Members are
    those of components, whose names are in the clients that people generate.
    """
    offered, required = set[str](), set[str]()
    sent, received = _Components(openapi), _Components(openapi)
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            name = f"{method.upper()} {path}"
            offered.add(name)
            for one in operation.get("parameters", ()):
                parameter = _resolved(openapi, one)
                known = f"{name} takes {parameter['in']} {parameter['name']}"
                offered.add(known)
                if parameter.get("required"):
                    required.add(known)
            body = _resolved(openapi, operation.get("requestBody", {}))
            for content, described in body.get("content", {}).items():
                offered.add(f"{name} takes {content} {sent.type_of(described.get('schema', {}))}")
            for status, answer in operation["responses"].items():
                offered.add(f"{name} answers {status}")
                for content, described in _resolved(openapi, answer).get("content", {}).items():
                    offered.add(f"{name} answers {status} {content} {received.type_of(described.get('schema', {}))}")
    offered |= sent.members | received.members
    return {"schemas": dict(sorted(schema_ids.items())), "offered": sorted(offered), "required": sorted(required | sent.required)}


def _resolved(openapi: Document, node: Document) -> Document:
    while "$ref" in node:
        target: Any = openapi
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    return node


class _Components:
    """The members of all components that the asked types consist of: `Component.member: type`."""

    def __init__(self, openapi: Document) -> None:
        self._openapi = openapi
        self._seen: set[str] = set()
        self.members: set[str] = set()
        self.required: set[str] = set()

    def type_of(self, schema: Document, inline: str = "") -> str:
        """A type in one word, without what may be loosened: lengths, patterns, further values, whether it may be null."""
        if (reference := schema.get("$ref")) is not None:
            name = reference.rpartition("/")[2]
            if name not in self._seen:
                self._seen.add(name)
                self._add(name, _resolved(self._openapi, schema))
            return str(name)
        alternatives = [one for key in ("anyOf", "oneOf", "allOf") for one in schema.get(key, ())]
        if alternatives:
            return "|".join(sorted({self.type_of(one, inline) for one in alternatives} - {"null"}))
        if "properties" in schema and inline:
            self._add(inline, schema)
            return inline
        kinds = schema.get("type", "any")
        names = {kinds} if isinstance(kinds, str) else set(kinds)
        words = {
            f"{self.type_of(schema['items'], inline)}[]" if name == "array" and "items" in schema else name for name in names
        }
        return "|".join(sorted(words - {"null"})) or "null"

    def _add(self, name: str, schema: Document) -> None:
        for member, described in schema.get("properties", {}).items():
            self.members.add(f"{name}.{member}: {self.type_of(described, f'{name}.{member}')}")
        self.required |= {f"{name}.{member}" for member in schema.get("required", ())}


def broken(released: Facts, now: Facts) -> list[str]:
    """Promises of a release that a program with the facts `now` does not keep."""
    problems = [
        f"schema {name}: " + ("is missing" if name not in now["schemas"] else f"has id {now['schemas'][name]}, was {identity}")
        for name, identity in released["schemas"].items()
        if now["schemas"].get(name) != identity
    ]
    problems += [f"is gone: {fact}" for fact in sorted(set(released["offered"]) - set(now["offered"]))]
    # A new operation, or a component that the release did not have, may require what it likes.
    known = {_owner(fact.partition(": ")[0]) for fact in released["offered"]}
    new = sorted(set(now["required"]) - set(released["required"]))
    return problems + [f"is required now: {fact}" for fact in new if _owner(fact) in known]


def _owner(fact: str) -> str:
    """The operation of a parameter, or the component of a member."""
    operation, takes, _ = fact.partition(" takes ")
    return operation if takes else fact.rpartition(".")[0]


def released() -> dict[str, Facts]:
    """The facts of every release, by version."""
    return {file.stem: json.loads(file.read_text("utf-8")) for file in sorted(FOLDER.glob("*.json"))}


def of_this_tree() -> Facts:
    """The facts of this program."""
    from ledger.schemas.versions import schema_versions
    from tests.support.openapi_document import openapi_of_a_ledger

    ids = {f"{schema.topic}-value.v{schema.version}": schema.id for schema in schema_versions()}
    return contract(ids, openapi_of_a_ledger())


def main(arguments: list[str]) -> int:
    """Write the facts of a release. A file that is there is never replaced."""
    if len(arguments) != 1:
        print("usage: python -m tests.support.released_contract VERSION")
        return 2
    file = FOLDER / f"{arguments[0]}.json"
    if file.exists():
        print(f"{file} exists: a release never changes")
        return 1
    FOLDER.mkdir(exist_ok=True)
    file.write_text(json.dumps(of_this_tree(), indent=0) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
