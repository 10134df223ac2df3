"""How long the reconciler waits after a failure, and when it calls a person, on a clock that the test moves."""

from __future__ import annotations

from itertools import pairwise

import pytest

from commands.obligations import Kind
from commands.reconciler.pauses import LONGEST_PAUSE_MS, STUCK_PAUSE_MS, Tries, pause_ms
from commands.reconciler.performing import CallReport

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
WAITED = (Kind.RESERVE, Kind.CREATE_PAYMENT, Kind.LOOK_AT_PAYMENT, Kind.CAPTURE)


class Clock:
    def __init__(self) -> None:
        self.now_ms = 1_000_000

    def __call__(self) -> int:
        return self.now_ms


def pauses(kind: Kind, report: CallReport, count: int) -> tuple[list[int], Tries]:
    """The pauses after `count` failures, each at the first moment it can happen."""
    clock, t = Clock(), Tries()
    waits = []
    for _ in range(count):
        t.fail(kind, clock.now_ms, report)
        waits.append(t.next_at - clock.now_ms)
        clock.now_ms = t.next_at
    return waits, t


@pytest.mark.parametrize("kind", WAITED)
def test_what_a_customer_waits_for_is_tried_again_after_a_fifth_of_a_second_then_ever_later(kind: Kind) -> None:
    exact = [pause_ms(kind, n, reachable=False) for n in range(20)]
    assert exact[:8] == [200, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000]
    assert all(b in (2 * a, LONGEST_PAUSE_MS) for a, b in pairwise(exact[3:]))
    assert exact[-1] == LONGEST_PAUSE_MS
    waits, _ = pauses(kind, CallReport(failed="x"), 8)
    assert all(0.75 * e - 1 <= p <= 1.25 * e + 1 for p, e in zip(waits, exact, strict=False))


@pytest.mark.parametrize("kind", [k for k in Kind if k not in WAITED])
def test_everything_else_begins_with_a_second(kind: Kind) -> None:
    assert [pause_ms(kind, n, reachable=False) for n in range(4)] == [1_000, 2_000, 4_000, 8_000]
    assert pause_ms(kind, 60, reachable=False) == LONGEST_PAUSE_MS


def test_while_reads_succeed_and_only_the_act_fails_no_pause_grows_to_minutes() -> None:
    waits, t = pauses(Kind.CAPTURE, CallReport(failed="x", reachable=True), 60)
    assert max(waits) <= 15_000 * 1.25
    assert (t.failed, t.blind) == (60, 0)


def test_a_person_is_called_after_twenty_blind_failures_or_an_hour_of_any() -> None:
    clock, t = Clock(), Tries()
    for failures in range(1, 22):
        t.fail(Kind.CAPTURE, clock.now_ms, CallReport(failed="x"))
        assert t.is_stuck(clock.now_ms) == (failures > 20)
    assert t.next_at - clock.now_ms >= STUCK_PAUSE_MS * 0.75
    report, t = CallReport(failed="x", reachable=True), Tries()
    for _ in range(100):
        t.fail(Kind.CAPTURE, clock.now_ms, report)
    assert not t.is_stuck(clock.now_ms)
    clock.now_ms += HOUR_MS + 1
    assert t.is_stuck(clock.now_ms)


def test_a_pause_that_the_other_side_asks_for_is_kept_up_to_a_minute() -> None:
    waits, _ = pauses(Kind.CREATE_PAYMENT, CallReport(failed="x", after_s=7.0), 3)
    assert all(p == 7_000 for p in waits)
    waits, _ = pauses(Kind.CREATE_PAYMENT, CallReport(failed="x", after_s=86_400.0), 3)
    assert all(p == MINUTE_MS for p in waits)
