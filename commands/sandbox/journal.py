"""The sandbox's database: state of the stand-ins and a journal of every call, changed together in one transaction.

SQLite of the standard library: it survives `kill -9`, and a checker can read it without the project's code.

    calls     one row per call that reached a stand-in: time, port, verb, key, request and answer
    effects   one row per change outside: money captured or refunded, units taken or returned
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from ledger.files import private_folder

_SCHEMA = """
create table if not exists calls (
    id integer primary key, at_ms integer not null, port text not null, verb text not null, key text not null,
    order_id text not null, fate text not null, request text not null, status integer not null, response text not null
);
create table if not exists effects (
    id integer primary key, call integer not null references calls, at_ms integer not null, port text not null,
    kind text not null, order_id text not null, ref text not null, sku text not null, amount integer not null
);
create index if not exists effects_of_order on effects (order_id);
"""

Connection = sqlite3.Connection
_encode = msgspec.json.Encoder(order="sorted").encode


class Journal:
    """One database file, or `:memory:` for tests. Calls from several threads are serialised.

    `schema`: the tables of a stand-in, as idempotent statements.
    """

    def __init__(self, path: Path | str, schema: str = "") -> None:
        if isinstance(path, Path):
            private_folder(path.parent)
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = off")  # against kill -9 of the process, not of the machine
        self.add_tables(_SCHEMA + schema)

    def add_tables(self, schema: str) -> None:
        with self._lock:
            self._db.executescript(schema)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Run the block in one transaction, which is rolled back if it raises."""
        with self._lock:
            self._db.execute("begin immediate")
            try:
                yield self._db
            except BaseException:
                self._db.execute("rollback")
                raise
            self._db.execute("commit")

    def note_call(  # noqa: PLR0913  # its parts
        self,
        db: Connection,
        at_ms: int,
        port: str,
        verb: str,
        *,
        key: str = "",
        order_id: str = "",
        fate: str = "none",
        request: Any = None,
        status: int = 200,
        response: Any = None,
    ) -> int:
        """Record one call in a transaction; returns its number. `request` and `response` become JSON: pass no secrets."""
        row = (at_ms, port, verb, key, order_id, fate, _json(request), status, _json(response))
        cursor = db.execute(
            "insert into calls (at_ms, port, verb, key, order_id, fate, request, status, response)"
            " values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            row,
        )
        return int(cursor.lastrowid or 0)

    def note_effect(
        self,
        db: Connection,
        call: int,
        at_ms: int,
        port: str,
        kind: str,
        order_id: str,
        *,
        ref: str = "",
        sku: str = "",
        amount: int = 0,
    ) -> None:
        """Record an effect. Kinds: `authorised` `captured` `voided` `refunded` `refund_failed` `disputed` (minor units),
        `reserved` `released` (units of `sku`)."""
        db.execute(
            "insert into effects (call, at_ms, port, kind, order_id, ref, sku, amount) values (?, ?, ?, ?, ?, ?, ?, ?)",
            (call, at_ms, port, kind, order_id, ref, sku, amount),
        )

    def rows(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        """Read rows, for checks and the HTTP page of the journal."""
        with self._lock:
            return [dict(row) for row in self._db.execute(query, arguments)]

    def close(self) -> None:
        with self._lock:
            self._db.close()


def _json(value: Any) -> str:
    return _encode(value).decode()
