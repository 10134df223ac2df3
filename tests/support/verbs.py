"""Verbs of the command line, run as processes."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from tests.support.patience import PATIENCE_S
from tests.support.up_process import PROGRAM, UpProcess


def run(up: UpProcess, *arguments: str, code: int = 0) -> str:
    """Standard output of a verb that ends with `code`."""
    command = [PROGRAM, *arguments, "--data-dir", str(up.data)]
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
    shown = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=environment, check=False)
    assert shown.returncode == code, shown.stdout + shown.stderr
    return shown.stdout


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]
