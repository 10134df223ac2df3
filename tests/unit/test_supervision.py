"""Work that lasts as long as its process restarts when it fails, is counted, and is reported by name."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from structlog.testing import capture_logs

from ledger import supervision
from ledger.errors import ConfigError, LogUnavailable
from ledger.supervision import Worker, WorkerThread, keep_at, workers
from tests.support.patience import PATIENCE_S, until


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(supervision, "LONGEST_PAUSE_S", 0.004)


def worker_named(name: str) -> Worker:
    return next(worker for worker in workers() if worker.name == name)


class Work:
    """Fails with each of `faults`, then runs until `done` is set."""

    def __init__(self, *faults: BaseException) -> None:
        self.faults = list(faults)
        self.working, self.done = threading.Event(), threading.Event()

    def __call__(self) -> None:
        if self.faults:
            raise self.faults.pop(0)
        self.working.set()
        assert self.done.wait(PATIENCE_S)


def test_a_thread_that_fails_restarts_and_is_counted_without_its_message() -> None:
    work, ended = Work(ValueError("ada@example.org"), KeyError("secret"), LogUnavailable("nobody")), list[BaseException]()
    thread = WorkerThread("one that fails", work, ended.append, again=True)
    with capture_logs() as lines:
        thread.start()
        assert work.working.wait(PATIENCE_S)
    worker = worker_named("one that fails")
    assert (worker.running, worker.restarts, thread.restarts) == (1, 3, 3)
    assert worker.last_fault.startswith("LogUnavailable at test_supervision.py:")
    assert "ada@example.org" not in str(lines)
    assert "secret" not in str(lines)
    assert [line["log_level"] for line in lines] == ["error", "error", "warning"]
    assert lines[2]["why"] == "nobody"  # the log's own words name no person
    work.done.set()
    thread.join(PATIENCE_S)
    assert (worker_named("one that fails").running, ended) == (0, [])


def test_pauses_grow_and_start_over_after_a_calm_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 100.0])
    monkeypatch.setattr(supervision.time, "monotonic", lambda: next(now))
    pauses = supervision._Pauses()
    waits = [pauses.next_s()]
    for _ in range(3):
        pauses.begin()
        waits.append(pauses.next_s())
    assert waits == [0.001, 0.002, 0.004, 0.001]


def test_a_stop_ends_the_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "FIRST_PAUSE_S", 10 * PATIENCE_S)
    stopping = threading.Event()
    thread = WorkerThread("one in a pause", Work(ValueError()), lambda exc: None, again=True, stopping=stopping)
    thread.start()
    stopping.set()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


@pytest.mark.parametrize("fault", [ConfigError("an invalid port"), SystemExit(3)])
def test_a_fault_that_no_pause_cures_ends_the_work_for_good(fault: BaseException) -> None:
    ended: list[BaseException] = []
    thread = WorkerThread("one for good", Work(fault), ended.append, again=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert (ended, worker_named("one for good").running) == ([fault], 0)


def test_work_that_its_process_cannot_do_without_passes_its_fault_on() -> None:
    fault, ended = ValueError("x"), list[BaseException]()
    thread = WorkerThread("one that must not fail", Work(fault), ended.append, again=False)
    thread.start()
    thread.join(PATIENCE_S)
    assert (ended, worker_named("one that must not fail").last_fault[:10]) == ([fault], "ValueError")


def test_a_task_restarts_and_ends_when_it_is_cancelled() -> None:
    faults: list[Exception] = [ValueError("ada@example.org"), OSError("full")]

    async def main() -> list[Any]:
        working = asyncio.Event()

        async def work() -> None:
            if faults:
                raise faults.pop(0)
            working.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(keep_at("a task", work))
        await asyncio.wait_for(working.wait(), PATIENCE_S)
        seen = worker_named("a task")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return [seen, worker_named("a task"), task.cancelled()]

    with capture_logs() as lines:
        during, after, cancelled = asyncio.run(main())
    assert (during.running, during.restarts, after.running, cancelled) == (1, 2, 0, True)
    assert during.last_fault.startswith("OSError")
    assert "ada@example.org" not in str(lines)


def test_two_of_one_name_are_reported_as_one() -> None:
    first, second = Work(ValueError()), Work()
    threads = [WorkerThread("twins", work, lambda exc: None, again=True) for work in (first, second)]
    for thread in threads:
        thread.start()
    until(lambda: first.working.is_set() and second.working.is_set())
    assert (worker_named("twins").running, worker_named("twins").restarts) == (2, 1)
    for work in (first, second):
        work.done.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert worker_named("twins").running == 0


def test_a_thread_whose_work_is_done_is_not_missed_but_one_that_failed_is() -> None:
    """`doctor` called every `serve` unwell, because the thread of its beginning had ended."""
    faults: list[BaseException] = []

    def fail() -> None:
        raise ConfigError("no")

    for name, work in (("done", lambda: None), ("failed", fail)):
        thread = WorkerThread(f"beginning that {name}", work, faults.append, again=False, ends=True)
        thread.start()
        thread.join(PATIENCE_S)
    assert [(worker.name, worker.running) for worker in workers() if worker.name.startswith("beginning that")] == [
        ("beginning that failed", 0)
    ]
    assert [str(fault) for fault in faults] == ["no"]
