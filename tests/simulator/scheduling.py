"""Simulated time and tasks: one real thread, no waiting, every order of events decided by one generator of random numbers.

A task is ordinary blocking code in a greenlet. Where it would block (a sleep, a condition, an answer of the log), it parks, and
the scheduler continues with whatever comes next. Tasks belong to a machine, which can be suspended, or killed with all of them.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from greenlet import GreenletExit, getcurrent, greenlet

MOST_STEPS = 100_000  # of a run: usually some thousands
FIRST_S = 1_000.0  # what `time.monotonic` of the simulation begins with: some code takes 0 for "never"


@dataclass(eq=False)
class Machine:
    """Where tasks run. `suspended`: as after SIGSTOP, nothing runs there. `due`: what would have run meanwhile."""

    name: str
    alive: bool = True
    suspended: bool = False
    tasks: list[Task] = field(default_factory=list)
    due: list[tuple[Task, int]] = field(default_factory=list)


@dataclass(eq=False)
class Task:
    """`turn` counts its parkings: whatever would wake it for an earlier one is out of date."""

    machine: Machine
    greenlet: greenlet
    turn: int = 0
    is_waiting: bool = False


class Scheduler:
    """`chance` decides which of simultaneous events comes first, and how long each step of a task takes."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.now_us = 0
        self.current: Task | None = None
        self.steps = 0
        self._main = getcurrent()
        self._queue: list[tuple[int, float, int, Task | None, int, Callable[[], None] | None]] = []
        self._awaited: list[int] = []
        self._number = 0

    def monotonic(self) -> float:
        return FIRST_S + self.now_us / 1_000_000

    # ---- what will happen

    def after(self, delay_s: float, action: Callable[[], None], awaited: bool = True) -> None:
        """Run `action`, which must not block, in `delay_s`, whatever becomes of the caller. `awaited`: it changes something."""
        at_us = self.now_us + int(delay_s * 1_000_000)
        if awaited:
            heapq.heappush(self._awaited, at_us)
        self._push(at_us, None, 0, action)

    def next_action_s(self) -> float:
        """When the next awaited action comes, at the earliest; 0: there is none."""
        while self._awaited and self._awaited[0] <= self.now_us:
            heapq.heappop(self._awaited)
        return (self._awaited[0] - self.now_us) / 1_000_000 if self._awaited else 0.0

    def spawn(self, machine: Machine, work: Callable[[], None]) -> Task:
        task = Task(machine, greenlet(work, parent=self._main))
        machine.tasks = [t for t in machine.tasks if not t.greenlet.dead]
        machine.tasks.append(task)
        self._push(self.now_us + self._chance.randrange(1_000), task, task.turn, None)
        return task

    def _push(self, at_us: int, task: Task | None, turn: int, action: Callable[[], None] | None) -> None:
        self._number += 1
        heapq.heappush(self._queue, (at_us, self._chance.random(), self._number, task, turn, action))

    # ---- called by tasks

    def sleep(self, seconds: float) -> None:
        """Park the calling task. Outside any task, nothing: what judges a run needs no time."""
        if (task := self.current) is not None:
            self._push(self.now_us + 1 + int(seconds * 1_000_000), task, task.turn, None)
            self._park()

    def step(self, longest_s: float = 0.002) -> None:
        """A moment in which other tasks may run: mostly short, at times fifty times as long."""
        if self.current is not None:
            self.sleep(self._chance.random() * longest_s * (50 if self._chance.random() < 0.03 else 1))

    def _park(self) -> None:
        self._main.switch()

    def wake(self, task: Task) -> None:
        """Let a waiting task continue in a moment, at times so late that it finds more than one thing to do."""
        if task.is_waiting:
            task.is_waiting = False
            task.turn += 1
            self._push(
                self.now_us + self._chance.randrange(20_000 if self._chance.random() < 0.5 else 500), task, task.turn, None
            )

    def wait(self, seconds: float | None) -> None:
        """Park until `wake`, at most for `seconds`."""
        task = self.current
        assert task is not None, "nobody waits outside a task"
        task.is_waiting = True
        if seconds is not None:
            self._push(self.now_us + 1 + int(seconds * 1_000_000), task, task.turn, None)
        self._park()
        task.is_waiting = False

    # ---- the loop

    def run_for(self, seconds: float) -> None:
        """Everything that happens in the next `seconds`."""
        end_us = self.now_us + int(seconds * 1_000_000)
        queue = self._queue
        while queue and queue[0][0] <= end_us:
            at_us, _, _, task, turn, action = heapq.heappop(queue)
            self.now_us = max(self.now_us, at_us)
            self.steps += 1
            if self.steps > MOST_STEPS:
                raise RuntimeError(f"the run does not end: {self.steps} steps in {self.now_us / 1_000_000} s")
            if action is not None:
                action()
            elif task is not None and task.turn == turn:
                if task.machine.suspended:
                    task.machine.due.append((task, turn))
                else:
                    self._switch_to(task)
        self.now_us = end_us

    def _switch_to(self, task: Task) -> None:
        task.turn += 1
        self.current = task
        try:
            task.greenlet.switch()
        finally:
            self.current = None

    def suspend(self, machine: Machine, seconds: float) -> None:
        machine.suspended = True
        self.after(seconds, lambda: self.resume(machine))

    def resume(self, machine: Machine) -> None:
        due, machine.due, machine.suspended = machine.due, [], False
        for task, turn in due:
            self._push(self.now_us + self._chance.randrange(500), task, turn, None)

    def kill(self, machine: Machine) -> None:
        """As with SIGKILL: no task of this machine takes another step. Not to be called by one of them."""
        machine.alive = False
        machine.due.clear()
        for task in machine.tasks:
            task.turn += 1
            if task.greenlet:
                task.greenlet.throw(GreenletExit)
        machine.tasks.clear()


class Condition:
    """Takes the place of a `threading.Condition`: there is one thread, so its lock is nothing."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._waiting: list[Task] = []

    def __enter__(self) -> bool:
        return True

    def __exit__(self, *exc: object) -> None:
        pass

    def wait(self, timeout: float | None = None) -> bool:
        task = self._scheduler.current
        assert task is not None
        self._waiting.append(task)
        try:
            self._scheduler.wait(timeout)
        finally:
            self._waiting.remove(task)
        return True

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        deadline = None if timeout is None else self._scheduler.monotonic() + timeout
        while not predicate():
            left = None if deadline is None else deadline - self._scheduler.monotonic()
            if left is not None and left <= 0:
                return False
            self.wait(left)
        return True

    def notify_all(self) -> None:
        for task in self._waiting:
            self._scheduler.wake(task)


class Flag:
    """Takes the place of a `threading.Event` whose `wait` must not stop the thread."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._changed = Condition(scheduler)
        self._scheduler = scheduler
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        self._changed.notify_all()

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        deadline = None if timeout is None else self._scheduler.monotonic() + timeout
        while not self._is_set:
            left = None if deadline is None else deadline - self._scheduler.monotonic()
            if left is not None and left <= 0:
                break
            self._changed.wait(left)
        return self._is_set
