"""Opens the databases of a stopped process and compares every row with a fresh fold of the log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from commands.processor.desk import Desk
from ledger.contact_rows import CONTACTS_STORE
from ledger.kafka.log import KafkaLog
from ledger.log import Record
from ledger.memory.store import MemoryStore
from ledger.rocks_store import RocksStore
from ledger.store import Store
from ledger.topics import Topics
from projections.projector import Projector
from tests.support import checker

Rows = dict[bytes, bytes]


def differences(live: Mapping[bytes, bytes], fold: Mapping[bytes, bytes]) -> list[str]:
    """Rows that one side lacks or that differ."""
    keys = {key for key in live.keys() | fold.keys() if live.get(key) != fold.get(key)}
    return [f"{key!r}: live {live.get(key)!r}, fold {fold.get(key)!r}" for key in sorted(keys)]


def _records(bootstrap: str, topic: str) -> list[Record]:
    return [Record(topic, *raw) for raw in checker.read_topic(bootstrap, topic)]


def _rows(store: Store) -> Rows:
    """All rows but those that say when the store was last checked, of which topic it is, and what its files still contain."""
    beside = (b"\0current", b"\0unpurged/", b"\0log")
    return {key: row for key, row in store.scan(b"") if not key.startswith(beside)}


def desk_differences(state_dir: Path, bootstrap: str, log: KafkaLog, topics: Topics, writers: int, partitions: int) -> list[str]:
    """Compares the processor's databases with a fold of events and refusals. Positions (`meta`) may differ by a batch's end."""
    events, refusals = _records(bootstrap, topics.events), _records(bootstrap, topics.refusals)
    command_log = log.topic_id(topics.commands)
    faults: list[str] = []
    for writer in range(writers):
        fresh = MemoryStore()
        for partition in range(writer, partitions, writers):
            desk = Desk(fresh, partition, partitions, topics, command_log)
            for record in (*events, *refusals):
                if record.partition == partition:
                    desk.fold(record)
            fresh.write(desk.rows())
        store = RocksStore(state_dir / "commands" / f"writer-{writer}")
        try:
            live = _rows(store)
        finally:
            store.close()
        fold = _rows(fresh)
        metas = [key for key in live if key.endswith(b"/meta")]
        assert len(metas) == len(range(writer, partitions, writers))
        for rows in (live, fold):
            for key in metas:
                del rows[key]
        faults += [f"writer-{writer} {line}" for line in differences(live, fold)]
    return faults


def projection_differences(state_dir: Path, bootstrap: str, topics: Topics, partitions: int) -> list[str]:
    """Compares the read models, with positions and contacts, with a fold of the three topics into fresh databases."""
    fresh: dict[str, MemoryStore] = {}

    def open_store(name: str) -> Store:
        fresh[name] = MemoryStore()
        return fresh[name]

    projector = Projector.open(open_store, topics, partitions)
    for topic in (topics.events, topics.refusals, topics.contacts):
        if records := _records(bootstrap, topic):
            projector.apply_chunk(records)
    root = state_dir / "projections"
    folder = root / json.loads((root / "current.json").read_text())["current"]
    faults: list[str] = []
    for name, fold in fresh.items():
        if name == CONTACTS_STORE and not (folder / name).exists():
            continue  # a rebuild writes none: `serve` does when it opens the generation
        store = RocksStore(folder / name)
        try:
            faults += [f"{name} {line}" for line in differences(_rows(store), _rows(fold))]
        finally:
            store.close()
    return faults
