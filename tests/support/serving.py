"""The HTTP application and the fold on one event loop in a thread, as `serve` runs them in its process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI

from api.context import AppContext
from ledger.errors import LogUnavailable
from ledger.log import Reader, TopicPartition
from ledger.memory.log import MemoryLog
from projections.feed import FoldStatus
from tests.support.patience import PATIENCE_S


@dataclass
class AdjustableStatus:
    """The status of the fold that the API asks for. A test may set each part; `connected` and `staleness_ms` on Kafka only."""

    begun: bool = True
    answered: bool = True
    folding: bool = True
    connected: bool = True
    connecting: bool = False
    caught_up: bool = True
    behind: int | None = 0
    staleness_ms: int | None = 0
    held_back_s: float = 0.0
    leaderless: frozenset[TopicPartition] = frozenset()
    reached: frozenset[TopicPartition] = frozenset()

    def __call__(self) -> FoldStatus:
        return FoldStatus(
            begun=self.begun,
            answered=self.answered,
            folding=self.folding,
            connected=self.connected,
            connecting=self.connecting,
            caught_up=self.caught_up,
            behind=self.behind,
            staleness_ms=self.staleness_ms,
            led_staleness_ms=0 if self.leaderless else self.staleness_ms,
            leaderless=self.leaderless,
            idle_ms=None,
            records=0,
            chunks=0,
            failure=None,
            held_back_s=self.held_back_s,
            reached=self.reached,
        )


class FoldGate:
    """Where the fold waits while a test has paused it. The fold calls `passed`, on its event loop; a test all others."""

    def __init__(self, paused: bool = False) -> None:
        self._open, self._parked = threading.Event(), threading.Event()
        if not paused:
            self._open.set()

    def pause(self) -> None:
        """Returns when the fold waits: from then on it applies nothing and sets no status."""
        self._open.clear()
        assert self._parked.wait(PATIENCE_S), "the fold does not come to its gate"

    def resume(self) -> None:
        self._open.set()

    @contextmanager
    def paused(self) -> Iterator[None]:
        self.pause()
        try:
            yield
        finally:
            self.resume()

    async def passed(self) -> None:
        """Wait while it is paused. The gate is open when this returns, and until the fold awaits something else."""
        while not self._open.is_set():
            self._parked.set()
            await asyncio.to_thread(self._open.wait)
            # Before the gate is checked again: it may have been closed while the loop was busy with something else.
            self._parked.clear()


class Server:
    """uvicorn and the fold, until `stop`. `folding` pauses the fold."""

    def __init__(self, app: FastAPI, context: AppContext, status: AdjustableStatus, paused: bool = False) -> None:
        self.folding = FoldGate(paused)
        self._context, self._status = context, status
        config = uvicorn.Config(
            app,
            port=0,
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=5,
            proxy_headers=False,
            http=context.connections.protocol,  # type: ignore[arg-type]  # uvicorn accepts anything that creates a protocol
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="serve")
        self._failure: BaseException | None = None

    def start(self) -> str:
        self._thread.start()
        deadline = time.monotonic() + PATIENCE_S
        while not self._server.started:
            assert self._failure is None, self._failure
            assert time.monotonic() < deadline
            time.sleep(0.01)
        host, port = self._server.servers[0].sockets[0].getsockname()[:2]
        return f"http://{host}:{port}"

    def stop(self) -> None:
        self.folding.resume()
        self._server.should_exit = True
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        if self._failure is not None:
            raise self._failure

    async def _main(self) -> None:
        context, self.loop = self._context, asyncio.get_running_loop()
        reader = context.log.reader("test-fold", eof=True, max_wait_ms=10, headers=True)
        reader.assign(context.projector.positions())
        folding = asyncio.create_task(self._fold(reader))
        auditing = asyncio.create_task(context.audit.tend_for_ever())
        try:
            await self._server.serve()
        finally:
            context.end_streams()
            if context.payments is not None:
                await context.payments.close()
            folding.cancel()
            auditing.cancel()
            await asyncio.gather(folding, auditing, return_exceptions=True)
            await asyncio.to_thread(reader.close)

    async def _fold(self, reader: Reader) -> None:
        try:
            while True:
                records = await asyncio.to_thread(reader.poll, 500, 0.05)
                await self.folding.passed()
                self._context.projector.apply_chunk(records)
                away_s = reader.silent_s()
                if isinstance(self._context.log, MemoryLog):
                    self._status.connected, self._status.staleness_ms = away_s == 0, int(away_s * 1000)
        except LogUnavailable as exc:
            self._failure = exc
            raise
