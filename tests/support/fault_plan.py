"""Faults of the processes of a ledger and of the world around them, planned from a seed. Pure.

A plan contains every kind of fault about equally often. What has a fault gets no other one until that has ended, and at most one
fault at a time is about brokers.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """What happens, and what ends it."""

    KILL = "kill"  # SIGKILL and a new start
    PAUSE = "pause"  # SIGSTOP; SIGCONT
    WIPE = "wipe"  # SIGKILL and a new start without any database
    FULL_DISK = "full disk"  # its disk fills up; a new start on the usual one
    FILE_LIMIT = "file limit"  # it can open no further files and connections; it can again
    KILL_BROKER = "kill broker"  # SIGKILL; a new start
    KILL_TWO = "kill two brokers"
    PAUSE_BROKER = "pause broker"
    OUTSIDE = "outside"  # payment provider and stock services fail, are late, answer twice or never; they work again
    REPLIES = "replies"  # replies of Kafka are late, lost or repeated; they are not any more


OF_PROCESSES = frozenset({Kind.KILL, Kind.PAUSE, Kind.WIPE, Kind.FULL_DISK, Kind.FILE_LIMIT})
OF_BROKERS = frozenset({Kind.KILL_BROKER, Kind.KILL_TWO, Kind.PAUSE_BROKER})
IMMEDIATE = frozenset({Kind.KILL, Kind.WIPE})


class Fault(NamedTuple):
    """`at_s` is since the start of the plan. `targets` are names of processes or brokers; others have none."""

    at_s: float
    kind: Kind
    targets: tuple[str, ...]
    for_s: float
    seed: int

    def __str__(self) -> str:
        lasts = f" for {self.for_s:.1f} s" if self.for_s else ""
        return f"{self.at_s:7.1f} s  {self.kind} {' '.join(self.targets)}".rstrip() + lasts


@dataclass(frozen=True)
class Site:
    """What can have a fault, and the kinds of faults."""

    processes: tuple[str, ...]
    brokers: tuple[str, ...]
    kinds: tuple[Kind, ...] = tuple(Kind)

    def possible(self) -> list[Kind]:
        """Two of three brokers can be down; one of one is all."""
        return [kind for kind in self.kinds if kind is not Kind.KILL_TWO or len(self.brokers) >= 3]


def plan(seed: int, seconds: float, every_s: float, lasts_s: tuple[float, float], site: Site) -> tuple[Fault, ...]:
    """One fault about every `every_s`, each within `seconds`; those that end later than they begin last `lasts_s`."""
    chance = random.Random(seed)
    free_at = dict.fromkeys((*site.processes, *site.brokers, "brokers", *Kind), 0.0)
    faults: list[Fault] = []
    left: list[Kind] = []
    at_s = every_s * chance.uniform(0.2, 0.8)
    while at_s < seconds:
        if not left:
            left = chance.sample(possible := site.possible(), len(possible))
        kind = left.pop()
        targets, held = _targets(chance, kind, site, free_at)
        begins_s = max(at_s, *(free_at[name] for name in held))
        for_s = 0.0 if kind in IMMEDIATE else chance.uniform(*lasts_s)
        if begins_s + for_s <= seconds:
            faults.append(Fault(begins_s, kind, targets, for_s, chance.randrange(1 << 30)))
            free_at |= dict.fromkeys(held, begins_s + for_s)
        at_s += every_s * chance.uniform(0.5, 1.5)
    return tuple(sorted(faults))


def _targets(chance: random.Random, kind: Kind, site: Site, free_at: dict[str, float]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Who has the fault, and what can have no other one meanwhile."""
    if kind in OF_PROCESSES:
        soonest = min(free_at[name] for name in site.processes)
        target = chance.choice([name for name in site.processes if free_at[name] == soonest])
        return (target,), (target,)
    if kind in OF_BROKERS:
        targets = tuple(chance.sample(site.brokers, 2 if kind is Kind.KILL_TWO else 1))
        return targets, (*targets, "brokers")
    return (), (kind,)
