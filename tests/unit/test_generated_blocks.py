"""The generated blocks of the documents agree with the code, and the command that makes them names what is wrong."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from api.settings import Settings
from commands.obligations import TABLE, Kind
from ledger.kafka.settings import KafkaSettings
from ledger.kept_for_ever import ELSEWHERE, TEXTS
from tests.readme import generated_blocks, obligations_table, privacy_table, settings_table
from tests.readme.__main__ import DOCUMENTS, ROOT, main
from tests.readme.generated_blocks import END, WrongBlocks, begin, in_place

BLOCKS = [(document, name) for document, blocks in DOCUMENTS.items() for name in blocks]
each_block = pytest.mark.parametrize(("document", "name"), BLOCKS)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with a copy of the documents."""
    for document in DOCUMENTS:
        (tmp_path / document).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / document, tmp_path / document)
    return tmp_path


def test_every_block_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, f"run `uv run python -m tests.readme` and commit the change\n{capsys.readouterr().out}"


def test_each_block_is_in_one_place_only() -> None:
    names = [name for _, name in BLOCKS]
    assert len(set(names)) == len(names)
    tracked = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert set(DOCUMENTS) <= set(tracked)
    for document in tracked:
        assert generated_blocks.names((ROOT / document).read_text("utf-8")) == list(DOCUMENTS.get(document, {})), document


@each_block
def test_a_stale_block_is_found_and_brought_up_to_date(
    document: str, name: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, good = copy / document, (ROOT / document).read_text("utf-8")
    content = DOCUMENTS[document][name]()
    for wrong in ("", content[:-1], f"{content}\n", content.replace("|", "!", 1)):
        stale = good.replace(in_place(name, content), in_place(name, wrong))
        assert stale != good
        path.write_text(stale, "utf-8")
        assert main(["--check"], copy) == 1
        assert f"{document}: stale: {name}\n" in capsys.readouterr().out
        assert path.read_text("utf-8") == stale
        assert main([], copy) == 0
        assert f"{document}: rewritten: {name}\n" in capsys.readouterr().out
        assert path.read_text("utf-8") == good


@each_block
def test_a_missing_block_marker_is_an_error_that_names_it(
    document: str, name: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, good = copy / document, (ROOT / document).read_text("utf-8")
    without = good.replace(in_place(name, DOCUMENTS[document][name]()), "")
    path.write_text(without, "utf-8")
    for arguments in (["--check"], []):
        assert main(arguments, copy) == 1
        assert f"{document}: no block '{name}': put `{begin(name).strip()}`" in capsys.readouterr().out
        assert path.read_text("utf-8") == without


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no block 'a'"),
        (f"{begin('b')}x\n{END}", "unknown block 'b': known here are a"),
        (f"{in_place('a', 'x')}\n{in_place('b', 'x')}", "unknown block 'b'"),
        (f"{in_place('a', 'x')}\n{in_place('a', 'x')}", "'a' is there 2 times"),
        (begin("a"), "'a' does not end"),
        (f"{begin('a')}x\n{in_place('b', 'x')}", "unknown block 'b'"),
        (f"{begin('a').strip()} x\n{END}", "no block 'a'"),
    ],
)
def test_wrong_markers_are_named(text: str, says: str) -> None:
    for function in (generated_blocks.rewritten, generated_blocks.stale):
        with pytest.raises(WrongBlocks, match=says):
            function(text, {"a": lambda: "x"})


def test_only_the_text_between_the_markers_changes() -> None:
    text = f"one\n{in_place('a', 'old')}\ntwo\n{in_place('b', 'old')}\nthree\n"
    blocks = {"a": lambda: "new", "b": lambda: "old"}
    assert generated_blocks.stale(text, blocks) == ["a"]
    after = generated_blocks.rewritten(text, blocks)
    assert after == f"one\n{in_place('a', 'new')}\ntwo\n{in_place('b', 'old')}\nthree\n"
    assert generated_blocks.stale(after, blocks) == []


def test_the_command_says_what_it_did_and_refuses_what_it_does_not_know() -> None:
    def run(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "tests.readme", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.stderr == ""
        return done.returncode, done.stdout

    assert run("--check") == (0, "".join(f"{document}: up to date\n" for document in DOCUMENTS))
    assert run("README.md") == (2, "usage: python -m tests.readme [--check]\n")


# ---- what is in them ------------------------------------------------------------------------------------------------


def first_cells(table: str) -> list[str]:
    return [line.split("|")[1].strip() for line in table.splitlines()[2:]]


def test_every_obligation_has_its_line_in_its_order() -> None:
    assert {row.kind for row in TABLE} == set(Kind)
    assert len(TABLE) == len(Kind) + 1  # a person is called for two reasons
    assert first_cells(obligations_table.table()) == [row.when for row in TABLE]


def test_every_setting_has_its_line() -> None:
    names = [f"KAFKA_{name}" for name in KafkaSettings.model_fields] + list(Settings.model_fields)
    assert first_cells(settings_table.table()) == [f"`{name.upper()}`" for name in names]


def test_every_text_that_no_erasure_reaches_has_its_line() -> None:
    fields, places = privacy_table.table().split("\n\n")
    assert first_cells(fields) == [f"`{text.field}`" for text in TEXTS]
    assert first_cells(places) == [where for where, _ in ELSEWHERE]
