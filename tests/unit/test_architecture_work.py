"""Everything that runs on its own, a thread or a task, is watched (ARCHITECTURE, Packages)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.support.sources import Module, module, modules, name_of

# What may be started where, and who sees it end. Everything else that runs for long is a `WorkerThread` or under `keep_at`
# (`ledger/supervision.py`), which restart it or pass its fault to its owner, and count it. What is awaited where it is started
# (`await`, `async with`, `asyncio.to_thread`, `asyncio.gather`) ends there and needs no watcher.
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("ledger/supervision.py", "Thread"): "the watcher itself",
    ("api/processes/signals.py", "start_new_thread"): "asks the process to end, which sets events",
    ("ledger/asking.py", "Thread"): "one question; the caller waits for it and raises what it raised",
    ("api/processes/otel.py", "Thread"): "the caller waits for it, a moment; what it could not send is lost, and said so",
    ("ledger/broker/jars.py", "Thread"): "the user of its result waits for it; what it could not confirm is checked again",
    ("api/cli/demo/run.py", "Thread"): "joined by the demo, which shows its fault and ends non-zero",
    ("api/cli/demo/plain_consumer.py", "Thread"): "imports nothing of the product; its last call reports whatever ended it",
    ("ledger/broker/aot_training.py", "Thread"): "whatever ends it ends the process, whose work is only a cache",
    ("projections/fail_stop.py", "Thread"): "the last second of a process that ends: log lines are flushed beside it",
    ("commands/notifier/email_door.py", "Timer"): "cuts a connection; the caller's thread sees it, or has the answer already",
    ("projections/fail_stop.py", "Timer"): "ends the process even if something hangs",
    ("ledger/broker/fetching.py", "Thread"): "the caller waits for them and raises what one raises, unless the program is to end",
    ("ledger/broker/jars.py", "ThreadPoolExecutor"): "the caller waits for its futures, and raises what they raise",
    ("projections/rebuild.py", "get_context"): "the rebuild watches its processes and raises what they report",
    (
        "api/edge.py",
        "call_later",
    ): "writes lines of the access log; the event loop logs a fault, and the next line schedules it again",
    ("api/connections.py", "call_later"): "the check of all connections, which a fault in one does not end; and the end of one",
    ("api/routes/payments.py", "ensure_future"): "one read from the provider; the request waits for it",
    ("commands/sandbox/webhooks.py", "call_later"): "sets an event",
    ("commands/sandbox/webhooks.py", "create_task"): "one message; it catches its own exceptions",
    ("commands/sandbox/server.py", "create_task"): "only around `keep_at`",
    ("commands/reconciler/tries.py", "create_task"): "one try; the call waits for it and takes its result",
    ("commands/reconciler/shared_reads.py", "create_task"): "one read; the caller waits for it",
    ("commands/reconciler/loop.py", "create_task"): "a fault in one ends the loop, which restarts (`_ended`)",
    (
        "commands/webhooks/delivering.py",
        "create_task",
    ): "one delivery; a fault in one ends the loop, which restarts (`_finished`)",
    ("projections/faust_app.py", "add_future"): "Faust's own services: a fault ends the process",
    ("projections/faust_app.py", "ensure_future"): "the stop, which is waited for",
    ("api/services/erasure.py", "create_task"): "only around `keep_at`",
    ("api/cli/import_orders.py", "create_task"): "what one raises ends the verb, which waits for all",
    ("api/processes/serve.py", "add_future"): "only around `keep_at`, except for the client that is closed at the end",
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
# (file, maker): the functions of which the first argument of every call must be a call, with exceptions
ONLY_AROUND = {
    ("commands/sandbox/server.py", "create_task"): {"keep_at"},
    ("api/processes/serve.py", "add_future"): {"keep_at", "_close_at_the_end"},
    ("api/services/erasure.py", "create_task"): {"keep_at"},
}
AWAITED_TIMERS = {("api/services/submissions.py", "call_at")}  # wakes the waiter of the same function, which cancels it


def makings(m: Module) -> Iterator[tuple[str, ast.Call | ast.ClassDef]]:
    """Everything in `m` that starts to run on its own, by the name of its maker."""
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
        if place not in EXCEPTIONS:
            wrong.append(f"{m.path}:{node.lineno} makes a {maker} that nobody watches")
        inner = ONLY_AROUND.get(place)
        if inner is not None and isinstance(node, ast.Call) and not (node.args and name_of(node.args[0]) in inner):
            wrong.append(f"{m.path}:{node.lineno}: {maker} around something other than {sorted(inner)}")
    return wrong


def test_everything_that_runs_on_its_own_is_watched() -> None:
    assert [wrong for m in modules() for wrong in unwatched(m)] == []


def test_every_exception_is_still_needed_so_that_the_list_stays_true() -> None:
    exceptions = {(m.path, maker) for m in modules() for maker, _ in makings(m)}
    assert EXCEPTIONS.keys() | AWAITED_TIMERS <= exceptions
    assert ONLY_AROUND.keys() <= EXCEPTIONS.keys()


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
def test_unwatched_work_is_seen(path: str, source: str) -> None:
    assert unwatched(module(path, source))
    assert unwatched(module("api/processes/serve.py", "app.add_future(keep_at('x', f))")) == []
