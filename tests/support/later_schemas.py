"""Versions 2 and 3 of the event schema as they might be one day, for tests only.

2 adds a field to the envelope, one to a detail, and a thirteenth detail with a new event type. 3 removes the first of these
fields, and adds another and a second new type. Both are FULL_TRANSITIVE with version 1 and with each other.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ledger.schemas.data_files import data_dir
from ledger.schemas.versions import EVENTS, SchemaVersion, minify, versions_of


def _nullable(name: str, kind: Any) -> dict[str, Any]:
    return {"name": name, "type": ["null", kind], "default": None}


def _inside(schema: dict[str, Any], name: str) -> list[dict[str, Any]]:
    field = next(field for field in schema["fields"] if field["name"] == name)
    fields: list[dict[str, Any]] = field["type"][1]["fields"]
    return fields


def event_versions() -> tuple[SchemaVersion, SchemaVersion, SchemaVersion]:
    """The released version 1, and the two unreleased ones."""
    first = versions_of(EVENTS)[0]
    second = first.parsed
    second["fields"].append(_nullable("sales_channel", "string"))
    _inside(second, "placed").append(_nullable("campaign", "string"))
    gift = {"type": "record", "name": "Gift", "fields": [{"name": "wrapped", "type": "boolean"}]}
    second["fields"].append(_nullable("gift", gift))
    third = json.loads(json.dumps(second))
    third["fields"] = [field for field in third["fields"] if field["name"] != "sales_channel"]
    third["fields"].append(_nullable("region", "string"))
    _inside(third, "shipment").append(_nullable("parcels", "int"))
    return (
        first,
        SchemaVersion(EVENTS, 2, minify(json.dumps(second))),
        SchemaVersion(EVENTS, 3, minify(json.dumps(third))),
    )


def folder_with_them(folder: Path) -> Path:
    """A copy of `avro/` with them as files."""
    shutil.copytree(data_dir(), folder)
    for schema in event_versions()[1:]:
        (folder / f"{schema.topic}-value.v{schema.version}.avsc").write_text(schema.text)
    return folder
