"""Names of modules; and no module is imported past the rules about imports."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from tests.support.sources import PACKAGES, ROOT, Module, imports, module, modules, within


def imports_by_name_at_run_time(m: Module) -> list[str]:
    """`importlib.import_module` and `__import__` would get around every rule here."""
    names = [n for n in imports(m) if within(n, ("importlib.import_module", "importlib.util", "runpy")) or n == "importlib"]
    names += [n.id for n in ast.walk(m.tree) if isinstance(n, ast.Name) and n.id == "__import__"]
    return [f"{m.path} uses {name}" for name in names]


def test_nobody_imports_by_a_name_built_at_run_time() -> None:
    assert [wrong for m in modules() for wrong in imports_by_name_at_run_time(m)] == []


VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "base", "misc", "shared", "core"}
LIBRARIES = {
    "aiohttp",
    "aiokafka",
    "avro",
    "babel",
    "confluent_kafka",
    "fastapi",
    "fastavro",
    "faust",
    "filelock",
    "hypothesis",
    "httpx",
    "jgo",
    "jinja2",
    "kafka",
    "mode",
    "msgspec",
    "prometheus_client",
    "psutil",
    "pydantic",
    "pytest",
    "redis",
    "rich",
    "rocksdict",
    "sortedcontainers",
    "starlette",
    "stripe",
    "structlog",
    "typer",
    "uvicorn",
    "uvloop",
}


def bad_names(paths: list[str]) -> list[str]:
    """Modules with a name that says nothing, or with a library's: `import stripe` must mean the same everywhere."""
    return [p for p in paths if Path(p).stem in VAGUE | LIBRARIES | set(sys.stdlib_module_names) - {"__init__"}]


def test_no_module_has_a_vague_name_or_that_of_a_library() -> None:
    assert bad_names([m.path for m in modules()]) == []


def test_there_are_four_packages_and_no_code_beside_them() -> None:
    folders = {p.parent.relative_to(ROOT).parts[0] for p in ROOT.glob("*/__init__.py")}
    assert folders - {"tests"} == set(PACKAGES)
    assert list(ROOT.glob("*.py")) == []
    assert list((ROOT / "avro").glob("*.py")) == [], "PyPI `avro` must keep its name"


@pytest.mark.parametrize("source", ["import importlib\nimportlib.import_module('api')", "x = __import__('api')", "import runpy"])
def test_an_import_by_name_is_seen(source: str) -> None:
    assert imports_by_name_at_run_time(module("ledger/order.py", source))


@pytest.mark.parametrize(
    "path", ["api/utils.py", "commands/stripe.py", "ledger/types.py", "ledger/kafka.py", "projections/base.py"]
)
def test_a_bad_name_is_seen(path: str) -> None:
    assert bad_names([path])
    assert bad_names(["api/__init__.py", "ledger/kafka/reader.py", "commands/reconciler/stripe_gateway.py"]) == []
