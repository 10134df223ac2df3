"""Versions 2 and 3 of the event schema as they might be one day, for tests only.

2 adds a field to the envelope, one to a detail, and a thirteenth detail with a new event type. 3 removes the first of these
fields, and adds another and a second new type. Both are FULL_TRANSITIVE with version 1 and with each other.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from ledger.events import OrderEvent
from ledger.log import Record
from ledger.schemas import of_the_ledger
from ledger.schemas.codec import Codec, event_codec, link_of
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


def folder_with_them(folder: Path, versions: int = 3) -> Path:
    """A copy of `avro/` with them as files, up to that version."""
    shutil.copytree(data_dir(), folder)
    for schema in event_versions()[1:versions]:
        (folder / f"{schema.topic}-value.v{schema.version}.avsc").write_text(schema.text)
    return folder


def rewritten(records: Iterable[Record], version_of: Callable[[int, OrderEvent], int]) -> list[Record]:
    """The same events as programs of other versions would have written them, with unbroken chains.

    `version_of(number, event)`: 1, 2 or 3.
    """
    writers = [Codec(OrderEvent, event_versions()[: n + 1]) for n in range(3)]
    chains, again = dict[int, bytes](), []
    for number, record in enumerate(records):
        event = event_codec().decode(record.value)
        event = replace(event, prev_hash=chains.get(record.partition, bytes(32)))
        value = writers[version_of(number, event) - 1].encode(event)
        chains[record.partition] = link_of(value)
        again.append(record._replace(value=value))
    return again


@contextmanager
def nothing_learned() -> Iterator[None]:
    """As in a process that has just started; the block may learn schemas, and they are forgotten at its end."""
    own = {schema.id for schema in versions_of(EVENTS)}

    def forget() -> None:
        of_the_ledger._later.clear()
        of_the_ledger.use_level(1)
        for identity in event_codec()._writers.keys() - own:
            del event_codec()._writers[identity]

    forget()
    try:
        yield
    finally:
        forget()
