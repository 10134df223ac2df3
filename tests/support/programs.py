"""Programs of other versions of the product, to run as processes beside this one: the last release, and one that might be next.

Both are wheels, built once with `uv build` and kept in the user's cache.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from filelock import FileLock

from ledger.broker.jars import cache_root
from ledger.schemas.versions import EVENTS
from tests.support import later_schemas

ROOT = Path(__file__).parents[2]
# The release that this program must run beside: a tag, or, until there is one, the commit with the formats of 0.2.0.
RELEASE = "33ef26ae870af6e1b339fdbbbddc24a893cd7cf6"
BUILD_S, INSTALL_S = 300.0, 900.0
LATER_VERSION = "99.0.0"


@dataclass(frozen=True, slots=True)
class Program:
    """How to start a program: its interpreter with options, and what it adds to the environment."""

    name: str
    interpreter: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


THIS = Program("this", (sys.executable,))


def _run(command: list[str], cwd: Path, timeout_s: float) -> bytes:
    done = subprocess.run(command, cwd=cwd, capture_output=True, timeout=timeout_s, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.decode('utf-8', 'replace')[-4000:]}")
    return done.stdout


def _uv() -> str:
    path = shutil.which("uv")
    if path is None:
        raise RuntimeError("uv is not on PATH")
    return path


def _wheel(source: Path, out: Path) -> Path:
    _run([_uv(), "build", "--wheel", "--out-dir", str(out)], source, BUILD_S)
    (wheel,) = out.glob("*.whl")
    return wheel


def has_release() -> bool:
    """Whether the history here has the release; a shallow clone has not."""
    asked = ["git", "cat-file", "-e", f"{RELEASE}^{{commit}}"]
    return subprocess.run(asked, cwd=ROOT, capture_output=True, check=False).returncode == 0


@cache
def released() -> Program:
    """The last release with its own dependencies, in an environment of its own. Raises `RuntimeError` saying what failed."""
    home = cache_root() / f"release-{RELEASE[:16]}"
    home.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(home.with_name(f"{home.name}.lock")):
        if not (home / "complete").is_file():
            shutil.rmtree(home, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix="release-") as scratch:
                source = Path(scratch) / "source"
                tree = io.BytesIO(_run(["git", "archive", "--format=tar", RELEASE], ROOT, BUILD_S))
                with tarfile.open(fileobj=tree) as archive:
                    archive.extractall(source, filter="data")
                wheel = _wheel(source, Path(scratch) / "dist")
                python = str(home / "bin" / "python")
                _run([_uv(), "venv", "--quiet", "--python", sys.executable, str(home)], ROOT, INSTALL_S)
                _run([_uv(), "pip", "install", "--quiet", "--python", python, str(wheel)], Path(scratch), INSTALL_S)
            (home / "complete").write_text(RELEASE)
    return Program("released", (str(home / "bin" / "python"), "-P"))


@cache
def later() -> Program:
    """A program that might come after this one: of level 2, with version 2 of the event schema and an event type more.

    It is this tree with what the recipe of ledger/README.md changes. At level 2 it writes each event with the new field.
    """
    with tempfile.TemporaryDirectory(prefix="later-") as scratch:
        source = Path(scratch) / "source"
        for name in ("ledger", "projections", "commands", "api"):
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, source / name)
        later_schemas.folder_with_them(source / "avro", versions=2)
        for path, changes in CHANGES.items():
            text = (source / path).read_text("utf-8")
            for old, new in changes:
                if text.count(old) != 1:
                    raise RuntimeError(f"{path} has {text.count(old)} places for the later program's {new!r}")
                text = text.replace(old, new)
            (source / path).write_text(text, "utf-8")
        content = hashlib.sha256()
        for file in sorted(path for path in source.rglob("*") if path.is_file()):
            content.update(file.relative_to(source).as_posix().encode() + b"\0" + file.read_bytes())
        home = cache_root() / f"later-{content.hexdigest()[:16]}"
        home.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(home.with_name("later.lock")):
            if not home.is_dir():
                for older in home.parent.glob("later-*"):  # of earlier trees; not of one whose tests run beside these
                    if older.stat().st_mtime < time.time() - 86_400:
                        shutil.rmtree(older, ignore_errors=True)
                unpacked = Path(scratch) / "unpacked"
                zipfile.ZipFile(_wheel(source, Path(scratch) / "dist")).extractall(unpacked)
                shutil.move(unpacked, home)
    return Program("later", (sys.executable, "-P"), {"PYTHONPATH": str(home)})


_FIELDS = """    metadata: MetadataChange | None = None
    sales_channel: Word | None = None
    gift: Gift | None = None

    @property"""
_SEALED = """        event = replace(event, sales_channel="kiosk" if level_in_use() > 1 else None)
        value = self._events.encode(event)
"""
_GIFT = """class Gift(Struct, frozen=True):
    wrapped: bool


class Attention(Struct"""
_LEVEL = f'{{2: Additions(frozenset({{("{EVENTS}", 2)}}), frozenset({{"GiftWrapped"}}))}}'

# What the author of that program would change, as (old, new) in each file.
CHANGES: dict[str, list[tuple[str, str]]] = {
    "pyproject.toml": [('\nversion = "', f'\nversion = "{LATER_VERSION}"  # "')],
    "ledger/levels.py": [("NEW_IN: Mapping[int, Additions] = {}", f"NEW_IN: Mapping[int, Additions] = {_LEVEL}")],
    "ledger/events.py": [
        ('    number: Word = ""\n', '    number: Word = ""\n    campaign: Word | None = None\n'),
        ("class Attention(Struct", _GIFT),
        ("    metadata: MetadataChange | None = None\n\n    @property", _FIELDS),
        ('    METADATA_CHANGED: "metadata",\n', '    METADATA_CHANGED: "metadata",\n    "GiftWrapped": "gift",\n'),
    ],
    "commands/processor/desk.py": [
        ("        value = self._events.encode(event)\n", _SEALED),
        (
            "from ledger.store import Store\n",
            "from ledger.schemas.of_the_ledger import level_in_use\nfrom ledger.store import Store\n",
        ),
    ],
}
