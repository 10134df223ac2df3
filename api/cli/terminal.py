"""Standard output and error for every verb.

For people: `Screen`, a rich console that prints every value verbatim. For machines: `write_json`, `write_line` and `write_text`,
without wrapping, colours or emoji codes such as `:100:`. `take_over` makes both work in any shell: a character that the terminal
cannot show becomes `?`, a reader that closes the pipe (`| head -n 1`) ends the program with 0, a full disk with one line.
"""

from __future__ import annotations

import io
import json
import os
import select
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from ledger.errors import LedgerError


class OutputError(LedgerError):
    """Standard output cannot be written, for example because its disk is full."""

    code = "output"


class Screen(Console):
    """A console that prints text verbatim: no markup, emoji codes, highlighting, wrapping or cropping."""

    def __init__(self, stderr: bool = False, **how: Any) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False, **how)

    def print(self, *objects: Any, soft_wrap: bool | None = None, **how: Any) -> None:
        """As `rich.Console.print`. Tables and panels are fitted to the width of the terminal."""
        if soft_wrap is None:
            soft_wrap = all(isinstance(thing, str | Text) for thing in objects)
        super().print(*objects, soft_wrap=soft_wrap, **how)

    def print_error(self, code: str, message: str) -> None:
        """Print an error as one line, even if the message has several."""
        self.print(Text.assemble(("error", "red"), f" ({code}): {' '.join(message.splitlines())}"))

    def sign(self, wanted: str, plain: str) -> str:
        """`wanted`, or `plain` if the terminal cannot show it."""
        try:
            wanted.encode(self.encoding)
        except UnicodeEncodeError:
            return plain
        return wanted


@dataclass(frozen=True, slots=True)
class Terminal:
    """What a verb writes to: for people, `out` and `err`; for machines, standard output itself if `as_json`."""

    out: Screen
    err: Screen
    as_json: bool


def write_json(value: Any) -> None:
    """Write one indented JSON document to standard output."""
    _write(json.dumps(value, indent=2, ensure_ascii=not _is_utf8()))


def write_line(value: Any) -> None:
    """Write one JSON value as a line."""
    _write(json.dumps(value, ensure_ascii=not _is_utf8()))


def write_text(lines: Iterable[str]) -> None:
    """Write lines verbatim."""
    _write("\n".join(lines))


def _is_utf8() -> bool:
    return (sys.stdout.encoding or "").lower().replace("_", "-") in ("utf-8", "utf8")


def _write(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def has_reader() -> bool:
    """Whether somebody still reads standard output: False once the other end of a pipe is closed.

    For a program that may write nothing for hours, and would otherwise notice only at its next write.
    """
    if not hasattr(select, "poll"):
        return True
    watch = select.poll()
    watch.register(1, 0)  # errors only: these are always reported
    return not any(events & (select.POLLERR | select.POLLNVAL) for _, events in watch.poll(0))


# ---- any shell


def take_over() -> None:
    """Make the standard streams of this process work in any shell. Call it once, before anything is written."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed (`>&-`): a file opened later must not get this number, for libraries write to it
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = _stream(_Output(1, "wb", closefd=False), sys.stdout, "replace")
    sys.stderr = _stream(_Errors(2, "wb", closefd=False), sys.stderr, "backslashreplace")


def _stream(raw: io.FileIO, before: Any, errors: str) -> io.TextIOWrapper:
    encoding = getattr(before, "encoding", None) or "utf-8"
    lines, through = getattr(before, "line_buffering", False), getattr(before, "write_through", False)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=lines, write_through=through)


class _Output(io.FileIO):
    """Standard output. Once a write has failed, everything still buffered is discarded."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            self._close_off()
            raise SystemExit(0) from None  # the reader has what it wanted
        except OSError as exc:
            self._close_off()
            raise OutputError(f"standard output cannot be written: {exc.strerror}") from None

    def _close_off(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


class _Errors(io.FileIO):
    """Standard error. If it cannot be written, output is dropped and the program continues."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)
