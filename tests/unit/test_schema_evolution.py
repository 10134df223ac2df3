"""A log that was written over years: three versions of the schema in it, folded by today's code and read by yesterday's."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import avro.io
import avro.schema
import fastavro
import pytest

from api.cli.schema import run_check
from api.cli.terminal import Screen
from ledger.events import OrderEvent
from ledger.log import Record, TopicPartition
from ledger.memory.store import MemoryStore
from ledger.schemas import versions as schemas
from ledger.schemas.codec import Codec
from ledger.schemas.compatibility import check_compatible
from ledger.topics import Topics
from projections import databases
from projections.databases import Databases
from tests.benchmarks.lives import decided_lives, read_back
from tests.support import later_schemas

TOPICS = Topics()
TP = TopicPartition(TOPICS.events, 0)
VERSIONS = later_schemas.event_versions()
LATER: dict[int, dict[str, Any]] = {
    1: {},
    2: {"sales_channel": "kiosk"},
    3: {"region": "north"},
}


def wire(fields: dict[str, Any], version: int) -> bytes:
    """An event as a program of that version would have written it."""
    out = io.BytesIO()
    out.write(struct.pack(">bI", 0, VERSIONS[version - 1].id))
    fastavro.schemaless_writer(out, fastavro.parse_schema(VERSIONS[version - 1].parsed), fields)
    return out.getvalue()


@pytest.fixture(scope="module")
def log() -> list[tuple[Record, dict[str, Any], int]]:
    """(record, its plain fields, version of its schema): lives of orders in which program versions follow one another, go back
    and forth during roll-outs."""
    today = Codec(OrderEvent, VERSIONS[:1])
    versioned = []
    for number, record in enumerate(read_back(decided_lives(TOPICS, 1, 900, now_ms=1_700_000_000_000))):
        version = 1 + min(2, number // 300) if number % 7 else 1 + number % 3
        fields = today.decode_fields(record.value)
        later = fields | LATER[version]
        if version > 1 and fields["placed"] is not None:
            later = later | {"placed": fields["placed"] | {"campaign": "spring"}}
        versioned.append((record._replace(value=wire(later, version)), fields, version))
    assert {version for _, _, version in versioned} == {1, 2, 3}
    return versioned


def rows(records: list[Record]) -> dict[bytes, bytes]:
    """The rows after a fold of them, without positions."""
    folded = Databases(lambda name: MemoryStore(), TOPICS, [0], None)
    folded.write_chunk(TP, records)
    return {key: row for key, row in folded.stores[0].scan(b"") if not key.startswith(b"\0")}


def test_the_three_versions_can_all_read_one_another() -> None:
    assert check_compatible(VERSIONS) == []
    assert len({version.id for version in VERSIONS}) == 3


def test_a_log_of_three_versions_folds_into_what_a_log_of_one_does(
    log: list[tuple[Record, dict[str, Any], int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    of_one = [record._replace(value=wire(fields, 1)) for record, fields, _ in log]
    expected = rows(of_one)
    monkeypatch.setattr(databases, "event_codec", lambda: Codec(OrderEvent, VERSIONS))
    folded = rows([record for record, _, _ in log])
    assert folded.keys() == expected.keys()
    for key in expected:
        if not key.startswith(b"e/"):  # the history keeps the bytes as they are in the log
            assert folded[key] == expected[key], key
    assert not any(key.startswith(b"f/") for key in folded)


def test_readers_of_version_one_read_what_later_versions_wrote(log: list[tuple[Record, dict[str, Any], int]]) -> None:
    """As a consumer from the days of version 1: the writer's schema comes from a registry, its own is for reading."""
    own = fastavro.parse_schema(VERSIONS[0].parsed)
    apache = avro.schema.parse(VERSIONS[0].text)
    for record, fields, version in log[:60] + log[300:360] + log[-60:]:
        body = (record.value or b"")[5:]
        writer = VERSIONS[version - 1]
        assert fastavro.schemaless_reader(io.BytesIO(body), fastavro.parse_schema(writer.parsed), own) == fields
        decoder = avro.io.BinaryDecoder(io.BytesIO(body))
        assert avro.io.DatumReader(avro.schema.parse(writer.text), apache).read(decoder) == fields


def test_readers_of_later_versions_read_the_oldest_events(log: list[tuple[Record, dict[str, Any], int]]) -> None:
    for reader in VERSIONS[1:]:
        own = fastavro.parse_schema(reader.parsed)
        for _, fields, _ in log[:60]:
            body = io.BytesIO(wire(fields, 1)[5:])
            decoded = fastavro.schemaless_reader(body, fastavro.parse_schema(VERSIONS[0].parsed), own)
            assert {name: decoded[name] for name in fields if name not in {"placed", "shipment"}} == {
                name: value for name, value in fields.items() if name not in {"placed", "shipment"}
            }
            assert decoded["gift"] is None


def test_an_event_of_an_unknown_type_freezes_its_order_and_no_other(
    log: list[tuple[Record, dict[str, Any], int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither skipped nor guessed: the order waits for a program that knows the type, and is complete after its rebuild."""
    records = [record for record, _, _ in log]
    at = next(n for n in range(len(log)) if log[n][1]["type"] == "FulfilmentStarted")
    order_id = log[at][1]["order_id"]
    unknown = log[at][1] | {"type": "GiftWrapped", "shipment": None, "gift": {"wrapped": True}}
    records[at] = records[at]._replace(value=wire(unknown, 2))
    monkeypatch.setattr(databases, "event_codec", lambda: Codec(OrderEvent, VERSIONS))
    folded = rows(records)
    frozen = [key for key in folded if key.startswith(b"f/")]
    assert frozen == [b"f/" + order_id.encode()]
    whole = rows([record for record, _, _ in log])
    orders = {key for key in whole if key.startswith(b"o/")} - {b"o/" + order_id.encode()}
    assert all(folded[key] == whole[key] for key in orders)
    history = [key for key in folded if key.startswith(b"e/" + order_id.encode())]
    assert len(history) == len([key for key in whole if key.startswith(b"e/" + order_id.encode())])


def test_schema_check_knows_the_files_of_all_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = later_schemas.folder_with_them(tmp_path / "avro")
    monkeypatch.setattr(schemas, "data_dir", lambda: folder)
    schemas.schema_versions.cache_clear()
    try:
        assert run_check(None, "", True, Screen()) == 0
        listed = json.loads(capsys.readouterr().out)
        events = [(s["version"], s["id"]) for s in listed["schemas"] if s["subject"] == "order-events-value"]
        assert events == [(version.version, version.id) for version in VERSIONS]
        broken = json.loads((folder / "order-events-value.v3.avsc").read_text())
        broken["fields"].append({"name": "mandatory", "type": "string"})
        (folder / "order-events-value.v3.avsc").write_text(json.dumps(broken))
        schemas.schema_versions.cache_clear()
        with (tmp_path / "out").open("w") as text:
            assert run_check(None, "", False, Screen(file=text, width=200)) == 1
        assert "mandatory" in (tmp_path / "out").read_text()
    finally:
        schemas.schema_versions.cache_clear()
