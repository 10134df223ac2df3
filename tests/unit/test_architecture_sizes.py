"""No file and no function is longer than a reader can take in."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.support.sources import ROOT, Module, module, modules

FILE_LINES, FUNCTION_LINES = 400, 60
# Longer on purpose, and why.
LONG: dict[str, str] = {}


def everything() -> Iterator[tuple[Module, str]]:
    """All modules of the product and of its tests, with their text."""
    for m in modules():
        yield m, (ROOT / m.path).read_text("utf-8")
    for file in sorted((ROOT / "tests").rglob("*.py")):
        path, text = file.relative_to(ROOT).as_posix(), file.read_text("utf-8")
        yield module(path, text), text


def too_long(m: Module, text: str) -> list[str]:
    """The file, if it is too long, and each of its functions that is, as `file function`."""
    too_long_ones = [m.path] if len(text.splitlines()) > FILE_LINES else []
    for node in ast.walk(m.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            if node.end_lineno - node.lineno >= FUNCTION_LINES:
                too_long_ones.append(f"{m.path} {node.name}")
    return too_long_ones


def test_no_file_and_no_function_is_too_long() -> None:
    too_long_ones = [one for m, text in everything() for one in too_long(m, text)]
    assert sorted(too_long_ones) == sorted(LONG)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\n" * 400, []),
        ("x = 1\n" * 401, ["api/app.py"]),
        ("def f():\n" + "    x = 1\n" * 59, []),
        ("def f():\n" + "    x = 1\n" * 60, ["api/app.py f"]),
        ("class A:\n    async def f(self):\n" + "        x = 1\n" * 60, ["api/app.py f"]),
    ],
)
def test_a_file_or_function_that_is_too_long_is_seen(text: str, expected: list[str]) -> None:
    assert too_long(module("api/app.py", text), text) == expected
