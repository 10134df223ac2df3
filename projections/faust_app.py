"""The Faust app that folds the log into this node's databases, and the process that serves them over HTTP.

The only file that imports faust or mode. Faust brings the agent, its supervision, the service tree and `serve_asgi`; records
come through our own EventLog port and positions live in our own databases, so Faust opens no connection to Kafka, makes no
topic and joins no group:

    reader thread               event loop
    log.reader().poll() ──► Feed ──► FeedConsumer ──► Faust conductor ──► agent ──► Feed.fold ──► folder.fold(records)
                            (a few chunks ahead)      one Faust event per *chunk*     slices of a few milliseconds

To Faust the feed is one partition whose offsets are chunk numbers. Faust's "seek to the committed offset" becomes "read from
where the databases stand", and that is the whole recovery: rows and positions are one write, nothing is acknowledged.

Fail-stop. Faust acknowledges an event whose agent raised and goes on with the next one; a projection must not. The first
exception in a fold, a chunk that does not follow the databases, a dead reader thread, a stalled loop or a partition that
stands still below the log's end refuses every further chunk and ends the process with `EXIT_FAILED`, also when stopping hangs.
The restart reads again from the databases' positions.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import structlog
from faust import App, Schema
from faust.contrib.asgi import serve_asgi
from faust.transport.base import Transport
from faust.transport.consumer import Consumer
from faust.types import AppT, StreamT
from faust.types.tuples import TP, ConsumerMessage, Message
from faust.worker import Worker
from mode.supervisors import CrashingSupervisor

from ledger.errors import LedgerError, LogError
from ledger.log import EventLog, Reader, Record, TopicPartition

log = structlog.get_logger(__name__)

EXIT_FAILED = 70  # EX_SOFTWARE: the projection failed, or stopping did not end in time

FEED = TP("chunks", 0)  # what Faust believes to be the one topic and partition of this app
POLL_S = 0.2  # longest wait for a record; also how late the reader thread hears of a stop
TICK_S = 1.0  # of the watchdog
SILENT_S = 3.0  # a log that was not heard of for longer is away
UVICORN_OPTIONS: Mapping[str, Any] = {
    "timeout_keep_alive": 75,  # uvicorn's 5 s is shorter than what clients and proxies keep connections for
    "timeout_graceful_shutdown": 2,  # then open streams are cancelled
}

Place = tuple[str, int]  # topic, partition: equal to and hashed like TopicPartition, cheaper to make once per record
T = TypeVar("T")


class Folder(Protocol):
    """What the feed needs of the projector. Called on the event loop only."""

    def positions(self) -> Mapping[TopicPartition, int]:
        """Next offset to fold of every partition to read. The keys never change; reading must be cheap."""

    def fold(self, records: Sequence[Record]) -> None:
        """Fold `records` and advance the positions in one write; skip those below the position. Raising ends the process."""


class ChunkLost(LedgerError):
    """A chunk does not follow the last one or the databases: something was lost inside this process. A restart reads it again."""

    code = "chunk_lost"


class StandsStill(LedgerError):
    """The log answers, yet a partition's fold has stood below the log's end for too long. A restart reads on."""

    code = "stands_still"


@dataclass(frozen=True, slots=True)
class FoldStatus:
    """How the fold of this node stands, for readiness, metrics and `Ledger-Staleness-Ms`."""

    folding: bool  # the agent takes chunks
    connected: bool  # the log was heard of in the last three seconds
    behind: int | None  # offsets from the fold to the log's end, all partitions, at the last check; None: never checked
    staleness_ms: int | None  # 0 while the log answers and its end is folded, else the age of that; None: never was
    idle_ms: int | None  # since the last fold
    records: int  # folded since start
    chunks: int  # folded since start
    failure: str | None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Records of one poll, over all partitions.

    `follows` has, for every partition in `records`, the position before its first record: offsets have legitimate gaps
    (transaction markers, compaction), so the first offset cannot tell whether something is missing. `reached` has the
    position of every partition whose committed end the reader has met.
    """

    epoch: int  # of the assignment; a reposition begins a new one
    number: int  # 1..n in this process
    records: list[Record]
    follows: Mapping[Place, int]
    reached: Mapping[TopicPartition, int]


@dataclass(frozen=True, slots=True)
class _Check:
    """The watchdog's last look at the log's end. Everything committed by `current_at` (monotonic, s) is folded."""

    answered: bool = False
    behind: int | None = None
    current_at: float | None = None


class Feed:
    """Records on their way from the log to the folder: reader thread, bounded hand-over, fold.

    At most `ahead` chunks of at most `chunk_records` are polled and not folded; what arrives meanwhile waits in the reader and
    makes the next chunk larger. `slice_ms` is how long one fold may keep the event loop from everything else.
    """

    def __init__(
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
    ) -> None:
        self._log, self._folder, self._name = log, folder, name
        self._chunk_records, self._max_wait_ms, self._ahead, self._slice_ms = chunk_records, max_wait_ms, ahead, slice_ms
        self._exit_grace_s, self._on_failure = exit_grace_s, on_failure
        self._turn = threading.Condition()  # guards the next block, shared with the reader thread
        self._ready: deque[Chunk] = deque()
        self._outstanding = 0  # chunks of this epoch polled and not folded
        self._epoch = 0
        self._from: Mapping[TopicPartition, int] = {}
        self._number = 0  # of the chunk handed over last
        self._next_number = 1  # to fold
        self._stopping = False
        self._failure: BaseException | None = None
        self._reached: Mapping[TopicPartition, int] = {}
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._arrived = asyncio.Event()
        self._crash: Callable[[BaseException], None] | None = None
        self._slice_records = min(chunk_records, 200)  # before the first measurement
        self._folded_at: float | None = None
        self._heard_at = float("-inf")  # of the log, by the reader
        self._records = self._chunks = 0
        self.idle_polls = 0
        self.check = _Check()

    @property
    def failure(self) -> BaseException | None:
        return self._failure

    @property
    def number(self) -> int:
        """Number of the chunk handed over last."""
        return self._number

    def open(self, crash: Callable[[BaseException], None]) -> None:
        """Bind to the running event loop. `crash` is called there, once, with the first failure."""
        self._loop, self._crash = asyncio.get_running_loop(), crash

    def reposition(self) -> int:
        """Read on from where the folder stands now, forgetting what was polled; returns the next chunk's number.

        For the start, and for a folder that has taken over other databases. On the event loop, between two folds.
        """
        positions = dict(self._folder.positions())
        with self._turn:
            self._epoch += 1
            self._from, self._reached, self._outstanding = positions, {}, 0
            self._next_number = self._number + 1
            self._ready.clear()
            self._turn.notify_all()
            if self._thread is None and not self._stopping:
                self._thread = threading.Thread(target=self._read, name="feed", daemon=True)
                self._thread.start()
        return self._next_number

    async def next_chunk(self) -> Chunk:
        while True:
            with self._turn:
                if self._ready:
                    return self._ready.popleft()
                self._arrived.clear()
            await self._arrived.wait()

    async def fold(self, chunk: Chunk) -> None:
        """Fold `chunk` in slices. Raises `ChunkLost` and whatever the folder raises, after having begun the fail-stop."""
        try:
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
            raise ChunkLost(f"chunk {chunk.number} came, {self._next_number} is next")
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
            self._folder.fold(records)
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
        """Size the next slice to take `slice_ms`, after a slice that took longer or was as large as allowed."""
        self._folded_at = time.monotonic()
        self._records += records
        if took_s * 1000 > self._slice_ms or records == self._slice_records:
            fits = int(records * self._slice_ms / 1000 / max(took_s, 1e-6))
            self._slice_records = max(20, min(fits, 2 * self._slice_records, self._chunk_records))

    def below(self, ends: Mapping[TopicPartition, int]) -> dict[TopicPartition, tuple[int, int]]:
        """(stand, end) of every partition whose fold stands below its end in `ends`.

        The stand is the position or, past transaction markers which are no records, the end that the reader met there.
        """
        positions, reached = self._folder.positions(), self._reached
        stands = {tp: max(positions[tp], reached.get(tp, 0)) for tp in ends}
        return {tp: (stands[tp], end) for tp, end in ends.items() if stands[tp] < end}

    def status(self) -> FoldStatus:
        """The state now. May be called from any thread."""
        check, now = self.check, time.monotonic()
        connected = now - self._heard_at < SILENT_S
        current_at = check.current_at
        if check.answered and not check.behind:
            current_at = now if connected else self._heard_at
        return FoldStatus(
            folding=self._thread is not None and self._failure is None and not self._stopping,
            connected=connected,
            behind=check.behind,
            staleness_ms=None if current_at is None else int((now - current_at) * 1000),
            idle_ms=None if self._folded_at is None else int((now - self._folded_at) * 1000),
            records=self._records,
            chunks=self._chunks,
            failure=None if self._failure is None else repr(self._failure),
        )

    def fail(self, exc: BaseException) -> None:
        """Begin the fail-stop; the first call counts. May be called from any thread."""
        with self._turn:
            if self._failure is not None:
                return
            self._failure = exc
            self._turn.notify_all()
        log.critical("the projection failed, this process ends", error=repr(exc), exc_info=exc)
        if self._exit_grace_s is not None:
            end_in(self._exit_grace_s)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell, exc)

    def _tell(self, exc: BaseException) -> None:
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
                log.warning("the reader of the log does not end", waited_s=timeout_s)

    # The reader thread

    def _read(self) -> None:
        try:
            with closing(self._log.reader(self._name, eof=True, max_wait_ms=self._max_wait_ms)) as reader:
                self._pump(reader)
        except BaseException as exc:  # a dead reader thread must end the process, whatever killed it
            self.fail(exc)

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
            self._heard_at = time.monotonic() - reader.silent_s()
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
            if epoch != self._epoch:
                return
            self._number += 1
            self._outstanding += 1
            self._ready.append(Chunk(epoch, self._number, records, base, reached))
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._arrived.set)

    def _note_idle(self, epoch: int, reached: Mapping[TopicPartition, int]) -> None:
        with self._turn:
            if epoch == self._epoch and self._outstanding == 0:
                self._reached = reached  # nothing is under way: what the reader met is what is folded
                self.idle_polls += 1


class Watchdog:
    """A thread that looks at the event loop every second and at the log's end every `check_s`.

    Ends the process when the loop answers nothing for `stall_limit_s`, or when a partition stands below an end that the log
    itself reports for `still_limit_s`. A log that does not answer is no reason: reads go on, marked stale.
    """

    def __init__(
        self, log: EventLog, feed: Feed, folder: Folder, *, check_s: float, still_limit_s: float, stall_limit_s: float
    ) -> None:
        self._log, self._feed, self._folder = log, feed, folder
        self._check_s, self._still_limit_s, self._stall_limit_s = check_s, still_limit_s, stall_limit_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._still: dict[TopicPartition, tuple[int, float]] = {}  # stand, for how long, in seconds
        self._judged_at = 0.0
        self._idle_polls = 0

    def start(self) -> None:
        """Begin to watch the running event loop."""
        self._loop, self._loop_thread = asyncio.get_running_loop(), threading.get_ident()
        self._thread.start()

    def close(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        try:
            self._watch()
        except BaseException as exc:
            if not self._stop.is_set():  # what fails while the loop goes away is no failure
                self._feed.fail(exc)

    def _watch(self) -> None:
        silent_s, next_check = 0.0, 0.0
        while not self._stop.wait(TICK_S):
            try:
                partitions = self._ask(lambda: list(self._folder.positions()))
                if time.monotonic() >= next_check:
                    current = self._check(partitions)
                    next_check = time.monotonic() + (self._check_s if current else TICK_S)
                silent_s = 0.0
            except TimeoutError:
                silent_s += 2 * TICK_S  # in ticks of our own: a process that was stopped and woken has not stalled
                if silent_s >= self._stall_limit_s and not self._stop.is_set():
                    self._end_stalled(silent_s)

    def _ask(self, question: Callable[[], T]) -> T:
        """The answer of the event loop. Raises `TimeoutError` when it gives none within a tick."""
        answer: Future[T] = Future()

        def reply() -> None:
            try:
                answer.set_result(question())
            except BaseException as exc:  # raised again in the asking thread
                answer.set_exception(exc)

        self._loop.call_soon_threadsafe(reply)
        return answer.result(timeout=TICK_S)

    def _check(self, partitions: Sequence[TopicPartition]) -> bool:
        """Compare the fold with the log's end; whether it is there."""
        asked_at, before = time.monotonic(), self._feed.check
        try:
            ends = self._log.ends(partitions, "read_committed")
        except LogError as exc:
            if before.answered:
                log.warning("the log does not answer, reads go on and are stale", error=str(exc))
            self._feed.check = _Check(False, before.behind, before.current_at)
            self._still = {}
            return False
        below = self._ask(lambda: self._feed.below(ends))
        while below and time.monotonic() < asked_at + TICK_S and not self._stop.wait(0.05):
            below = self._ask(lambda: self._feed.below(ends))  # records committed just now are under way
        behind = sum(end - stand for stand, end in below.values())
        self._feed.check = _Check(True, behind, before.current_at if below else asked_at)
        if not before.answered:
            log.info("the log answers", behind=behind)
        self._judge({tp: stand for tp, (stand, _) in below.items()})
        return not below

    def _judge(self, below: Mapping[TopicPartition, int]) -> None:
        """Count how long each partition has stood still although nothing, or nothing else, was there to fold.

        Raises `StandsStill` at the limit.
        """
        now, idle_polls = time.monotonic(), self._feed.idle_polls
        passed_s = min(now - self._judged_at, 5 * TICK_S)  # bounded: a process that was stopped and woken has not stood still
        same = {tp for tp, stand in below.items() if tp in self._still and self._still[tp][0] == stand}
        nothing_to_do = idle_polls != self._idle_polls or same == set(self._still)
        still = {}
        for tp, stand in below.items():
            still_s = self._still[tp][1] + passed_s * nothing_to_do if tp in same else 0.0
            if still_s >= self._still_limit_s:
                raise StandsStill(f"{tp.topic}-{tp.partition}: folded to {stand} for {still_s:.0f} s, the log goes further")
            still[tp] = (stand, still_s)
        self._still, self._judged_at, self._idle_polls = still, now, idle_polls

    def _end_stalled(self, silent_s: float) -> None:
        frame = sys._current_frames().get(self._loop_thread)
        stack = "".join(traceback.format_stack(frame)) if frame else "(no stack)"
        log.critical("the event loop stands still, this process ends", silent_s=silent_s, stack=stack)
        leave()


def end_in(grace_s: float) -> threading.Timer:
    """End the process with `EXIT_FAILED` in `grace_s`, whatever hangs, unless the timer is cancelled."""
    timer = threading.Timer(grace_s, leave)
    timer.daemon = True
    timer.start()
    return timer


def leave() -> None:
    """End the process now with `EXIT_FAILED`. Log lines get a second to be written."""
    flush = threading.Thread(target=_flush, daemon=True)  # may wait for ever on a lock or a full pipe
    flush.start()
    flush.join(1.0)
    os._exit(EXIT_FAILED)


def _flush() -> None:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()


# What Faust sees


class ChunkSchema(Schema[None, Chunk]):
    """The value of an event is the chunk itself: there is nothing to decode."""

    def loads_key(self, app: AppT, message: Message, **_: Any) -> None:
        return None

    def loads_value(self, app: AppT, message: Message, **_: Any) -> Chunk:
        chunk: Chunk = message.value  # type: ignore[assignment]  # Faust's hint is bytes
        return chunk


class FeedConsumer(Consumer):
    """Gives Faust the feed as one partition, always assigned, whose offsets are chunk numbers."""

    app: LedgerApp
    _assigned = False

    async def on_start(self) -> None:
        await super().on_start()
        self.app.feed.open(self.app.crash_soon)
        self.app.watchdog.start()

    async def on_stop(self) -> None:
        await super().on_stop()
        self.app.watchdog.close()
        await asyncio.to_thread(self.app.feed.close)

    async def subscribe(self, topics: Iterable[str]) -> None:
        if not self._assigned:
            self._assigned = True
            self.add_future(self._assign())  # Faust waits in there for this call to return

    async def _assign(self) -> None:
        self.app.on_rebalance_start()
        await self.on_partitions_assigned({FEED}, self.app.consumer_generation_id)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        return {FEED: self.app.reposition()}

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Mapping[TP, list[Any]]:  # noqa: ASYNC109  Faust's
        # Without regard to `timeout`: the fetcher is cancelled when it stops, and an idle feed then costs nothing.
        return {FEED: [await self.app.feed.next_chunk()]}

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        chunk: Chunk = record
        timestamp_s = chunk.records[-1].timestamp_ms / 1000
        return ConsumerMessage(
            *tp,
            offset=chunk.number,
            timestamp=timestamp_s,
            timestamp_type=0,
            headers=[],
            key=None,
            value=chunk,  # type: ignore[arg-type]
            checksum=None,
            serialized_key_size=0,
            serialized_value_size=len(chunk.records),
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )

    def _new_topicpartition(self, topic: str, partition: int) -> TP:
        return TP(topic, partition)

    def assignment(self) -> set[TP]:
        return {FEED} if self._assigned else set()

    def topic_partitions(self, topic: str) -> int | None:
        return 1 if topic == FEED.topic else None

    def highwater(self, tp: TP) -> int:
        return self.app.feed.number

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        return dict.fromkeys(partitions, self.app.feed.number)

    async def position(self, tp: TP) -> int | None:
        return self.app.feed.number

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        return dict.fromkeys(partitions, self.app.feed.number)

    # A chunk number means nothing after this process, so there is nothing to commit, to seek or to produce to.

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        raise NotImplementedError

    async def _seek(self, partition: TP, offset: int) -> None:
        raise NotImplementedError

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        raise NotImplementedError

    def key_partition(self, topic: str, key: bytes | None, partition: int | None = None) -> int | None:
        raise NotImplementedError

    async def create_topic(self, topic: str, partitions: int, replication: int, **_: Any) -> None:
        raise NotImplementedError


class FeedTransport(Transport):
    """Faust's transport over the feed. The producer is Faust's bare one, which connects to nothing and cannot send."""

    Consumer = FeedConsumer
    driver_version = "ledger.log"


class LedgerApp(App):
    """A Faust app whose only source is the feed."""

    feed: Feed
    watchdog: Watchdog
    on_stopping: Callable[[], None] | None = None

    def status(self) -> FoldStatus:
        """How the fold stands. May be called from any thread."""
        return self.feed.status()

    def reposition(self) -> int:
        """Read on from where the folder stands now: after it took over other databases. On the event loop.

        Returns the number of the next chunk. An exception of the folder ends the process, as in a fold.
        """
        try:
            return self.feed.reposition()
        except Exception as exc:
            self.feed.fail(exc)
            raise

    def crash_soon(self, reason: BaseException) -> None:
        self.add_future(self.crash(reason))

    async def on_stop(self) -> None:
        if self.on_stopping is not None:
            self.on_stopping()
        if self._web_server_service_instance is not None:
            # Before the fold stops: a request under way may be waiting for its own event to be folded.
            await self._web_server_service_instance.stop()
        await super().on_stop()

    def _new_transport(self) -> FeedTransport:
        return FeedTransport(self.conf.broker_consumer, self)


def build_app(
    *,
    app_id: str,
    log: EventLog,
    folder: Folder,
    state_dir: Path,
    chunk_records: int = 1000,
    max_wait_ms: int = 500,
    ahead: int = 2,
    slice_ms: float = 4.0,
    check_s: float = 5.0,
    still_limit_s: float = 15.0,
    stall_limit_s: float = 15.0,
    exit_grace_s: float | None = 10.0,
    on_failure: Callable[[BaseException], None] | None = None,
) -> LedgerApp:
    """The app, not started; touches neither an event loop nor the log.

    `app_id` names this node; `state_dir` gets Faust's (empty) data directory; `max_wait_ms` is how long the log may hold an
    empty answer back, records come at once; `on_failure` is called on the loop when the fail-stop begins; `exit_grace_s` None
    leaves the process alive (tests). See `Feed` and `Watchdog` for the limits.
    """
    datadir = state_dir / "faust"
    datadir.mkdir(parents=True, exist_ok=True)
    app = LedgerApp(
        app_id,
        env={},  # Faust's settings can be overridden by unprefixed variables (WEB_PORT, APP_DATADIR): not ours
        broker="ledger://log",
        datadir=str(datadir.absolute()),
        store="memory://",
        topic_allow_declare=False,
        topic_disable_leader=True,
        table_standby_replicas=0,
        stream_wait_empty=False,
        web_enabled=True,
        worker_redirect_stdouts=False,
    )
    app.feed = Feed(
        log,
        folder,
        name=app_id,
        chunk_records=chunk_records,
        max_wait_ms=max_wait_ms,
        ahead=ahead,
        slice_ms=slice_ms,
        exit_grace_s=exit_grace_s,
        on_failure=on_failure,
    )
    app.watchdog = Watchdog(log, app.feed, folder, check_s=check_s, still_limit_s=still_limit_s, stall_limit_s=stall_limit_s)
    chunks = app.topic(FEED.topic, schema=ChunkSchema(), acks=False)

    @app.agent(chunks, name="projection", supervisor_strategy=CrashingSupervisor)
    async def projection(stream: StreamT[Chunk]) -> None:
        async for chunk in stream:
            await app.feed.fold(chunk)

    return app


# The process


class LedgerWorker(Worker):
    """Faust's worker without its console: logging is configured by us, nothing is printed, only INT and TERM are handled."""

    app: LedgerApp
    _stopping: asyncio.Future[None] | None = None

    def __init__(self, app: LedgerApp, on_started: Callable[[int], None] | None) -> None:
        super().__init__(app, quiet=True, redirect_stdouts=False, override_logging=False)
        self.spinner = None
        self._on_started = on_started

    def install_signal_handlers(self) -> None:
        super().install_signal_handlers()
        if sys.platform != "win32":
            self.loop.remove_signal_handler(signal.SIGUSR1)  # prints every task
            self.loop.remove_signal_handler(signal.SIGUSR2)  # opens a debugger

    async def on_startup_finished(self) -> None:
        await super().on_startup_finished()
        if self._on_started is not None:
            self.add_future(self._announce(self._on_started))

    async def _announce(self, on_started: Callable[[int], None]) -> None:
        """Report the port as soon as HTTP is served; by then the agent folds."""
        service: Any = self.app._web_server_service_instance
        server = service._server
        while not self.should_stop:
            if server.started:
                on_started(server.servers[0].sockets[0].getsockname()[1])
                return
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Stop, once, however many ask: a signal's task and `run` both wait for the whole of it."""
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(super().stop())
        await asyncio.shield(self._stopping)


def run(
    app: LedgerApp,
    asgi_app: Any,
    *,
    host: str,
    port: int,
    on_started: Callable[[int], None] | None = None,
    on_stopping: Callable[[], None] | None = None,
    stop_grace_s: float = 8.0,
    **uvicorn_options: Any,
) -> int:
    """Fold and serve `asgi_app` in this process until SIGINT, SIGTERM or a failure; returns the exit code.

    `port` 0 takes a free one. `on_started(port)` is called when the agent folds and HTTP is answered, `on_stopping()` when a stop
    begins, before open requests get their last two seconds: end streams there. Both run on the event loop.
    """
    # staticmethod: Faust makes it a class attribute, which would bind an ASGI app that is a plain function
    serve_asgi(app, staticmethod(asgi_app), host=host, port=port, **{**UVICORN_OPTIONS, **uvicorn_options})
    deadline: list[threading.Timer] = []

    def stopping() -> None:
        deadline.append(end_in(stop_grace_s))
        if on_stopping is not None:
            on_stopping()

    app.on_stopping = stopping
    try:
        with asyncio.Runner(loop_factory=_new_event_loop) as runner:
            failed = runner.run(_work(app, on_started))
    except Exception as exc:
        log.critical("this process ends", error=repr(exc), exc_info=exc)
        failed = True
    for timer in deadline:
        timer.cancel()
    return EXIT_FAILED if failed or app.feed.failure is not None else 0


async def _work(app: LedgerApp, on_started: Callable[[int], None] | None) -> bool:
    worker = LedgerWorker(app, on_started)
    try:
        await worker.start()  # until stopped or crashed
    finally:
        await worker.stop()
    return worker.crashed


def _new_event_loop() -> asyncio.AbstractEventLoop:
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()
