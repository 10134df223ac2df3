"""What happens in a run, and when: drawn from its seed before it begins. A shorter run is the same plan without some steps.

Each run has only some kinds of faults: bugs that need two kinds hide in runs that have all of them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

from tests.support.order_commands import M1, P1, P2, PAY, PAY_LESS, ask_back, cut, notes, parcel
from tests.support.order_model import Command

ACTIVE_MS = 3_000  # the steps of a chapter come within this time
KEY_DAYS = 25  # a key is honoured for 30 days
NODES, SERVES = 2, 2


@dataclass(frozen=True)
class Step:
    """`at_ms` after the start, on the scheduler's clock."""

    at_ms: int
    kind: str
    args: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind} {' '.join(f'{name}={value}' for name, value in self.args.items())}".rstrip()


@dataclass(frozen=True)
class Chapter:
    """Steps; then everything settles, and so many days pass."""

    steps: tuple[Step, ...]
    days: float = 0.0


@dataclass(frozen=True)
class Plan:
    """`units`: stock of each item. `mishaps`: share of messages and calls that something happens to."""

    seed: int
    partitions: int
    writers: int
    serves: int
    units: int
    mishaps: float
    calls_fail: float
    chapters: tuple[Chapter, ...]

    def without(self, dropped: set[tuple[int, int]]) -> Plan:
        """The plan without these steps: (chapter, step)."""
        chapters = tuple(
            replace(chapter, steps=tuple(step for m, step in enumerate(chapter.steps) if (n, m) not in dropped))
            for n, chapter in enumerate(self.chapters)
        )
        return replace(self, chapters=chapters)


CARTS: tuple[Command, ...] = ({}, {"cart": "two and one"}, {"cart": "two and one"}, {"services": ("product", "merch")})
ADMIN: tuple[Command, ...] = (
    *({"op": op, "role": "admin"} for op in ("StartFulfilment", "ShipOrder", "ShipOrder", "ConfirmDelivery")),
    *(cut(P1), cut(M1), cut(P2, shipping=True), cut(P1, role="customer"), cut(P2, M1)),
    *(ask_back(P1), ask_back(amount=300), ask_back(M1, shipping=True), ask_back(P1, restock=True)),
    *(parcel(P1), parcel(M1), parcel(P2, M1), {"op": "ConfirmParcel", "role": "admin", "parcel": 1}),
    *(notes(till="7"), notes(till=None, shelf="b")),
    *({"op": "CancelOrder", "role": role, "reason": "other"} for role in ("customer", "admin", "customer")),
    *(PAY, *PAY_LESS),
)
FAULTS = (
    *("kill", "disk", "suspend", "move", "serve", "away", "commit", "markers", "hanging", "mishaps", "calls"),
    *("clocks", "days", "jumps", "strict", "bad", "junk", "contacts", "failing"),
)


def plan_of(seed: int) -> Plan:
    """The plan of this seed."""
    chance = random.Random(f"{seed}/plan")
    faults = {fault for fault in FAULTS if chance.random() < 0.3}
    days = chance.choice((2, 10, 40, 70)) if "days" in faults and chance.random() < 0.6 else 0
    sent = list[dict[str, Any]]()
    chapters = [Chapter(_in_order([*_orders(chance, sent, 0), *_faults(chance, faults), *_sleep(chance, days)]), days)]
    if days:
        if days >= KEY_DAYS:
            sent.clear()
        chapters.append(Chapter(_in_order([*_orders(chance, sent, 10), *_faults(chance, faults)])))
    partitions = chance.choice((1, 2, 2))
    return Plan(
        seed,
        partitions,
        chance.randint(1, partitions),
        chance.choice((1, 1, 1, SERVES)),
        chance.choice((3, 100)),
        0.12 if "mishaps" in faults else 0.0,
        0.25 if "calls" in faults else 0.0,
        tuple(chapters),
    )


def _sleep(chance: random.Random, days: float) -> list[Step]:
    """A process that does not run in the days that follow."""
    if not days or chance.random() < 0.3:
        return []
    names = [*("serve-0",) * 4, "commands-0", "commands-1"]
    return [Step(chance.randrange(ACTIVE_MS), "sleep", {"name": chance.choice(names)})]


def _in_order(steps: list[Step]) -> tuple[Step, ...]:
    return tuple(sorted(steps, key=lambda step: step.at_ms))


def _orders(chance: random.Random, sent: list[dict[str, Any]], first: int) -> list[Step]:
    """A few orders: placed, mostly paid, and what the customer and the desk ask for; at times again, or with another body."""
    steps = list[Step]()

    def send(at_ms: int, order: str, c: Command) -> None:
        command = {"order": order, "id": f"cmd_{first}_{len(sent)}", "c": c, "body": 0}
        sent.append(command)
        steps.append(Step(at_ms, "send", command))

    for n in range(first, first + chance.choice((1, 1, 1, 2, 2))):
        order, at_ms = f"ord_{n}", chance.randrange(500)
        send(at_ms, order, {"op": "PlaceOrder", "role": "customer"} | chance.choice(CARTS))
        if chance.random() < 0.85:
            at_ms += chance.randrange(1, 600)
            send(at_ms, order, PAY)
            steps.append(Step(at_ms + chance.randrange(50, 700), "pay", {"order": order, "works": chance.random() < 0.85}))
        for _ in range(chance.randint(0, 3)):
            send(chance.randrange(ACTIVE_MS), order, chance.choice(ADMIN))
    for _ in range(chance.randint(0, 3)):
        again = chance.choice(sent) | ({"body": chance.randint(1, 2)} if chance.random() < 0.25 else {})
        steps.append(Step(chance.randrange(ACTIVE_MS), "send", again))
    for _ in range(chance.randint(0, 3)):
        steps.append(Step(chance.randrange(ACTIVE_MS), "webhook", {"order": chance.choice(sent)["order"]}))
    for _ in range(chance.randint(0, 4)):
        command = chance.choice(sent)
        steps.append(Step(chance.randrange(ACTIVE_MS), "read outcome", {"id": command["id"], "serve": chance.randrange(SERVES)}))
    return steps


def _faults(chance: random.Random, faults: set[str]) -> list[Step]:
    steps = list[Step]()

    def some(fault: str, most: int, kind: str, **args: Any) -> None:
        """`args` that are functions are drawn for each step."""
        if fault in faults:
            for _ in range(chance.randint(1, most)):
                drawn = {name: arg() if callable(arg) else arg for name, arg in args.items()}
                steps.append(Step(chance.randrange(ACTIVE_MS), kind, drawn))

    def node() -> int:
        return chance.randrange(NODES)

    def briefly() -> float:
        return round(chance.choice((0.05, 0.4, 2.0)) * chance.uniform(0.3, 1.5), 3)

    def order() -> str:
        return f"ord_{chance.randrange(3)}"

    some("kill", 3, "kill", node=node, for_s=briefly, in_a_write=lambda: chance.random() < 0.4)
    some("disk", 1, "kill", node=node, for_s=briefly, disk=True)
    some("suspend", 2, "suspend", node=node, for_s=lambda: round(chance.uniform(0.1, 9), 3), moves=lambda: chance.random() < 0.7)
    some("move", 4, "move", writer=lambda: chance.randrange(2), node=node)
    some(
        "serve",
        2,
        "kill serve",
        serve=lambda: chance.randrange(SERVES),
        for_s=briefly,
        disk=lambda: chance.random() < 0.3,
        in_a_write=lambda: chance.random() < 0.5,
    )
    some("away", 1, "away", for_s=briefly)
    some("commit", 3, "commit", fate=lambda: chance.choice(("request lost", "reply lost", "repeated")))
    some("markers", 1, "markers", usual_s=lambda: round(chance.choice((0.05, 0.3)) * chance.uniform(0.5, 1.5), 3))
    some("hanging", 1, "lose marker", partition=lambda: chance.randrange(2), topic=lambda: chance.choice(("events", "refusals")))
    some(
        "clocks", 2, "log clock", partition=lambda: chance.randrange(2), ms=lambda: chance.choice((-3_600_000, 7_200_000, 4_000))
    )
    some("clocks", 1, "node clock", node=node, ms=lambda: chance.choice((-1_800_000, 7_200_000)))
    some("strict", 1, "limit times")
    some("strict", 2, "log clock", partition=lambda: chance.randrange(2), ms=lambda: chance.choice((7_200_000, 7_200_000, 0)))
    some("jumps", 2, "days", days=lambda: chance.choice((0.02, 1.2, 5)))
    some("bad", 1, "bad event", order=order)
    some("junk", 2, "junk", order=order)
    some("contacts", 5, "contact", order=order, erased=lambda: chance.random() < 0.4)
    some("failing", 1, "failing", share=0.1)
    return steps
