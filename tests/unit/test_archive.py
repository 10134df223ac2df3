"""An archive is read by other Avro tools, without the ledger's own code: plain fastavro, and Apache's own package."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import avro.datafile
import avro.io
import fastavro
import pytest

from ledger.archive import EVENTS, REFUSALS, ArchiveWriter, Contents, Entry, Header
from ledger.log import Record
from ledger.schemas.codec import event_codec, link_of
from ledger.schemas.versions import EVENTS as EVENT_SCHEMAS
from ledger.schemas.versions import versions_of
from ledger.topics import Topics
from ledger.walk import Head
from tests.benchmarks.lives import decided_lives, read_back
from tests.support.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
PARTITIONS = 2
REFUSAL = Entry(REFUSALS, 1, 7, 1_700_000_000_000, None, b"\x00of no schema", (("ce_id", b"x"), ("traceparent", b"")))


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return list(read_back(decided_lives(Topics(), PARTITIONS, 100, now_ms=1_700_000_000_000)))


@pytest.fixture(scope="module")
def path(records: list[Record], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "ledger.avro"
    schemas = {s.id: s.text for s in versions_of(EVENT_SCHEMAS)}
    header = Header("2030-01-01T00:00:00.000Z", PARTITIONS, ("order-events", "order-refusals"), bytes(16), schemas)
    writer = ArchiveWriter(io.BytesIO(), header)
    heads: dict[int, Head] = {}
    for record in records:
        writer.write(Entry(EVENTS, *record[1:]))
        before = heads.get(record.partition)
        heads[record.partition] = Head(1 + (before.events if before else 0), record.offset, link_of(record.value or b""))
    writer.write(REFUSAL)
    with path.open("wb") as file:
        writer.finish(Contents(len(records), 1, heads), file)
    return path


def test_plain_fastavro_reads_every_record_and_the_chain_to_its_heads(records: list[Record], path: Path) -> None:
    with path.open("rb") as file:
        avro_file = fastavro.reader(file)
        rows: list[Any] = list(avro_file)
        about = json.loads(avro_file.metadata["order_ledger.archive"])
        schemas = json.loads(avro_file.metadata["order_ledger.schemas"])
    assert avro_file.codec == "zstandard"
    events = [row for row in rows if row["kind"] == "event"]
    assert [(r["partition"], r["offset"], r["timestamp_ms"], r["key"], r["value"]) for r in events] == [
        (r.partition, r.offset, r.timestamp_ms, r.key, r.value) for r in records
    ]
    assert [[(h["name"], h["value"]) for h in r["headers"]] for r in events] == [list(r.headers) for r in records]
    parsed = {int(number): fastavro.parse_schema(json.loads(text)) for number, text in schemas.items()}
    links, counts = {}, {}
    for row in events:
        value, partition = row["value"], row["partition"]
        event: Any = fastavro.schemaless_reader(io.BytesIO(value[5:]), parsed[int.from_bytes(value[1:5], "big")], None)
        assert event["prev_hash"] == links.get(partition, bytes(32))
        links[partition], counts[partition] = hashlib.sha256(value[5:]).digest(), counts.get(partition, 0) + 1
    heads = about["contents"]["heads"]
    assert {int(p): base64.b64decode(head["link"]) for p, head in heads.items()} == links
    assert {int(p): head["events"] for p, head in heads.items()} == counts
    assert rows[-1] == {
        "kind": "refusal",
        "partition": 1,
        "offset": 7,
        "timestamp_ms": 1_700_000_000_000,
        "key": None,
        "headers": [{"name": "ce_id", "value": b"x"}, {"name": "traceparent", "value": b""}],
        "value": b"\x00of no schema",
    }


def test_apaches_own_package_reads_the_same_records(path: Path) -> None:
    with path.open("rb") as file:
        wanted = list(fastavro.reader(file))
    with avro.datafile.DataFileReader(path.open("rb"), avro.io.DatumReader()) as reader:
        assert list(reader) == wanted


def test_the_lines_of_the_readme_show_the_events(records: list[Record], path: Path, tmp_path: Path) -> None:
    block = re.search(r"```python\n(.*?)```", (ROOT / "projections/README.md").read_text("utf-8"), re.DOTALL)
    assert block is not None
    (tmp_path / "show.py").write_text(block[1].replace("ledger.avro", str(path)))
    command = [sys.executable, "-I", "show.py"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert shown.returncode == 0, shown.stderr
    events = [event_codec().decode(record.value) for record in records]
    assert shown.stdout.splitlines() == [
        f"{record.partition} {record.offset} {event.order_id} {event.version} {event.type}"
        for record, event in zip(records, events, strict=True)
    ]
