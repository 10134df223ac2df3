"""An asyncio event loop on simulated time, as a task of a scheduler: where it would wait for sockets, the task parks."""

from __future__ import annotations

import asyncio
from asyncio import events
from collections.abc import Callable, Coroutine
from typing import Any

from tests.simulator.scheduling import Condition, Machine, Scheduler

LONGEST_S = 3_600.0


class SimulatedLoop(asyncio.BaseEventLoop):
    """Has timers and callbacks, no sockets, no threads."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self._scheduler = scheduler
        self._news = Condition(scheduler)
        self._selector = self  # asked once per turn: `select`

    def time(self) -> float:
        return self._scheduler.monotonic()

    def select(self, timeout: float | None) -> list[Any]:
        """Park until a timer is due or a callback came from elsewhere. Other loops may run meanwhile, in this thread."""
        if self._scheduler.current is None:
            assert timeout == 0, "a task that was cancelled waits"
        elif timeout != 0:
            events._set_running_loop(None)
            try:
                self._news.wait(LONGEST_S if timeout is None else timeout)
            finally:
                events._set_running_loop(self)
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        self._news.notify_all()

    def spawn(self, machine: Machine, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` as a task of the scheduler, until it ends. What it raises, the scheduler raises."""
        task = self.create_task(work)

        def run() -> None:
            self._run_until(task.done)
            task.result()

        self._scheduler.spawn(machine, run)

    def _run_until(self, done: Callable[[], bool]) -> None:
        events._set_running_loop(self)
        try:
            while not done():
                self._run_once()  # type: ignore[attr-defined]
        finally:
            events._set_running_loop(None)

    def bury(self) -> None:
        """After its machine was killed: let all tasks clean up, so that nothing is left for the garbage collector to report."""
        for task in asyncio.all_tasks(self):
            task.cancel()
        self._run_until(lambda: not asyncio.all_tasks(self))
        self.close()
