"""Runs seeds, one after the other or by several processes; replays one; leaves out steps that a failure does not need."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, NamedTuple

import structlog
from structlog.typing import EventDict

from tests.simulator.plans import Plan, plan_of
from tests.simulator.replacing import simulated
from tests.simulator.simulation import Simulation

COMMAND = "uv run python -m tests.simulator"
CHUNK = 100  # seeds that a process runs before it reports


class Failure(NamedTuple):
    """A seed whose run went wrong, and what is wrong."""

    seed: int
    problems: list[str]

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {len(self.problems)} problems", *self.problems[:5]]
        return "\n    ".join([*lines, f"with its history: {COMMAND} {self.seed}"])


def _drop(logger: Any, method: str, event: EventDict) -> EventDict:
    raise structlog.DropEvent


@contextmanager
def quiet() -> Iterator[None]:
    """Log lines of the product go nowhere."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"), processors=[_drop])
    try:
        yield
    finally:
        structlog.reset_defaults()


class Outcome(NamedTuple):
    """What is wrong in the end, and how often what happened: see `unkind_log`."""

    problems: list[str]
    seen: Counter[str]


def run_plan(plan: Plan, say: Callable[[str], None] | None = None) -> Outcome:
    """Carry out `plan`. `say` receives the history, with the log lines of the product. Raises what the run itself raises."""
    simulation = Simulation(plan, say)
    with (
        simulated(simulation.scheduler, simulation.wall_ms, simulation.fresh_id, plan.seed),
        quiet() if say is None else _noted(simulation),
    ):
        problems = simulation.run()
    return Outcome(problems, simulation.log.state.seen)


@contextmanager
def _noted(simulation: Simulation) -> Iterator[None]:
    """Log lines of the product go to the history of the run."""

    def line(logger: Any, method: str, event: EventDict) -> EventDict:
        event.pop("exc_info", None)
        message = event.pop("event")
        simulation.note(f"{message} {' '.join(f'{name}={value}' for name, value in event.items())}")
        raise structlog.DropEvent

    structlog.configure(processors=[line])
    try:
        yield
    finally:
        structlog.reset_defaults()


def outcome_of(plan: Plan) -> Outcome:
    """An exception of the run itself is a problem, too: it must not hide the other seeds."""
    try:
        return run_plan(plan)
    except Exception as exc:
        return Outcome([f"the run raised {type(exc).__name__}: {exc}"], Counter())


def failures(seeds: Iterable[int], progress: Callable[[int, Counter[str]], None] = lambda seed, seen: None) -> Iterator[Failure]:
    """The seeds that go wrong. `progress` receives each seed, and what happened in it."""
    thresholds = gc.get_threshold()
    gc.set_threshold(100_000)  # a run is short, and nothing of it is left when it ends
    try:
        for seed in seeds:
            outcome = outcome_of(plan_of(seed))
            if outcome.problems:
                yield Failure(seed, outcome.problems)
            progress(seed, outcome.seen)
    finally:
        gc.set_threshold(*thresholds)


def failures_of_processes(
    seeds: range, jobs: int, progress: Callable[[range, Counter[str]], None] = lambda seeds, seen: None
) -> Iterator[Failure]:
    """The same, by `jobs` processes. `progress` receives some seeds together, and what happened in them."""
    chunks = [seeds[first : first + CHUNK] for first in range(0, len(seeds), CHUNK)]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for chunk, (failed, seen) in zip(chunks, pool.map(_failures_of, chunks), strict=True):
            yield from failed
            progress(chunk, seen)


def _failures_of(seeds: range) -> tuple[list[Failure], Counter[str]]:
    seen: Counter[str] = Counter()
    return list(failures(seeds, lambda seed, happened: seen.update(happened))), seen


def shrunk(plan: Plan) -> Plan:
    """`plan` without the steps that it does not need to go wrong: first many at a time, then one by one."""
    left = [(n, m) for n, chapter in enumerate(plan.chapters) for m in range(len(chapter.steps))]
    dropped = set[tuple[int, int]]()
    size = max(1, len(left) // 2)
    while size:
        start = 0
        while start < len(left):
            some = set(left[start : start + size])
            if outcome_of(plan.without(dropped | some)).problems:
                dropped |= some
                left = [step for step in left if step not in some]
            else:
                start += size
        size //= 2
    return plan.without(dropped)
