"""Durations in milliseconds. Pure data."""

from __future__ import annotations

MINUTE_MS = 60 * 1000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
