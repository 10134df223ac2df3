"""Describes an exception without its message: type and place.

For exceptions whose message may contain what must not be logged: an address, a key, the body of an answer.
"""

from __future__ import annotations

import traceback
from pathlib import Path

from ledger.errors import LedgerError

FRAMES = 4


def in_short(exc: BaseException) -> str:
    """For example `KeyError at performing.py:122 < reconciler.py:310`, innermost place first."""
    frames = traceback.extract_tb(exc.__traceback__)[-FRAMES:]
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
    return f"{type(exc).__name__} at {places}" if places else type(exc).__name__


def named(exc: BaseException) -> str:
    """The message of `exc` if it comes from the ledger or the system; else `in_short(exc)`."""
    return f"{type(exc).__name__}: {exc}" if isinstance(exc, LedgerError | OSError) else in_short(exc)


def without_values(exc: BaseException) -> str:
    """A traceback with all places, and messages only as `named` shows them; the first exception first."""
    before = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
    lines = [without_values(before), "which led to"] if before is not None else []
    lines += [f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in traceback.extract_tb(exc.__traceback__)]
    lines.append(named(exc) if isinstance(exc, LedgerError | OSError) else type(exc).__name__)
    return "\n".join(lines)
