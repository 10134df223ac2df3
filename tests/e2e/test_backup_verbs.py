"""The verbs `backup` and `restore` beside a running `up`, as a person or a script runs them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from api.cli.backup.age import new_pair
from commands.sandbox.catalogue import order_body
from tests.support import loopback
from tests.support.harness import decided
from tests.support.patience import PATIENCE_S
from tests.support.up_process import PROGRAM, UpProcess

pytestmark = pytest.mark.kafka
IDENTITY, RECIPIENT = new_pair()
KEYS = {"BACKUP_RECIPIENTS": RECIPIENT, "BACKUP_IDENTITY": IDENTITY}


def verb(up: UpProcess, *arguments: str, code: int = 0, **keys: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"} | (keys or KEYS)
    command = [PROGRAM, *arguments, "--data-dir", str(up.data)]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=environment, check=False)
    assert shown.returncode == code, shown.stdout + shown.stderr
    assert "Traceback" not in shown.stderr
    assert IDENTITY not in shown.stdout + shown.stderr
    return shown


def place(up: UpProcess, number: int) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {up.token('gateway')}", "Customer-Id": "backup"}
    with loopback.client(base_url=up.url, headers=headers) as client:
        answer = decided(client, "/orders", order_body(number), **{"Idempotency-Key": f"backup-{number}"})
    assert answer.status_code == 201, answer.text
    order: dict[str, Any] = answer.json()
    return order


def test_a_running_ledger_is_backed_up_and_the_backup_proven(up: UpProcess, tmp_path: Path) -> None:
    folder = tmp_path / "[old] backup"
    place(up, 1)
    first = json.loads(verb(up, "backup", str(folder), "--json").stdout)
    assert (first["ok"], first["added"]["no"], first["increments"]) == (True, 1, 1)
    assert first["added"]["contacts"] >= 1
    place(up, 2)
    shown = verb(up, "backup", str(folder)).stdout
    assert f"to {folder} as 000002" in shown
    assert "no tokens" in shown  # those of `up` are its own
    checked = json.loads(verb(up, "restore", str(folder), "--check", "--json").stdout)
    assert (checked["ok"], checked["restored"], checked["increments"]) == (True, False, 2)
    assert checked["events"] >= first["events"] + 1
    assert checked["contacts"] >= 2
    assert f"{folder} is complete" in verb(up, "restore", str(folder), "--check").stdout
    assert "error (not_empty)" in verb(up, "restore", str(folder), code=1).stderr
    heads = str(folder / "000002" / "heads.json")
    assert json.loads(verb(up, "verify", "--log-only", "--heads", heads, "--json").stdout)["ok"] is True
    verb(up, "restore", str(folder), "--check", "--heads", heads)


@pytest.mark.parametrize(
    ("arguments", "keys", "says"),
    [
        (("backup", "{folder}"), {"BACKUP_RECIPIENTS": ""}, "error (config): BACKUP_RECIPIENTS is not set"),
        (("backup", "/proc/[old] data"), KEYS, "error (file): /proc/[old] data"),
        (("restore", "{folder}", "--check"), {"BACKUP_IDENTITY": ""}, "error (config): BACKUP_IDENTITY is not set"),
        (("restore", "{folder}", "--check"), KEYS, "error (not_a_backup)"),
        (("restore", "{folder}", "--check", "--erased", "{folder}/names"), KEYS, "line 2: not the id of a customer"),
        (("restore", "{folder}", "--check", "--heads", "{folder}/names"), KEYS, "error (heads)"),
    ],
)
def test_what_is_wrong_is_one_line_that_repeats_nothing(
    up: UpProcess, tmp_path: Path, arguments: tuple[str, ...], keys: dict[str, str], says: str
) -> None:
    (tmp_path / "names").write_text("c-1\nCanary Nightingale\n")
    shown = verb(up, *(word.format(folder=tmp_path) for word in arguments), code=1, **keys)
    (line,) = shown.stderr.splitlines()
    assert says in line
    assert "Nightingale" not in line


def test_a_backup_that_does_not_fit_on_the_disk_is_one_line_and_leaves_no_backup(up: UpProcess, tmp_path: Path) -> None:
    place(up, 3)
    folder = tmp_path / "backup"
    command = f"ulimit -f 1; exec '{PROGRAM}' backup '{folder}' --data-dir '{up.data}'"
    shown = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=PATIENCE_S, env=os.environ | KEYS, check=False
    )
    assert shown.returncode == 1, shown.stdout
    assert len(shown.stderr.splitlines()) == 1, shown.stderr
    assert [entry.name for entry in folder.iterdir() if entry.name != ".lock"] == []
