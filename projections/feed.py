"""The feed: a thread reads the log, the event loop folds its records chunk by chunk; with a fail-stop around both."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import structlog

from ledger import tracing
from ledger.errors import LedgerError
from ledger.faults import named
from ledger.log import EventLog, Reader, Record, TopicPartition
from ledger.supervision import WorkerThread
from projections.fail_stop import end_in

log = structlog.get_logger(__name__)

POLL_S = 0.2  # longest wait for a record; also how late the reader thread notices a stop
SILENT_S = 3.0  # after that, the log counts as unreachable
Place = tuple[str, int]  # topic, partition: equal to and hashed like TopicPartition, cheaper to make once per record


class Folder(Protocol):
    """What the feed needs from the projector. Called only on the event loop."""

    def positions(self) -> Mapping[TopicPartition, int]:
        """The next offset to fold of every partition to read. The keys never change; the call must be cheap."""

    def apply_chunk(self, records: Sequence[Record]) -> None:
        """Fold `records` and advance the positions in one write; skip those below the position. Raising ends the process."""


class ChunkLost(LedgerError):
    """A chunk does not follow the last one or the databases: records were lost in this process. A restart reads them again."""

    code = "chunk_lost"


class FoldStuck(LedgerError):
    """The log answers, but the fold of a partition has been stuck below the end for too long. A restart resumes it."""

    code = "stands_still"


@dataclass(frozen=True, slots=True)
class FoldStatus:
    """Status of this node's fold, for readiness, metrics and `Ledger-Staleness-Ms`."""

    begun: bool  # the log has answered once, and reading has begun
    folding: bool  # the agent accepts chunks
    connected: bool  # the log answered in the last three seconds
    answered: bool  # the log has answered once since the start, perhaps long before reading begins
    connecting: bool  # not begun, and started too recently to consider the log unreachable
    caught_up: bool  # the fold has reached the end of the log once since the start
    behind: int | None  # offsets from the fold to the end of the log, all partitions, at the last check; None: never checked
    staleness_ms: int | None  # 0 while the log answers and its end is folded, else the time since then; None: unknown
    idle_ms: int | None  # since the last fold
    records: int  # folded since start
    chunks: int  # folded since start
    failure: str | None
    led_staleness_ms: int | None  # the same of the partitions that have a leader
    leaderless: frozenset[TopicPartition] = frozenset()  # partitions that had none at the last check
    held_back_s: float = 0.0  # at the last check, how long an open transaction has blocked readers of a partition
    reached: frozenset[TopicPartition] = frozenset()  # partitions whose end the fold has reached once since the start

    def was_at_end(self, tp: TopicPartition) -> bool:
        """Whether the fold of a partition has reached its end once since the start."""
        return self.caught_up or tp in self.reached

    def is_leaderless(self, partition: int) -> bool:
        """Whether one of the topics has no leader for this partition: nothing is decided or read there, whatever others do."""
        return any(tp.partition == partition for tp in self.leaderless)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Records of one poll, of all partitions.

    `follows` has, for every partition in `records`, the position before its first record: offsets have legitimate gaps
    (transaction markers, compaction), so the first offset does not show whether something is missing. `reached` has the
    position of every partition whose committed end the reader has reached.
    """

    epoch: int  # of the assignment; a reposition starts a new one
    number: int  # 1..n in this process
    records: list[Record]
    follows: Mapping[Place, int]
    reached: Mapping[TopicPartition, int]


@dataclass(frozen=True, slots=True)
class Check:
    """The watchdog's last check of the end of the log. Everything committed by `current_at` (monotonic, s) is folded.

    None until that was the case once since the start. `led_at`: the same of the partitions that have a leader.
    """

    answered: bool = False
    behind: int | None = None
    current_at: float | None = None
    held_back_s: float = 0.0  # how long an open transaction has blocked a committed end
    led_at: float | None = None
    leaderless: frozenset[TopicPartition] = frozenset()
    reached: frozenset[TopicPartition] = frozenset()  # partitions that were at their end at any check


class Feed:
    """Passes records from the log to the folder: reader thread, bounded queue, fold.

    At most `ahead` chunks of at most `chunk_records` are polled and not yet folded; later records wait in the reader and make the
    next chunk larger. `slice_ms`: how long one fold may block the event loop. With `wait`, nothing is read until `begin`.
    """

    def __init__(  # noqa: PLR0913  # its parts
        self,
        log: EventLog,
        folder: Folder,
        *,
        name: str,
        chunk_records: int,
        max_wait_ms: int,
        ahead: int,
        slice_ms: float,
        exit_grace_s: float | None,
        on_failure: Callable[[BaseException], None] | None,
        wait: bool,
    ) -> None:
        self._log, self._folder, self._name = log, folder, name
        self._chunk_records, self._max_wait_ms, self._ahead, self._slice_ms = chunk_records, max_wait_ms, ahead, slice_ms
        self._exit_grace_s, self._on_failure = exit_grace_s, on_failure
        self._turn = threading.Condition()  # guards the next block, shared with the reader thread
        self._ready: deque[Chunk] = deque()
        self._outstanding = 0  # chunks of this epoch polled and not folded
        self._epoch = 0
        self._from: Mapping[TopicPartition, int] = {}
        self._number, self._next_number = 0, 1  # of the last chunk; of the next one to fold
        self._stopping = False
        self._failure: BaseException | None = None
        self._reached: Mapping[TopicPartition, int] = {}
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._arrived = asyncio.Event()
        self._folding = asyncio.Lock()  # held by a fold, or to prevent one
        self._crash: Callable[[BaseException], None] | None = None
        self._slice_records = min(chunk_records, 200)  # before the first measurement
        self._folded_at: float | None = None
        self._heard_at = float("-inf")  # when the reader last had an answer of the log
        self._records = self._chunks = self.idle_polls = 0
        self.begun = threading.Event()
        if not wait:
            self.begun.set()
        self._opened_at: float | None = None
        self.answered = not wait  # set by whoever asks the log before `begin`, from any thread
        self.check = Check()
        self.known_current_at: float | None = None  # like `check.current_at`, but from before the start

    @property
    def failure(self) -> BaseException | None:
        return self._failure

    @property
    def number(self) -> int:
        """Number of the last chunk."""
        return self._number

    def open(self, crash: Callable[[BaseException], None]) -> None:
        """Bind to the running event loop. `crash` is called there once, with the first failure."""
        self._loop, self._crash, self._opened_at = asyncio.get_running_loop(), crash, time.monotonic()

    def begin(self) -> None:
        """Read from the position of the folder, now or when the agent accepts chunks. On the event loop."""
        self.answered = True
        self.begun.set()
        if self._epoch:
            self.reposition()

    def reposition(self) -> int:
        """Continue from the current position of the folder, discarding polled records. Returns the number of the next chunk.

        For the start, and for a folder that switched databases. On the event loop, between two folds.
        """
        positions = dict(self._folder.positions())
        with self._turn:
            self._epoch += 1
            self._from, self._reached, self._outstanding = positions, {}, 0
            self._next_number = self._number + 1
            self._ready.clear()
            self._turn.notify_all()
            if self._thread is None and self.begun.is_set() and not self._stopping:
                self._thread = WorkerThread("feed", self._read, self.fail, again=False)
                self._thread.start()
        return self._next_number

    def held(self) -> asyncio.Lock:
        """`async with feed.held():` no chunk is folded meanwhile; reading continues as long as there is room."""
        return self._folding

    async def next_chunk(self) -> Chunk:
        while True:
            with self._turn:
                if self._ready:
                    return self._ready.popleft()
                self._arrived.clear()
            await self._arrived.wait()

    async def take(self, chunk: Chunk) -> None:
        """Fold `chunk` in slices. Raises `ChunkLost` and exceptions of the folder, after starting the fail-stop."""
        try:
            async with self._folding:
                await self._fold(chunk)
        except Exception as exc:
            self.fail(exc)
            raise
        finally:
            with self._turn:
                if chunk.epoch == self._epoch:
                    self._outstanding -= 1
                    self._turn.notify()

    async def _fold(self, chunk: Chunk) -> None:
        if self._failure is not None or chunk.epoch != self._epoch:
            return
        if chunk.number != self._next_number:
            raise ChunkLost(f"got chunk {chunk.number}, expected {self._next_number}")
        self._next_number += 1
        positions = self._folder.positions()
        for (topic, partition), base in chunk.follows.items():
            position = positions[TopicPartition(topic, partition)]
            if base > position:
                raise ChunkLost(f"{topic}-{partition}: folded to {position}, chunk {chunk.number} follows {base}")
        start = 0
        while True:
            records = chunk.records[start : start + self._slice_records]
            began = time.perf_counter()
            self._folder.apply_chunk(records)
            self._pace(len(records), time.perf_counter() - began)
            start += len(records)
            if start >= len(chunk.records):
                break
            await asyncio.sleep(0)
            if self._failure is not None or chunk.epoch != self._epoch:
                return
        self._chunks += 1
        self._reached = chunk.reached

    def _pace(self, records: int, took_s: float) -> None:
        """Adapt the size of the next slice to `slice_ms`, after a slice that took longer or had the maximum size."""
        self._folded_at = time.monotonic()
        self._records += records
        if took_s * 1000 > self._slice_ms or records == self._slice_records:
            fits = int(records * self._slice_ms / 1000 / max(took_s, 1e-6))
            self._slice_records = max(20, min(fits, 2 * self._slice_records, self._chunk_records))

    def below(self, ends: Mapping[TopicPartition, int]) -> dict[TopicPartition, tuple[int, int]]:
        """(current offset, end) of every partition whose fold is below its end in `ends`.

        The current offset is the position or, after transaction markers, which are not records, the end reached by the reader.
        """
        positions, reached = self._folder.positions(), self._reached
        offsets = {tp: max(positions[tp], reached.get(tp, 0)) for tp in ends}
        return {tp: (offsets[tp], end) for tp, end in ends.items() if offsets[tp] < end}

    def status(self) -> FoldStatus:
        """The current status. May be called from any thread."""
        check, now = self.check, time.monotonic()
        current_at = check.current_at
        # At a start, the watchdog gets an answer of the log before the reader does: a ready node is connected.
        heard_at = self._heard_at if current_at is None else max(self._heard_at, current_at)
        connected, begun = now - heard_at < SILENT_S, self.begun.is_set()
        led_at, fresh_at = check.led_at, now if connected else heard_at
        if current_at is None:
            current_at = self.known_current_at
        elif check.answered and not check.behind and not check.leaderless:
            current_at = fresh_at
        if led_at is None:
            led_at = current_at
        elif check.answered and not check.behind:
            led_at = fresh_at
        return FoldStatus(
            begun=begun,
            answered=self.answered,
            folding=self._thread is not None and self._failure is None and not self._stopping,
            connected=connected,
            connecting=not begun and (self._opened_at is None or now - self._opened_at < SILENT_S),
            caught_up=check.current_at is not None,
            behind=check.behind,
            staleness_ms=None if current_at is None else int((now - current_at) * 1000),
            led_staleness_ms=None if led_at is None else int((now - led_at) * 1000),
            leaderless=check.leaderless,
            idle_ms=None if self._folded_at is None else int((now - self._folded_at) * 1000),
            records=self._records,
            chunks=self._chunks,
            failure=None if self._failure is None else repr(self._failure),
            held_back_s=check.held_back_s,
            reached=check.reached,
        )

    def fail(self, exc: BaseException) -> None:
        """Start the fail-stop; only the first call has an effect. May be called from any thread."""
        with self._turn:
            if self._failure is not None:
                return
            self._failure = exc
            self._turn.notify_all()
        log.critical("projection failed, ending the process", error=named(exc), exc_info=exc)
        if self._exit_grace_s is not None:
            end_in(self._exit_grace_s)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._notify_failure, exc)

    def _notify_failure(self, exc: BaseException) -> None:
        if self._crash is not None:
            self._crash(exc)
        if self._on_failure is not None:
            self._on_failure(exc)

    def close(self, timeout_s: float = 2.0) -> None:
        """End the reader thread and wait for it."""
        with self._turn:
            self._stopping = True
            self._turn.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                log.warning("reader thread of the log does not stop", waited_s=timeout_s)

    # The reader thread

    def _read(self) -> None:
        """Runs until the process ends, or ends it: see `reposition`."""
        reader = self._log.reader(self._name, eof=True, max_wait_ms=self._max_wait_ms, headers=tracing.tracer() is not None)
        with closing(reader):
            self._pump(reader)

    def _pump(self, reader: Reader) -> None:
        epoch, follows = 0, dict[Place, int]()
        while True:
            with self._turn:
                while self._outstanding >= self._ahead and self._epoch == epoch and not (self._stopping or self._failure):
                    self._turn.wait()
                if self._stopping or self._failure is not None:
                    return
                current, positions = self._epoch, self._from
            if current != epoch:
                reader.assign(positions)
                epoch, follows = current, dict[Place, int](positions.items())
            records = reader.poll(self._chunk_records, POLL_S)
            self._heard_at = time.monotonic() - reader.silent_s(any_leader=True)
            if records:
                self._hand_over(epoch, follows, records, dict(reader.reached_end()))
            else:
                self._note_idle(epoch, dict(reader.reached_end()))

    def _hand_over(
        self, epoch: int, follows: dict[Place, int], records: list[Record], reached: Mapping[TopicPartition, int]
    ) -> None:
        last = {(record.topic, record.partition): record.offset for record in records}
        base = {place: follows[place] for place in last}
        for place, offset in last.items():
            follows[place] = offset + 1
        with self._turn:
            if epoch != self._epoch or self._stopping:
                return
            self._number += 1
            self._outstanding += 1
            self._ready.append(Chunk(epoch, self._number, records, base, reached))
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._arrived.set)

    def _note_idle(self, epoch: int, reached: Mapping[TopicPartition, int]) -> None:
        with self._turn:
            if epoch == self._epoch and self._outstanding == 0:
                self._reached = reached  # nothing is in progress: the ends reached by the reader are folded
                self.idle_polls += 1
