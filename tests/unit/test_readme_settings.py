"""The README's configuration table is the one the settings declare."""

from __future__ import annotations

from pathlib import Path

from tests.readme.settings_table import SETTINGS_BEGIN, settings_table

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_readme_lists_every_setting_as_it_is_declared() -> None:
    hint = "run `uv run python -m ledger.config README.md` and commit the change"
    assert SETTINGS_BEGIN + settings_table() + "\n" in README.read_text("utf-8"), hint
