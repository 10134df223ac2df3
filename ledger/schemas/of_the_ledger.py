"""What holds for a whole ledger and not for one program: schemas of later programs, and the level at which all of them write.

The state of this process, set by `ledger.upgrades`. A later schema is identified by its content, because its id is a hash of it.
So the schemas of several ledgers in one process cannot be confused.

A later schema is used only if it follows the rules of `avro/README.md`, on which the safety of decoding depends (`codec`), and if
this program can read it. Thread-safe.
"""

from __future__ import annotations

import threading
from typing import Any

import structlog

from ledger.errors import ConfigError
from ledger.levels import FIRST, LEVEL
from ledger.schemas.versions import SchemaVersion, schema_versions

MAX_SCHEMA_BYTES = 64 * 1024
_PLAIN = frozenset({"boolean", "string", "int", "long", "bytes"})

log = structlog.get_logger(__name__)

_lock = threading.Lock()
_later: dict[int, SchemaVersion] = {}
_level = FIRST  # what every program reads, until this one knows more


def level_in_use() -> int:
    """The level at which this process writes."""
    return _level


def use_level(level: int) -> None:
    """Write at `level` from now on, at most at that of this program."""
    global _level  # noqa: PLW0603  # one for the process
    _level = min(level, LEVEL)


def later_schema(topic: str, identity: int) -> SchemaVersion | None:
    """A later program's schema of `topic` (name without prefix), if it is known here."""
    schema = _later.get(identity)
    return schema if schema is not None and schema.topic == topic else None


def learned() -> int:
    """Number of schemas learned since the start: if it has grown, records that were unreadable may be readable now."""
    return len(_later)


def is_known(identity: int) -> bool:
    """Whether records with this schema id can be decoded here."""
    return identity in _later or any(schema.id == identity for schema in schema_versions())


def learn(schema: SchemaVersion) -> bool:
    """Use `schema` for decoding. Returns whether it is known afterwards; one that is unusable here is logged and left out."""
    if is_known(schema.id):
        return True
    why = unusable(schema)
    if why is not None:
        log.error("schema of another program cannot be used", topic=schema.topic, version=schema.version, id=schema.id, why=why)
        return False
    with _lock:
        _later[schema.id] = schema
    log.info("schema of a later program learned", topic=schema.topic, version=schema.version, id=schema.id)
    return True


def unusable(schema: SchemaVersion) -> str | None:
    """Why records written with `schema` must not be decoded here; None if they can be."""
    if len(schema.text) > MAX_SCHEMA_BYTES:
        return f"it has more than {MAX_SCHEMA_BYTES} characters"
    own = [known for known in schema_versions() if known.topic == schema.topic]
    if not own:
        return "this program does not know its topic"
    try:
        broken = _broken_rule(schema.parsed, ())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        broken = "it is not an Avro schema"
    if broken is not None:
        return broken
    from ledger.schemas.compatibility import compare  # loads Apache Avro: needed once per schema of a later program

    try:
        reasons = compare(schema, own)
    except ConfigError as exc:
        return str(exc)
    return str(reasons[0]) if reasons else None


def _broken_rule(kind: Any, inside: tuple[str, ...], records: dict[str, Any] | None = None) -> str | None:
    """The first rule of `avro/README.md` that a type breaks: nothing recursive, and no array items of zero bytes."""
    records = {} if records is None else records
    if isinstance(kind, list):
        if len(kind) != 2 or kind[0] != "null":
            return "a union other than [null, X]"
        return _broken_rule(kind[1], inside, records)
    if isinstance(kind, str):
        if kind in inside:
            return f"{kind} contains itself"
        return None if kind in _PLAIN or kind in records else f"the type {kind}"
    name = kind["type"]
    if name == "array":
        return _broken_rule(kind["items"], inside, records) or _empty_item(kind["items"], records)
    if name == "fixed":
        records[kind["name"]] = kind
        return None if 0 < kind["size"] <= 64 else "a fixed type of no sensible size"
    if name != "record" or "logicalType" in kind:
        return f"the type {name}"
    records[kind["name"]] = kind
    for field in kind["fields"]:
        if (broken := _broken_rule(field["type"], (*inside, kind["name"]), records)) is not None:
            return broken
    return None


def _empty_item(items: Any, records: dict[str, Any]) -> str | None:
    item = records[items] if isinstance(items, str) else items
    if item.get("type") == "record" and any(field["type"] in ("string", "int", "long") for field in item["fields"]):
        return None
    return "an array whose items may have no bytes"
