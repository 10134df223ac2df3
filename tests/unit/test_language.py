"""Words that the program, its tests and its documents do not use, each with a better one: for all texts that a person reads.

Those are docstrings, comments and string literals of the packages and the tests, the names of tests, which are sentences, the
messages to customers, and the documents. Names in backticks are left out.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ledger", "commands", "projections", "api")
TEMPLATES = "commands/notifier/templates/"
CONSOLE = "api/console/"
# Files whose subject is the words themselves.
EXCEPT = {"tests/unit/test_language.py", "tests/unit/test_identifiers.py"}

# Pattern -> what to say instead.
INSTEAD = {
    r"anew": "again, from scratch",
    r"of ours": "of the ledger, its own; or nothing",
    r"told": "reported, logged, known; says, shows",
    r"at once": "immediately; atomically, together",
    r"as far as": "up to; if",
    r"so far": "yet, already, previous",
    r"(?:go|goes|went|going|gone) on(?! the)": "continue, resume",
    r"stands?(?!-| in| for| still)": "is; is stuck",
    r"(?:is|are|was|were|be|while) away": "unreachable",
    r"(?:a|the|one|no|first|next|last) look(?! like| up|-)": "a check, a read",
    r"a rest|rests": "a leftover; idle",
    r"that is none|which is none": "invalid, not a ...",
    r"but for": "except",
    r"beg[aiu]ns? again": "start over, restart",
    r"dealt with": "processed, handled",
    r"hea(?:r|rs|rd) of": "receive, know, answer",
    r"follows? upon": "follow",
    r"whose it is": "its owner",
    r"NOT well": "FAILED",
    r"held against|holds? \w+ against": "checked against, compared with",
    r"c[ao]mes? of": "result, outcome",
    r"(?:nobody|anybody) thought of": "unexpected",
    r"at work": "running, working",
    r"in whatever way": "however",
    r"all the same": "still, anyway",
    r"looked (?:at|through)": "checked, read, searched",
    r"(?:is|are|was|were) said so": "reported",
    r"for it is|for they are": "because",
}
_BANNED = {re.compile(rf"(?<![\w-])(?:{pattern})(?!\w)", re.IGNORECASE): better for pattern, better in INSTEAD.items()}
_ANY = re.compile("|".join(pattern.pattern for pattern in _BANNED), re.IGNORECASE)
_NAMES = re.compile(r"`[^`\n]*`")


def tracked(*paths: str) -> list[str]:
    """Files of the project, as paths from its root."""
    listed = subprocess.run(["git", "ls-files", "-z", *paths], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def lines_of_python(source: str) -> Iterator[tuple[int, str]]:
    """(number, text) of every line of a docstring, a string or a comment, and of the name of every test, as a sentence."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for index, line in enumerate(node.value.split("\n")):
                yield node.lineno + index, line
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node.lineno, node.name.replace("_", " ")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def lines_of(name: str, text: str) -> Iterator[tuple[int, str]]:
    """(number, text) of every line of a file that a person reads."""
    return lines_of_python(text) if name.endswith(".py") else iter(enumerate(text.split("\n"), 1))


def banned(line: str) -> list[str]:
    """What is wrong with a line, with better words."""
    line = _NAMES.sub("``", line)
    if _ANY.search(line) is None:
        return []
    return [f"{match[0]!r}: say {better}" for pattern, better in _BANNED.items() for match in pattern.finditer(line)]


def texts() -> list[str]:
    """Paths of all files with texts that a person reads."""
    kinds, folders = (".py", ".java"), (TEMPLATES, CONSOLE)
    sources = [name for name in tracked(*PACKAGES, "tests") if name.endswith(kinds) or name.startswith(folders)]
    return [name for name in (*sources, *tracked("*.md", ".env.example")) if name not in EXCEPT]


def test_texts_use_the_better_word() -> None:
    names = texts()
    assert len(names) > 450
    assert set(names) >= {"tests/conftest.py", "tests/unit/test_desk.py", "tests/support/harness.py", "tests/benchmarks/rows.py"}
    faults = [
        f"{name}:{number}: {fault}"
        for name in names
        for number, line in lines_of(name, (ROOT / name).read_text("utf-8"))
        for fault in banned(line)
    ]
    assert faults == [], "\n".join(faults)


@pytest.mark.parametrize(
    "line",
    [
        "Make the read models anew from the log.",
        "an error of ours",
        "Whoever waits is told.",
        "replaced at once",
        "folded as far as the end",
        "The next run goes on.",
        "where the fold stands",
        "Kafka is away",
        "more than a look at the provider",
        "everything but for the notifier",
        "7 commands are not dealt with",
        "NOT well",
        "Every answer is held against the document.",
        "what comes of a command",
        "a fault that nobody thought of",
        "while a rebuild is at work",
        "The order is recorded all the same.",
        "the keys that were looked through",
        "An address that is invalid is said so.",
        "the same result, for it is the same fold",
        "test what was begun from another log is not gone on with",
    ],
)
def test_a_banned_word_is_seen(line: str) -> None:
    (fault,) = banned(line)
    assert ": say " in fault


@pytest.mark.parametrize(
    "line",
    [
        "The sandbox stands in for Stripe.",
        "a clock that stands still",
        "test the next look up works",
        "stand-ins for payments and stock",
        "Without `told`, events are not returned.",
        "An order looks like none.",
        "a look-up in RocksDB",
        "two looks in a row",
        "Copy it onto the disk.",
        "at least once",
        "the rest of the world",
    ],
)
def test_other_words_are_free(line: str) -> None:
    assert banned(line) == []


def test_strings_docstrings_comments_and_names_of_tests_are_read_and_code_is_not() -> None:
    source = '"""One."""\n\ntold = f"two {told}"  # three\n\n\ndef anew():\n    """Four\n    five."""\n\n\ndef test_six(): ...\n'
    assert [line.strip(" #") for _, line in sorted(lines_of_python(source))] == [
        "One.",
        "three",
        "two",
        "Four",
        "five.",
        "test six",
    ]
