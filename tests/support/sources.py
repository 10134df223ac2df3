"""The sources of the product, read with `ast`, so that a lazy import inside a function counts too."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ledger", "commands", "projections", "api")


class Module(NamedTuple):
    path: str  # from the project's root, with slashes
    tree: ast.Module


def module(path: str, source: str) -> Module:
    return Module(path, ast.parse(source, path))


@functools.cache
def modules() -> tuple[Module, ...]:
    paths = [p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))]
    return tuple(module(p.relative_to(ROOT).as_posix(), p.read_text("utf-8")) for p in paths)


def imports(m: Module) -> Iterator[str]:
    """Full names of everything imported anywhere in `m`; `from a import b` gives `a.b`."""
    for node in ast.walk(m.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = m.path.removesuffix(".py").split("/")[: -node.level]
                base = ".".join([*package, *([base] if base else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == p or name.startswith(f"{p}.") for p in prefixes)


def name_of(call: ast.AST) -> str:
    function = call.func if isinstance(call, ast.Call) else call
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
