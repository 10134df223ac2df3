"""RFC 3339 times that people write, as milliseconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def rfc3339_ms(text: str) -> int | None:
    """Since the epoch, 0 for what was before it; finer digits are cut off. None when it is no such time."""
    if not _TIME.fullmatch(text):
        return None
    try:
        at = datetime.fromisoformat(text.upper())
        delta = at.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
    # Before the epoch nothing happened here, and keys of the databases count from it.
    return max(0, (delta.days * 86_400 + delta.seconds) * 1000 + delta.microseconds // 1000)
