"""Strict reader for query parameters: each at most once, none unknown. Faults raise a `Problem` that points to them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date

from api.problems import FieldError, Problem
from ledger.rfc3339 import parse_ms

_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_INTEGER = re.compile(r"-?[0-9]{1,18}")


class Query:
    """The parameters of one request. Take those that the operation has, then call `done`."""

    def __init__(self, items: Iterable[tuple[str, str]]) -> None:
        self._left: dict[str, str] = {}
        for name, value in items:
            if name in self._left:
                raise _invalid(name, "repeated", f"The parameter {name!r} is sent more than once.")
            self._left[name] = value

    def done(self) -> None:
        """Raises `unknown-field` if a parameter is left: a misspelt filter must not be ignored."""
        if self._left:
            errors = [FieldError(f"/{name}", "unknown-field", "query") for name in list(self._left)[:20]]
            raise Problem("unknown-field", "The query has parameters that this operation does not have.", errors=errors)

    def text(self, name: str, pattern: str | None = None) -> str | None:
        value = self._left.pop(name, None)
        if value is not None and pattern is not None and not re.fullmatch(pattern, value):
            raise _invalid(name, "pattern", f"{name} must match {pattern}.")
        return value

    def choice(self, name: str, values: Iterable[str]) -> str | None:
        value = self._left.pop(name, None)
        if value is not None and value not in (known := list(values)):
            raise _invalid(name, "not-one-of", f"{name} must be one of {', '.join(known)}.")
        return value

    def integer(self, name: str, low: int, high: int) -> int | None:
        value = self._left.pop(name, None)
        if value is None:
            return None
        if not _INTEGER.fullmatch(value):
            raise _invalid(name, "not-an-integer", f"{name} must be an integer.")
        if not low <= int(value) <= high:
            raise _invalid(name, "out-of-range", f"{name} must be {low} to {high}.")
        return int(value)

    def time_ms(self, name: str) -> int | None:
        """An RFC 3339 time as ms since the epoch; finer digits are truncated."""
        value = self._left.pop(name, None)
        if value is None:
            return None
        if (at_ms := parse_ms(value)) is not None:
            return at_ms
        hint = " In a query, write a plus sign as %2B." if " " in value else ""
        raise _invalid(name, "not-a-time", f"{name} must be an RFC 3339 time, for example 2030-01-31T12:00:00Z.{hint}")

    def day(self, name: str) -> date:
        """A mandatory UTC date."""
        value = self._left.pop(name, None)
        if value is None:
            raise _invalid(name, "missing", f"{name} is required, for example 2030-01-31.")
        if _DAY.fullmatch(value):
            try:
                return date.fromisoformat(value)
            except ValueError:
                pass  # such as 30 February: refused below
        raise _invalid(name, "not-a-date", f"{name} must be a date, for example 2030-01-31.")


def _invalid(name: str, code: str, detail: str) -> Problem:
    return Problem("invalid-field", detail, errors=[FieldError(f"/{name}", code, "query")])
