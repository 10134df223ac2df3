"""Whatever works by itself, a thread or a task, is watched (ARCHITECTURE, Packages)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.support.sources import Module, module, modules, name_of

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
    ("commands/reconciler/shared_reads.py", "create_task"): "one look; whoever asked waits for it",
    ("commands/reconciler/loop.py", "create_task"): "a fault of one ends the loop, which begins again (`_ended`)",
    ("projections/faust_app.py", "add_future"): "of Faust's own services: a fault ends the process",
    ("projections/faust_app.py", "ensure_future"): "the stop, which is waited for",
    ("api/services/erasure.py", "create_task"): "only around `keep_at`",
    ("api/cli/import_orders.py", "create_task"): "what one raises ends the verb, which waits for all",
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
