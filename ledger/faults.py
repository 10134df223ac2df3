"""An exception in words that repeat nothing of it: which kind it is, and where it came from.

For places where its own message may hold what no log line may hold: an address, a key, a body of another side.
"""

from __future__ import annotations

import traceback
from pathlib import Path

FRAMES = 4


def in_short(exc: BaseException) -> str:
    """For instance `KeyError at performing.py:122 < reconciler.py:310`; the innermost place first."""
    frames = traceback.extract_tb(exc.__traceback__)[-FRAMES:]
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
    return f"{type(exc).__name__} at {places}" if places else type(exc).__name__
