"""The file in which audit records wait while the log is unreachable: one JSON line each, appended, and cleared as a whole."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Sequence
from pathlib import Path

Entry = tuple[str, bytes | None, bytes]  # action, key, value


class AuditSpool:
    """`path` may be missing; its folder is created when needed. Only its owner can read it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._has_any = path.exists()

    def add(self, entries: Sequence[Entry]) -> None:
        """Append entries. Raises `OSError`; entries that are then added twice are recognised by their `audit_id`."""
        lines = ["\n"]  # in case the last line is incomplete
        for action, key, value in entries:
            members = {"action": action, "key": key and key.decode(), "value": base64.b64encode(value).decode()}
            lines.append(json.dumps(members) + "\n")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._has_any = True
        with os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb", 0) as file:
            file.write("".join(lines).encode())

    def read(self) -> tuple[list[Entry], int]:
        """(entries, number of unreadable lines)."""
        if not self._has_any:
            return [], 0
        entries: list[Entry] = []
        torn = 0
        for line in filter(None, self._path.read_bytes().splitlines()):
            try:
                members = json.loads(line)
                key = members["key"]
                entries.append((str(members["action"]), key and key.encode(), base64.b64decode(members["value"], validate=True)))
            except (ValueError, KeyError, TypeError, AttributeError):
                torn += 1
        return entries, torn

    def clear(self) -> None:
        """Delete all entries."""
        if self._has_any:
            self._path.unlink(missing_ok=True)
            self._has_any = False
