"""What a running ledger writes about itself for others to find: `run/up.json` of `up`, `folding.json` of a long start."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FOLDING_FILE = "folding.json"  # beside the generations, while a start folds in bulk
SAME_START_S = 5.0  # the clock may be set a little between two looks at the same process


def up_file(data: Path) -> Path:
    """JSON object, only for its owner to read: url, bootstrap_servers, tokens, pid, pid_started (Unix time, s), ..."""
    return data / "run" / "up.json"


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
