"""Pure modules use no clock, no chance, no files, no network, no threads."""

from __future__ import annotations

import ast

import pytest

from tests.support.sources import PACKAGES, Module, imports, module, modules, within

PURE = (
    "ledger/bounds.py",
    "ledger/currencies.py",
    "ledger/durations.py",
    "ledger/events.py",
    "ledger/levels.py",
    "ledger/evolve.py",
    "ledger/order.py",
    "ledger/order_numbers.py",
    "ledger/shares.py",
    "ledger/transitions.py",
    "ledger/units.py",
    "ledger/upgrades/records.py",
    "ledger/money.py",
    "ledger/envelope.py",
    "ledger/outcomes.py",
    "ledger/walk.py",
    "commands/decide.py",
    "commands/decisions.py",
    "commands/facts.py",
    "commands/flaws.py",
    "commands/holds.py",
    "commands/requests.py",
    "commands/messages.py",
    "commands/idempotency.py",
    "commands/notifier/languages.py",
    "commands/notifier/notices.py",
    "commands/notifier/samples.py",
    "commands/obligations.py",
    "commands/outlook.py",
    "commands/processor/readable.py",
    "commands/reconciler/stripe_amounts.py",
    "commands/reconciler/stripe_facts.py",
    "commands/reconciler/stock_answers.py",
    "commands/reconciler/answers.py",
    "commands/webhooks/addresses.py",
    "commands/webhooks/endpoints.py",
    "commands/webhooks/queues.py",
    "commands/webhooks/signing.py",
    "projections/digests.py",
    "projections/event_rows.py",
    "projections/read_models.py",
)

IMPURE = (
    "asyncio",
    "concurrent",
    "datetime.datetime",
    "http",
    "logging",
    "multiprocessing",
    "os",
    "random",
    "secrets",
    "select",
    "socket",
    "structlog",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "urllib",
    "uuid",
)
# `fresh_command_id` names the reconciler's facts: it is the one place where an id must not be derived from anything
# (facts are distinguished by state), and it is beside the rules it is an exception to.
ALLOWED = {("commands/idempotency.py", "secrets"): "fresh_command_id"}

CLOCKS = {"now", "utcnow", "today", "time_ns", "monotonic", "perf_counter", "getenv", "urandom"}
FILE_CALLS = {"open", "read_text", "write_text", "read_bytes", "write_bytes", "input", "print"}


def function_at(m: Module, node: ast.AST) -> str | None:
    """Name of the top-level function that `node` is in."""
    for top in m.tree.body:
        if isinstance(top, ast.FunctionDef) and any(inner is node for inner in ast.walk(top)):
            return top.name
    return None


def impurities(m: Module) -> list[str]:
    impure = [name for name in imports(m) if within(name, IMPURE) and (m.path, name.split(".")[0]) not in ALLOWED]
    wrong = [f"{m.path} imports {name}" for name in impure]
    for node in ast.walk(m.tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in CLOCKS or called in FILE_CALLS:
                wrong.append(f"{m.path}:{node.lineno} calls {called}")
        if isinstance(node, ast.Global | ast.Nonlocal | ast.Await | ast.AsyncFunctionDef):
            wrong.append(f"{m.path}:{node.lineno} uses {type(node).__name__}")
        for (path, library), function in ALLOWED.items():
            if m.path == path and isinstance(node, ast.Name) and node.id == library and function_at(m, node) != function:
                wrong.append(f"{m.path}:{node.lineno} uses {library} outside {function}")
    return wrong


def pure_modules() -> list[Module]:
    return [m for m in modules() if m.path in PURE]


def test_pure_modules_use_no_clock_no_chance_no_files_no_network_no_threads() -> None:
    assert [wrong for m in pure_modules() for wrong in impurities(m)] == []


def test_every_pure_module_is_there() -> None:
    assert set(PURE) <= {m.path for m in modules()}


def test_pure_modules_depend_on_pure_modules_and_few_others() -> None:
    """Otherwise the clock would come in by the back door."""
    fit = {p.removesuffix(".py").replace("/", ".") for p in PURE}
    fit |= {"ledger.errors", "ledger.topics", "ledger.contacts", "ledger.log.Record"}  # words only
    fit |= {"ledger.partitioner", "ledger.rfc3339"}  # functions of their input
    fit |= {
        "ledger.schemas.codec",
        "ledger.schemas.versions",
    }  # bytes <-> values: reads the schema files once, then a function of its input
    for m in pure_modules():
        known = {module for name in imports(m) if name.startswith(PACKAGES) for module in fit if within(name, (module,))}
        ours = {name for name in imports(m) if within(name, PACKAGES)}
        for name in ours:
            assert any(within(name, (f,)) or f.startswith(f"{name}.") for f in known | fit), f"{m.path} imports {name}"
            if name in PACKAGES:
                pytest.fail(f"{m.path} imports the package {name}, not a module of it")


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("ledger/order.py", "import time"),
        ("ledger/order.py", "def f():\n    from os import environ"),
        ("commands/decide.py", "from random import choice"),
        ("commands/decide.py", "import structlog"),
        ("ledger/money.py", "from datetime import datetime"),
        ("ledger/money.py", "import datetime\nx = datetime.datetime.now()"),
        ("ledger/events.py", "x = open('f').read()"),
        ("ledger/walk.py", "def states():\n    return Path('x').read_text()"),
        ("ledger/transitions.py", "async def f(): ..."),
        ("commands/idempotency.py", "import secrets\ndef order_id_of():\n    return secrets.token_bytes(1)"),
        ("commands/messages.py", "import secrets"),
        ("projections/read_models.py", "import concurrent.futures"),
    ],
)
def test_an_impurity_is_seen(path: str, source: str) -> None:
    assert impurities(module(path, source))
    allowed = "import secrets\ndef fresh_command_id():\n    return secrets.choice"
    assert impurities(module("commands/idempotency.py", allowed)) == []
