"""The directories of a node's databases: one per generation, and a pointer to the current one.

    <root>/current.json          {"current": "g000002", "kept": "g000001" or null}: replaced atomically
    <root>/g000002/              databases of one generation (`projections.databases`), and when they were current
    <root>/g000003.building/     an unfinished rebuild; an interrupted one is resumed here
    <root>/serving.json          the generation that the running `serve` reads
    <root>/folding.json          progress of a first start that folds a long log (`projections.opening`)
    <root>/requests/             requests of `rebuild` and `verify` to the running `serve`, and its answers
    <root>/rebuild.lock          one rebuild at a time

Anything that is neither current nor kept nor being built is a leftover and is deleted, unless a process has it open.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import structlog

from ledger.contact_rows import CONTACTS_STORE
from ledger.errors import LedgerError, StoreError
from ledger.files import write_json

log = structlog.get_logger(__name__)

_NAME = re.compile(r"^g([0-9]{6})$")
_BUILDING = ".building"


class NoSuchGeneration(LedgerError):
    """There is no generation with that name, or none is kept."""

    code = "no_such_generation"


class Generations:
    """The generations in `root`. Keeps nothing open; every call reads the disk."""

    def __init__(self, root: Path, remove_store: Callable[[Path], None]) -> None:
        """`remove_store` deletes one database or raises `StoreError` while it is open."""
        self.root = root
        self._remove_store = remove_store

    def folder(self, name: str) -> Path:
        return self.root / name

    def current(self) -> str | None:
        """The current generation; None before the first one."""
        pointer = self._pointer()
        return pointer["current"] if pointer else None

    def kept(self) -> str | None:
        """The generation kept by `rebuild --keep-old`."""
        pointer = self._pointer()
        return pointer["kept"] if pointer else None

    def _pointer(self) -> dict[str, str | None] | None:
        pointer: dict[str, str | None] | None = read_json(self.root / "current.json")
        return pointer

    def point(self, name: str, kept: str | None) -> None:
        """Make `name` the current generation. Raises `NoSuchGeneration`."""
        if not self.folder(name).is_dir():
            raise NoSuchGeneration(f"there is no generation {name} in {self.root}")
        write_json(self.root / "current.json", {"current": name, "kept": kept})

    def first(self) -> str:
        """The current generation; creates an empty one if there is none yet."""
        name = self.current()
        if name is None or not self.folder(name).is_dir():
            name = self.create()
            self.point(name, None)
        return name

    def create(self) -> str:
        """Create a new empty generation that is not current yet."""
        name = self._next()
        self.folder(name).mkdir(parents=True)
        return name

    # ---- building

    def building(self) -> Path | None:
        """The directory of an unfinished rebuild; None if there is none."""
        return next(iter(sorted(self.root.glob(f"g*{_BUILDING}"))), None)

    def begin(self) -> Path:
        """The directory to build in: that of an unfinished rebuild, or a new one."""
        folder = self.building() or self.root / (self._next() + _BUILDING)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def finish(self, building: Path, keep: bool) -> str:
        """Make the build the current generation; keep the previous one if requested. Returns the new name."""
        name, before = building.name.removesuffix(_BUILDING), self.current()
        building.rename(self.folder(name))
        self.point(name, before if keep else None)
        return name

    def _next(self) -> str:
        """One above every number used here, so that no name is reused."""
        taken = [int(match[1]) for path in self._all() if (match := _NAME.match(path.name.removesuffix(_BUILDING)))]
        return f"g{max(taken, default=0) + 1:06d}"

    def _all(self) -> Iterable[Path]:
        return [path for path in self.root.glob("g*") if path.is_dir()]

    # ---- tidying

    def remove_unused(self, *in_use: str) -> None:
        """Delete generations that are not needed. One that another process has open is kept until the next time."""
        wanted = {self.current(), self.kept(), *in_use}
        for folder in self._all():
            if folder.name not in wanted and not folder.name.endswith(_BUILDING):
                self.remove(folder)

    def remove_contacts(self, name: str) -> None:
        """Delete the contacts of a kept generation, which no erasure would reach. If it is used again, they are folded again."""
        contacts = self.folder(name) / CONTACTS_STORE
        if contacts.is_dir():
            self._remove_store(contacts)
            shutil.rmtree(contacts, ignore_errors=True)

    def remove(self, folder: Path) -> bool:
        """Delete one generation. Returns whether it is gone."""
        try:
            for store in sorted(folder.iterdir()):
                if store.is_dir():
                    self._remove_store(store)  # raises if it is open
            shutil.rmtree(folder, ignore_errors=True)
        except StoreError as exc:
            log.info("old generation is still open elsewhere", generation=folder.name, why=str(exc))
            return False
        log.info("generation removed", generation=folder.name)
        return True


def read_json(path: Path) -> Any:
    """The JSON value in `path`; None if the file does not exist. Raises `StoreError` if it is damaged."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as exc:
        raise StoreError(f"{path} is damaged: {exc}") from None
