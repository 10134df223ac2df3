"""The Avro schemas of the ledger's topics: files, versions, ids.

A released file never changes; a new version is a new file `avro/<subject>.v<N>.avsc`. The id of a schema is the first 31
bits of SHA-256 of its minified JSON: the same in every environment, and accepted by any registry that supports explicit
ids.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from ledger.errors import ConfigError
from ledger.schemas.data_files import data_dir

COMMANDS, EVENTS, REFUSALS, CONTACTS = "order-commands", "order-events", "order-refusals", "order-contacts"
AUDIT = "order-audit"
_FILE = re.compile(r"^(?P<topic>[a-z-]+)-value\.v(?P<version>[1-9][0-9]*)\.avsc$")


@dataclass(frozen=True, slots=True)
class SchemaVersion:
    """One released schema. `text` is minified JSON; `topic` the name of the topic without prefix."""

    topic: str
    version: int
    text: str

    @property
    def id(self) -> int:
        return schema_id(self.text)

    @property
    def parsed(self) -> dict[str, Any]:
        """The schema as JSON values."""
        schema: dict[str, Any] = json.loads(self.text)
        return schema

    def subject(self, prefix: str = "") -> str:
        """Its subject in the registry: TopicNameStrategy, `<topic>-value`."""
        return f"{prefix}{self.topic}-value"


def minify(text: str) -> str:
    """The same JSON without insignificant white space; the order of keys is kept."""
    return json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False)


def schema_id(minified: str) -> int:
    """First 31 bits of SHA-256: never negative in the signed 32 bits of the wire format."""
    return int.from_bytes(hashlib.sha256(minified.encode()).digest()[:4], "big") >> 1


def published(topic: str, version: int, text: str, identity: int) -> SchemaVersion:
    """A schema as another program published it. Raises `ValueError` if `identity` is not the id of `text`."""
    if schema_id(text) != identity:
        raise ValueError(f"schema {identity} of {topic} has another content than its id says")
    return SchemaVersion(topic, version, text)


@cache
def schema_versions() -> tuple[SchemaVersion, ...]:
    """All released schemas, by topic and version. Raises `ConfigError` if two have the same id or a version is missing."""
    schemas = [
        SchemaVersion(match["topic"], int(match["version"]), minify(path.read_text("utf-8")))
        for path in data_dir().iterdir()
        if (match := _FILE.match(path.name))
    ]
    schemas.sort(key=lambda s: (s.topic, s.version))
    if len({s.id for s in schemas}) != len(schemas):
        raise ConfigError("two schema files have the same id: change one of them before it is released")
    for topic in (COMMANDS, EVENTS, REFUSALS, CONTACTS, AUDIT):
        numbers = [s.version for s in schemas if s.topic == topic]
        if not numbers or numbers != list(range(1, len(numbers) + 1)):
            raise ConfigError(f"schema versions of {topic} are {numbers}, not 1..n without gaps")
    return tuple(schemas)


def versions_of(topic: str) -> tuple[SchemaVersion, ...]:
    """Released schemas of `topic` (name without prefix), oldest first."""
    return tuple(s for s in schema_versions() if s.topic == topic)
