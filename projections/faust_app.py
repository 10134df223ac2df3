"""The Faust app that folds the log into this node's databases, and the process that serves them over HTTP.

The only file that imports faust or mode. Faust provides the agent, its supervision, the service tree and `serve_asgi`. Records
come through the EventLog port, and positions are in the node's databases, so Faust opens no connection to Kafka, creates no
topic and joins no group:

    reader thread               event loop
    log.reader().poll() ──► Feed ──► FeedConsumer ──► Faust conductor ──► agent ──► Feed.take ──► folder.fold(records)
                            (a few chunks ahead)      one Faust event per *chunk*     slices of a few milliseconds

To Faust, the feed is one partition whose offsets are chunk numbers. Faust's "seek to the committed offset" becomes "read from
the position of the databases", and that is the whole recovery: rows and positions are one write, nothing is acknowledged.

Fail-stop. Faust acknowledges an event whose agent raised and continues with the next one; a projection must not. After the first
exception in a fold, a chunk that does not follow the databases, a dead reader thread, a stalled loop or a partition that is stuck
below the end of the log, all further chunks are refused and the process ends with `EXIT_FAILED`, even if stopping hangs. After
the restart, it reads from the positions of the databases.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import structlog
from faust import App, Schema
from faust.contrib.asgi import serve_asgi
from faust.tables.manager import TableManager
from faust.transport.base import Transport
from faust.transport.consumer import Consumer
from faust.types import AppT, StreamT
from faust.types.tuples import TP, ConsumerMessage, Message
from faust.worker import Worker
from mode.supervisors import CrashingSupervisor

from ledger.event_loop import new_event_loop
from ledger.faults import named
from ledger.log import EventLog
from projections.fail_stop import EXIT_FAILED, end_in
from projections.feed import Chunk, Feed, Folder, FoldStatus
from projections.watchdog import Watchdog

log = structlog.get_logger(__name__)


FEED = TP("chunks", 0)  # to Faust, the only topic and partition of this app
UVICORN_OPTIONS: Mapping[str, Any] = {
    "ws": "none",
    "proxy_headers": False,  # otherwise on, for proxies named in the environment
    "timeout_graceful_shutdown": 2,  # after that, open streams are cancelled
}


# The view of Faust


class ChunkSchema(Schema[None, Chunk]):
    """The value of an event is the chunk itself, so nothing is decoded."""

    def loads_key(self, app: AppT, message: Message, **_: Any) -> None:
        return None

    def loads_value(self, app: AppT, message: Message, **_: Any) -> Chunk:
        chunk: Chunk = message.value  # type: ignore[assignment]  # Faust's hint is bytes
        return chunk


class FeedConsumer(Consumer):
    """Presents the feed to Faust as one partition, always assigned, whose offsets are chunk numbers."""

    app: FoldApp
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
            self.add_future(self._assign())  # Faust waits in it for this call to return

    async def _assign(self) -> None:
        self.app.on_rebalance_start()
        await self.on_partitions_assigned({FEED}, self.app.consumer_generation_id)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        return {FEED: self.app.reposition()}

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Mapping[TP, list[Any]]:  # noqa: ASYNC109  Faust's
        # Ignores `timeout`: the fetcher is cancelled when it stops, and an idle feed costs nothing.
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

    # Chunk numbers are meaningless after this process, so there is nothing to commit, to seek or to produce.

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


class NoTables(TableManager):
    """A manager without tables: Faust's own waits a second for them to be registered."""

    async def on_start(self) -> None:
        await self._update_channels()
        await self.recovery.start()


class FoldApp(App):
    """A Faust app whose only source is the feed."""

    feed: Feed
    watchdog: Watchdog
    on_stopping: Callable[[], None] | None = None

    def status(self) -> FoldStatus:
        """The status of the fold. May be called from any thread."""
        return self.feed.status()

    def note_answer(self) -> None:
        """Note that the log has answered, before `begin`. From any thread."""
        self.feed.answered = True

    def begin(self, known_current_at: float | None = None) -> None:
        """Start reading from the position of the folder, now that the log answers. On the event loop, if built with `wait`.

        `known_current_at`: when the folder was last at the end of the log, if known (`time.monotonic`, s). An exception of the
        folder ends the process, as in a fold.
        """
        if known_current_at is not None:
            self.feed.known_current_at = known_current_at
        try:
            self.feed.begin()
        except Exception as exc:
            self.feed.fail(exc)
            raise

    def reposition(self) -> int:
        """Continue reading from the current position of the folder, after it switched databases. On the event loop.

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
            # Before the fold stops: a request in progress may be waiting for its own event to be folded.
            await self._web_server_service_instance.stop()
        await super().on_stop()

    def _new_transport(self) -> FeedTransport:
        return FeedTransport(self.conf.broker_consumer, self)


def build_app(  # noqa: PLR0913  # its parts
    *,
    app_id: str,
    log: EventLog,
    folder: Folder,
    state_dir: Path,
    chunk_records: int = 1000,
    max_wait_ms: int = 100,
    ahead: int = 2,
    slice_ms: float = 4.0,
    check_s: float = 5.0,
    still_limit_s: float = 15.0,
    stall_limit_s: float = 15.0,
    exit_grace_s: float | None = 10.0,
    on_failure: Callable[[BaseException], None] | None = None,
    wait: bool = False,
) -> FoldApp:
    """The app, not started; touches neither an event loop nor the log.

    `app_id` names this node; `state_dir` contains Faust's (empty) data directory; `max_wait_ms`: how long the log may delay an
    empty answer (records arrive immediately); `on_failure` is called on the loop when the fail-stop begins; `exit_grace_s` None
    keeps the process alive (for tests). With `wait`, the log is not used before `begin`, and HTTP is served meanwhile. See `Feed`
    and `Watchdog` for the limits.
    """
    (datadir := state_dir / "faust").mkdir(parents=True, exist_ok=True)
    app = FoldApp(
        app_id,
        env={},  # no overrides of Faust's settings by unprefixed variables (WEB_PORT, APP_DATADIR)
        broker="ledger://log",
        datadir=str(datadir.absolute()),
        store="memory://",
        topic_allow_declare=False,
        topic_disable_leader=True,
        table_standby_replicas=0,
        TableManager=NoTables,
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
        wait=wait,
    )
    app.watchdog = Watchdog(log, app.feed, folder, check_s=check_s, still_limit_s=still_limit_s, stall_limit_s=stall_limit_s)
    chunks = app.topic(FEED.topic, schema=ChunkSchema(), acks=False)

    @app.agent(chunks, name="projection", supervisor_strategy=CrashingSupervisor)
    async def projection(stream: StreamT[Chunk]) -> None:
        async for chunk in stream:
            await app.feed.take(chunk)

    return app


# The process


class LedgerWorker(Worker):
    """Faust's worker without its console: it does not configure logging, prints nothing, and handles only INT and TERM."""

    app: FoldApp
    _stopping: asyncio.Future[None] | None = None

    def __init__(self, app: FoldApp, on_started: Callable[[int], None] | None) -> None:
        super().__init__(app, debug=False, quiet=True, redirect_stdouts=False, override_logging=False)
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
        """Report the port when HTTP is served; by then, the agent is folding."""
        service: Any = self.app._web_server_service_instance
        server = service._server
        while not self.should_stop:
            if server.started:
                on_started(server.servers[0].sockets[0].getsockname()[1])
                return
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Stop once, even if called several times: the task of a signal and `run` both wait for its end."""
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(super().stop())
        await asyncio.shield(self._stopping)


def run(
    app: FoldApp,
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

    HTTP is served as soon as the app has started, caught up or not: readiness is `app.status()`. `port` 0 picks a free one.
    `on_started(port)` is called then, and `on_stopping()` when a stop begins, before open requests get their last two seconds:
    end streams there. Both run on the event loop. A stop that takes longer than `stop_grace_s` ends with `EXIT_FAILED`.
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
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            failed = runner.run(_work(app, on_started))
    except Exception as exc:
        log.critical("ending the process", error=named(exc), exc_info=exc)
        failed = True
    for timer in deadline:
        timer.cancel()
    return EXIT_FAILED if failed or app.feed.failure is not None else 0


async def _work(app: FoldApp, on_started: Callable[[int], None] | None) -> bool:
    worker = LedgerWorker(app, on_started)
    try:
        await worker.start()  # until stopped or crashed
    finally:
        await worker.stop()
    return worker.crashed
