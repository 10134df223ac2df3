"""An exception in words that repeat nothing of it: which kind it is, and where it came from.

For places where its own message may hold what no log line may hold: an address, a key, a body of another side.
"""

from __future__ import annotations

import traceback
from pathlib import Path

from ledger.errors import LedgerError

FRAMES = 4


def in_short(exc: BaseException) -> str:
    """For instance `KeyError at performing.py:122 < reconciler.py:310`; the innermost place first."""
    frames = traceback.extract_tb(exc.__traceback__)[-FRAMES:]
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
    return f"{type(exc).__name__} at {places}" if places else type(exc).__name__


def named(exc: BaseException) -> str:
    """What `exc` says, where its words are our own or the system's; else as `in_short`."""
    return f"{type(exc).__name__}: {exc}" if isinstance(exc, LedgerError | OSError) else in_short(exc)


def without_values(exc: BaseException) -> str:
    """A traceback with every place, and of what the exceptions say only what `named` repeats; the first one first."""
    before = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
    lines = [without_values(before), "which led to"] if before is not None else []
    lines += [f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in traceback.extract_tb(exc.__traceback__)]
    lines.append(named(exc) if isinstance(exc, LedgerError | OSError) else type(exc).__name__)
    return "\n".join(lines)
