"""The log's clock: measured by acknowledgements, whatever the machine's clock does; and what is due by it."""

from __future__ import annotations

import pytest

from commands.reconciler.schedule import Queue, Schedule
from ledger.log_clock import CERTAIN_MS, FRESH_MS, LogClock

HOUR_MS = 3_600_000


class Time:
    """The two clocks of a machine, each moved by the test."""

    def __init__(self) -> None:
        self.machine_ms, self.monotonic_ms = 1_000 * HOUR_MS, 5_000
        self.clock = LogClock(lambda: self.machine_ms, lambda: self.monotonic_ms)

    def passes(self, ms: int) -> None:
        self.machine_ms += ms
        self.monotonic_ms += ms


def test_before_any_measure_the_time_is_that_of_the_machine_and_uncertain() -> None:
    time = Time()
    assert time.clock.bounds_ms(0) == (time.machine_ms, time.machine_ms)
    assert not time.clock.is_certain(0)
    assert time.clock.skews_ms() == {}


@pytest.mark.parametrize("ahead_ms", [2 * HOUR_MS, -2 * HOUR_MS, 0])
def test_an_acknowledgement_says_how_late_it_is_and_each_partition_has_its_own_clock(ahead_ms: int) -> None:
    time = Time()
    log_ms = time.machine_ms - ahead_ms
    time.clock.appended(log_ms, 0)
    time.clock.appended(log_ms + HOUR_MS, 1)
    time.passes(10_000)
    assert time.clock.bounds_ms(0) == (log_ms + 10_000, log_ms + 10_000)
    assert time.clock.latest_ms(1) == log_ms + HOUR_MS + 10_000
    assert time.clock.skews_ms() == {0: -ahead_ms, 1: HOUR_MS - ahead_ms}
    assert time.clock.machine_ahead_ms(0) == max(0, ahead_ms)
    assert time.clock.is_certain(0)
    assert time.clock.latest_ms(7) == time.clock.latest_ms(1), "the newest measure, for want of its own"
    assert not time.clock.is_certain(7)


@pytest.mark.parametrize("jump_ms", [2 * HOUR_MS, -2 * HOUR_MS])
def test_when_the_machines_clock_is_set_the_time_is_between_the_two_until_the_next_measure(jump_ms: int) -> None:
    time = Time()
    log_ms = time.machine_ms
    time.clock.appended(log_ms, 0)
    time.machine_ms += jump_ms
    time.passes(1_000)
    log_ms += 1_000
    assert time.clock.bounds_ms(0) == (min(log_ms, log_ms + jump_ms), max(log_ms, log_ms + jump_ms))
    assert not time.clock.is_certain(0)
    assert time.clock.skews_ms() == {0: -jump_ms}
    time.clock.appended(log_ms, 0)
    assert time.clock.bounds_ms(0) == (log_ms, log_ms)
    assert time.clock.is_certain(0)


def test_after_a_suspension_which_the_monotonic_clock_does_not_count_nothing_is_late() -> None:
    time = Time()
    time.clock.appended(time.machine_ms, 0)
    time.machine_ms += HOUR_MS
    assert time.clock.latest_ms(0) == time.machine_ms
    assert time.clock.earliest_ms(0) == time.machine_ms - HOUR_MS


def test_a_slew_is_no_step_and_an_old_measure_is_uncertain() -> None:
    time = Time()
    time.clock.appended(time.machine_ms, 0)
    time.machine_ms += CERTAIN_MS
    assert time.clock.is_certain(0)
    time.machine_ms += 1
    assert not time.clock.is_certain(0)
    time.clock.appended(time.machine_ms, 0)
    time.passes(FRESH_MS)
    assert time.clock.is_certain(0)
    time.passes(1)
    assert not time.clock.is_certain(0)


def test_a_record_without_a_time_is_no_measure() -> None:
    time = Time()
    time.clock.appended(-1, 0)
    assert time.clock.skews_ms() == {}


def test_a_queue_has_each_order_once_for_its_earliest_time() -> None:
    queue = Queue()
    assert queue.next_ms() is None
    assert [queue.put("a", 30), queue.put("b", 20), queue.put("a", 10), queue.put("a", 40)] == [True, True, True, False]
    assert queue.pop(9) is None
    assert [queue.pop(30), queue.next_ms(), queue.pop(30), queue.pop(30)] == ["a", 20, "b", None]
    assert queue.put("a", 50)
    assert queue.next_ms() == 50


def test_what_the_logs_clock_makes_due_does_not_depend_on_how_time_passes_here() -> None:
    log_ms = {0: 1_000, 1: 9_000}
    monotonic_ms = 0
    schedule = Schedule(lambda: monotonic_ms, lambda partition: log_ms[partition])
    assert schedule.pause_ms() is None
    schedule.at(0, "slow", 5_000)
    schedule.at(1, "fast", 10_000)
    schedule.after("paused", 2_500)
    assert schedule.pause_ms() == 1_000
    assert list(schedule.due()) == []
    monotonic_ms = 2_500
    assert list(schedule.due()) == ["paused"]
    log_ms[0] = 5_000  # its clock jumps
    assert schedule.pause_ms() == 0
    assert list(schedule.due()) == ["slow"]
    log_ms[1] -= 3_600_000  # and this one goes back
    assert schedule.pause_ms() == 3_601_000


def test_a_clock_that_is_set_back_while_orders_are_checked_does_not_check_them_again_and_again() -> None:
    log_ms = 10_000
    schedule = Schedule(lambda: 0, lambda partition: log_ms)
    for number in range(3):
        schedule.at(0, f"ord_{number}", 8_000)
    checked = []
    for order_id in schedule.due():
        checked.append(order_id)
        assert len(checked) < 10
        log_ms = 5_000  # measured by what the first check sent
        schedule.at(0, order_id, 8_000)
    assert checked == ["ord_0"]
    assert schedule.pause_ms() == 3_000
