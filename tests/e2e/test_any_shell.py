"""The program in any shell: whatever the terminal, the pipe, the disk or the `.env`, one clear line or the right output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from ledger.ports import free_port
from tests.support.up_process import PROGRAM

TIMEOUT_S = 300.0


def run(*arguments: str, folder: Path, stdout: int | None = None, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The program in `folder`, with nothing else listening and no settings of this machine."""
    around = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "TMPDIR")}
    return subprocess.run(
        [PROGRAM, *arguments],
        stdout=subprocess.PIPE if stdout is None else stdout,
        stderr=subprocess.PIPE,
        timeout=TIMEOUT_S,
        cwd=folder,
        env=around | environment,
        check=False,
    )


def one_line(shown: subprocess.CompletedProcess[bytes]) -> str:
    """The only line on standard error of a verb that failed."""
    text = shown.stderr.decode("latin-1")
    assert shown.returncode == 1, text
    assert "Traceback" not in text
    assert len(text.splitlines()) == 1, text
    return text


# ---- .env -----------------------------------------------------------------------------------------------------------


UTF_16 = "LOG_LEVEL=INFO\n".encode("utf-16")


@pytest.mark.parametrize(
    ("content", "verb"),
    [
        *(
            (UTF_16, verb)
            for verb in (("doctor",), ("tail",), ("serve",), ("verify",), ("sandbox",), ("up",), ("schema", "check"))
        ),
        (
            "LOG_LEVEL=INFO\n".encode("utf-16-le"),
            ("schema", "check"),
        ),  # without a byte order mark: UTF-8 with NULs, which sets nothing
        ("LOG_LEVEL=INFO\n".encode("utf-32"), ("schema", "check")),
        ("NOTIFY_FROM=Käthe <k@example.org>\n".encode("latin-1"), ("schema", "check")),
    ],
)
def test_an_env_file_that_is_not_utf_8_is_named(tmp_path: Path, content: bytes, verb: tuple[str, ...]) -> None:
    (tmp_path / ".env").write_bytes(content)
    said = one_line(run(*verb, folder=tmp_path))
    assert str(tmp_path / ".env") in said
    assert "UTF-8" in said


def test_an_env_file_in_utf_8_is_read_with_and_without_a_mark(tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / ".env").write_text("LOG_LEVEL=LOUD\nNOTIFY_FROM=Käthe <k@example.org>\n", encoding)
        assert "LOG_LEVEL" in one_line(run("schema", "check", folder=tmp_path))


# ---- terminals ------------------------------------------------------------------------------------------------------

LATIN = {"PYTHONIOENCODING": "latin-1", "LANG": "de_DE.ISO-8859-1"}
C_ONLY = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


@pytest.mark.parametrize("terminal", [LATIN, C_ONLY, {}], ids=["latin-1", "c", "bare"])
@pytest.mark.parametrize("arguments", [("schema", "check"), ("doctor", "--help")])
def test_a_terminal_that_lacks_a_character_gets_another_one(
    tmp_path: Path, terminal: dict[str, str], arguments: tuple[str, ...]
) -> None:
    shown = run(*arguments, folder=tmp_path, **terminal)
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert shown.stdout


@pytest.mark.parametrize("terminal", [LATIN, C_ONLY, {}], ids=["latin-1", "c", "bare"])
def test_output_for_machines_is_json_on_every_terminal(tmp_path: Path, terminal: dict[str, str]) -> None:
    name = (
        "Kasse 7 :100: [red]" if terminal is C_ONLY else "Kasse № 7 :100: [red]"
    )  # there an argument cannot have other characters
    shown = run("token", "reader", "--name", name, "--json", folder=tmp_path, **terminal)
    assert json.loads(shown.stdout)["entry"]["name"] == name


# ---- pipes and disks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("--help",), ("schema", "check"), ("schema", "check", "--json")])
def test_a_full_device_is_one_line_and_no_success(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        said = one_line(run(*arguments, folder=tmp_path, stdout=full.fileno()))
    assert "No space left" in said


@pytest.mark.parametrize("arguments", [("--help",), ("schema", "check"), ("schema", "check", "--json")])
def test_a_reader_that_closes_the_pipe_ends_the_program_without_an_error(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as `head` does, before the program has written anything
    try:
        shown = run(*arguments, folder=tmp_path, stdout=writing)
    finally:
        os.close(writing)
    assert (shown.returncode, shown.stderr) == (0, b"")


def test_standard_output_may_be_closed(tmp_path: Path) -> None:
    command = f"'{PROGRAM}' schema check >&-"
    shown = subprocess.run(["sh", "-c", command], capture_output=True, cwd=tmp_path, timeout=TIMEOUT_S, check=False)
    assert (shown.returncode, shown.stderr) == (0, b"")


def test_an_error_that_nobody_can_read_keeps_its_code(tmp_path: Path) -> None:
    command = f"LOG_LEVEL=LOUD '{PROGRAM}' schema check 2>/dev/full"
    assert subprocess.run(["sh", "-c", command], cwd=tmp_path, timeout=TIMEOUT_S, check=False).returncode == 1


# ---- input by people ------------------------------------------------------------------------------------------------

NOBODY = {"LEDGER_URL": "http://127.0.0.1:9", "LEDGER_TOKEN": "x", "NO_PROXY": "127.0.0.1"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("history", "[/]"), "does not answer"),
        (("history", "a\nb"), "does not answer"),
        (("history", "ord_x", "--at", "[/]"), "'[/]'"),
        (("history", "ord_x", "--url", "http://[/]"), "/]"),
        (("history", "ord_x", "--token", "ü"), "token"),
        (("diff", "[bold]", "1", "2"), "does not answer"),
        (("import-log", "[x].log", "--check"), "archive"),
    ],
)
def test_any_input_is_shown_as_typed_in_one_line(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    (tmp_path / "[x].log").write_bytes(b"no archive")
    said = one_line(run(*arguments, folder=tmp_path, **NOBODY))
    assert says in said


@pytest.mark.parametrize("arguments", [("[/]",), ("--[/]",), ("token", "[/]"), ("tail", "--[/]"), ("diff", "a", "[/]", "2")])
def test_a_wrong_word_causes_no_stack_trace(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    shown = run(*arguments, folder=tmp_path)
    assert shown.returncode == 2
    assert b"Traceback" not in shown.stderr


# ---- native code ----------------------------------------------------------------------------------------------------


def test_a_crash_in_native_code_shows_where(tmp_path: Path) -> None:
    """As `abort()` in a library would end it; any verb will do."""
    process = subprocess.Popen([PROGRAM, "sandbox", "--port", str(free_port())], stderr=subprocess.PIPE, cwd=tmp_path)
    assert process.stderr is not None
    with process.stderr:
        first = process.stderr.readline()  # it runs
        process.send_signal(signal.SIGABRT)
        shown = (first + process.stderr.read()).decode()
    assert process.wait(TIMEOUT_S) == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in shown
    assert "in run_stand_ins" in shown
