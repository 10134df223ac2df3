"""The processes of a ledger on simulated time, made of the product's own parts. Stores survive their process, nothing else does.

`commands`   `WriterLoop` for each writer, and `Reconciler`. The lease is the simulation's: it says who takes and leaves what.
`serve`      `Projector` over the three topics, without Faust and HTTP.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from commands.processor.claims import Claims
from commands.processor.order_book import OrderBook
from commands.processor.writer_loop import WriterLoop
from commands.reconciler.loop import Reconciler
from commands.reconciler.performing import Ports
from ledger.errors import LogUnavailable
from ledger.log import TopicPartition
from ledger.log_clock import LogClock
from ledger.memory.store import MemoryStore
from ledger.partitioner import partition_for
from ledger.topics import Topics
from projections.databases import Databases
from projections.projector import Projector
from tests.simulator.event_loop import SimulatedLoop
from tests.simulator.scheduling import Flag, Machine, Scheduler
from tests.simulator.unkind_log import UnkindLog, UnkindSender

APP = "app"


class Store(MemoryStore):
    """A process may be killed before and after each write. `doom`: kills it in the next one."""

    def __init__(self, scheduler: Scheduler, chance: random.Random) -> None:
        super().__init__()
        self._scheduler, self._chance = scheduler, chance
        self.doom: Callable[[], None] | None = None

    def write(self, rows: Mapping[bytes, bytes | None]) -> None:
        before, after = self._chance.random() < 0.4, self._chance.random() < 0.4
        if before:
            self._scheduler.step(0.003)
            self._die()
        super().write(rows)
        if after:
            self._scheduler.step(0.003)
            self._die()

    def _die(self) -> None:
        if self.doom is not None and self._scheduler.current is not None:
            self._scheduler.after(0.0, self.doom)
            self.doom = None
            self._scheduler.sleep(1.0)


@dataclass(frozen=True)
class Plant:
    """What all nodes share.

    `follows`: whether a process keeps up with a writer that it does not own. `ended` receives the name of a process that ended by
    itself, and why.
    """

    scheduler: Scheduler
    log: UnkindLog
    topics: Topics
    partitions: int
    writers: int
    wall_ms: Callable[[], int]
    monotonic_ms: Callable[[], int]
    mishaps: Callable[[], float]
    follows: Callable[[], bool]
    ended: Callable[[str, BaseException], None]

    def store(self) -> Store:
        return Store(self.scheduler, self.log.state.chance)

    def partition_of(self, order_id: str) -> int:
        return partition_for(order_id.encode(), self.partitions)


class Commands:
    """One `commands` process and its disk. `clock` is its machine's clock, ms since the epoch."""

    def __init__(self, plant: Plant, name: str, ports: Callable[[], Ports], clock: Callable[[], int]) -> None:
        self._plant, self.name, self._ports, self._clock = plant, name, ports, clock
        self.machine = Machine(name, alive=False)
        self.stores = self._empty()
        self.loops: dict[int, WriterLoop] = {}
        self.reconciler: Reconciler | None = None

    def _empty(self) -> list[Store]:
        return [self._plant.store() for _ in range(self._plant.writers)]

    def start(self) -> None:
        plant, self.machine = self._plant, Machine(self.name)
        books = [OrderBook(store) for store in self.stores]
        self._sender = UnkindSender(plant.log.state, plant.mishaps)
        progress = self._progress = UnkindSender(plant.log.state, plant.mishaps)
        clock, topics = LogClock(self._clock, plant.monotonic_ms), plant.topics
        self.reconciler = reconciler = Reconciler(
            self._ports,
            lambda partition: books[partition % plant.writers],
            plant.partition_of,
            self._sender,
            plant.topics,
            self._failed,
            clock,
        )
        self._loop = reconciler._loop = SimulatedLoop(plant.scheduler)
        self._loop.spawn(self.machine, reconciler._main())
        # A process waits until it has this answer.
        ids = {name: plant.log.state.topic(name).id for name in (topics.commands, topics.events, topics.refusals, topics.writers)}
        for w, store in enumerate(self.stores):
            owned = list(range(w, plant.partitions, plant.writers))
            claims = Claims(plant.log, progress, topics, ids[topics.commands], self.name, (), clock)
            loop = WriterLoop(
                plant.log, store, topics, ids, APP, w, owned, plant.partitions, claims, self._failed, watchers=(reconciler,)
            )
            # Their `wait` would stop the only thread.
            loop._stopping, loop._wake = Flag(plant.scheduler), Flag(plant.scheduler)  # type: ignore[assignment]
            loop._batches._stopping = loop._stopping
            loop.follow(plant.follows())
            self.loops[w] = loop
            plant.scheduler.spawn(self.machine, self._runs(loop))

    def _runs(self, loop: WriterLoop) -> Callable[[], None]:
        def run() -> None:
            try:
                loop._decide_or_follow()
            except Exception as exc:  # what ends the process: its writer's thread reports it
                self._failed(exc)

        return run

    def _failed(self, exc: BaseException) -> None:
        self._plant.ended(self.name, exc)
        machine = self.machine
        self._plant.scheduler.after(0, lambda: self.kill() if self.machine is machine else None)

    def kill(self) -> None:
        if not self.machine.alive:
            return
        self._plant.scheduler.kill(self.machine)
        self._sender.close()
        self._progress.close()
        self._loop.bury()
        self.loops = {}
        self.reconciler = None

    def lose_disk(self) -> None:
        assert not self.machine.alive
        self.stores = self._empty()

    def follow_all(self) -> None:
        """Keep up with every writer, so that all stores can be compared."""
        for loop in self.loops.values():
            loop.follow(True)

    def doom(self, kill: Callable[[], None]) -> None:
        """Have it killed in its next write."""
        for store in self.stores:
            store.doom = kill

    def spare(self) -> None:
        for store in self.stores:
            store.doom = None

    def position(self, tp: TopicPartition) -> int:
        """How far it has folded `tp`; 0 if it does not run."""
        loop = self.loops.get(tp.partition % self._plant.writers)
        return loop._desks.positions()[tp] if loop is not None else 0

    def responds(self) -> bool:
        return self.machine.alive and not self.machine.suspended

    def take(self, writer: int) -> None:
        if self.machine.alive:
            self.loops[writer].take()

    def lets_go(self, writer: int) -> bool:
        """Whether it finishes a batch of a writer that it no longer owns."""
        if not self.responds():
            return False
        return self.loops[writer].ready.is_set() and not self.loops[writer]._owned.is_set()

    def leave(self, writer: int) -> None:
        if self.machine.alive:
            self.loops[writer].leave(0)


class Serve:
    """One `serve` process and its disk."""

    def __init__(self, plant: Plant, name: str, chunk: Callable[[], int]) -> None:
        self._plant, self.name, self._chunk = plant, name, chunk
        self.machine = Machine(name, alive=False)
        self._disk: dict[str, Store] = {}
        self.projector: Projector | None = None

    def _open(self, name: str) -> Store:
        if name not in self._disk:
            self._disk[name] = self._plant.store()
        return self._disk[name]

    def start(self) -> None:
        plant, self.machine = self._plant, Machine(self.name)
        databases = Databases(self._open, plant.topics, range(plant.partitions), plant.partitions)
        self.projector = Projector(databases)
        plant.scheduler.spawn(self.machine, lambda: self._run(databases))

    def _run(self, databases: Databases) -> None:
        try:
            self._fold(databases)
        except Exception as exc:  # what ends the process
            self._plant.ended(self.name, exc)
            machine = self.machine
            self._plant.scheduler.after(0, lambda: self.kill() if self.machine is machine else None)

    def _fold(self, databases: Databases) -> None:
        plant = self._plant
        assert self.projector is not None
        refusals = [TopicPartition(plant.topics.refusals, p) for p in range(plant.partitions)]
        while True:
            try:
                databases.skip_expired(plant.log.starts(refusals))
                break
            except LogUnavailable:
                plant.scheduler.sleep(0.5)
        reader = plant.log.reader(self.name)
        reader.assign(databases.positions())
        while True:
            if records := reader.poll(self._chunk(), 1.0):
                self.projector.apply_chunk(records)
            elif reader.silent_s() == 0.0:
                self.projector.contacts.note_current(plant.wall_ms())

    def kill(self) -> None:
        if self.machine.alive:
            self._plant.scheduler.kill(self.machine)
            self.projector = None

    def lose_disk(self) -> None:
        assert not self.machine.alive
        self._disk = {}

    def doom(self, kill: Callable[[], None]) -> None:
        """Have it killed in its next write."""
        for store in self._disk.values():
            store.doom = kill

    def spare(self) -> None:
        for store in self._disk.values():
            store.doom = None

    def position(self, tp: TopicPartition) -> int:
        """How far it has folded `tp`; 0 if it does not run."""
        return self.projector.databases.position(tp) if self.projector is not None else 0
