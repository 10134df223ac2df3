"""Words that no name contains, because each has meant a flag, a path, a message and a summary.

Only names that the packages and the tests define count; those of libraries are theirs. Names of tests are sentences, which may
have such words.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ledger", "commands", "projections", "api")
WORDS = frozenset(
    ["told", "tell", "tells", "what", "found", "given", "made", "way", "anew", "rest", "rests", "look", "looks", "looked"]
)
_PARTS = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")

# Pattern of a path and a name -> why it may contain one of them.
ALLOWED = {
    r"(?i).*:\w*not_?found": "the usual word for a missing thing",
    r"(?i).*:\w*look_?ups": "the usual word for reading by a key",
    r"(?i)commands/obligations.py:_?look_at_(payment|refund|dispute)": "a kind of obligation, which status and metrics show",
    r"ledger/walk.py:told": "a member of the JSON of `verify`: attention was raised",
    r"(ledger/archive|projections/verify|api/cli/verify).py:made_at": "a member of the files of heads and of archives",
    r"(?i)commands/notifier/loop.py:given_up": "a count: messages that were given up",
    r"(api/connections|tests/benchmarks/generator).py:connection_made": "a method of asyncio's protocols",
    r"tests/support/story.py:given": "the first of the words given, when, then",
    r"tests/.*:test_\w+": "a sentence",
}


def defined(source: str) -> Iterator[tuple[int, str]]:
    """(line, name) of every variable, parameter, attribute, function, class and alias that the source defines."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.arg(arg=name):
                yield node.lineno, name
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.ExceptHandler(name=str(name)):
                yield node.lineno, name
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                yield from ((node.lineno, alias.asname) for alias in names if alias.asname is not None)


def vague(source: str) -> list[tuple[int, str]]:
    """(line, name) of every defined name that contains one of the words."""
    return [(line, name) for line, name in defined(source) if WORDS & {part.lower() for part in _PARTS.findall(name)}]


def test_names_say_what_they_hold() -> None:
    paths = sorted(path for folder in (*PACKAGES, "tests") for path in (ROOT / folder).rglob("*.py"))
    assert len(paths) > 450
    faults, used = [], set()
    for path in paths:
        place = path.relative_to(ROOT).as_posix()
        for line, name in vague(path.read_text("utf-8")):
            allowed = {pattern for pattern in ALLOWED if re.fullmatch(pattern, f"{place}:{name}")}
            used |= allowed
            faults += [] if allowed else [f"{place}:{line}: {name}"]
    assert faults == [], "\n".join(faults)
    assert used == set(ALLOWED)  # what no longer exists is not allowed either


@pytest.mark.parametrize(
    "source",
    [
        "told = 1",
        "self._told_at = 1",
        "for found in rows: pass",
        "first, *rest = names",
        "def f(what): pass",
        "def begin_anew(): pass",
        "async def tell_nobody(): pass",
        "class SharedLooks: pass",
        "lambda given: 1",
        "import a as found",
        "match x:\n    case [found]: pass",
        "try:\n    pass\nexcept E as found:\n    pass",
        "[made for made in rows]",
        "LOOK_S = 1",
    ],
)
def test_a_vague_name_is_seen(source: str) -> None:
    assert len(vague(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "offset = file.tell()",
        "raise FileNotFoundError",
        "always, outlook, restore = 1, 2, 3",
        "print(case.told, rest)",
    ],
)
def test_other_names_are_free(source: str) -> None:
    assert vague(source) == []
