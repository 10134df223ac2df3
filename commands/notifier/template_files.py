"""Templates in folders, rendered by Jinja. The only importer of `jinja2`.

A template can read the values it is given, and nothing else: it runs in Jinja's sandbox. A name that is not among the values is
an error. Values in `.html` are escaped, in `.txt` they are not.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from traceback import walk_tb
from typing import Any, NamedTuple

from jinja2 import BaseLoader, Environment, StrictUndefined, TemplateNotFound, TemplateSyntaxError, select_autoescape
from jinja2.loaders import split_template_path
from jinja2.meta import find_referenced_templates
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ledger.errors import LedgerError

SHIPPED_TEMPLATES = Path(__file__).resolve().parent / "templates"
DEPTH = 4  # of folders in a folder


class TemplateFailed(LedgerError):
    """A template cannot be used. `kind`: `missing`, `unreadable`, `syntax`, `fails`, `subject` or `empty`.

    `template` is its name, such as `de/placed.email.html`, `line` the line in it, if known. `str()` shows neither the values nor
    Jinja's message, which may contain some of them; `detail` does.
    """

    code = "template_failed"

    def __init__(self, template: str, kind: str, detail: str = "", line: int | None = None) -> None:
        super().__init__(f"{template}{'' if line is None else f':{line}'}: {kind}")
        self.template, self.kind, self.detail, self.line = template, kind, detail, line


class TemplateFiles:
    """The templates of several folders as one: of two with the same name, that of the first folder. Used by one thread.

    A file that was changed, added or removed counts from the next rendering on.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folder.resolve() for folder in folders)
        self._environment: Environment = ImmutableSandboxedEnvironment(
            loader=_Folders(self._folders),
            undefined=StrictUndefined,
            autoescape=select_autoescape(enabled_extensions=("html",), disabled_extensions=("txt",), default=True),
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )

    def has(self, name: str) -> bool:
        """Whether there is a template of this name."""
        return _first_file(self._folders, name) is not None

    def names(self) -> list[str]:
        """All files that may be templates, sorted; hidden ones are left out."""
        return sorted({file.relative_to(folder).as_posix() for folder in self._folders for file in _files(folder, DEPTH)})

    def references(self, name: str) -> set[str | None]:
        """Templates that this one extends or includes, by name; None among them if one is computed. Raises `TemplateFailed`."""
        with self._failures(name):
            source, _, _ = _Folders(self._folders).get_source(self._environment, name)
            return set(find_referenced_templates(self._environment.parse(source, name)))

    def render(self, name: str, values: Mapping[str, Any]) -> str:
        """The text of a template with these values. Raises `TemplateFailed`, and nothing else, whatever the template does."""
        with self._failures(name):
            return self._environment.get_template(name).render(values)

    @contextmanager
    def _failures(self, name: str) -> Iterator[None]:
        """Turns whatever the template raises into a `TemplateFailed`."""
        try:
            yield
        except TemplateSyntaxError as exc:
            raise TemplateFailed(exc.name or name, "syntax", exc.message or "", exc.lineno) from None
        except TemplateNotFound as exc:
            inner, line = self._place_of(exc) or (name, None)
            kind, detail = ("missing", "") if exc.name == name else ("fails", f"there is no template {exc.name}")
            raise TemplateFailed(inner, kind, detail, line) from None
        except _Unreadable as exc:
            raise TemplateFailed(exc.name, "unreadable", exc.detail) from None
        except Exception as exc:
            inner, line = self._place_of(exc) or (name, None)
            raise TemplateFailed(inner, "fails", f"{type(exc).__name__}: {exc}", line) from None

    def _place_of(self, exc: BaseException) -> tuple[str, int] | None:
        """(template, line) of the innermost template in the traceback."""
        place = None
        for frame, line in walk_tb(exc.__traceback__):
            file = Path(frame.f_code.co_filename)
            folder = next((folder for folder in self._folders if file.is_relative_to(folder)), None)
            if folder is not None and file.suffix != ".py":
                place = (file.relative_to(folder).as_posix(), line)
        return place


class _Unreadable(Exception):
    def __init__(self, name: str, detail: str) -> None:
        super().__init__(name, detail)
        self.name, self.detail = name, detail


class _Folders(BaseLoader):
    """Reads the first file of a name. Jinja's own loaders would not see a file that is added to an earlier folder."""

    def __init__(self, folders: tuple[Path, ...]) -> None:
        self._folders = folders

    def get_source(self, environment: Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        file = _first_file(self._folders, template)
        if file is None:
            raise TemplateNotFound(template)
        try:
            text = file.path.read_text("utf-8")
        except UnicodeDecodeError:
            raise _Unreadable(template, "is not UTF-8") from None
        except OSError as exc:
            raise _Unreadable(template, exc.strerror or type(exc).__name__) from None
        return text, str(file.path), lambda: _first_file(self._folders, template) == file


def _files(folder: Path, depth: int) -> Iterator[Path]:
    """All files, also behind links to folders, as mounted volumes have them. Hidden ones are left out."""
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            yield entry
        elif depth:
            yield from _files(entry, depth - 1)


class _File(NamedTuple):
    """A file; it differs once the file is written again."""

    path: Path
    changed_ns: int
    size: int


def _first_file(folders: tuple[Path, ...], name: str) -> _File | None:
    """The first file of this name; None if there is none."""
    for path in _places(folders, name):
        try:
            status = path.stat()
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode):
            return _File(path, status.st_mtime_ns, status.st_size)
    return None


@lru_cache(1024)  # tags of languages come from customers
def _places(folders: tuple[Path, ...], name: str) -> tuple[Path, ...]:
    """Where a file of this name may be; nowhere if the name leads out of the folders."""
    try:
        parts = split_template_path(name)
    except TemplateNotFound:
        return ()
    return tuple(folder.joinpath(*parts) for folder in folders)
