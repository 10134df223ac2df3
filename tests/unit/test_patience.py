"""Patience follows progress, with a clock that the test moves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ledger.patience import AT_MOST_S, SLOW_AFTER_S, STILL_S, Patience, changed_ns, cpu_of, sizes_of


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_work_that_progresses_is_waited_for_long_past_the_limit_without_progress(clock: Clock) -> None:
    patience = Patience(clock=clock)
    for step in range(13):
        assert not patience.is_over(step)
        clock.now_s += STILL_S
    assert patience.waited_s == 13 * STILL_S
    assert not patience.is_over("moved")
    clock.now_s += STILL_S + 1
    assert patience.is_over("moved")


def test_without_progress_it_ends_after_a_minute_and_finally_in_any_case(clock: Clock) -> None:
    still = Patience(clock=clock)
    assert not still.is_over(0)
    clock.now_s += STILL_S - 1
    assert not still.is_over(0)
    clock.now_s += 2
    assert still.is_over(0)
    busy = Patience(clock=clock)
    for step in range(int(AT_MOST_S)):
        assert not busy.is_over(step)
        clock.now_s += 1
    clock.now_s += 1
    assert busy.is_over("still busy")


def test_a_long_wait_is_reported_now_and_then(clock: Clock) -> None:
    said: list[float] = []
    patience = Patience(say=said.append, clock=clock)
    for step in range(200):
        patience.is_over(step)
        clock.now_s += 1
    assert said == [SLOW_AFTER_S, SLOW_AFTER_S + 60, SLOW_AFTER_S + 120]


def test_signs_of_progress_are_whole_seconds_of_cpu_and_sizes(tmp_path: Path) -> None:
    used = os.times()
    assert abs(cpu_of([os.getpid(), 2**22 + 1]) - (used.user + used.system)) <= 2  # a process that has ended counts nothing
    (tmp_path / "log").write_bytes(b"12345")
    assert sizes_of([tmp_path / "log", tmp_path / "none"]) == (5, 0)
    assert changed_ns(tmp_path / "log") == (tmp_path / "log").stat().st_mtime_ns
    assert changed_ns(tmp_path / "none") == 0


def test_a_file_that_vanishes_between_two_calls_is_one_that_does_not_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "exists", lambda _: True)  # as it was a moment before
    assert (sizes_of([tmp_path / "log"]), changed_ns(tmp_path / "log")) == ((0,), 0)
