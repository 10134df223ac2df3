"""Supervises threads and tasks that live as long as the process: restarts them when they fail, and counts restarts.

    WorkerThread(again=True)    after a fault it pauses and restarts: for work that nobody waits for
    WorkerThread(again=False)   a fault is passed to its owner, which ends the process: for work the process cannot do without
    keep_at(name, work)         like the first, for a task on an event loop

`/metrics`, the status of `commands` and `doctor` report `workers()`. Any other thread or task is awaited by its creator, or
listed with a reason in `tests/unit/test_architecture_work.py`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import structlog

from ledger.errors import ConfigError, LogError
from ledger.faults import in_short

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0
CALM_S = 60.0  # after running for so long, the next restart uses the first pause again

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Worker:
    """All threads or tasks of one name in this process: number running, restarts, last fault."""

    name: str
    running: int = 0
    restarts: int = 0
    last_fault: str = ""


_workers: dict[str, Worker] = {}
_lock = threading.Lock()


def workers() -> list[Worker]:
    """The current workers, sorted by name."""
    with _lock:
        return [replace(worker) for _, worker in sorted(_workers.items())]


def _note(name: str, running: int = 0, restarts: int = 0, fault: str = "") -> None:
    with _lock:
        worker = _workers.setdefault(name, Worker(name))
        worker.running += running
        worker.restarts += restarts
        worker.last_fault = fault or worker.last_fault


def _remove(name: str) -> None:
    with _lock:
        if not _workers[name].running:
            del _workers[name]


class _Pauses:
    """The pauses before restarts."""

    def __init__(self) -> None:
        self._pause_s = FIRST_PAUSE_S
        self._began = time.monotonic()

    def begin(self) -> None:
        self._began = time.monotonic()

    def next_s(self) -> float:
        if time.monotonic() - self._began > CALM_S:
            self._pause_s = FIRST_PAUSE_S
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, LONGEST_PAUSE_S)
        return pause_s


def _failed(name: str, exc: Exception, pause_s: float) -> None:
    _note(name, restarts=1, fault=in_short(exc))
    if isinstance(exc, LogError):  # the log will return, and the error says why it is unreachable
        log.warning("worker is waiting for the log", worker=name, why=str(exc), again_s=pause_s)
    else:
        log.error("worker failed, restarting it", worker=name, why=in_short(exc), again_s=pause_s)


class WorkerThread(threading.Thread):
    """Runs `work` until it returns. See the module for `again`. `on_fault` receives the final exception, on this thread.

    With `again`, `stopping` ends the pauses, and only a `ConfigError` or something other than an `Exception` is final.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], None],
        on_fault: Callable[[BaseException], object],
        *,
        again: bool,
        stopping: threading.Event | None = None,
        ends: bool = False,
    ) -> None:
        """`ends`: the work is done at some time; it is not among the `workers` any more then, unless it failed."""
        super().__init__(name=name, daemon=True)
        self._work, self._on_fault, self._again, self._ends = work, on_fault, again, ends
        self._ending = stopping or threading.Event()
        self.restarts = 0

    def run(self) -> None:
        done = False
        _note(self.name, running=1)
        try:
            if self._again:
                self._run_again_and_again()
            else:
                self._work()
            done = self._ends
        except BaseException as exc:
            _note(self.name, fault=in_short(exc))
            if self._again:  # otherwise the owner logs it, because it knows the consequence
                log.critical("worker stopped for good", worker=self.name, exc_info=True)
            self._on_fault(exc)
        finally:
            _note(self.name, running=-1)
            if done:
                _remove(self.name)

    def _run_again_and_again(self) -> None:
        pauses = _Pauses()
        while True:
            pauses.begin()
            try:
                self._work()
                return
            except ConfigError:
                raise  # a retry cannot fix settings
            except Exception as exc:
                self.restarts += 1
                pause_s = pauses.next_s()
                _failed(self.name, exc, pause_s)
            if self._ending.wait(pause_s):
                return


async def keep_at(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run `work` on this event loop until it returns or is cancelled; after a fault, pause and restart it."""
    pauses = _Pauses()
    _note(name, running=1)
    try:
        while True:
            pauses.begin()
            try:
                return await work()
            except Exception as exc:
                pause_s = pauses.next_s()
                _failed(name, exc, pause_s)
            await asyncio.sleep(pause_s)
    finally:
        _note(name, running=-1)
