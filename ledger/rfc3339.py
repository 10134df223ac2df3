"""RFC 3339 times, in UTC. Pure.

Milliseconds and microseconds count from the epoch.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache

_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def parse_ms(text: str) -> int | None:
    """Parse a time; 0 for times before the epoch, finer digits are truncated. None if it is invalid."""
    if not _TIME.fullmatch(text):
        return None
    try:
        at = datetime.fromisoformat(text.upper())
        delta = at.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
    # Nothing happened before the epoch, and keys of the databases count from it.
    return max(0, (delta.days * 86_400 + delta.seconds) * 1000 + delta.microseconds // 1000)


@lru_cache(4096)
def format_ms(ms: int) -> str:
    """`2030-01-31T12:00:00.000Z`."""
    return f"{_second(ms // 1000)}.{ms % 1000:03d}Z"


def format_us(us: int) -> str:
    """`2030-01-31T12:00:00.000000Z`."""
    return f"{_second(us // 1_000_000)}.{us % 1_000_000:06d}Z"


@lru_cache(16)  # the current second, and a few others shown with it
def _second(s: int) -> str:
    return datetime.fromtimestamp(s, UTC).isoformat()[:19]
