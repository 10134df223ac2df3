"""The contract of `ledger.store`, against both adapters, and what RocksDB adds to it."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.errors import StoreError
from ledger.memory.store import MemoryStore
from ledger.rocks_store import MIB, RocksStore, StoreMemory
from ledger.store import ManyDeleted, Store, after_prefix
from tests.support.patience import PATIENCE_S


@pytest.fixture(params=["memory", "rocks"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store, once per adapter."""
    store: Store = MemoryStore() if request.param == "memory" else RocksStore(tmp_path / "new" / "store")
    yield store
    store.close()


ROWS = {b"a": b"0", b"o/1": b"1", b"o/2": b"2", b"o/3": b"3", b"o/\xff\xff": b"4", b"o0": b"5", b"\xff": b"6", b"\xff\xff": b"7"}


def test_written_rows_are_read_and_deleted_rows_are_gone(store: Store) -> None:
    store.write({b"k": b"v", b"empty": b"", b"gone": b"x"})
    store.write({b"gone": None, b"never there": None, b"k": b"w"})
    assert store.get(b"k") == b"w"
    assert store.get(b"empty") == b""
    assert store.get(b"gone") is None
    assert store.get_many([b"gone", b"k", b"empty", b"k"]) == [None, b"w", b"", b"w"]
    assert store.get_many([]) == []
    store.write({})


def test_a_scan_yields_the_rows_of_a_prefix_in_byte_order(store: Store) -> None:
    store.write(ROWS)
    orders = [b"o/1", b"o/2", b"o/3", b"o/\xff\xff"]
    assert list(store.scan(b"o/")) == [(key, ROWS[key]) for key in orders]
    assert [key for key, _ in store.scan(b"o/", reverse=True)] == orders[::-1]
    assert [key for key, _ in store.scan(b"")] == sorted(ROWS)
    assert [key for key, _ in store.scan(b"", reverse=True)] == sorted(ROWS, reverse=True)
    assert [key for key, _ in store.scan(b"\xff")] == [b"\xff", b"\xff\xff"]
    assert [key for key, _ in store.scan(b"\xff", reverse=True)] == [b"\xff\xff", b"\xff"]
    assert list(store.scan(b"p")) == list(store.scan(b"p", reverse=True)) == []


@pytest.mark.parametrize(
    ("start", "ahead", "back"),
    [
        (b"o/2", [b"o/2", b"o/3", b"o/\xff\xff"], [b"o/2", b"o/1"]),
        (b"o/25", [b"o/3", b"o/\xff\xff"], [b"o/2", b"o/1"]),
        (b"a", [b"o/1", b"o/2", b"o/3", b"o/\xff\xff"], []),
        (b"z", [], [b"o/\xff\xff", b"o/3", b"o/2", b"o/1"]),
    ],
)
def test_a_scan_begins_at_its_start_and_stays_within_the_prefix(
    store: Store, start: bytes, ahead: list[bytes], back: list[bytes]
) -> None:
    store.write(ROWS)
    assert [key for key, _ in store.scan(b"o/", start=start)] == ahead
    assert [key for key, _ in store.scan(b"o/", start=start, reverse=True)] == back


def test_a_scan_sees_the_store_as_of_its_call(store: Store) -> None:
    store.write({b"k1": b"1", b"k2": b"2", b"k3": b"3"})
    scan = store.scan(b"k")
    assert next(scan) == (b"k1", b"1")
    store.write({b"k2": None, b"k3": b"changed", b"k4": b"new"})
    assert list(scan) == [(b"k2", b"2"), (b"k3", b"3")]
    assert list(store.scan(b"k")) == [(b"k1", b"1"), (b"k3", b"changed"), (b"k4", b"new")]


@pytest.mark.parametrize(
    ("start", "end", "wanted"),
    [
        (b"", None, [b"o/1", b"o/2", b"o/3", b"o/\xff\xff"]),
        (b"o/", b"o/3", [b"o/1", b"o/2"]),
        (b"o/2", b"o/4", [b"o/2", b"o/3"]),
        (b"o/25", b"z", [b"o/3", b"o/\xff\xff"]),
        (b"o/2", b"o/2", []),
        (b"z", None, []),
    ],
)
def test_keys_of_a_range_are_those_of_the_prefix_from_its_start_to_before_its_end(
    store: Store, start: bytes, end: bytes | None, wanted: list[bytes]
) -> None:
    store.write(ROWS)
    assert list(store.keys(b"o/", start, end, 100)) == wanted
    assert list(store.keys(b"\xff", b"", None, 0)) == [b"\xff", b"\xff\xff"]


def test_a_closed_store_answers_nothing(store: Store) -> None:
    store.write({b"k1": b"1", b"k2": b"2"})
    scan, ended, some_keys = store.scan(b"k"), store.scan(b"k"), store.keys(b"k", b"", None, 100)
    next(scan)
    assert next(some_keys) == b"k1"
    assert len(list(ended)) == 2
    store.close()
    asked: list[Callable[[], object]] = [
        lambda: store.get(b"k1"),
        lambda: store.get_many([b"k1"]),
        lambda: store.write({b"k1": b"1"}),
        lambda: next(store.scan(b"k")),
        lambda: next(store.keys(b"k", b"", None, 100)),
        lambda: next(some_keys),
        lambda: next(scan),
    ]
    for ask in asked:
        with pytest.raises(StoreError):
            ask()
    assert list(ended) == []
    store.close()


keys = st.binary(max_size=4).map(lambda key: key.replace(b"\x05", b"\xff"))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], tuple[MemoryStore, RocksStore]]]:
    """Creates two empty stores, one per adapter."""
    opened: list[RocksStore] = []
    memory = StoreMemory(8 * MIB, 4 * MIB)

    def make() -> tuple[MemoryStore, RocksStore]:
        for old in opened:
            old.close()
        opened[:] = [RocksStore(tmp_path_factory.mktemp("pair") / "store", memory=memory)]
        return MemoryStore(), opened[0]

    yield make
    for old in opened:
        old.close()


@settings(max_examples=60, deadline=None)
@given(
    batches=st.lists(st.dictionaries(keys, st.none() | st.binary(max_size=3), max_size=8), max_size=6),
    scans=st.lists(st.tuples(st.binary(max_size=2), st.none() | keys, st.booleans()), max_size=8),
)
def test_both_stores_return_the_same(
    pair: Callable[[], tuple[MemoryStore, RocksStore]],
    batches: list[dict[bytes, bytes | None]],
    scans: list[tuple[bytes, bytes | None, bool]],
) -> None:
    memory, rocks = pair()
    for batch in batches:
        memory.write(batch)
        rocks.write(batch)
    asked = [key for batch in batches for key in batch]
    assert memory.get_many(asked) == rocks.get_many(asked) == [rocks.get(key) for key in asked]
    for prefix, start, reverse in [*scans, (b"", None, False), (b"\xff", b"\xff\xff", True)]:
        assert list(memory.scan(prefix, start, reverse)) == list(rocks.scan(prefix, start, reverse))


def test_the_key_after_a_prefix_is_the_first_that_does_not_begin_with_it() -> None:
    assert after_prefix(b"o/") == b"o0"
    assert after_prefix(b"a\xff\xff") == b"b"
    assert after_prefix(b"\xff") is None
    assert after_prefix(b"") is None


def test_a_purge_changes_no_row(store: Store) -> None:
    store.write(ROWS)
    store.write({b"o/2": None, b"a": b"new"})
    before = dict(store.scan(b""))
    assert store.purge([b"o/2", b"a", b"never there"])
    assert store.purge([])
    assert store.purge(None)
    assert dict(store.scan(b"")) == before
    store.close()
    with pytest.raises(StoreError):
        store.purge(None)


# ---- RocksDB --------------------------------------------------------------------------------------------------------


def test_rows_outlive_the_store_in_memory_and_on_disk(tmp_path: Path) -> None:
    rows = {f"k{n:06}".encode(): os.urandom(200) for n in range(30_000)}  # several memtables
    store = RocksStore(tmp_path / "store", write_buffer_bytes=MIB)
    for begin in range(0, 30_000, 1000):
        store.write({key: rows[key] for key in list(rows)[begin : begin + 1000]})
    assert store.get_many(list(rows)) == list(rows.values())
    store.close()
    again = RocksStore(tmp_path / "store")
    assert dict(again.scan(b"k")) == rows
    again.close()


def test_a_store_that_is_open_is_not_opened_twice(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "store")
    with pytest.raises(StoreError, match="in use"):
        RocksStore(tmp_path / "store")
    code = (
        "import sys; from ledger.rocks_store import RocksStore; from ledger.errors import StoreError\n"
        "try: RocksStore(sys.argv[1])\n"
        "except StoreError as exc: print(exc)\n"
    )
    other = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "store")], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert "in use" in other.stdout
    store.close()
    RocksStore(tmp_path / "store").close()


def test_a_scan_over_many_deleted_rows_ends_with_an_error(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "store")
    store.write({b"k%03d" % n: b"" for n in range(1000)})
    store.write({b"k%03d" % n: None for n in range(1, 999)})
    keys = store.keys(b"k", b"", None, 100)
    assert next(keys) == b"k000"
    with pytest.raises(ManyDeleted):
        next(keys)
    assert list(keys) == [], "the scan has ended"
    assert list(store.keys(b"k", b"k001", b"k050", 100)) == []
    assert list(store.keys(b"k", b"", None, 2_000)) == [b"k000", b"k999"]
    assert list(store.keys(b"k", b"", None, 0)) == [b"k000", b"k999"], "however many"
    store.close()


def test_a_file_where_the_store_should_be_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot be opened"):
        RocksStore(tmp_path / "store")


def test_a_forgotten_scan_does_not_keep_the_store_locked(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "store")
    store.write({b"k1": b"1", b"k2": b"2"})
    scan = store.scan(b"k")
    next(scan)
    store.close()
    RocksStore(tmp_path / "store").close()
    with pytest.raises(StoreError, match="closed during a scan"):
        next(scan)


def test_a_key_or_value_that_is_not_bytes_is_the_callers_mistake(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "store")
    for mistake in ({"text": b"v"}, {b"k": "text"}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            store.write(mistake)  # type: ignore[dict-item,arg-type]
    assert list(store.scan(b"")) == []
    store.close()


def test_stores_share_one_bound_of_memory(tmp_path: Path) -> None:
    memory = StoreMemory(cache_bytes=8 * MIB, memtable_bytes=4 * MIB)
    stores = [RocksStore(tmp_path / str(n), memory=memory) for n in range(4)]
    value = os.urandom(1000)
    for n in range(0, 20_000, 100):
        for store in stores:
            store.write({f"k{m}".encode(): value for m in range(n, n + 100)})  # 80 MB in total
    deadline = time.monotonic() + PATIENCE_S
    while memory.used_bytes() > 16 * MIB:  # later writes flush the excess in the background
        assert time.monotonic() < deadline, f"{memory.used_bytes()} bytes are in use"
        time.sleep(0.05)
        for store in stores:
            store.write({b"k": value})
    assert memory.used_bytes() > 0
    for store in stores:
        store.close()


def in_files(folder: Path, secret: bytes) -> list[str]:
    while True:
        try:
            return [path.name for path in folder.rglob("*") if path.is_file() and secret in path.read_bytes()]
        except FileNotFoundError:  # RocksDB has just replaced it: its content is in another file now
            continue


@pytest.mark.parametrize("written_out", [False, True])
def test_deleted_and_purged_rows_are_in_no_file(tmp_path: Path, written_out: bool) -> None:
    rows = {f"k{n:06}".encode(): os.urandom(200) for n in range(20_000)}
    secrets = {f"k{n:06}x".encode(): f"secret-{os.urandom(20).hex()}".encode() for n in (0, 7, 9_999, 19_999)}
    store = RocksStore(tmp_path / "store", write_buffer_bytes=MIB)
    for begin in range(0, 20_000, 1000):
        store.write({key: rows[key] for key in list(rows)[begin : begin + 1000]})
    store.write(secrets)
    if written_out:
        store.purge(None)
    assert all(in_files(tmp_path, secret) for secret in secrets.values())
    first, *others = secrets
    store.write({first: None} | dict.fromkeys(others, b"replaced"))
    assert all(in_files(tmp_path, secret) for secret in secrets.values()), "a deleted value is still there"
    assert store.purge(list(secrets))
    assert [in_files(tmp_path, secret) for secret in secrets.values()] == [[]] * 4
    assert {key: store.get(key) for key in rows} == rows
    store.close()
    assert [in_files(tmp_path, secret) for secret in secrets.values()] == [[]] * 4


def test_a_purge_can_be_stopped_and_closing_waits_for_its_current_piece(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "store", write_buffer_bytes=MIB)
    for begin in range(0, 100_000, 1000):
        store.write({f"k{n:06}".encode(): os.urandom(200) for n in range(begin, begin + 1000)})
    assert not store.purge([b"k000001"], lambda: True)
    ended: list[object] = []

    def purge() -> None:
        try:
            while True:
                store.purge(None)
        except StoreError as exc:
            ended.append(exc)

    thread = threading.Thread(target=purge)
    thread.start()
    time.sleep(0.05)
    store.close()
    thread.join(PATIENCE_S)
    assert len(ended) == 1, "the purge sees that the store was closed"
    again = RocksStore(tmp_path / "store")
    assert len(list(again.scan(b""))) == 100_000
    again.close()


def test_no_write_is_torn_and_none_that_returned_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    """A child writes rows and their count in one write each, and prints each count; it is killed in the middle."""
    code = (
        "import sys; from ledger.rocks_store import RocksStore, MIB\n"
        "store = RocksStore(sys.argv[1], write_buffer_bytes=MIB)\n"
        "n = int(store.get(b'n') or b'0')\n"
        "while True:\n"
        "    n += 1\n"
        "    store.write({b'a%d' % (n % 50): b'%d' % n * 200, b'b%d' % (n % 50): b'%d' % n, b'n': b'%d' % n})\n"
        "    print(n, flush=True)\n"
    )
    for writes in (5_000, 3_001, 4_002, 2_503):  # a kilobyte each: several memtables
        child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "store")], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        last = [child.stdout.readline() for _ in range(writes)][-1]
        child.send_signal(signal.SIGKILL)
        out, _err = child.communicate()
        said = int((last + out).rsplit("\n", 2)[-2])
        store = RocksStore(tmp_path / "store")
        n = int(store.get(b"n") or b"0")
        assert n in (said, said + 1), "a write that had returned is gone"
        for slot in range(50):
            b = store.get(b"b%d" % slot)
            assert b is None or store.get(b"a%d" % slot) == b * 200
        assert store.get(b"b%d" % (n % 50)) == b"%d" % n
        store.close()
        gc.collect()
