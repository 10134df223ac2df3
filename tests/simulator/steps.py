"""What each step of a plan does: customers, the desk, webhooks, and the faults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace as changed

from commands.messages import OrderCommand, command_codec
from commands.processor.order_book import OrderBook
from commands.reconciler.answers import command_of
from ledger.contacts import Address, OrderContact, contact_key
from ledger.durations import DAY_MS
from ledger.errors import LogError
from ledger.log import Acked, NewRecord, TopicPartition
from ledger.order import OPEN
from ledger.outcomes import decode_outcome, outcome_key
from ledger.schemas.codec import contact_codec
from tests.simulator.nodes import APP, Commands, Serve
from tests.simulator.plans import Step
from tests.support.desk_line import UNDECODABLE
from tests.support.order_commands import order_command

if TYPE_CHECKING:
    from tests.simulator.simulation import Simulation


class Steps:
    """One method for each kind of step, with the arguments of the step. None may block."""

    def __init__(self, run: Simulation) -> None:
        self._run = run
        self._topics = run.plant.topics

    def do(self, step: Step) -> None:
        getattr(self, f"_{step.kind.replace(' ', '_')}")(**step.args)

    def _partition(self, order: str) -> int:
        return self._run.plant.partition_of(order)

    # ---- customers and the desk

    def _send(self, order: str, id: str, c: dict[str, Any], body: int) -> None:
        self._send_command(changed(order_command(c, order, id), fingerprint=bytes([body]) * 16), tries=3)

    def _send_command(self, command: OrderCommand, tries: int) -> None:
        """Sends it again while there is no acknowledgement: it may still be durable."""
        record = NewRecord(
            self._topics.commands,
            self._partition(command.order_id),
            command.order_id.encode(),
            command_codec().encode(command),
        )

        def on_ack(acked: Acked | None, error: LogError | None) -> None:
            if acked is not None:
                self._run.acked.append((TopicPartition(self._topics.commands, acked.partition), acked.offset))
            elif tries:
                self._run.scheduler.after(0.3, lambda: self._send_command(command, tries - 1))

        self._run.gateway.send(record, on_ack)

    def _pay(self, order: str, works: bool, tries: int = 3) -> None:
        """The customer pays as soon as an open order has a payment to pay, and gives up after a while."""
        run, partition = self._run, self._partition(order)
        known = OrderBook(run.chance.choice(run.nodes).stores[partition % run.plan.writers]).order(partition, order)
        refs = [a.provider_ref for a in known.attempts if a.provider_ref] if known is not None and known.lifecycle == OPEN else []
        if not (refs and run.universe.pay(refs[-1], works)) and tries:
            run.scheduler.after(0.2, lambda: self._pay(order, works, tries - 1))

    def _webhook(self, order: str) -> None:
        for fact in self._run.universe.facts(order):
            self._send_command(command_of(fact, order, self._run.fresh_id(), "stripe"), tries=0)

    def _read_outcome(self, id: str, serve: int) -> None:
        """A reader sees what became of a command, on one node."""
        if (projector := self._serve(serve).projector) is not None:
            for store in projector.stores:
                if (row := store.get(outcome_key(id))) is not None:
                    self._run.seen.append((id, decode_outcome(row)))

    def _junk(self, order: str) -> None:
        record = NewRecord(self._topics.commands, self._partition(order), order.encode(), b"junk")
        self._run.gateway.send(record, lambda acked, error: None)

    def _contact(self, order: str, erased: bool) -> None:
        key = contact_key(order, bytes(32))
        name = f"N{self._run.scheduler.now_us}"
        value = contact_codec().encode(OrderContact("c-1", name, "a@example.org", Address("1", "Leeds", "LS1", "GB")))
        record = NewRecord(self._topics.contacts, self._partition(order), key, None if erased else value)
        self._run.log.state.append(record, None)
        self._run.contacts[key] = record.value

    # ---- processes

    def _serve(self, serve: int) -> Serve:
        return self._run.serves[serve % self._run.plan.serves]

    def _kill(self, node: int, for_s: float, disk: bool = False, in_a_write: bool = False) -> None:
        process = self._run.nodes[node]
        if in_a_write:
            process.doom(lambda: self._kill(node, for_s, disk))
            return
        self._end(process, for_s, disk)
        if for_s > 0.5 and self._run.chance.random() < 0.7:  # longer than its session
            self._hand_over(process, after_s=0.3)

    def _kill_serve(self, serve: int, for_s: float, disk: bool, in_a_write: bool) -> None:
        process = self._serve(serve)
        if in_a_write:
            process.doom(lambda: self._end(process, for_s, disk))
        else:
            self._end(process, for_s, disk)

    def _end(self, process: Commands | Serve, for_s: float, disk: bool) -> None:
        self._run.note(f"{process.name} is killed")
        process.kill()
        process.spare()
        if disk:
            process.lose_disk()
        self._run.scheduler.after(for_s, lambda: self._run.start(process))

    def _sleep(self, name: str) -> None:
        """A process ends, and is started only after the days that follow the chapter."""
        for process in self._run.processes():
            if process.name == name:
                self._run.asleep = name
                process.kill()
                if isinstance(process, Commands):
                    self._hand_over(process, after_s=0.5)

    def _hand_over(self, process: Commands, after_s: float) -> None:
        for w in self._run.leases.of(process):
            self._run.leases.give(w, self._run.leases.other(process), after_s)

    def _suspend(self, node: int, for_s: float, moves: bool) -> None:
        """Longer than its session if `moves`: another process has its writers when it continues, and it does not know."""
        run, process = self._run, self._run.nodes[node]
        run.scheduler.suspend(process.machine, for_s)
        if moves:
            writers = run.leases.of(process)
            self._hand_over(process, after_s=0.1)
            run.scheduler.after(for_s + run.chance.random(), lambda: run.leases.let_go(writers, process))

    def _move(self, writer: int, node: int) -> None:
        run = self._run
        w, to = writer % run.plan.writers, run.nodes[node]
        if run.leases.owners[w] is not to:
            run.leases.move(w, to)

    # ---- the log

    def _away(self, for_s: float) -> None:
        self._run.log.state.away_since = self._run.scheduler.monotonic()
        self._run.scheduler.after(for_s, self._run.log.state.back)

    def _commit(self, fate: Any) -> None:
        self._run.log.state.fates.append(fate)

    def _markers(self, usual_s: float) -> None:
        self._run.log.state.marker_s = usual_s

    def _lose_marker(self, partition: int, topic: str) -> None:
        run = self._run
        run.log.lose_marker(TopicPartition(getattr(self._topics, topic), partition % run.plan.partitions))
        run.scheduler.after(run.chance.uniform(0.5, 12), run.end_hanging)

    def _failing(self, share: float) -> None:
        self._run.log.state.failing = share

    def _bad_event(self, order: str) -> None:
        """A process of another version has the writer for a moment, and leaves an event that nobody can read."""
        run, partition = self._run, self._partition(order)
        w = partition % run.plan.writers
        if not run.leases.owners[w].responds():
            return  # it would not notice that it lost the writer for a moment, as long as it has nothing to commit
        run.leases.move(w, run.leases.owners[w])
        run.log.fence(f"{APP}-{w}")
        tp = TopicPartition(self._topics.events, partition)
        stored = run.log.state.append(NewRecord(*tp, order.encode(), UNDECODABLE, run.wall_ms()), None)
        run.bad.setdefault(tp, {})[stored.offset] = order

    # ---- clocks

    def _log_clock(self, partition: int, ms: int) -> None:
        self._run.log.state.skew_ms[partition] = ms

    def _limit_times(self) -> None:
        self._run.log.state.limits_times = True

    def _node_clock(self, node: int, ms: int) -> None:
        self._run.skew_ms[node] = ms
        self._run.clock_moved()

    def _days(self, days: float) -> None:
        """The clocks of all machines jump, and the log compacts what it can."""
        self._run.passed_ms += int(days * DAY_MS)
        self._run.compact()
        self._run.clock_moved()
