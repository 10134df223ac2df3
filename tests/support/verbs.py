"""Verbs of the command line, run as processes."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from tests.support.patience import PATIENCE_S, until
from tests.support.up_process import PROGRAM, UpProcess


def run(up: UpProcess, *arguments: str, code: int = 0) -> str:
    """Standard output of a verb that ends with `code`."""
    command = [PROGRAM, *arguments, "--data-dir", str(up.data)]
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
    shown = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=environment, check=False)
    assert shown.returncode == code, shown.stdout + shown.stderr
    return shown.stdout


def doctor(up: UpProcess) -> dict[str, Any]:
    """Its report, once it finds nothing wrong: soon after a start, a process may still report what it is about to do."""
    report: dict[str, Any] = {}

    def is_well() -> bool:
        command = [PROGRAM, "doctor", "--json", "--data-dir", str(up.data)]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert shown.stdout, shown.stderr
        report.update(json.loads(shown.stdout))
        return shown.returncode == 0

    until(is_well)
    return report


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]
