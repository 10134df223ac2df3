"""A campaign on a `Rig`: customers and a desk work while one thread breaks things; then everything that is left is judged.

The judges are `checker` (topics), `world_checker` (topics and what happened outside), `shown_checker` (topics and what people are
shown) and `folds` (databases).
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ledger.kafka.log import KafkaLog
from tests.support import checker, shown_checker, world_checker
from tests.support.busy_customers import BusyCustomers
from tests.support.fault_plan import Fault, plan
from tests.support.folds import desk_differences, projection_differences
from tests.support.patience import PATIENCE_S
from tests.support.proof import lost
from tests.support.reading_shown import read_shown
from tests.support.rig import PARTITIONS, Rig
from tests.support.rig_usage import Usage
from tests.support.standbys import wait_folded

WATCH_EVERY_S = 0.05

Say = Callable[[str], None]


class Breaking(threading.Thread):
    """Carries out a plan and keeps the processes running, for `seconds`; a failure of the rig itself is in `error`."""

    def __init__(self, rig: Rig, faults: Sequence[Fault], seconds: float, say: Say) -> None:
        super().__init__(name="breaking", daemon=True)
        self._rig, self._faults, self._seconds, self._say = rig, faults, seconds, say
        self.error: BaseException | None = None
        self.ending = threading.Event()  # when set, the rest of the plan is left out

    def run(self) -> None:
        try:
            self._run()
        except BaseException as exc:
            self.error = exc

    def _run(self) -> None:
        began = time.monotonic()
        moments = [(fault.at_s, True, fault) for fault in self._faults]
        moments += [(fault.at_s + fault.for_s, False, fault) for fault in self._faults if fault.for_s]
        for at_s, begins, fault in sorted(moments):
            self._watch_until(began + at_s)
            if self.ending.is_set():
                return
            if begins:
                self._say(str(fault))
                self._rig.begin(fault)
            else:
                self._rig.end(fault)
        self._watch_until(began + self._seconds)

    def _watch_until(self, at: float) -> None:
        self._rig.watch()
        while time.monotonic() < at and not self.ending.wait(WATCH_EVERY_S):
            self._rig.watch()


@dataclass
class Report:
    """What happened, and every broken promise."""

    seed: int
    seconds: float
    faults: Counter[str]
    replies: dict[str, int]
    figures: dict[str, Any]
    breaks: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "faults": dict(sorted(self.faults.items())),
            "replies": self.replies,
            **self.figures,
            "breaks": self.breaks,
        }

    def lines(self) -> list[str]:
        """For people."""
        shown = [f"{name:>20}  {_words(value)}" for name, value in self.as_dict().items() if name != "breaks"]
        return [*shown, f"{'breaks':>20}  {len(self.breaks)}", *self.breaks[:50]]


def _words(value: Any) -> str:
    return ", ".join(f"{key} {count}" for key, count in value.items()) if isinstance(value, dict) else str(value)


def campaign(
    rig: Rig,
    seed: int,
    seconds: float,
    every_s: float,
    lasts_s: tuple[float, float],
    per_s: float,
    settle_s: float = PATIENCE_S,
    say: Say = lambda line: None,
) -> Report:
    """Break a fault about `every_s` for `seconds`, under `per_s` new orders a second; then judge."""
    began = time.monotonic()
    faults = plan(seed, seconds, every_s, lasts_s, rig.site())
    breaking = Breaking(rig, faults, seconds, say)
    customers = BusyCustomers(rig.node, rig.sandbox, rig.urls, breaking.is_alive, per_s, seconds + 2 * PATIENCE_S, seed)
    usage = Usage(rig.running)
    breaking.start()
    customers.start()
    usage.start()
    try:
        while breaking.is_alive() and customers.error is None:
            breaking.join(0.5)
    finally:
        breaking.ending.set()
        breaking.join(PATIENCE_S)
        usage.stop()
    if breaking.error is not None:
        raise breaking.error
    say("calm again")
    rig.calm()
    customers.join(2 * PATIENCE_S)
    assert not customers.is_alive(), rig.node.tails()
    if customers.error is not None:
        raise customers.error
    report = Report(
        seed,
        seconds,
        Counter(str(fault.kind) for fault in faults),
        {f"{api.name} {fate}": count for (api, fate), count in sorted(rig.replies.items())},
        {"processes": len(rig.processes), "brokers": len(rig.cluster.nodes), "usage": usage.figures(seconds)},
    )
    _judge(rig, customers, report, settle_s, say)
    report.figures["whole_s"] = round(time.monotonic() - began, 1)
    return report


def _judge(rig: Rig, customers: BusyCustomers, report: Report, settle_s: float, say: Say) -> None:
    deadline = time.monotonic() + settle_s
    while (settled := _unsettled(rig, customers))[0] and time.monotonic() < deadline:
        say(f"settling: {len(settled[0])} left, such as {settled[0][0]}")
        rig.watch()
        time.sleep(1.0)
    wrong, ledger, world = settled
    report.breaks += wrong
    report.breaks += lost(customers.acknowledged, ledger)
    report.breaks += [
        f"{order_id} was accepted and is not in the log" for order_id in customers.orders.keys() - ledger.orders.keys()
    ]
    report.breaks += [f"{one.name} ended by itself with {one.code}" for one in rig.ended if not one.excused]
    try:
        log = KafkaLog(rig.cluster.settings())
        wait_folded(rig.commands(), rig.cluster.bootstrap_servers, log, rig.node.topics, PARTITIONS)
    except AssertionError:
        report.breaks.append("a standby does not fold what was decided")
    for name, child in rig.processes.items():
        if (code := child.stop()) != 0:
            report.breaks.append(f"{name} stopped with {code}")
    report.breaks += _differences(rig)
    report.figures |= {
        "orders": len(ledger.orders),
        "events": len(ledger.events),
        "refusals": len(ledger.refusals),
        "commands": len(ledger.commands),
        "acknowledged": len(customers.acknowledged),
        "answers": {str(code): count for code, count in sorted(customers.answers.items())},
        "statuses": dict(Counter(order.status for order in ledger.orders.values())),
        "outside": world.sums(),
        "calls": dict(sum((Counter({fate: n}) for (_, _, fate), n in world.calls.items()), Counter[str]())),
        "disks_filled": rig.filled,
        "ended_excused": len([one for one in rig.ended if one.excused]),
    }


def _unsettled(rig: Rig, customers: BusyCustomers) -> tuple[list[str], checker.Ledger, world_checker.World]:
    """Everything that is wrong now. What people are shown is read only when the topics are right."""
    direct, prefix = rig.cluster.bootstrap_servers, rig.node.topics.prefix
    world = world_checker.read_journal(rig.sandbox.database)
    ledger = checker.read_ledger(direct, prefix)
    wrong = ledger.problems + world_checker.unresolved(ledger) + world_checker.judge(ledger, world)
    for url in rig.urls if not wrong else ():
        shown = read_shown(url, direct, prefix, ledger, rig.outbox)
        wrong += [f"{url}: {line}" for line in shown_checker.judge(ledger, shown, customers.buyers)]
    return wrong, ledger, world


def _differences(rig: Rig) -> list[str]:
    """Rows of databases that differ from a fold of the topics."""
    direct, topics, log = rig.cluster.bootstrap_servers, rig.node.topics, KafkaLog(rig.cluster.settings())
    wrong = []
    for name, child in rig.processes.items():
        state = rig.node.state_dir(name)
        if child.verb == "commands":
            rows = desk_differences(state, direct, log, topics, rig.node.writers, PARTITIONS)
        else:
            rows = projection_differences(state, direct, topics, PARTITIONS)
        wrong += [f"{name}: {row}" for row in rows]
    return wrong
