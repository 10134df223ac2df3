"""Whoever works as long as its process: threads and tasks, watched, begun again when they fail, counted and told of.

    WorkerThread(again=True)    a fault costs a pause, and the work begins again: for what others do not wait for
    WorkerThread(again=False)   a fault is its owner's, who ends the process: for work without which the process does nobody's
    keep_at(name, work)         the same as the first, for a task of an event loop

`workers()` is what `/metrics`, the status of `commands` and `doctor` tell. A thread or task that is made elsewhere is either
awaited by whoever made it, or listed with its reason in `tests/unit/test_architecture.py`.
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
CALM_S = 60.0  # work that went on for so long begins again after the first pause the next time

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Worker:
    """All threads or tasks of one name in this process: how many run, how often one began again, and what its last fault was."""

    name: str
    running: int = 0
    restarts: int = 0
    last_fault: str = ""


_workers: dict[str, Worker] = {}
_lock = threading.Lock()


def workers() -> list[Worker]:
    """As they are now, by name."""
    with _lock:
        return [replace(worker) for _, worker in sorted(_workers.items())]


def _note(name: str, running: int = 0, restarts: int = 0, fault: str = "") -> None:
    with _lock:
        worker = _workers.setdefault(name, Worker(name))
        worker.running += running
        worker.restarts += restarts
        worker.last_fault = fault or worker.last_fault


class _Pauses:
    """How long to wait before the work begins again."""

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
    if isinstance(exc, LogError):  # the log comes back, and says why it was away
        log.warning("work waits for the log", worker=name, why=str(exc), again_s=pause_s)
    else:
        log.error("work failed and begins again", worker=name, why=in_short(exc), again_s=pause_s)


class WorkerThread(threading.Thread):
    """Runs `work` until it returns. See the module for `again`; `on_fault` gets what ended it for good, on this thread.

    With `again`, `stopping` ends the pauses, and only a `ConfigError` or what is no `Exception` ends the work for good.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], None],
        on_fault: Callable[[BaseException], object],
        *,
        again: bool,
        stopping: threading.Event | None = None,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._work, self._on_fault, self._again = work, on_fault, again
        self._ending = stopping or threading.Event()
        self.restarts = 0

    def run(self) -> None:
        _note(self.name, running=1)
        try:
            if self._again:
                self._run_again_and_again()
            else:
                self._work()
        except BaseException as exc:
            _note(self.name, fault=in_short(exc))
            if self._again:  # else the owner says it, who knows what it means
                log.critical("work ended for good", worker=self.name, exc_info=True)
            self._on_fault(exc)
        finally:
            _note(self.name, running=-1)

    def _run_again_and_again(self) -> None:
        pauses = _Pauses()
        while True:
            pauses.begin()
            try:
                self._work()
                return
            except ConfigError:
                raise  # no pause mends settings
            except Exception as exc:
                self.restarts += 1
                pause_s = pauses.next_s()
                _failed(self.name, exc, pause_s)
            if self._ending.wait(pause_s):
                return


async def keep_at(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run `work` on this event loop until it returns or is cancelled; a fault costs a pause, and it begins again."""
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
