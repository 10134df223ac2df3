"""Standard output and error, as every verb writes to them.

For people there is `Screen`: rich's console, which shows a value as it is, whatever is in it. For machines there are `write_json`
and `write_lines`: no wrapping, no colours, no signs made of `:100:`. `take_over` makes both hold in any shell: a terminal that
lacks a sign gets `?` for it, a reader that has seen enough (`| head -n 1`) ends the program with 0, a full device with one line.
"""

from __future__ import annotations

import io
import json
import os
import select
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.text import Text

from ledger.errors import LedgerError


class OutputError(LedgerError):
    """Standard output takes nothing any more, for instance because its disk is full."""

    code = "output"


class Screen(Console):
    """Texts are printed as they are: no markup, no emoji codes, no highlighting, and no line is wrapped or cut."""

    def __init__(self, stderr: bool = False, **how: Any) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False, **how)

    def print(self, *objects: Any, soft_wrap: bool | None = None, **how: Any) -> None:
        """As rich's. Tables and panels keep to the width of the terminal."""
        if soft_wrap is None:
            soft_wrap = all(isinstance(thing, str | Text) for thing in objects)
        super().print(*objects, soft_wrap=soft_wrap, **how)

    def print_error(self, code: str, message: str) -> None:
        """One line, whatever is in the message."""
        self.print(Text.assemble(("error", "red"), f" ({code}): {' '.join(message.splitlines())}"))

    def sign(self, wanted: str, plain: str) -> str:
        """`wanted`, or `plain` where the terminal has no such sign."""
        try:
            wanted.encode(self.encoding)
        except UnicodeEncodeError:
            return plain
        return wanted


def write_json(value: Any) -> None:
    """One JSON document on standard output, indented."""
    _write(json.dumps(value, indent=2, ensure_ascii=not _is_utf8()))


def write_line(value: Any) -> None:
    """One JSON value as a line of its own."""
    _write(json.dumps(value, ensure_ascii=not _is_utf8()))


def write_text(lines: Iterable[str]) -> None:
    """Lines exactly as they are, for a program as well as for a person."""
    _write("\n".join(lines))


def _is_utf8() -> bool:
    return (sys.stdout.encoding or "").lower().replace("_", "-") in ("utf-8", "utf8")


def _write(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def has_reader() -> bool:
    """Whether anybody still reads standard output: False once the other end of a pipe is closed.

    For a program that may have nothing to write for hours, and would notice only then.
    """
    if not hasattr(select, "poll"):
        return True
    watch = select.poll()
    watch.register(1, 0)  # errors alone: they are always told
    return not any(events & (select.POLLERR | select.POLLNVAL) for _, events in watch.poll(0))


# ---- any shell


def take_over() -> None:
    """Make the standard streams of this process hold in any shell. To be called once, before anything is written."""
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
    """Standard output. After it failed, what is still buffered goes nowhere."""

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
    """Standard error. Where it cannot be written there is nobody to tell so, and the work goes on."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)
