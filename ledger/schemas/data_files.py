"""Location of the data files: `ledger/avsc/` in the wheel, which is tried first, or `avro/` in the source tree."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_LEDGER = Path(__file__).resolve().parents[1]
_PLACES = (_LEDGER / "avsc", _LEDGER.parent / "avro")


@cache
def data_dir() -> Path:
    """The folder of schemas and lock file. Raises `FileNotFoundError` naming both places."""
    for place in _PLACES:
        if place.is_dir():
            return place
    raise FileNotFoundError(f"no data files: neither {_PLACES[0]} nor {_PLACES[1]} is a folder")


def data_file(name: str) -> Path:
    """Path of the data file `name`. Raises `FileNotFoundError` naming the searched folders."""
    path = data_dir() / name
    if not path.is_file():
        raise FileNotFoundError(f"no data file {name} in {data_dir()}")
    return path
