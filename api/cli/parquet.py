"""Events as rows of a Parquet file. The only file that imports pyarrow.

The columns are partition and offset, then the fields of the newest event schema: strings and integers unchanged, `occurred_at`
as timestamp (UTC, ms), `fixed` and `bytes` as binary, each of the twelve details as a struct that is null unless set.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ledger.extras import needs
from ledger.schemas.versions import EVENTS, versions_of

with needs("export"):
    import pyarrow as pa
    import pyarrow.parquet as pq

ROWS = 50_000  # of a row group
_PLAIN = {"string": pa.string(), "int": pa.int32(), "long": pa.int64(), "boolean": pa.bool_(), "bytes": pa.binary()}
_TIMES = frozenset({"occurred_at"})


def arrow_schema() -> Any:
    """The Arrow schema, derived from the Avro schema."""
    avro = versions_of(EVENTS)[-1].parsed
    named: dict[str, Any] = {}
    place = [pa.field("partition", pa.int32(), False), pa.field("offset", pa.int64(), False)]
    return pa.schema(place + [_column(field, named) for field in avro["fields"]])


def _column(field: dict[str, Any], named: dict[str, Any]) -> Any:
    if field["name"] in _TIMES:
        return pa.field(field["name"], pa.timestamp("ms", tz="UTC"), False)
    kind, nullable = field["type"], False
    if isinstance(kind, list):  # ["null", X]: our schemas have no other union
        kind, nullable = kind[1], True
    return pa.field(field["name"], _type(kind, named), nullable)


def _type(kind: Any, named: dict[str, Any]) -> Any:
    if isinstance(kind, str):
        return _PLAIN[kind] if kind in _PLAIN else named[kind]
    match kind["type"]:
        case "record":
            named[kind["name"]] = pa.struct([_column(field, named) for field in kind["fields"]])
            return named[kind["name"]]
        case "fixed":
            named[kind["name"]] = pa.binary(kind["size"])
            return named[kind["name"]]
        case "array":
            return pa.list_(_type(kind["items"], named))
    return _type(kind["type"], named)


class ParquetFile:
    """Collects rows and writes them in groups. A context manager: the file appears at `path`, complete, only on exit."""

    def __init__(self, path: Path) -> None:
        self._path, self._part = path, path.with_name(path.name + ".part")
        self._schema = arrow_schema()
        self._rows: list[dict[str, Any]] = []
        self.written = 0

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(self._part, self._schema, compression="zstd")
        return self

    def add(self, partition: int, offset: int, fields: dict[str, Any]) -> None:
        """Add one event, decoded by the codec to plain fields."""
        self._rows.append({"partition": partition, "offset": offset, **fields})
        if len(self._rows) >= ROWS:
            self._write()

    def _write(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self.written += len(self._rows)
        self._rows = []

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        try:
            try:
                if kind is None:
                    self._write()
            finally:
                self._writer.close()
            if kind is None:
                self._part.replace(self._path)
        finally:
            self._part.unlink(missing_ok=True)  # also if there was no space for the last rows or the footer
