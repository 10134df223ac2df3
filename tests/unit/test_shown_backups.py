"""What the verbs of backups show a person: where the small files are, and a pair of keys."""

from __future__ import annotations

import json
from pathlib import Path

import pyrage
import pytest

from api.cli.backup.age import identities_of, recipients_of
from api.cli.backup.manifest import TOKENS
from api.cli.backup.running import RestoreOptions, _show_restored, run_backup_key
from api.cli.terminal import Screen, Terminal
from tests.support.backed_up import BackedUp


def test_a_restore_names_the_folders_that_have_settings_and_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that did not change is in the folder of an earlier run."""
    backed = BackedUp(tmp_path / "backup")
    backed.orders("first")
    backed.backup()
    backed.orders("second")
    backed.surroundings[TOKENS] = b'{"tokens":[1]}'
    backed.backup()
    options = RestoreOptions(check=False, accept_faults=False, heads_file=None, erased_file=None)
    _show_restored(backed.folder, backed.prove(), options, Screen())
    settings, tokens = backed.folder / "000001/settings.json", backed.folder / "000002/tokens.json"
    assert f"settings and tokens: {settings}, {tokens}. Next" in capsys.readouterr().out


def test_a_pair_of_keys_is_shown_and_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_backup_key(Terminal(Screen(), Screen(stderr=True), True)) == 0
    pair = json.loads(capsys.readouterr().out)
    content = pyrage.encrypt(b"x", recipients_of(pair["recipient"]))
    assert pyrage.decrypt(content, identities_of(pair["identity"])) == b"x"
