"""The load generator: prepared bytes over keep-alive connections, and just enough HTTP to read status and length.

It shares the machine with the measured system, so it must cost little: 20-30 us of CPU a request where a client library takes a
millisecond. Reads one `Job` from standard input, writes one `Answers` to standard output.

Open loop without coordinated omission: requests are due on a fixed grid, whatever the answers do; the latency of a request
counts from when it was due, so a stall of the server shows in every request that became due meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import time
from array import array
from collections import Counter, deque
from typing import cast

import msgspec
import uvloop

from tests.benchmarks.jobs import KEY, SETTLE_S, Answers, Job

MAX_CONNECTIONS = 512  # of an open loop; requests that are due beyond them wait, and the wait counts
_ID = b'"order_id":"'


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request in progress."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._read = b""
        self.request = 0
        self.due = 0.0
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self, data: bytes, request: int, due: float) -> None:
        self.request, self.due, self.busy = request, due, True
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        if self._read:
            data = self._read + data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._read = data
            return
        head = data[:end].lower()
        at = head.find(b"content-length: ")
        if at < 0 or not self.busy:
            self._break("an answer without content-length" if self.busy else "an answer nobody asked for")
            return
        length = end + 4 + int(head[at + 16 :].split(b"\r\n", 1)[0])
        if len(data) < length:
            self._read = data
            return
        self._read, self.busy = b"", False
        self._run.answered(self, int(head[9:12]), data, end)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.busy:
            self._run.broken.append(repr(exc))
            self.busy = False

    def _break(self, why: str) -> None:
        self._run.broken.append(why)
        self.busy = False
        self._transport.abort()

    def close(self) -> None:
        self._transport.abort()


class Run:
    """One running job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._loop = asyncio.get_running_loop()
        self._parts = [request.encode().split(KEY.encode()) for request in job.requests]
        self._expect = None if job.expect is None else [e.encode() for e in job.expect]
        self._prefix = job.key_prefix.encode()
        self._connections: list[Connection] = []
        self._free: deque[Connection] = deque()  # the connection that rested longest is next, or a server would close it
        self._backlog: deque[tuple[int, float]] = deque()
        self._opening = 0
        self._sent = self._answered = 0
        self._closing = False
        self._latencies, self._lags = array("q"), array("q")
        self._statuses: Counter[int] = Counter()
        self._ids: list[tuple[int, str]] = []
        self._unexpected = self._most_waiting = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.broken: list[str] = []
        self.all_answered = asyncio.Event()

    async def do(self) -> Answers:
        job = self._job
        await asyncio.gather(*(self._open() for _ in range(job.connections)))
        cpu_began, self._began = time.process_time(), time.monotonic()
        self._last = self._began
        if job.rate is None:
            for connection in list(self._connections):
                self._next(connection)
        else:
            self._free = deque(self._connections)
            self._due, self._step = self._began, 1 / job.rate
            self._tick()
        if job.seconds is not None:
            await asyncio.sleep(job.seconds)
            self._close()
        with contextlib.suppress(TimeoutError):  # counted as unanswered
            await asyncio.wait_for(self.all_answered.wait(), SETTLE_S if job.seconds is not None else 300.0)
        cpu_s = time.process_time() - cpu_began
        for connection in self._connections:
            connection.close()
        return Answers(
            statuses=dict(self._statuses),
            latencies_us=self._latencies.tolist(),
            lags_us=self._lags.tolist(),
            order_ids=self._ids,
            unexpected=self._unexpected,
            unanswered=self._sent - self._answered + len(self._backlog),
            broken=self.broken,
            wall_s=max(self._last - self._began, 1e-9),
            cpu_s=cpu_s,
            backlog=self._most_waiting,
        )

    async def _open(self) -> Connection:
        _, connection = await self._loop.create_connection(lambda: Connection(self), "127.0.0.1", self._job.port)
        self._connections.append(connection)
        return connection

    def _close(self) -> None:
        """Send nothing more except what is already due."""
        self._closing = True
        self._check_end()

    def _check_end(self) -> None:
        if self._closing and self._answered == self._sent and not self._backlog:
            self.all_answered.set()

    def _bytes(self, number: int) -> tuple[int, bytes]:
        index = number % len(self._parts)
        parts = self._parts[index]
        return index, parts[0] if len(parts) == 1 else (self._prefix + b"%d" % number).join(parts)

    # ---- closed loop

    def _next(self, connection: Connection) -> None:
        if self._closing:
            return
        index, data = self._bytes(self._sent)
        self._sent += 1
        connection.send(data, index, time.monotonic())
        if self._job.seconds is None and self._sent == len(self._parts):
            self._closing = True

    # ---- open loop

    def _tick(self) -> None:
        """Send all that is due, and run again when the next one is."""
        now = time.monotonic()
        while self._due <= now and not self._closing:
            number, due = self._sent, self._due
            self._sent += 1
            self._due = self._began + self._sent * self._step
            if self._free:
                self._dispatch(self._free.popleft(), number, due)
            else:
                self._wait(number, due)
        if not self._closing:
            self._loop.call_later(max(0.0, self._due - time.monotonic()), self._tick)

    def _dispatch(self, connection: Connection, number: int, due: float) -> None:
        index, data = self._bytes(number)
        self._lags.append(round((time.monotonic() - due) * 1e6))
        connection.send(data, index, due)

    def _wait(self, number: int, due: float) -> None:
        self._backlog.append((number, due))
        self._most_waiting = max(self._most_waiting, len(self._backlog))
        if len(self._connections) + self._opening < MAX_CONNECTIONS:
            self._opening += 1
            task = self._loop.create_task(self._open_more())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _open_more(self) -> None:
        try:
            connection = await self._open()
        except OSError as exc:
            self.broken.append(repr(exc))
            return
        finally:
            self._opening -= 1
        self._release(connection)

    def _release(self, connection: Connection) -> None:
        if self._backlog:
            self._dispatch(connection, *self._backlog.popleft())
        else:
            self._free.append(connection)

    # ---- answers

    def answered(self, connection: Connection, status: int, data: bytes, end: int) -> None:
        self._last = time.monotonic()
        self._answered += 1
        self._latencies.append(round((self._last - connection.due) * 1e6))
        self._statuses[status] += 1
        if self._expect is not None and data.find(self._expect[connection.request], end) < 0:
            self._unexpected += 1
        if self._job.collect_ids:
            at = data.find(_ID, end) + len(_ID)
            self._ids.append((connection.request, data[at : data.find(b'"', at)].decode("latin-1")))
        if self._job.rate is None:
            self._next(connection)
        else:
            self._release(connection)
        if self._closing:
            self._check_end()


async def _do(job: Job) -> Answers:
    return await Run(job).do()


def main() -> None:
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
    gc.disable()  # the job is bounded, and a collection in the middle of it would count as latency
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        answers = runner.run(_do(job))
    sys.stdout.buffer.write(msgspec.json.encode(answers))


if __name__ == "__main__":
    main()
