"""Figures of the open databases: real ones of RocksDB, summed, and gone with the database."""

from __future__ import annotations

from pathlib import Path

from ledger.rocks_store import RocksStore
from ledger.store_figures import FIGURES, figures


def test_figures_are_those_of_the_open_databases(tmp_path: Path) -> None:
    before = figures()
    assert set(before) == set(FIGURES)
    stores = [RocksStore(tmp_path / name) for name in ("one", "two")]
    for store in stores:
        store.write({b"%d" % n: bytes(1000) for n in range(2000)})
    during = figures()
    assert during["memtable_bytes"] - before["memtable_bytes"] > 2 * 2000 * 1000
    assert during["cache_bytes"] > 2 * 2000 * 1000
    assert (during["writes_stopped"], during["background_errors"]) == (0, 0)
    for store in stores:
        store.close()
        assert store.figures() == {}
    reopened = RocksStore(tmp_path / "one")
    try:
        assert reopened.figures()["file_bytes"] > 0
    finally:
        reopened.close()
    assert figures()["memtable_bytes"] <= before["memtable_bytes"]
