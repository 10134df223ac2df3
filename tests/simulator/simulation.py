"""One run: a plan carried out on a ledger, then all faults end, and everything must settle and keep its promises."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

from commands.messages import command_codec
from commands.processor.claims import QUIET_S
from ledger.contact_rows import ContactsTooOld
from ledger.durations import DAY_MS, HOUR_MS
from ledger.errors import DecodeError
from ledger.hanging import advise
from ledger.log import Record, TopicPartition
from ledger.outcomes import Outcome
from ledger.schemas.codec import Codec, event_codec, refusal_codec
from ledger.topics import COMMANDS_MS, CONTACT_TOMBSTONES_MS, REFUSALS_MS, Topics
from tests.simulator.judging import judge
from tests.simulator.leases import Leases
from tests.simulator.nodes import Commands, Plant, Serve
from tests.simulator.outside import Universe
from tests.simulator.plans import ACTIVE_MS, NODES, Chapter, Plan, Step
from tests.simulator.scheduling import Scheduler
from tests.simulator.steps import Steps
from tests.simulator.unkind_log import UnkindLog, UnkindSender
from tests.support.order_commands import PLACED_AT

TOPICS = Topics()
ROUNDS = 200  # of settling: usually about 15
ROUND_S = 0.25
FOLLOWED = 0.7  # of the writers that a process does not own


def _answers() -> dict[str, Codec[Any]]:
    return {TOPICS.events: event_codec(), TOPICS.refusals: refusal_codec()}


class Simulation:
    """`say` receives lines of the history; with None there is none, and the run is the same."""

    def __init__(self, plan: Plan, say: Callable[[str], None] | None = None) -> None:
        self.plan, self._say = plan, say
        self.chance = chance = random.Random(f"{plan.seed}/run")
        self.scheduler = scheduler = Scheduler(chance)
        self._numbers = itertools.count()
        self.passed_ms = 0  # days that passed in a moment
        self.skew_ms = [0] * NODES
        self.mishaps, self.problems = 0.0, list[str]()
        self.in_peace = False
        self.log = UnkindLog(scheduler, chance, self.wall_ms)
        self.log.ensure_topics(TOPICS.specs(plan.partitions, plan.writers))
        for n, topic in enumerate(self.log.state.topics.values()):
            topic.id = bytes([n]) * 16  # a seed is one run
        self.log.state.on_append = self._note_append if say is not None else None
        self.universe = Universe(scheduler, chance, self.wall_ms, plan.units, self.note)
        self.plant = Plant(
            scheduler,
            self.log,
            TOPICS,
            plan.partitions,
            plan.writers,
            self.wall_ms,
            lambda: self.wall_ms() - PLACED_AT,
            lambda: self.mishaps,
            lambda: self.in_peace or chance.random() < FOLLOWED,
            self._ended,
        )
        self.nodes = [Commands(self.plant, f"commands-{n}", self.universe.ports, self._clock(n)) for n in range(NODES)]
        self.serves = [Serve(self.plant, f"serve-{n}", lambda: chance.choice((2, 50, 50))) for n in range(plan.serves)]
        self.leases = Leases(scheduler, chance, self.nodes, plan.writers)
        self.asleep = ""  # the process that does not run until the end of the chapter
        self.gateway = UnkindSender(self.log.state, lambda: self.mishaps)
        self.steps = Steps(self)
        self.leap_ms = chance.choice((0, HOUR_MS, HOUR_MS))
        # What the judge wants to know.
        self.acked: list[tuple[TopicPartition, int]] = []
        self.seen: list[tuple[str, Outcome]] = []  # outcomes that readers saw during the run
        self.contacts: dict[bytes, bytes | None] = {}  # last value by key
        self.bad: dict[TopicPartition, dict[int, str]] = {}  # orders that bad events froze, by offset

    def wall_ms(self) -> int:
        return PLACED_AT + self.scheduler.now_us // 1_000 + self.passed_ms

    def _clock(self, n: int) -> Callable[[], int]:
        return lambda: self.wall_ms() + self.skew_ms[n]

    def fresh_id(self) -> str:
        """An id for a fact, instead of a random one."""
        return f"fct_{next(self._numbers)}"

    def clock_moved(self) -> None:
        for reconciler in self._reconcilers():
            reconciler.clock_moved()

    def _reconcilers(self) -> list[Any]:
        return [node.reconciler for node in self.nodes if node.reconciler is not None]

    # ---- the history

    def note(self, text: str) -> None:
        if self._say is not None:
            self._say(f"{self.scheduler.now_us / 1_000_000:9.4f}  {text}")

    def _note_append(self, record: Record) -> None:
        codecs: dict[str, Codec[Any]] = {TOPICS.commands: command_codec(), **_answers()}
        codec = codecs.get(record.topic)
        summary = f"{record.key!r}"
        try:
            fields = codec.decode_fields(record.value) if codec is not None else {}
        except DecodeError as exc:
            summary = f"{summary} {exc}"
        else:
            names = ("order_id", "command_id", "operation", "type", "code", "version", "command_offset")
            summary = " ".join(str(fields[name]) for name in names if fields.get(name) is not None) or summary
        self.note(f"{record.topic}/{record.partition} {record.offset}: {summary}")

    # ---- a run

    def run(self) -> list[str]:
        """What is wrong in the end. Use within `simulated_time`."""
        try:
            for node in self.processes():
                node.start()
            self.leases.begin()
            for chapter in self.plan.chapters:
                if not self.problems:
                    self._play(chapter)
            if not self.problems:
                self.problems += judge(self)
        finally:
            for node in self.processes():
                node.kill()
        return self.problems

    def processes(self) -> list[Commands | Serve]:
        return [*self.nodes, *self.serves]

    def _play(self, chapter: Chapter) -> None:
        self.mishaps, self.universe.mishaps, self.in_peace = self.plan.mishaps, self.plan.calls_fail, False
        for step in chapter.steps:
            self.scheduler.after(step.at_ms / 1_000, self._doing(step))
        self.scheduler.run_for(ACTIVE_MS / 1_000)
        self._heal()
        self._settle()
        if chapter.days and not self.problems:
            self._let_days_pass(chapter.days)

    def _doing(self, step: Step) -> Callable[[], None]:
        def do() -> None:
            self.note(f"** {step}")
            self.steps.do(step)

        return do

    def _ended(self, name: str, exc: BaseException) -> None:
        """A process ended by itself."""
        self.note(f"{name} ends: {type(exc).__name__}: {exc}")
        expected = isinstance(exc, ContactsTooOld) or "fenced repeatedly" in str(exc)
        if self.log.state.seen["confirmed records aborted"]:  # folded again: see `judging.ABORTED_CONFIRMED`
            expected = expected or "reader fold" in str(exc)
        if not expected:
            self.problems.append(f"{name} ended: {type(exc).__name__}: {exc}")
        node = next(node for node in self.processes() if node.name == name)
        self.scheduler.after(1.0, lambda: self.start(node))

    def start(self, node: Commands | Serve) -> None:
        if not node.machine.alive and node.name != self.asleep:
            self.note(f"{node.name} starts")
            node.start()
            if isinstance(node, Commands):
                self.leases.started(node)

    # ---- between chapters

    def compact(self) -> None:
        for tp in (*self._contact_partitions(), TopicPartition(TOPICS.control, 0)):
            self.log.state.compact_partition(tp, self.wall_ms() - CONTACT_TOMBSTONES_MS)

    def _let_days_pass(self, days: float) -> None:
        """Days in which nobody sends anything. Retention deletes summary is old, up to the very end."""
        self.scheduler.run_for(3 * QUIET_S)  # summary is quiet is claimed: there are days for it
        self.note(f"** {days} days pass, {self.asleep or 'nobody'} is asleep")
        self.passed_ms += int(days * DAY_MS)
        self.compact()
        state, now = self.log.state, self.wall_ms()
        for p in range(self.plan.partitions):
            state.expire(TopicPartition(TOPICS.refusals, p), now - REFUSALS_MS)
            state.expire(TopicPartition(TOPICS.commands, p), now - COMMANDS_MS)
        self.clock_moved()
        self.asleep = ""
        for node in self.processes():
            self.start(node)

    # ---- the end

    def _heal(self) -> None:
        """Every fault ends; summary it has left behind stays."""
        self.note("** all faults end")
        state = self.log.state
        state.failing, state.marker_s, state.limits_times = 0.0, 0.005, False
        state.fates.clear()
        self.mishaps, self.universe.mishaps, self.in_peace = 0.0, 0.0, True
        for commands in self.nodes:
            commands.follow_all()
        state.skew_ms, self.skew_ms = {}, [0] * NODES
        self.clock_moved()
        for topic in state.topics.values():
            for partition in topic.partitions:
                partition.loses_marker = False
        state.back()
        for node in self.processes():
            node.spare()
            self.scheduler.resume(node.machine)
            self.start(node)
        self.leases.settle(asleep=self.asleep, again=bool(self.bad))

    def _settle(self) -> None:
        """Let time pass until nobody owes anything. Where everybody waits for a clock, the clock is moved."""
        quiet_at: tuple[int, ...] = ()
        for n in itertools.count():
            if n == ROUNDS:
                self.problems.append(f"not settled: {self._unsettled()}")
                return
            self.scheduler.run_for(max(ROUND_S, min(self.scheduler.next_action_s(), 12.0)))
            if n % 8 == 7:
                self.end_hanging()
            at = self._activity()
            if self.scheduler.next_action_s() > 0 or self._unsettled():
                quiet_at = ()  # summary is under way may still change everything
                continue
            if at != quiet_at:
                quiet_at = at
                continue
            pauses = [r._schedule.pause_ms() for r in self._reconcilers()]
            due = min((pause for pause in pauses if pause is not None), default=None)
            if due is None:
                return
            self.passed_ms += max(0, due) + self.leap_ms
            self.clock_moved()
            quiet_at = ()

    def end_hanging(self) -> None:
        """An operator ends summary hangs, as `order-ledger transactions end` advises, in doubt as its coordinator decided."""
        if self.log.state.away_since is not None:
            return
        for tp in self.ledger_partitions():
            for one in self.log.open_transactions([tp]):
                if not one.known:
                    advice = advise(self.log, TOPICS, one)
                    self.note(f"** the operator ends {one}: {advice}")
                    self.log.end_transaction(one, (advice.end or "commit") == "commit")

    def ledger_partitions(self) -> list[TopicPartition]:
        return [TopicPartition(topic, p) for topic in (TOPICS.events, TOPICS.refusals) for p in range(self.plan.partitions)]

    def _contact_partitions(self) -> list[TopicPartition]:
        return [TopicPartition(TOPICS.contacts, p) for p in range(self.plan.partitions)]

    def _activity(self) -> tuple[int, ...]:
        ends = [partition.end for topic in self.log.state.topics.values() for partition in topic.partitions]
        return (*ends, *(sum(r._backlog._running.values()) for r in self._reconcilers()))

    def _unsettled(self) -> str:
        """Who is behind; nothing if nobody is."""
        state = self.log.state
        for w, owner in self.leases.owners.items():
            loop = owner.loops.get(w)
            if loop is None or not loop.ready.is_set() or loop.held.hanging:
                return f"writer {w} is not ready on {owner.name}"
            for p, desk in loop._desks.items():
                if desk.meta.dealt < state.partition(TopicPartition(TOPICS.commands, p)).end:
                    return f"commands of partition {p} are not decided"
        if any(sum(r._backlog._running.values()) for r in self._reconcilers()):
            return "calls are under way"
        for tp in self._contact_partitions():
            for serve in self.serves:
                if serve.name != self.asleep and serve.position(tp) < state.last_committed(tp):
                    return f"{serve.name} is behind in {tp}"
        for tp in self.ledger_partitions():
            if state.end(tp, "read_committed") < state.end(tp, "read_uncommitted"):
                return f"a transaction is open in {tp}"
            end = state.last_committed(tp)
            for node in self.processes():
                if node.name != self.asleep and node.position(tp) < end:
                    return f"{node.name} is behind in {tp}"
        return ""
