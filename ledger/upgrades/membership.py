"""One node of a ledger among the others, which may run programs of other versions (ARCHITECTURE, Versions side by side).

    1  read the control topic; refuse to start if the level in use is later than this program's
    2  publish the schemas that are not there yet: before anything is written with them
    3  announce this node with its level; read again: whoever raised the level in between did so before or after that
    4  learn the schemas of later programs, and write at the level in use
    5  follow the topic: new schemas are learned, the announcement is repeated, a raised level is used after a pause

A level is raised only while every running node has a program that reads it (`finish`). A node that starts at that moment, or that
returns after it was believed dead, sees the level in 3 or 5 and ends. The pause in 5 is so long that it has ended before anybody
writes at that level.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing

import structlog

from ledger.errors import ConfigError, Hole, LogError
from ledger.levels import FIRST, LEVEL
from ledger.log import EventLog
from ledger.schemas.of_the_ledger import learn, use_level
from ledger.schemas.versions import schema_versions
from ledger.supervision import WorkerThread
from ledger.topics import Topics
from ledger.upgrades.control import Control
from ledger.upgrades.records import ANNOUNCE_EVERY_MS, LEVEL_KEY, Moved, View, announcement, node_key, schema_record

POLL_S, MAX_WAIT_MS = 0.2, 1_000
USE_AFTER_S = 15.0  # every other node sees it within a second or two
STOP_S = 5.0
SILENT_S, LEAVE_S = 3.0, 1.0  # a stop takes two seconds at most, also while the log is unreachable

log = structlog.get_logger(__name__)


class ProgramTooOld(ConfigError):
    """The ledger may contain what this program cannot read. Start a later one."""

    code = "program_too_old"


class LedgerMoved(ConfigError):
    """The ledger was copied to other topics, and this one is closed. The message says where it is."""

    code = "ledger_moved"

    def __init__(self, moved: Moved) -> None:
        where = f"TOPIC_PREFIX={moved.prefix} with PARTITIONS={moved.partitions}"
        super().__init__(f"this ledger was copied to {where}, and is closed")


class NotAllUpgraded(ConfigError):
    """Running nodes have programs that could not read the next level. The message names them."""

    code = "not_all_upgraded"


class Membership:
    """This node: `kind` (`commands` or `serve`) and `name`, unique for its kind. `program` is the version of the program.

    `on_too_old(exc)` is called once, from a thread, if the level in use was raised beyond this program while it runs. The process
    must then end.
    """

    def __init__(
        self,
        event_log: EventLog,
        topics: Topics,
        kind: str,
        name: str,
        program: str,
        on_too_old: Callable[[BaseException], object],
        *,
        level: int = LEVEL,
        use_after_s: float = USE_AFTER_S,
    ) -> None:
        self._log, self._control, self._view = event_log, Control(event_log, topics), View()
        self._key, self._program, self._level, self._use_after_s = node_key(kind, name), program, level, use_after_s
        self._used = FIRST
        self._raised_at: float | None = None  # monotonic: when a level that is not used yet was seen
        self._announce_at = 0.0
        self._silent_s = 0.0
        self._faults = 0
        self._stopping = threading.Event()
        self._thread = WorkerThread("control", self._follow, on_too_old, again=True, stopping=self._stopping)

    def join(self, new_ledger: bool = False) -> int:
        """Steps 1 to 4. Returns the level in use.

        `new_ledger`: its topics were created just now, so the level of this program is in use from the start.

        Raises `ProgramTooOld`, `LedgerMoved`, `LogError`.
        """
        view = self._control.read(self._view)
        self._refuse()
        missing = [schema_record(schema) for schema in schema_versions() if schema.id not in view.schemas]
        if new_ledger and view.level < self._level:
            missing.append((LEVEL_KEY, announcement(self._level, self._program)))
        self._control.write([*missing, (self._key, announcement(self._level, self._program))])
        self._announce_at = time.monotonic() + ANNOUNCE_EVERY_MS / 1000
        self._control.read(view)
        try:
            self._refuse()
        except (LedgerMoved, ProgramTooOld):
            self._control.write([(self._key, None)])
            raise
        self._learn()
        self._use()
        return view.level

    def follow(self) -> None:
        """Step 5, on a thread of its own."""
        self._thread.start()

    def leave(self) -> None:
        """Stop following, and tell the others. Also after a `join` that failed."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)
        if self._announce_at and self._silent_s < SILENT_S:  # otherwise the log would not answer now
            try:
                self._control.write([(self._key, None)], LEAVE_S)
            except LogError as exc:  # the others forget this node by themselves, in minutes
                log.info("the end of this node was not announced", why=str(exc))
        self._control.close()

    # ---- the thread

    def _follow(self) -> None:
        try:
            self._read_on()
        except Hole:  # the topic was created again
            self._view, self._faults = View(), 0
            self.join()
            raise

    def _read_on(self) -> None:
        view = self._view
        with closing(self._log.reader("control", max_wait_ms=MAX_WAIT_MS)) as reader:
            reader.assign({self._control.partition: view.position})
            while not self._stopping.is_set():
                records = reader.poll(500, POLL_S)
                self._silent_s = reader.silent_s()
                if records:
                    view.apply(records)
                    self._refuse()
                    self._learn()
                if view.level > self._used:
                    now = time.monotonic()
                    self._raised_at = now if self._raised_at is None else self._raised_at
                    if now >= self._raised_at + self._use_after_s:
                        self._use()
                if time.monotonic() >= self._announce_at:
                    self._control.write([(self._key, announcement(self._level, self._program))])
                    self._announce_at = time.monotonic() + ANNOUNCE_EVERY_MS / 1000

    def _refuse(self) -> None:
        if (moved := self._view.moved) is not None:
            raise LedgerMoved(moved)
        if self._view.level > self._level:
            raise ProgramTooOld(
                f"this ledger uses feature level {self._view.level}, raised by version {self._view.raised_by}; this program, "
                f"version {self._program}, reads up to level {self._level}: start version {self._view.raised_by} or later"
            )

    def _learn(self) -> None:
        for fault in self._view.faults[self._faults :]:
            log.error("a record of the control topic is not understood", why=fault)
        self._faults = len(self._view.faults)
        for schema in self._view.schemas.values():
            learn(schema)

    def _use(self) -> None:
        self._used, self._raised_at = self._view.level, None
        use_level(self._view.level)
        if self._view.level < self._level:
            log.info("writing at an earlier level than this program has", level=self._view.level, of_this_program=self._level)


def finish(event_log: EventLog, topics: Topics, program: str, level: int = LEVEL) -> View:
    """Raise the level in use to `level`, that of this program. Returns what the control topic says then.

    Nothing is raised if it is in use already. Raises `LedgerMoved`, `NotAllUpgraded`, `ProgramTooOld`, `LogError`.
    """
    with closing(Control(event_log, topics)) as control:
        view = control.read(View())
        if view.moved is not None:
            raise LedgerMoved(view.moved)
        if view.too_old_for(level):
            control.read_now(view)
        if view.level > level:
            raise ProgramTooOld(f"level {view.level} is in use already; this program, version {program}, has level {level}")
        _refuse_older(view, level)
        if view.level < level:
            control.write([(LEVEL_KEY, announcement(level, program))])
            _refuse_older(control.read(view), level)
        return view


def refuse_moved(event_log: EventLog, topics: Topics) -> None:
    """Raises `LedgerMoved` for a ledger that was copied elsewhere; `LogError`."""
    control = Control(event_log, topics)
    if control.exists() and (moved := control.read(View()).moved) is not None:
        raise LedgerMoved(moved)


def _refuse_older(view: View, level: int) -> None:
    if older := view.too_old_for(level):
        names = ", ".join(f"{node.name} (version {node.program}, level {node.level})" for node in older)
        fate = "they end now" if view.level >= level else "stop them, or start a later program there, and run this again"
        raise NotAllUpgraded(f"running nodes could not read level {level}: {names}; {fate}")
