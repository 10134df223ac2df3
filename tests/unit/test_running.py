"""Files that a dead `up` left behind are ignored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from api.cli.options import api_of
from api.cli.verbs import app
from api.processes.running import (
    ROLES,
    commands_counts,
    commands_status,
    read_keys,
    status_file,
    status_writer,
    this_process,
    up_file,
    up_info,
)
from api.processes.up import Up
from ledger.errors import ConfigError

INFO: dict[str, Any] = {"url": "http://127.0.0.1:1", "bootstrap_servers": "127.0.0.1:1", "tokens": {"admin": "t"}}


def write(data: Path, **more: Any) -> None:
    up_file(data).parent.mkdir(parents=True, exist_ok=True)
    up_file(data).write_text(json.dumps(INFO | more))


def test_a_living_up_is_found(tmp_path: Path) -> None:
    write(tmp_path, **this_process())
    info = up_info(tmp_path)
    assert info is not None
    assert info["url"] == INFO["url"]


@pytest.mark.parametrize("left", ["dead", "another process", "an older version's", "torn", "nothing"])
def test_files_of_a_dead_up_are_ignored(tmp_path: Path, left: str) -> None:
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
    assert "no ledger is running" in shown.output


@pytest.mark.parametrize(
    "arguments",
    [("history", "ord_x"), ("diff", "ord_x", "1", "2"), ("messages", "preview", "ord_x"), ("import-orders", "f.jsonl")],
)
def test_the_token_of_a_living_up_is_for_its_own_api_only(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f.jsonl").write_text("{}\n")
    write(tmp_path, **this_process())
    for url in (INFO["url"], f"{INFO['url']}/", None):
        assert api_of(tmp_path, url, None) == (url or INFO["url"], "t")
    for url in ("http://other.example", "http://127.0.0.1:10", f"{INFO['url']}.example"):
        shown = CliRunner().invoke(app, [*arguments, "--data-dir", str(tmp_path), "--url", url])
        assert shown.exit_code == 2
        assert f"is only for {INFO['url']}: pass --token" in shown.output
        assert api_of(tmp_path, url, "mine") == (url, "mine")


KEYS: dict[str, Any] = {"hash_key": "0" * 64, "tokens": dict.fromkeys(ROLES, "t"), "webhook_secret": "whsec_x"}
DAMAGED = {
    "empty": b"",
    "cut off": json.dumps(KEYS).encode()[:-20],
    "not UTF-8": b"\xff\xfe{}",
    "a list": b"[]",
    "no tokens": json.dumps(KEYS | {"tokens": {}}).encode(),
    "tokens of another kind": json.dumps(KEYS | {"tokens": "x"}).encode(),
    "a number for a key": json.dumps(KEYS | {"hash_key": 7}).encode(),
    "no key": json.dumps({"tokens": KEYS["tokens"]}).encode(),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_keys_are_an_error_of_one_line_that_says_what_to_do(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to be a stack trace, from `up` and from every verb that reads beside it."""
    (tmp_path / "keys.json").write_bytes(DAMAGED[damage])
    with pytest.raises(ConfigError, match=r"keys\.json is damaged: restore a copy of it") as said:
        Up(tmp_path, 1, lambda line: None)._keys()
    assert "remove" not in str(said.value)
    assert "delete" not in str(said.value)
    write(tmp_path, **this_process())
    monkeypatch.delenv("LEDGER_HASH_KEY", raising=False)
    ran = CliRunner().invoke(app, ["verify", "--data-dir", str(tmp_path)], env={"LEDGER_HASH_KEY": ""})
    assert isinstance(ran.exception, ConfigError)
    assert (tmp_path / "keys.json").read_bytes() == DAMAGED[damage]


def test_keys_are_created_once_and_those_of_an_earlier_version_get_what_they_lack(tmp_path: Path) -> None:
    machine = Up(tmp_path, 1, lambda line: None)
    keys = machine._keys()
    assert machine._keys() == keys == read_keys(tmp_path)
    (tmp_path / "keys.json").write_text(json.dumps({name: keys[name] for name in ("hash_key", "tokens")}))
    again = machine._keys()
    assert {name: again[name] for name in ("hash_key", "tokens")} == {name: keys[name] for name in ("hash_key", "tokens")}
    assert again["webhook_secret"].startswith("whsec_")


def test_the_status_of_commands_counts_while_its_process_lives(tmp_path: Path) -> None:
    assert commands_status(tmp_path) is None
    assert commands_counts(tmp_path) == {}
    status_file(tmp_path).parent.mkdir(parents=True)
    status_writer(tmp_path)({"ready_writers": [0], "counts": {"messages sent": 7}})
    assert commands_counts(tmp_path) == {"messages sent": 7}
    status = commands_status(tmp_path)
    assert status is not None
    assert (status["ready_writers"], status["at_ms"] > 0) == ([0], True)
    status_file(tmp_path).write_text(json.dumps(status | {"pid_started": status["pid_started"] - 1000}))
    assert commands_status(tmp_path) is None
    assert commands_counts(tmp_path) == {}
    status_file(tmp_path).write_text("{")
    assert commands_status(tmp_path) is None


def test_a_status_that_cannot_be_written_harms_nobody(tmp_path: Path) -> None:
    status_writer(tmp_path / "nowhere")({"ready_writers": [0]})
    assert list(tmp_path.iterdir()) == []
