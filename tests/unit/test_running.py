"""What a dead `up` left behind is not believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from api.cli import app
from api.running import this_process, up_file, up_info

INFO: dict[str, Any] = {"url": "http://127.0.0.1:1", "bootstrap_servers": "127.0.0.1:1", "tokens": {"admin": "t"}}


def write(data: Path, **more: Any) -> None:
    up_file(data).parent.mkdir(parents=True, exist_ok=True)
    up_file(data).write_text(json.dumps(INFO | more))


def test_a_living_up_is_found(tmp_path: Path) -> None:
    write(tmp_path, **this_process())
    found = up_info(tmp_path)
    assert found is not None
    assert found["url"] == INFO["url"]


@pytest.mark.parametrize("left", ["dead", "another process", "an older version's", "torn", "nothing"])
def test_files_of_a_dead_up_count_as_none(tmp_path: Path, left: str) -> None:
    mine = this_process()
    write(tmp_path, **mine)
    if left == "dead":
        write(tmp_path, pid=2**22 + 1, pid_started=mine["pid_started"])
    elif left == "another process":
        write(tmp_path, pid=mine["pid"], pid_started=psutil.Process().create_time() - 60)
    elif left == "an older version's":
        write(tmp_path, pid=mine["pid"])
    elif left == "torn":
        up_file(tmp_path).write_text('{"url": ')
    else:
        up_file(tmp_path).unlink()
    assert up_info(tmp_path) is None
    shown = CliRunner().invoke(app, ["history", "ord_x", "--data-dir", str(tmp_path)])
    assert shown.exit_code == 2
    assert "no ledger is up" in shown.output
