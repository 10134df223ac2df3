"""Plans of faults: the seed decides everything, every kind happens, and no two faults meet in one process."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict

import pytest

from tests.support.fault_plan import OF_BROKERS, OF_PROCESSES, Fault, Kind, Site, plan

SITE = Site(("commands-1", "commands-2", "serve-1", "serve-2"), ("1", "2", "3"))
HOUR = (3600.0, 30.0, (2.0, 20.0), SITE)


def test_the_seed_decides_everything() -> None:
    assert plan(1, *HOUR) == plan(1, *HOUR)
    assert plan(1, *HOUR) != plan(2, *HOUR)


@pytest.mark.parametrize("seed", range(50))
def test_a_plan_has_every_kind_equally_often_and_ends_in_time(seed: int) -> None:
    faults = plan(seed, *HOUR)
    assert 90 <= len(faults) <= 150
    counts = Counter(fault.kind for fault in faults)
    assert counts.keys() == set(Kind)
    assert max(counts.values()) - min(counts.values()) <= 3
    assert list(faults) == sorted(faults)
    assert all(fault.at_s >= 0 and fault.at_s + fault.for_s <= 3600 for fault in faults)
    hit = Counter(target for fault in faults for target in fault.targets)
    assert hit.keys() == {*SITE.processes, *SITE.brokers}


@pytest.mark.parametrize("seed", range(50))
def test_nothing_has_two_faults_at_a_time_and_brokers_one_in_all(seed: int) -> None:
    held: defaultdict[str, list[Fault]] = defaultdict(list)
    for fault in plan(seed, 3600.0, 5.0, (2.0, 20.0), SITE):
        names = set(fault.targets) | ({"brokers"} if fault.kind in OF_BROKERS else set())
        for name in names or {fault.kind}:
            held[name].append(fault)
    for faults in held.values():
        for one, after in itertools.pairwise(faults):
            assert one.at_s + one.for_s <= after.at_s, (one, after)


def test_targets_are_what_the_kind_is_about() -> None:
    for fault in plan(3, *HOUR):
        if fault.kind in OF_PROCESSES:
            assert len(fault.targets) == 1
            assert set(fault.targets) <= set(SITE.processes)
        elif fault.kind in OF_BROKERS:
            assert len(fault.targets) == (2 if fault.kind is Kind.KILL_TWO else 1)
            assert set(fault.targets) <= set(SITE.brokers)
        else:
            assert fault.targets == ()


def test_one_broker_alone_is_never_two() -> None:
    alone = Site(("commands-1",), ("1",))
    kinds = {fault.kind for fault in plan(1, 3600.0, 10.0, (1.0, 2.0), alone)}
    assert kinds == set(Kind) - {Kind.KILL_TWO}


def test_only_the_chosen_kinds_are_planned() -> None:
    site = Site(("serve-1",), ("1",), (Kind.KILL, Kind.REPLIES))
    assert {fault.kind for fault in plan(1, 600.0, 10.0, (1.0, 2.0), site)} == {Kind.KILL, Kind.REPLIES}


def test_a_fault_is_one_line() -> None:
    assert str(Fault(12.34, Kind.PAUSE, ("serve-1",), 5.0, 1)) == "   12.3 s  pause serve-1 for 5.0 s"
    assert str(Fault(12.34, Kind.OUTSIDE, (), 5.0, 1)) == "   12.3 s  outside for 5.0 s"
    assert str(Fault(12.34, Kind.KILL, ("serve-1",), 0.0, 1)) == "   12.3 s  kill serve-1"
