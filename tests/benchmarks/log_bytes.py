"""Bytes that an order takes in `order-events`, beside the raw Avro bytes of its events.

On disk: the growth of the broker's segment files, batch headers and transaction markers included, in the product's
compression. Plain: the same files with the records of every compressed batch counted at their uncompressed size, which follows
from the record format (keys, headers, deltas) and is checked against the batches that are not compressed.

A lone order is a batch of its own and does not shrink; orders that arrive together do. Both are reported.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ledger.log import Record, TopicPartition
from ledger.schemas.codec import PREFIX_BYTES
from ledger.topics import Topics
from tests.benchmarks.bench import Bench, Incorrect
from tests.benchmarks.rows import Row, at_most
from tests.benchmarks.spread import Spread

PLAIN_GOAL, DISK_GOAL = 2.0, 1.0
PHASES: tuple[tuple[str, int, float | None], ...] = (
    ("128 connections", 128, None),
    ("32 connections", 32, None),
    ("200/s", 32, 200.0),
)
HEADER_BYTES = 61
_HEADER = struct.Struct(">qiibIhiqqqhii")
_CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
CONTROL = 0x20


@dataclass(frozen=True, slots=True)
class Batch:
    """One record batch of a segment file. `control`: a transaction marker."""

    base_offset: int
    last_offset: int
    base_timestamp_ms: int
    size_bytes: int
    codec: str
    control: bool


def batches(segment: Path, start: int, end: int) -> Iterator[Batch]:
    """Batches in `segment` from byte `start` to byte `end`."""
    data = segment.read_bytes()[start:end]
    at = 0
    while at + HEADER_BYTES <= len(data):
        offset, length, _, magic, _, attributes, delta, timestamp, *_ = _HEADER.unpack_from(data, at)
        if magic != 2:
            raise Incorrect(f"{segment}: a batch of version {magic}")
        yield Batch(offset, offset + delta, timestamp, length + 12, _CODECS[attributes & 7], bool(attributes & CONTROL))
        at += length + 12


def _varint_bytes(value: int) -> int:
    """Size of a zigzag varint."""
    zigzag = (value << 1) ^ (value >> 63)
    return max(1, (zigzag.bit_length() + 6) // 7)


def record_bytes(record: Record, batch: Batch) -> int:
    """Uncompressed size of `record` in its batch (record format, version 2)."""
    key, value = record.key or b"", record.value or b""
    size = 1 + _varint_bytes(record.timestamp_ms - batch.base_timestamp_ms) + _varint_bytes(record.offset - batch.base_offset)
    size += _varint_bytes(len(key)) + len(key) + _varint_bytes(len(value)) + len(value) + _varint_bytes(len(record.headers))
    for name, content in record.headers:
        size += _varint_bytes(len(name)) + len(name) + _varint_bytes(len(content)) + len(content)
    return size + _varint_bytes(size)


def measure(bench: Bench) -> list[Row]:
    rows: list[Row] = []
    for at, connections, rate in PHASES:
        bench.report(f"log bytes, {at}")
        plain, disk, counts = [], [], []
        for _ in range(bench.form.pairs if rate is None else 1):
            before = _sizes(bench)
            posted = bench.post(connections, bench.form.open_s / 2, rate).count
            sizes = _measure(bench, before, posted)
            plain.append(sizes.plain_bytes / sizes.avro_bytes)
            disk.append(sizes.disk_bytes / sizes.avro_bytes)
            counts.append(sizes)
        disk_goal = at_most(DISK_GOAL) if rate is None else None  # a record alone in its batch does not shrink
        detail = {
            "codecs": sorted({codec for sizes in counts for codec in sizes.codecs}),
            "marker_bytes_per_event": [sizes.marker_bytes / sizes.records for sizes in counts],
        }
        avro = Spread.of([sizes.avro_bytes / sizes.records for sizes in counts])
        in_a_batch = Spread.of([sizes.records / sizes.batches for sizes in counts])
        rows += [
            Row(
                "bytes", f"log bytes of an order : raw Avro, plain, {at}", "ratio", Spread.of(plain), at_most(PLAIN_GOAL), detail
            ),
            Row("bytes", f"log bytes of an order : raw Avro, on disk, {at}", "ratio", Spread.of(disk), disk_goal),
            Row("bytes", "  raw Avro of an event", "bytes", avro),
            Row("bytes", "  events in a batch", "count", in_a_batch),
        ]
    return rows


@dataclass
class _Sizes:
    avro_bytes: int = 0
    plain_bytes: int = 0
    disk_bytes: int = 0
    marker_bytes: int = 0
    records: int = 0
    batches: int = 0
    codecs: frozenset[str] = frozenset()


def _segments(bench: Bench) -> list[tuple[int, Path]]:
    """(partition, newest segment file) of `order-events`."""
    folders = sorted((bench.system.folder / "broker" / "log").glob(f"{Topics().events}-*"))
    segments = [(int(folder.name.rsplit("-", 1)[1]), max(folder.glob("*.log"))) for folder in folders]
    if not segments:
        raise Incorrect("the broker's segment files are not where they were expected")
    return segments


def _sizes(bench: Bench) -> dict[int, tuple[Path, int]]:
    return {partition: (path, path.stat().st_size) for partition, path in _segments(bench)}


def _measure(bench: Bench, before: Mapping[int, tuple[Path, int]], posted: int) -> _Sizes:
    after = _sizes(bench)
    written: dict[int, list[Batch]] = {}
    for partition, (path, end) in after.items():
        was, start = before[partition]
        if was != path:
            raise Incorrect("a segment file was rolled meanwhile: run it again")
        written[partition] = list(batches(path, start, end))
    sizes = _Sizes()
    records_by_partition = {p: _read(bench, p, [b for b in of if not b.control]) for p, of in written.items()}
    for partition, of in written.items():
        sizes.disk_bytes += sum(batch.size_bytes for batch in of)
        sizes.marker_bytes += sum(batch.size_bytes for batch in of if batch.control)
        sizes.plain_bytes += sum(batch.size_bytes for batch in of if batch.control)
        records = iter(records_by_partition[partition])
        for batch in (b for b in of if not b.control):
            held = [next(records) for _ in range(batch.last_offset - batch.base_offset + 1)]
            size = HEADER_BYTES + sum(record_bytes(record, batch) for record in held)
            if batch.codec == "none" and size != batch.size_bytes:
                raise Incorrect(f"a plain batch has {batch.size_bytes} bytes, counted {size}")
            sizes.plain_bytes += size
            sizes.avro_bytes += sum(len(record.value or b"") - PREFIX_BYTES for record in held)
            sizes.records += len(held)
            sizes.batches += 1
            sizes.codecs |= {batch.codec}
    orders = sum(
        1 for of in records_by_partition.values() for record in of if dict(record.headers).get("ce_type") == b"OrderPlaced"
    )
    if orders != posted:
        raise Incorrect(f"{posted} orders were accepted, the segments have {orders}")
    return sizes


def _read(bench: Bench, partition: int, of: list[Batch]) -> list[Record]:
    """The records of consecutive batches of one partition."""
    count = sum(batch.last_offset - batch.base_offset + 1 for batch in of)
    if not count:
        return []
    reader = bench.log.reader("benchmark-bytes", headers=True)
    records_read: list[Record] = []
    try:
        reader.assign({TopicPartition(Topics().events, partition): of[0].base_offset})
        while len(records_read) < count:
            records = reader.poll(1000, 5.0)
            if not records:
                raise Incorrect("the events that the segments hold cannot be read")
            records_read += records
    finally:
        reader.close()
    return records_read[:count]
