"""What a running ledger writes about itself for others to find.

`run/up.json` of `up`, `folding.json` of a long start, `commands/status.json` of a `commands` process.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ledger.clock import now_ms
from ledger.errors import ConfigError

ROLES = ("gateway", "admin", "reader", "operator")  # of the tokens that `up` makes
FOLDING_FILE = "folding.json"  # beside the generations, while a start folds in bulk
SAME_START_S = 5.0  # the clock may be set a little between two looks at the same process


def up_file(data: Path) -> Path:
    """JSON object, only for its owner to read: url, bootstrap_servers, tokens, pid, pid_started (Unix time, s), ..."""
    return data / "run" / "up.json"


def read_keys(data: Path) -> dict[str, Any]:
    """`keys.json` of `up`: `hash_key`, one token per role in `tokens`, and `webhook_secret` unless it is of an earlier version.

    Raises `ConfigError` when it is damaged, `FileNotFoundError`.
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
            f"{path} is damaged: put back a copy of it. It has the key that retries and contacts are recognised by, and the "
            "tokens that were handed out; the orders in this directory cannot do without it"
        )
    return keys  # type: ignore[no-any-return]


def status_file(state_dir: Path) -> Path:
    """JSON object: what `CommandsProcess.status` tells, with `pid`, `pid_started` and `at_ms`. Written every few seconds."""
    return state_dir / "commands" / "status.json"


def status_writer(state_dir: Path) -> Callable[[dict[str, Any]], None]:
    """Writes a status there, whole or not at all. A disk that takes nothing is said by those who need it more."""
    path, process = status_file(state_dir), this_process()

    def write(status: dict[str, Any]) -> None:
        part = path.with_suffix(".part")
        with suppress(OSError):
            part.write_text(json.dumps(process | {"at_ms": now_ms()} | status))
            part.replace(path)

    return write


def commands_status(state_dir: Path) -> dict[str, Any] | None:
    """The status of the `commands` process whose state is there; None when none runs."""
    try:
        status = json.loads(status_file(state_dir).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return status if isinstance(status, dict) and _lives(status) else None


def this_process() -> dict[str, Any]:
    """`pid` and `pid_started` of this process: a pid alone may be given to another one later."""
    import psutil

    return {"pid": os.getpid(), "pid_started": psutil.Process().create_time()}


def up_info(data: Path) -> dict[str, Any] | None:
    """What the `up` that runs in `data` wrote about itself. None when none runs there, whatever a killed one left behind."""
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
