"""Files in which a running ledger describes itself to other processes.

`run/up.json` of `up`, `folding.json` during a long start, `commands/status.json` of a `commands` process.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from api.callers.roles import ROLES
from ledger.clock import now_ms
from ledger.errors import ConfigError

FOLDING_FILE = "folding.json"  # beside the generations, while a start folds in bulk
SAME_START_S = 5.0  # the clock may be adjusted between two readings of the same process


def up_file(data: Path) -> Path:
    """Path of a JSON object that only its owner can read: url, bootstrap_servers, tokens, pid, pid_started (Unix time, s), ..."""
    return data / "run" / "up.json"


def read_keys(data: Path) -> dict[str, Any]:
    """`keys.json` of `up`: `hash_key`, one token per role in `tokens`, and `webhook_secret` unless an earlier version wrote it.

    Raises `FileNotFoundError`, or `ConfigError` if it is damaged.
    """
    path = data / "keys.json"
    try:
        keys = json.loads(path.read_bytes())
        tokens = keys["tokens"]
        texts = [keys["hash_key"], *(tokens[role] for role in ROLES), keys.get("webhook_secret", "-")]
        whole = all(isinstance(text, str) and text for text in texts)
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise ConfigError(
            f"{path} is damaged: restore a copy of it. It has the key that identifies retries and contacts, and the tokens that "
            "were issued; the orders in this directory are unusable without it"
        )
    return keys  # type: ignore[no-any-return]


def status_file(state_dir: Path) -> Path:
    """Path of a JSON object: `CommandsProcess.status` with `pid`, `pid_started` and `at_ms`. Written every few seconds."""
    return state_dir / "commands" / "status.json"


def status_writer(state_dir: Path) -> Callable[[dict[str, Any]], None]:
    """Returns a function that replaces the status file atomically. It ignores a full disk, which others report."""
    path, process = status_file(state_dir), this_process()

    def write(status: dict[str, Any]) -> None:
        part = path.with_suffix(".part")
        with suppress(OSError):
            part.write_text(json.dumps(process | {"at_ms": now_ms()} | status))
            part.replace(path)

    return write


def commands_status(state_dir: Path) -> dict[str, Any] | None:
    """The status of the `commands` process that uses `state_dir`; None if none is running."""
    try:
        status = json.loads(status_file(state_dir).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return status if isinstance(status, dict) and _lives(status) else None


def commands_counts(state_dir: Path) -> dict[str, int]:
    """What that process did since its start, by kind; empty if none is running."""
    status = commands_status(state_dir)
    return {} if status is None else dict(status.get("counts", {}))


def commands_skews_s(state_dir: Path) -> dict[str, float]:
    """By partition, how far Kafka's clock is ahead of that process's machine; empty if none is running."""
    status = commands_status(state_dir)
    return {} if status is None else {p: ms / 1000 for p, ms in status.get("clock_skews_ms", {}).items()}


def this_process() -> dict[str, Any]:
    """`pid` and `pid_started` of this process: a pid alone may later be reused."""
    import psutil

    return {"pid": os.getpid(), "pid_started": psutil.Process().create_time()}


def up_info(data: Path) -> dict[str, Any] | None:
    """`up.json` of the `up` that runs in `data`. None if none is running, even if a killed one left the file behind."""
    try:
        info = json.loads(up_file(data).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return info if isinstance(info, dict) and _lives(info) else None


def _lives(info: dict[str, Any]) -> bool:
    import psutil

    try:
        started = psutil.Process(info["pid"]).create_time()
        return abs(started - float(info["pid_started"])) < SAME_START_S
    except (psutil.NoSuchProcess, KeyError, TypeError, ValueError):
        return False
