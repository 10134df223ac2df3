"""The documents: complete, true to the tree, and the only ones that anything in the project refers to."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from ledger import events as e

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ledger", "commands", "projections", "api")
README_LINES = 120
# Folders whose README has a map of their contents, and ends in recipes.
MAPPED = (*PACKAGES, "commands/notifier", "tests", "tests/benchmarks", "tests/simulator")
NOT_OURS = {"FULL_TRANSITIVE"}  # a word of schema registries


@cache
def tracked() -> tuple[str, ...]:
    """Paths of all files of the project, from its root."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return tuple(name for name in listed.split("\0") if name and (ROOT / name).is_file())


@cache
def text_of(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def documents() -> list[str]:
    return [name for name in tracked() if name.endswith(".md")]


# ---- nothing refers to a page outside the project -------------------------------------------------------------------

_OUTSIDE = re.compile(
    r"""
      \bDESIGN\b | \bCONTRACT\b | \bHOUSE\.md
    | (?<![\w/])shared/                                          # a folder beside the project
    | (?<![\w%'/.-])(?!(?<=")\w\d{1,2}")(?:A1[0-4]|A[1-9]|O1[0-3]|O[1-9]|C[1-4])(?![\w%'/])  # rows of tables that are not here
    | \b(?:promise|row)\ \d | ,\ rule\ \d
    """,
    re.VERBOSE,
)


def outside(text: str) -> list[str]:
    """Everything in `text` that names a page, or a row of a table, outside the project."""
    return [f"line {text.count(chr(10), 0, match.start()) + 1}: {match[0]}" for match in _OUTSIDE.finditer(text)]


def test_no_file_refers_to_a_page_outside_the_project() -> None:
    own = Path(__file__).relative_to(ROOT).as_posix()
    assert {name: match for name in tracked() if name != own and (match := outside(text_of(name)))} == {}


@pytest.mark.parametrize(
    "text",
    [
        '"""The rules (DESIGN 5)."""',
        "# (CONTRACT C2), and it holds",
        "KEPT_S = 60.0  # CONTRACT A8",
        '"""A7."""',
        "Orders: place, cancel (A1-A3, A6).",
        "owed.add(1)  # O13",
        "the four laws of C1.",
        "never in the ledger (promise 8)",
        "see (Deciding, rule 5)",
        "see ../shared/DESIGN.md",
        "the plan in shared/HOUSE.md",
    ],
)
def test_a_reference_outside_is_seen(text: str) -> None:
    assert outside(text)


@pytest.mark.parametrize(
    "text", ['["C4", "SIM"]', "%C3%A9", "Without this rule 20 of them", "row_hash", "tests/shared_run/", "DESIGNED"]
)
def test_what_only_looks_like_one_is_not(text: str) -> None:
    assert outside(text) == []


# ---- everything that is cited exists --------------------------------------------------------------------------------


def headings(text: str) -> list[str]:
    return re.findall(r"^#{1,6} (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def unwrapped(text: str) -> str:
    """`text` in one line, without the marks of comments."""
    return re.sub(r"\s*\n\s*(?:#(?!#) ?)?", " ", text)


def cited_headings(text: str) -> list[str]:
    """Headings of ARCHITECTURE.md that a comment or docstring cites as `ARCHITECTURE, <heading>`."""
    return re.findall(r"ARCHITECTURE, ([A-Z][^).:;,\"]*)", unwrapped(text))


def test_every_heading_of_the_architecture_that_is_cited_is_there() -> None:
    there = headings(text_of("ARCHITECTURE.md"))
    own = Path(__file__).relative_to(ROOT).as_posix()
    cited = {(name, heading) for name in tracked() if name != own for heading in cited_headings(text_of(name))}
    assert len(cited) > 10
    assert {(name, heading) for name, heading in cited if heading not in there} == set()


def test_a_citation_is_seen_wherever_it_is_wrapped() -> None:
    assert cited_headings('"""Why (ARCHITECTURE, Any doubt\n    ends a producer)."""') == ["Any doubt ends a producer"]
    assert cited_headings("# never waits (ARCHITECTURE,\n# One writer).") == ["One writer"]


def quoted_headings(text: str) -> Iterator[tuple[str, str]]:
    """(document, heading) of `file.md ("Heading", ...)` and `"Heading" in [..](file.md)`."""
    flat = unwrapped(text)
    for file, quoted in re.findall(r'([\w./-]+\.md)[`)]*(?: has the reasons)? \(((?:"[^"]+"(?:, )?)+)\)', flat):
        yield from ((file, heading) for heading in re.findall(r'"([^"]+)"', quoted))
    for heading, file in re.findall(r'"([^"]+)" in \[[^]]*\]\(([^)#]+\.md)\)', flat):
        yield file, heading


@pytest.mark.parametrize("document", documents())
def test_every_heading_that_a_document_quotes_is_there(document: str) -> None:
    for file, heading in quoted_headings(text_of(document)):
        target = resolved(document, file)
        assert target is not None, f"{document}: {file}"
        assert heading in headings(target.read_text("utf-8")), f"{document}: {file} has no heading {heading!r}"


def resolved(document: str, path: str) -> Path | None:
    """The file that a path in a document names, from its folder, from the root, or anywhere below its folder; None if none."""
    folder = (ROOT / document).parent
    for base in (folder, ROOT):
        target = (base / path).resolve()
        if target.exists() and target.is_relative_to(ROOT):
            return target
    below = folder.relative_to(ROOT).as_posix()
    inside = [name for name in tracked() if name.startswith(f"{below}/")]
    fits = (name for name in inside if (f"/{path}" in f"/{name}" if path.endswith("/") else f"/{name}".endswith(f"/{path}")))
    return next((ROOT / name for name in fits), None)


def links(text: str) -> list[str]:
    """Targets of all links in the prose of a document, except links to other hosts."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", prose) if not re.match(r"[a-z]+:", target)]


@pytest.mark.parametrize("document", documents())
def test_every_relative_link_leads_somewhere(document: str) -> None:
    for link in links(text_of(document)):
        path, _, fragment = link.partition("#")
        target = ((ROOT / document).parent / path).resolve() if path else ROOT / document
        assert target.exists(), f"{document}: {link}"
        assert target.is_relative_to(ROOT), f"{document}: {link}"
        if fragment:
            assert fragment in map(anchor, headings(target.read_text("utf-8"))), f"{document}: {link}"


_SUFFIXES = ("py", "md", "toml", "avsc", "java", "proto", "yml", "yaml", "properties", "lock.json", "email.txt")
_PATH = re.compile(rf"(?:[\w.-]+/)*(?:[\w-][\w.-]*\.(?:{'|'.join(map(re.escape, _SUFFIXES))})|[\w-]+/)|\.ci/run|\.env\.example")
_AT_RUN_TIME = ("STATE_DIR/", ".ledger/")


def paths(text: str) -> list[str]:
    """Files and folders that a document names: in backticks, or in the commands of a block."""
    blocks = re.findall(r"^```(?:sh)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```|\[[^\]]*\]\([^)]*\)", "", text, flags=re.MULTILINE | re.DOTALL)
    words = re.findall(r"`([^`\n]+)`", prose)
    words += [word for block in blocks for line in block.splitlines() if "uv run " in line for word in line.split()]
    words += [part for word in words if " " in word for part in word.split()]
    return [word for word in words if _PATH.fullmatch(word) and not word.startswith(_AT_RUN_TIME)]


@pytest.mark.parametrize("document", documents())
def test_every_file_that_a_document_names_is_there(document: str) -> None:
    assert [path for path in paths(text_of(document)) if resolved(document, path) is None] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see `decide.py` and `reconciler/`", ["decide.py", "reconciler/"]),
        ("`uv run pytest tests/unit/test_x.py -n0`", ["tests/unit/test_x.py"]),
        ("```sh\nuv run pytest tests/unit/test_x.py -n0   # why\n```", ["tests/unit/test_x.py"]),
        ("```python\nopen('x.py')\n```", []),
        ("`GET /orders/`, `heads.json`, `STATE_DIR/projections/`, `order-events-value.v<N>.avsc`", []),
        ("`avro/kafka.lock.json` `.ci/run`", ["avro/kafka.lock.json", ".ci/run"]),
    ],
)
def test_which_words_are_taken_for_files(text: str, expected: list[str]) -> None:
    assert paths(text) == expected


# ---- what a README must have ----------------------------------------------------------------------------------------


def in_folder(folder: str) -> set[str]:
    """The names that a map of a folder must have: its tracked modules and folders."""
    names = {name.removeprefix(f"{folder}/") for name in tracked() if name.startswith(f"{folder}/")}
    modules = {name for name in names if "/" not in name and name.endswith(".py") and not name.startswith("__")}
    return modules | {f"{name.split('/')[0]}/" for name in names if "/" in name}


@pytest.mark.parametrize("folder", MAPPED)
def test_the_map_of_a_folder_names_everything_in_it(folder: str) -> None:
    text = text_of(f"{folder}/README.md")
    listed = {word for part in re.findall(r"`([^`\n]+)`", text) for word in part.split()}
    shared = {"conftest.py"}  # the name is pytest's, and says what it is
    assert in_folder(folder) - listed - shared == set()


def recipes(text: str) -> dict[str, str]:
    """Text of each `When you ...` section, by heading."""
    parts = re.split(r"^## (When you .+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], (part.split("\n## ")[0] for part in parts[2::2]), strict=True))


@pytest.mark.parametrize("folder", [*MAPPED, "avro"])
def test_a_readme_ends_in_a_recipe_with_files_in_their_order(folder: str) -> None:
    document = f"{folder}/README.md"
    text = text_of(document)
    sections = recipes(text)
    assert sections
    assert headings(text)[-1] in sections
    first = next(iter(sections.values()))
    assert [int(number) for number in re.findall(r"^(\d+)\. ", first, re.MULTILINE)][:3] == [1, 2, 3]
    assert len(paths(first)) >= 3


@pytest.mark.parametrize("folder", [*MAPPED, "avro"])
def test_every_name_of_the_code_in_a_recipe_is_one(folder: str) -> None:
    text = "".join(recipes(text_of(f"{folder}/README.md")).values())
    names = set(re.findall(r"`(_?[A-Z][A-Z_]{3,}|_[a-z_]+)`", text)) - NOT_OURS
    code = "\n".join(text_of(name) for name in tracked() if name.endswith(".py"))
    assert {name for name in names if not re.search(rf"^ *(?:async )?(?:def |class )?{name}\b", code, re.MULTILINE)} == set()


def test_every_recipe_that_the_packages_promise_is_there() -> None:
    there = {heading for folder in (*MAPPED, "avro") for heading in recipes(text_of(f"{folder}/README.md"))}
    added = ("an event", "a command", "an obligation", "a door", "a read model", "a route", "a test", "a benchmark")
    added += ("a message", "a language")
    assert {f"When you add {thing}" for thing in added} <= there


def test_a_busy_engineer_is_done_with_the_readme_in_two_minutes() -> None:
    lines = text_of("README.md").splitlines()
    assert len(lines) <= README_LINES
    first = "\n".join(lines[:25])
    assert "uv run order-ledger demo" in first
    assert "uv run pytest " in first
    assert text_of("README.md").count("```mermaid\nsequenceDiagram") == 1


def demo_steps() -> set[str]:
    """Names of all steps of the demo, as its code has them."""
    names = set()
    for module in ("api/cli/demo/steps.py", "api/cli/demo/run.py"):
        for node in ast.walk(ast.parse(text_of(module))):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if called in ("_step", "Step"):
                    names.add(node.args[0].value)
    return names


def test_the_readme_shows_every_step_of_the_demo() -> None:
    shown = re.search(r"<!-- demo output -->\n```\n(.*?)```\n<!-- end demo output -->", text_of("README.md"), re.DOTALL)
    assert shown is not None
    assert len(demo_steps()) > 10
    assert {step for step in demo_steps() if step not in shown[1]} == set()


def test_the_catalogue_has_every_type_of_event_with_its_detail_and_every_field() -> None:
    catalogue = text_of("avro/README.md").partition("## Event catalogue")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in catalogue.splitlines() if line.startswith("| ")][1:]
    assert [row[0] for row in rows] == list(e.EVENT_TYPES)
    detail = ""
    for row in rows:
        named = re.match(r"`(\w+)`:", row[1])
        detail = named[1] if named else detail
        assert detail == e.DETAIL_OF[row[0]], row[0]
    details = (e.Placed, e.Cancel, e.Payment, e.Refund, e.Dispute, e.Stock, e.Shipment, e.Attention)
    fields = {name for kind in details for name in kind.__struct_fields__}
    fields |= set(e.OrderEvent.__struct_fields__)
    assert {field for field in fields if f"`{field}`" not in catalogue} == set()


def test_the_architecture_counts_the_details_of_an_event() -> None:
    assert len(set(e.DETAIL_OF.values())) == 12
    assert "twelve nullable details" in unwrapped(text_of("ARCHITECTURE.md"))


# ---- contributing ---------------------------------------------------------------------------------------------------


def rows_below(heading: str) -> list[list[str]]:
    """Rows of the table below a heading of CONTRIBUTING.md."""
    section = text_of("CONTRIBUTING.md").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_each_question_of_a_stranger_is_answered_by_a_file_that_has_the_name() -> None:
    rows = rows_below("Where things are")
    assert len(rows) >= 12
    for question, file, name in rows:
        assert question.endswith("?")
        text = text_of(file.strip("`"))
        assert re.search(rf"\b(?:def|class) {name.strip('`')}\b|^{name.strip('`')}\b.* = ", text, re.MULTILINE) or not name, (
            question
        )


def test_every_command_for_contributors_is_one() -> None:
    commands = [command for row in rows_below("Commands") for command in re.findall(r"`([^`]+)`", row[1])]
    assert len(commands) >= 14
    modules = {command.split()[4] for command in commands if command.startswith("uv run python -m ")}
    assert modules >= {"tests.soak", "tests.benchmarks", "tests.readme", "grpc_tools.protoc", "ledger.broker.jars"}
    for module in modules - {"grpc_tools.protoc"}:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    parts = [re.sub(r"--with \S+ ", "", part) for command in commands for part in command.split(" && ")]
    programs = {part.split()[2] for part in parts if part.startswith("uv run ")}
    missing = [name for name in programs if not (Path(sys.executable).parent / name).exists()]
    assert missing == []


def test_the_changelog_begins_with_what_is_not_released_and_has_the_version_of_the_project() -> None:
    text = text_of("CHANGELOG.md")
    versions = re.findall(r"^## \[([^]]+)\]", text, re.MULTILINE)
    declared = re.search(r'^version = "([^"]+)"$', text_of("pyproject.toml"), re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert declared is not None
    assert versions[1] == declared[1]
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= kinds


def test_no_word_is_misspelt() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "codespell_lib", *tracked()], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout
