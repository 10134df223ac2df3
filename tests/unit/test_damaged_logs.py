"""A thousand damaged ledgers in files: all damage is found, and the place that is named is the right one.

Two kinds. *Accidents* change bytes of the file. *Forgeries* change records and write the file again, checksums, counts and all,
as somebody with the product's own code could; only the header's heads (or signed ones) and the chain reveal them.
"""

from __future__ import annotations

import io
import random
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import pytest
from msgspec.structs import replace

from api.cli.archive import BrokenLog, check_archive
from ledger.archive import (
    ABOUT,
    BLOCK_BYTES,
    CHECKSUM,
    EVENTS,
    OLD_FORM,
    SCHEMA,
    ArchiveError,
    ArchiveReader,
    ArchiveWriter,
    Contents,
    Entry,
    Header,
    sealed,
)
from ledger.log import EventLog, Record, TopicPartition
from ledger.memory.store import MemoryStore
from ledger.schemas.of_the_ledger import learn
from ledger.topics import Topics
from projections.databases import Databases, OpenStore
from projections.verify import Findings, HeadsError, LogWalk, read_heads, sign_heads
from tests.benchmarks.lives import decided_lives, read_back
from tests.support import later_schemas

PARTITIONS = 2
HEADER = Header("2030-01-01T00:00:00+00:00", PARTITIONS, ("order-events", "order-refusals"), bytes(16), {})


class InMemory:
    """Doors to nothing but memory."""

    def enter_process(self) -> None: ...

    def open_log(self) -> EventLog:
        raise AssertionError("a file is checked without a log")

    def opener(self, folder: Path, loading: bool) -> OpenStore:
        return lambda name: MemoryStore()


class Nobody:
    """Watches nothing."""

    def started(self, total: int, done: int) -> None: ...
    def moved(self, done: int, events: int, bytes_read: int) -> None: ...
    def phase(self, text: str) -> None: ...


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    records = read_back(decided_lives(Topics(), PARTITIONS, 160, now_ms=1_700_000_000_000))
    return [Entry(EVENTS, *record[1:]) for record in records]


def archive(path: Path, entries: list[Entry], heads: Any, block_bytes: int = BLOCK_BYTES, header: Header = HEADER) -> None:
    writer = ArchiveWriter(io.BytesIO(), header, block_bytes)
    for entry in entries:
        writer.write(entry)
    with path.open("wb") as file:
        writer.finish(Contents(len(entries), 0, heads), file)


def check(path: Path) -> Any:
    return check_archive(path, InMemory(), Nobody(), threading.Event())


@pytest.fixture(scope="module")
def whole(entries: list[Entry], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """An intact archive, and its heads."""
    path = tmp_path_factory.mktemp("whole") / "ledger"
    archive(path, entries, {})
    with pytest.raises(BrokenLog, match="does not end with the head in the header"):
        check(path)
    heads = heads_of(entries)
    archive(path, entries, heads)
    return path, heads


def heads_of(entries: list[Entry]) -> Any:
    """The heads of the chains of a correct log."""
    names, findings = Topics(), Findings()
    databases = Databases(lambda name: MemoryStore(), names, range(PARTITIONS), None)
    walk = LogWalk(databases, findings, {})
    for entry in entries:
        tp = TopicPartition(names.events, entry.partition)
        record = Record(names.events, entry.partition, entry.offset, entry.timestamp_ms, entry.key, entry.value, entry.headers)
        walk.check(tp, [record])
        databases.write_chunk(tp, [record])
    walk.end()
    assert findings.well
    return findings.heads


def test_an_archive_of_a_later_program_is_checked_with_the_schemas_in_its_header(tmp_path: Path) -> None:
    first, second, _ = later_schemas.event_versions()
    with later_schemas.nothing_learned():
        assert learn(second)
        lives = read_back(decided_lives(Topics(), PARTITIONS, 60, now_ms=1_700_000_000_000))
        entries = [Entry(EVENTS, *record[1:]) for record in later_schemas.rewritten(lives, lambda number, event: 1 + number % 2)]
        heads = heads_of(entries)
    one = tmp_path / "one"
    schemas = {first.id: first.text, second.id: second.text, 7: "{", second.id ^ 1: second.text}
    archive(one, entries, heads, header=replace(HEADER, schemas=schemas))
    with later_schemas.nothing_learned():
        assert check(one)[1].events == len(entries)
    archive(one, entries, heads, header=replace(HEADER, schemas={first.id: first.text}))
    with later_schemas.nothing_learned(), pytest.raises(BrokenLog, match="unknown_schema_id"):
        check(one)


def test_an_intact_archive_passes_and_comes_back_byte_for_byte(whole: tuple[Path, Any], entries: list[Entry]) -> None:
    path, heads = whole
    header, findings, refusals = check(path)
    assert (header, findings.events, refusals, findings.heads) == (HEADER, len(entries), 0, heads)
    with path.open("rb") as file:
        assert list(ArchiveReader(file).entries()) == entries


# ---- forgeries: the list of records changed; each says where, as (partition, offset) --------------------------------

Place = tuple[int, int]
Forgery = Callable[[list[Entry], random.Random], Place]


def _with(entry: Entry, **changes: Any) -> Entry:
    return Entry(**{name: getattr(entry, name) for name in entry.__struct_fields__} | changes)


def _flip(entries: list[Entry], choice: random.Random) -> Place:
    i = choice.randrange(len(entries))
    value = entries[i].value or b""
    at = choice.randrange(len(value))
    entries[i] = _with(entries[i], value=value[:at] + bytes([value[at] ^ (1 << choice.randrange(8))]) + value[at + 1 :])
    return entries[i].partition, entries[i].offset


def _drop(entries: list[Entry], choice: random.Random) -> Place:
    gone = entries.pop(choice.randrange(len(entries)))
    return gone.partition, gone.offset


def _swap(entries: list[Entry], choice: random.Random) -> Place:
    """Two neighbours of a partition change places, their offsets stay in order as a forger would have it."""
    partition = choice.randrange(PARTITIONS)
    own = [i for i, entry in enumerate(entries) if entry.partition == partition]
    n = choice.randrange(len(own) - 1)
    first, second = entries[own[n]], entries[own[n + 1]]
    entries[own[n]], entries[own[n + 1]] = _with(second, offset=first.offset), _with(first, offset=second.offset)
    return partition, first.offset


def _duplicate(entries: list[Entry], choice: random.Random) -> Place:
    i = choice.randrange(len(entries))
    entries.insert(i + 1, entries[i])
    return entries[i].partition, entries[i].offset


def _truncate(entries: list[Entry], choice: random.Random) -> Place:
    keep = choice.randrange(1, len(entries))
    gone = entries[keep]
    del entries[keep:]
    return gone.partition, gone.offset


def _splice(entries: list[Entry], choice: random.Random) -> Place:
    """An event of one order in the place of one of another order."""
    while True:
        i, j = choice.randrange(len(entries)), choice.randrange(len(entries))
        if entries[i].key != entries[j].key:
            break
    entries[i] = _with(entries[i], value=entries[j].value, headers=entries[j].headers)
    return entries[i].partition, entries[i].offset


def _key(entries: list[Entry], choice: random.Random) -> Place:
    i = choice.randrange(len(entries))
    entries[i] = _with(entries[i], key=b"ord_somebody_elses")
    return entries[i].partition, entries[i].offset


def _time(entries: list[Entry], choice: random.Random) -> Place:
    i = choice.randrange(len(entries))
    entries[i] = _with(entries[i], timestamp_ms=entries[i].timestamp_ms + choice.choice((-1, 1, 1000)))
    return entries[i].partition, entries[i].offset


def _header(entries: list[Entry], choice: random.Random) -> Place:
    """A header changed, or left out; an event without the last three would be an early one."""
    i = choice.randrange(len(entries))
    headers = list(entries[i].headers)
    n = choice.randrange(len(headers))
    if choice.random() < 0.5:
        del headers[n]
    else:
        name, value = headers[n]
        headers[n] = (name, value[:-1] + b"!")
    entries[i] = _with(entries[i], headers=tuple(headers))
    return entries[i].partition, entries[i].offset


FORGERIES: tuple[Forgery, ...] = (_flip, _drop, _swap, _duplicate, _truncate, _splice, _key, _time, _header)


def test_events_with_the_headers_of_early_ones_or_of_an_imported_ledger_are_well(
    whole: tuple[Path, Any], entries: list[Entry], tmp_path: Path
) -> None:
    early, imported = list(entries), list(entries)
    for i, entry in enumerate(entries):
        early[i] = _with(entry, headers=entry.headers[:3]) if i % 2 else entry
        imported[i] = _with(entry, headers=(*entry.headers[:4], ("ce_source", b"/eu.order-events"), entry.headers[5]))
    for changed in (early, imported):
        assert changed != entries
        archive(tmp_path / "changed", changed, whole[1])
        assert check(tmp_path / "changed")[1].events == len(entries)


@pytest.mark.parametrize("forgery", FORGERIES, ids=lambda f: f.__name__.strip("_"))
def test_every_forged_record_is_found_where_it_is(
    forgery: Forgery, whole: tuple[Path, Any], entries: list[Entry], tmp_path: Path
) -> None:
    heads = whole[1]
    for seed in range(100):
        forged = list(entries)
        partition, offset = forgery(forged, random.Random(seed))
        path = tmp_path / "forged"
        archive(path, forged, heads)
        with pytest.raises(BrokenLog) as caught:
            check(path)
        message = str(caught.value)
        match = re.match(r"event (\d+)-(\d+)(?: \(after (\d+)\))?", message)
        assert match, message
        if forgery is _truncate:  # everything after a place is gone: any partition's end may be named, by the last one left
            left = {p: max((e.offset for e in forged if e.partition == p), default=-1) for p in range(PARTITIONS)}
            assert int(match[2]) == left[int(match[1])], message
            continue
        assert int(match[1]) == partition, message
        after = int(match[3]) if match[3] is not None else -1
        last = heads[partition].offset  # damage to the last one is seen at the end, which names the last one left
        assert after <= offset <= int(match[2]) or (offset == last and int(match[2]) == offset - 1), (message, offset)


@pytest.mark.parametrize("block_bytes", [1, BLOCK_BYTES])  # a block for each record, and as many as usual
def test_every_accident_to_the_file_is_found_where_it_is(
    block_bytes: int, whole: tuple[Path, Any], entries: list[Entry], tmp_path: Path
) -> None:
    path = tmp_path / "damaged"
    archive(path, entries, whole[1], block_bytes)
    data = path.read_bytes()
    ends = _ends_of_blocks(data)
    assert [entry for _, entry in ends] == entries
    assert len({end for end, _ in ends}) in ([len(entries)] if block_bytes == 1 else range(3, 10))
    for seed in range(200):
        choice = random.Random(seed)
        at = choice.randrange(len(data))
        kind = choice.choice(("flip", "cut", "hole", "more"))
        if kind == "flip":
            damaged = data[:at] + bytes([data[at] ^ (1 << choice.randrange(8))]) + data[at + 1 :]
        elif kind == "cut":
            damaged = data[:at]
        elif kind == "hole":
            damaged = data[:at] + data[at + choice.randrange(1, 50) :]
        else:
            damaged = data[:at] + choice.randbytes(choice.randrange(1, 50)) + data[at:]
        path.write_bytes(damaged)
        with pytest.raises(ArchiveError) as caught:
            check(path)
        whole_before = [entry for end, entry in ends if end <= at]
        expected = whole_before[-1] if whole_before else None
        assert caught.value.after == expected, (kind, at, str(caught.value))


def _ends_of_blocks(data: bytes) -> list[tuple[int, Entry]]:
    """(where its block ends in the file, entry) of every record."""
    file = io.BytesIO(data)
    reader = ArchiveReader(file)
    return [(file.tell(), entry) for entry in reader.entries()]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not an archive"),
        (b"no archive", "not an archive"),
        (b"Obj\x01" + bytes(100), "not an archive"),
        (b"Obj\x01\x02" + b"\xff" * 9 + b"\x01", "not an archive"),
        (OLD_FORM + bytes(100), "import it with the program that wrote it, and export it again"),
    ],
)
def test_what_is_no_archive_of_this_form_is_refused_in_words(data: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(ArchiveError, match=says) as caught:
        check(tmp_path / "file")
    assert caught.value.after is None


def test_another_avro_file_and_an_archive_of_a_later_form_are_refused(tmp_path: Path) -> None:
    out, path = io.BytesIO(), tmp_path / "file"
    fastavro.writer(out, SCHEMA, [], metadata={CHECKSUM: "0" * 8, ABOUT: '{"form": 3}'})
    for data, says in (
        (out.getvalue(), "not an archive"),
        (sealed(out.getvalue()), "has form 3, this program reads form 2"),
        (sealed(out.getvalue()).replace(ABOUT.encode(), ABOUT.upper().encode()), "not an archive"),
    ):
        path.write_bytes(data)
        with pytest.raises(ArchiveError, match=says):
            check(path)


# ---- heads ----------------------------------------------------------------------------------------------------------


def test_heads_are_known_by_their_signature(whole: tuple[Path, Any]) -> None:
    key = b"a key that only this test knows"
    signed = sign_heads(whole[1], "order-events", bytes(16), "2030-01-01T00:00:00+00:00", key)
    assert read_heads(signed, key) == (whole[1], bytes(16))
    with pytest.raises(HeadsError, match="signature"):
        read_heads(signed, b"another key, as long as it is")
    for name in signed["partitions"]["0"]:
        forged = signed | {
            "partitions": signed["partitions"] | {"0": signed["partitions"]["0"] | {name: "00" if name == "link" else 1}}
        }
        with pytest.raises(HeadsError, match="signature"):
            read_heads(forged, key)
    for junk in (None, [], {}, {"signature": "zz"}, signed | {"signature": ""}, {"signature": "00", "partitions": []}):
        with pytest.raises(HeadsError):
            read_heads(junk, key)
