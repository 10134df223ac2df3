"""The README's table of obligations is the one the code has."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands.obligations import TABLE, Kind
from tests.readme import obligations_table

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_readme_shows_what_the_code_says() -> None:
    text = README.read_text("utf-8")
    hint = "run `uv run python -m tests.readme.obligations_table README.md` and commit the change"
    assert obligations_table.rewritten(text) == text, hint


def test_each_row_has_its_line_in_its_order() -> None:
    assert {row.kind for row in TABLE} == set(Kind)
    assert len(TABLE) == len(Kind) + 1  # a person is called for two reasons
    _, _, *lines = obligations_table.table().splitlines()
    assert [line.split("|")[1].strip() for line in lines] == [row.when for row in TABLE]


def test_the_command_rewrites_its_own_block_only(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text("a\n<!-- generated: obligations -->\nold\n<!-- end generated -->\nb\n", "utf-8")
    assert obligations_table.main([str(file)]) == 0
    begin, end = obligations_table.BEGIN, obligations_table.END
    assert file.read_text("utf-8") == f"a\n{begin}{obligations_table.table()}\n{end}\nb\n"
    with pytest.raises(ValueError, match="no place"):
        obligations_table.rewritten("no marks")
