"""Whole ledgers, simulated from seeds: hundreds here, 20,000 as a campaign. And bugs on purpose, which must be found."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter

import pytest

from tests.simulator.plans import plan_of
from tests.simulator.planted import BUGS, planted
from tests.simulator.running import Failure, failures, failures_of_processes, outcome_of, run_plan, shrunk
from tests.support.patience import PATIENCE_S

SEEDS = 250
CAMPAIGN_SEEDS = 20_000
# What the log of the simulator must have done to the ledger in these seeds: otherwise it is kinder than it says.
UNKIND = (
    *("aborted", "committed", "markers lost", "records lost", "records unacknowledged", "records twice", "records late"),
    *("records compacted", "slots expired", "records rejected", "transactions timed out"),
)
# Bugs that need two rare faults at the wrong moment: hundreds of seeds each.
RARE = (
    "a commit that was confirmed is believed for ever",
    "a torn batch is left as it is",
    "contacts that are too old are kept",
)


@pytest.fixture(scope="module")
def run() -> tuple[list[Failure], Counter[str]]:
    """What went wrong in the first seeds, and what happened in them."""
    seen: Counter[str] = Counter()
    return list(failures(range(SEEDS), lambda seed, happened: seen.update(happened))), seen


def report(failed: list[Failure]) -> str:
    return "\n\n".join(map(str, failed[:5]))


def test_every_seed_keeps_every_promise(run: tuple[list[Failure], Counter[str]]) -> None:
    assert run[0] == [], report(run[0])


def test_the_log_was_unkind_in_every_way(run: tuple[list[Failure], Counter[str]]) -> None:
    assert [kind for kind in UNKIND if not run[1][kind]] == []


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_twenty_thousand_seeds_keep_every_promise() -> None:
    seen: Counter[str] = Counter()
    jobs, began = len(os.sched_getaffinity(0)), time.monotonic()
    failed = list(failures_of_processes(range(CAMPAIGN_SEEDS), jobs, lambda seeds, happened: seen.update(happened)))
    print(f"\n{CAMPAIGN_SEEDS} seeds in {time.monotonic() - began:.0f} s by {jobs} processes: {dict(seen)}")
    assert failed == [], report(failed)


# ---- a seed is one run


def history_of(seed: int) -> list[str]:
    lines: list[str] = []
    run_plan(plan_of(seed), lines.append)
    return lines


def test_a_seed_is_the_same_run_with_and_without_a_history() -> None:
    for seed in range(20):
        assert history_of(seed) == history_of(seed)
        assert run_plan(plan_of(seed)) == run_plan(plan_of(seed), lambda line: None)


def test_a_seed_is_the_same_run_in_another_process() -> None:
    """Whose sets have another order."""

    def replayed(hash_seed: str) -> str:
        command = [sys.executable, "-m", "tests.simulator", "7"]
        env = {**os.environ, "PYTHONHASHSEED": hash_seed}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=PATIENCE_S).stdout

    assert replayed("1") == replayed("2") == "\n".join([*history_of(7), "", "seed 7: 0 problems", ""])


# ---- bugs on purpose


def find(name: str, seeds: int) -> Failure:
    with planted(name):
        failure = next(failures(range(seeds)), None)
    assert failure is not None, f"{name}: not found in {seeds} seeds"
    return failure


@pytest.mark.parametrize("name", [name for name in BUGS if name not in RARE])
def test_a_planted_bug_is_found_in_the_seeds_of_the_suite(name: str) -> None:
    failure = find(name, SEEDS)
    assert outcome_of(plan_of(failure.seed)).problems == [], "without the bug, the same seed goes well"


@pytest.mark.campaign
@pytest.mark.parametrize("name", RARE)
def test_a_rare_bug_is_found_in_the_seeds_of_the_campaign(name: str) -> None:
    assert find(name, CAMPAIGN_SEEDS)


def test_several_processes_find_what_one_finds() -> None:
    alone, together, done = Counter[str](), Counter[str](), list[range]()
    assert list(failures(range(150), lambda seed, happened: alone.update(happened))) == []
    assert list(failures_of_processes(range(150), 2, lambda some, happened: (done.append(some), together.update(happened)))) == []  # type: ignore[func-returns-value]
    assert (done, together) == ([range(100), range(100, 150)], alone)


def test_a_failure_says_how_to_replay_it() -> None:
    with planted("a refusal is dropped"):
        failure = next(failures(range(10)))
    assert f"uv run python -m tests.simulator {failure.seed}" in str(failure)
    assert "has no answer" in str(failure)


def test_a_failure_is_shrunk_to_the_steps_that_it_needs() -> None:
    with planted("a refusal is dropped"):
        plan = plan_of(next(failures(range(10))).seed)
        few = shrunk(plan)
        assert outcome_of(few).problems
    assert sum(len(chapter.steps) for chapter in few.chapters) <= 3 < sum(len(chapter.steps) for chapter in plan.chapters)


def test_an_exception_of_a_run_is_a_failure_of_its_seed() -> None:
    broken = plan_of(0)
    broken = broken.without({(0, n) for n in range(1, len(broken.chapters[0].steps))})
    object.__setattr__(broken.chapters[0].steps[0], "kind", "nonsense")
    assert outcome_of(broken).problems != []
