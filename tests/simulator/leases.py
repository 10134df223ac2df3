"""Who should run which writer, as the group over `order-writers` says it: late, and not the same to everybody."""

from __future__ import annotations

import random

from tests.simulator.nodes import Commands
from tests.simulator.scheduling import Scheduler

PATIENCE_US = 2_000_000  # a process that lets go finishes its batch for so long (`commands.processor.process`)


class Leases:
    """`owners`: by writer, whom the group has chosen last."""

    def __init__(self, scheduler: Scheduler, chance: random.Random, nodes: list[Commands], writers: int) -> None:
        self._scheduler, self._chance, self._nodes = scheduler, chance, nodes
        self.owners = {w: nodes[w % len(nodes)] for w in range(writers)}

    def begin(self) -> None:
        for w, node in self.owners.items():
            node.take(w)

    def started(self, node: Commands) -> None:
        """A process that comes back soon enough gets what it had."""
        for w, owner in self.owners.items():
            if owner is node:
                node.take(w)

    def of(self, node: Commands) -> list[int]:
        return [w for w, owner in self.owners.items() if owner is node]

    def other(self, node: Commands) -> Commands:
        return next(one for one in self._nodes if one is not node)

    def move(self, writer: int, to: Commands) -> None:
        """A rebalance: its holder lets go first."""
        self.owners[writer].leave(writer)
        self.give(writer, to)

    def let_go(self, writers: list[int], node: Commands) -> None:
        """A process that was suspended hears at last that it lost these writers."""
        for w in writers:
            if self.owners[w] is not node:
                node.leave(w)

    def give(self, writer: int, to: Commands, after_s: float = 0.0) -> None:
        """The group assigns it once whoever lets go has finished its batch, is gone, or takes longer than the group waits."""
        self.owners[writer] = to
        patience_us = self._scheduler.now_us + PATIENCE_US

        def take() -> None:
            busy = any(node.lets_go(writer) for node in self._nodes) and self._scheduler.now_us < patience_us
            if self.owners[writer] is to and (busy or to.machine.suspended):
                self._scheduler.after(0.01, take)
            elif self.owners[writer] is to:
                to.take(writer)

        self._scheduler.after(after_s + self._chance.random() * 0.05, take)

    def settle(self, asleep: str, again: bool) -> None:
        """Each writer has one holder, which runs. `again`: it takes its writer again, because it may have missed an event."""
        for w, owner in list(self.owners.items()):
            to = self.other(owner) if owner.name == asleep else owner
            for node in self._nodes:
                if again or node is not to:
                    node.leave(w)
            self.give(w, to)
