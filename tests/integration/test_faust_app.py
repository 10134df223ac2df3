"""The Faust app over the log: what it folds, when it stops, and that it stops for good.

The second half runs the process itself: this file is also that process's program (`main` at the end).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import structlog

from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.log import NewRecord, Record, TopicPartition
from ledger.memory.log import MemoryLog
from ledger.memory.store import MemoryStore
from ledger.rocks_store import RocksStore
from ledger.store import Store
from ledger.topics import Topics, TopicSpec
from projections.faust_app import FoldApp, build_app, run
from projections.feed import EXIT_FAILED, Chunk, ChunkLost, StandsStill
from tests.support.patience import PATIENCE_S

TOPICS = ("a", "b")
PARTITIONS = 3


class Counter:
    """A folder that counts how often each record was folded, in a store that also has the positions."""

    def __init__(self, store: Store, topics: Sequence[str] = TOPICS, partitions: int = PARTITIONS) -> None:
        self.store = store
        self._positions = {
            TopicPartition(t, p): int(store.get(b"p/%b/%d" % (t.encode(), p)) or 0) for t in topics for p in range(partitions)
        }
        self.slices: list[int] = []
        self.before_write: Callable[[Sequence[Record]], None] = lambda _: None

    def positions(self) -> Mapping[TopicPartition, int]:
        return self._positions

    def apply_chunk(self, records: Sequence[Record]) -> None:
        rows: dict[bytes, bytes | None] = {}
        positions = dict(self._positions)
        for r in records:
            tp = TopicPartition(r.topic, r.partition)
            if r.offset < positions[tp]:
                continue
            key = b"n/" + (r.value or b"")
            rows[key] = b"%d" % (int(rows.get(key) or self.store.get(key) or 0) + 1)
            positions[tp] = r.offset + 1
            rows[b"p/%b/%d" % (tp.topic.encode(), tp.partition)] = b"%d" % positions[tp]
        self.before_write(records)
        self.store.write(rows)
        self._positions = positions
        self.slices.append(len(records))

    def counts(self) -> dict[bytes, int]:
        return {key[2:]: int(value) for key, value in self.store.scan(b"n/")}


def memory_log() -> MemoryLog:
    log = MemoryLog()
    log.ensure_topics([TopicSpec(topic, PARTITIONS) for topic in TOPICS])
    return log


def write(log: MemoryLog | KafkaLog, numbers: Sequence[int], topics: Sequence[str] = TOPICS, per_transaction: int = 7) -> None:
    """Numbers as values, spread over topics and partitions, some transactions of them."""
    writer = log.writer("test")
    writer.start(PATIENCE_S)
    for i in range(0, len(numbers), per_transaction):
        batch = numbers[i : i + per_transaction]
        writer.transact([NewRecord(topics[n % len(topics)], n % PARTITIONS, b"k", b"%d" % n) for n in batch])
    writer.close()


@asynccontextmanager
async def folding(log: MemoryLog, folder: Counter, tmp_path: Path, **options: Any) -> AsyncIterator[FoldApp]:
    app = build_app(app_id="test", log=log, folder=folder, state_dir=tmp_path, exit_grace_s=None, check_s=0.2, **options)
    app.conf.web_enabled = False  # without `run` Faust would open a server of its own, on a fixed port of every interface
    await app.start()
    try:
        yield app
    finally:
        await app.stop()


async def until(met: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not met():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)


# In this process


def test_it_folds_every_record_of_all_topics_once_and_says_so(tmp_path: Path) -> None:
    log, folder = memory_log(), Counter(MemoryStore())
    write(log, range(500))

    async def main() -> None:
        async with folding(log, folder, tmp_path) as app:
            await until(lambda: len(folder.counts()) == 500)
            write(log, range(500, 600))
            await until(lambda: len(folder.counts()) == 600)
            await until(lambda: app.status().behind == 0)
            status = app.status()
            assert status.folding
            assert status.connected
            assert status.staleness_ms == 0
            assert status.records == 600
            assert status.failure is None
        assert not app.status().folding

    asyncio.run(main())
    assert set(folder.counts().values()) == {1}


def test_it_begins_where_the_databases_stand(tmp_path: Path) -> None:
    log, store = memory_log(), MemoryStore()
    write(log, range(100))

    async def fold_all() -> None:
        folder = Counter(store)
        async with folding(log, folder, tmp_path) as app:
            await until(lambda: app.status().behind == 0)

    asyncio.run(fold_all())
    write(log, range(100, 150))
    asyncio.run(fold_all())
    assert Counter(store).counts() == {b"%d" % n: 1 for n in range(150)}


def test_a_chunk_is_folded_in_slices_that_leave_the_loop_to_others(tmp_path: Path) -> None:
    log, folder = memory_log(), Counter(MemoryStore())
    folder.before_write = lambda records: time.sleep(len(records) * 100e-6)
    write(log, range(3000), per_transaction=500)

    async def main() -> list[float]:
        gaps = []
        async with folding(log, folder, tmp_path, slice_ms=4.0):
            while len(folder.counts()) < 3000:
                began = time.perf_counter()
                await asyncio.sleep(0)
                gaps.append(time.perf_counter() - began)
        return gaps

    asyncio.run(main())
    assert len(folder.slices) > 3000 / 100
    assert sorted(folder.slices)[len(folder.slices) // 2] <= 60  # 4 ms at 100 us a record are 40


def test_no_more_than_the_agreed_number_of_chunks_is_read_ahead(tmp_path: Path) -> None:
    log, folder = memory_log(), Counter(MemoryStore())
    write(log, range(200))
    most = 0

    async def main() -> None:
        nonlocal most
        async with folding(log, folder, tmp_path, chunk_records=10, ahead=2) as app:

            def look(_: Sequence[Record]) -> None:
                nonlocal most
                time.sleep(0.005)  # the reader thread would run away in this time
                most = max(most, app.feed.number - app.status().chunks)

            folder.before_write = look
            await until(lambda: len(folder.counts()) == 200)

    asyncio.run(main())
    assert most == 2


def test_the_first_exception_of_a_fold_is_the_last_fold(tmp_path: Path) -> None:
    log, folder = memory_log(), Counter(MemoryStore())
    failures: list[BaseException] = []

    def refuse(records: Sequence[Record]) -> None:
        if any(r.value == b"5" for r in records):
            raise ValueError("five")

    folder.before_write = refuse

    async def main() -> None:
        async with folding(log, folder, tmp_path, on_failure=failures.append) as app:
            write(log, range(5), per_transaction=5)
            await until(lambda: len(folder.counts()) == 5)
            write(log, range(5, 6))
            await until(lambda: app.crashed)
            write(log, range(6, 50))
            await asyncio.sleep(0.5)
            assert app.status().failure == "ValueError('five')"
            assert not app.status().folding

    asyncio.run(main())
    assert [str(f) for f in failures] == ["five"]
    assert folder.counts() == {b"%d" % n: 1 for n in range(5)}


def lose(app: FoldApp, number: int) -> None:
    """Make chunk `number` disappear between the agent and the fold (one that waits for it already cannot be robbed earlier)."""
    fold = app.feed.take

    async def losing(chunk: Chunk) -> None:
        if chunk.number != number:
            await fold(chunk)

    app.feed.take = losing  # type: ignore[method-assign]


def test_a_lost_chunk_is_not_folded_over(tmp_path: Path) -> None:
    log, folder = memory_log(), Counter(MemoryStore())

    async def main() -> BaseException | None:
        async with folding(log, folder, tmp_path, chunk_records=5) as app:
            lose(app, 2)
            write(log, range(60))
            await until(lambda: app.feed.failure is not None)
            return app.feed.failure

    assert isinstance(asyncio.run(main()), ChunkLost)
    assert len(folder.counts()) == 5


def test_a_lost_chunk_that_no_other_follows_is_found_by_the_watchdog(tmp_path: Path) -> None:
    log, folder = memory_log(), Counter(MemoryStore())

    async def main() -> BaseException | None:
        async with folding(log, folder, tmp_path, still_limit_s=2.0) as app:
            await until(lambda: app.status().behind == 0)
            lose(app, 1)
            write(log, range(5))
            await until(lambda: app.feed.failure is not None)
            return app.feed.failure

    assert isinstance(asyncio.run(main()), StandsStill)


def test_records_that_do_not_follow_the_databases_are_not_folded(tmp_path: Path) -> None:
    log, folder = memory_log(), Counter(MemoryStore())
    write(log, range(60))

    async def main() -> BaseException | None:
        async with folding(log, folder, tmp_path) as app:
            await until(lambda: app.status().behind == 0)
            folder._positions = dict.fromkeys(folder.positions(), 0)  # other databases, without a reposition
            write(log, range(60, 70))
            await until(lambda: app.feed.failure is not None)
            return app.feed.failure

    assert isinstance(asyncio.run(main()), ChunkLost)


def test_a_reposition_reads_from_where_the_folder_stands_now(tmp_path: Path) -> None:
    log, folder = memory_log(), Counter(MemoryStore())
    write(log, range(300))

    async def main() -> None:
        async with folding(log, folder, tmp_path, chunk_records=20) as app:
            await until(lambda: len(folder.counts()) == 300)
            folder.store, folder._positions = MemoryStore(), dict.fromkeys(folder.positions(), 0)
            app.reposition()
            write(log, range(300, 310))
            await until(lambda: len(folder.counts()) == 310)
            await until(lambda: app.status().behind == 0)
            assert app.status().failure is None

    asyncio.run(main())
    assert set(folder.counts().values()) == {1}


def test_reads_are_stale_while_the_log_is_away_and_current_after(tmp_path: Path) -> None:
    log, folder = memory_log(), Counter(MemoryStore())
    write(log, range(10))

    async def main() -> None:
        async with folding(log, folder, tmp_path, still_limit_s=3.0) as app:
            await until(lambda: app.status().behind == 0)
            log.away(True)
            await until(lambda: not app.status().connected)
            first = app.status().staleness_ms
            assert first is not None
            assert first >= 2500
            await asyncio.sleep(2)
            later = app.status().staleness_ms
            assert later is not None
            assert later >= first + 1900
            assert app.feed.failure is None
            log.away(False)
            write(log, range(10, 20))
            await until(lambda: app.status().staleness_ms == 0)
            assert len(folder.counts()) == 20

    asyncio.run(main())


def test_an_app_that_waits_reads_nothing_and_says_how_old_it_is_until_it_begins(tmp_path: Path) -> None:
    log, folder = memory_log(), Counter(MemoryStore())
    write(log, range(10))
    log.away(True)  # as at a start without it

    async def main() -> None:
        async with folding(log, folder, tmp_path, wait=True, still_limit_s=1.0) as app:
            before = app.status()
            assert (before.begun, before.folding, before.connected, before.caught_up) == (False, False, False, False)
            assert (before.connecting, before.staleness_ms, before.behind) == (True, None, None)
            app.feed.known_current_at = time.monotonic() - 60
            await until(lambda: not app.status().connecting)
            later = app.status()
            assert later.staleness_ms is not None
            assert later.staleness_ms >= 60_000
            assert (later.connected, later.caught_up, app.feed.failure, folder.counts()) == (False, False, None, {})
            log.away(False)
            app.begin(time.monotonic() - 30)
            status = app.status()
            assert (status.begun, status.caught_up) == (True, False)
            assert status.staleness_ms is not None
            assert status.staleness_ms >= 30_000
            await until(lambda: app.status().caught_up)
            assert len(folder.counts()) == 10
            assert app.status().staleness_ms == 0
            assert app.feed.failure is None

    asyncio.run(main())


def test_an_app_may_be_told_to_begin_before_it_has_started(tmp_path: Path) -> None:
    log, folder = memory_log(), Counter(MemoryStore())
    write(log, range(10))

    async def main() -> None:
        app = build_app(app_id="test", log=log, folder=folder, state_dir=tmp_path, exit_grace_s=None, check_s=0.2, wait=True)
        app.conf.web_enabled = False
        app.begin()
        await app.start()
        try:
            await until(lambda: len(folder.counts()) == 10)
        finally:
            await app.stop()

    asyncio.run(main())


def test_a_node_that_answers_and_is_behind_says_how_old_it_is_until_it_is_current(tmp_path: Path) -> None:
    log, folder = memory_log(), Counter(MemoryStore())
    write(log, range(10))

    async def main() -> None:
        async with folding(log, folder, tmp_path, still_limit_s=PATIENCE_S) as app:
            await until(lambda: app.status().staleness_ms == 0)
            ends = log.ends

            def further(*args: Any, **kwargs: Any) -> dict[TopicPartition, int]:
                return {tp: end + (tp == TopicPartition("a", 1)) for tp, end in ends(*args, **kwargs).items()}

            log.ends = further  # type: ignore[method-assign]
            await until(lambda: app.status().behind == 1)
            status = app.status()
            assert (status.connected, status.caught_up) == (True, True)
            assert status.staleness_ms
            log.ends = ends  # type: ignore[method-assign]
            await until(lambda: app.status().staleness_ms == 0)

    asyncio.run(main())


def test_a_partition_that_stands_still_below_the_end_is_a_failure(tmp_path: Path) -> None:
    log, folder = memory_log(), Counter(MemoryStore())
    write(log, range(10))

    async def main() -> str | None:
        async with folding(log, folder, tmp_path, still_limit_s=2.0) as app:
            await until(lambda: app.status().behind == 0)
            ends = log.ends

            def further(*args: Any, **kwargs: Any) -> dict[TopicPartition, int]:
                return {tp: end + (tp == TopicPartition("a", 1)) for tp, end in ends(*args, **kwargs).items()}

            log.ends = further  # type: ignore[method-assign]
            await until(lambda: app.feed.failure is not None)
            return app.status().failure

    failure = asyncio.run(main())
    assert failure is not None
    assert failure.startswith("StandsStill('a-1: folded to ")


def test_transaction_markers_at_the_end_are_no_lag(tmp_path: Path) -> None:
    log, folder = memory_log(), Counter(MemoryStore())
    write(log, range(6))
    tps = list(folder.positions())

    async def main() -> None:
        async with folding(log, folder, tmp_path, still_limit_s=1.0) as app:
            await until(lambda: app.status().behind == 0)
            assert any(folder.positions()[tp] < end for tp, end in log.ends(tps).items())
            await asyncio.sleep(3)
            assert app.feed.failure is None

    asyncio.run(main())


# The process


class Process:
    """The program below, running. `say` has what it printed to stdout so far."""

    def __init__(self, scenario: str, folder: Path, **settings: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, __file__, json.dumps({"scenario": scenario, "folder": str(folder), **settings})]
        self.stderr = folder / "stderr"
        with self.stderr.open("ab") as stderr:
            self.popen = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=Path(__file__).parents[2])
        assert self.popen.stdout is not None
        self.first_line = self.popen.stdout.readline()
        self.port = int(self.first_line) if self.first_line.strip().isdigit() else 0

    def get(self, path: str = "/") -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
            return json.load(answer)

    def end(self, number: int | None = None, timeout_s: float = PATIENCE_S) -> tuple[int, float]:
        """Exit code and seconds until the end, after sending signal `number`."""
        began = time.monotonic()
        if number is not None:
            self.popen.send_signal(number)
        return self.popen.wait(timeout_s), time.monotonic() - began


@contextmanager
def process(scenario: str, folder: Path, **settings: Any) -> Iterator[Process]:
    child = Process(scenario, folder, **settings)
    try:
        yield child
    finally:
        child.popen.kill()
        child.popen.wait()
        assert child.popen.stdout is not None
        child.popen.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_and_open_streams_do_not_hold_it(tmp_path: Path, number: int) -> None:
    with process("plain", tmp_path) as child, socket.create_connection(("127.0.0.1", child.port)) as stream:
        stream.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in stream.recv(1000)
        code, took_s = child.end(number)
        assert code == 0
        assert took_s < 50  # ten times the usual: two of them uvicorn's patience with open requests
        assert child.popen.stdout is not None
        assert child.popen.stdout.read() == "", "Faust printed something"


def test_a_request_that_waits_for_the_fold_gets_its_answer_during_a_stop(tmp_path: Path) -> None:
    with process("plain", tmp_path) as child, socket.create_connection(("127.0.0.1", child.port)) as request:
        request.sendall(b"GET /write-later HTTP/1.1\r\nHost: x\r\n\r\n")
        request.settimeout(PATIENCE_S)
        said = request.recv(1000)
        assert b"200 OK" in said  # it is under way
        child.popen.send_signal(signal.SIGTERM)
        while chunk := request.recv(1000):
            said += chunk
        assert b'"folded": true' in said
        assert child.end()[0] == 0


def test_faust_opens_no_connection_and_makes_no_topic(tmp_path: Path) -> None:
    with process("plain", tmp_path) as child:
        connections = psutil.Process(child.popen.pid).net_connections()
        assert {c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN} == {child.port}
        assert [c for c in connections if c.status not in (psutil.CONN_LISTEN, psutil.CONN_ESTABLISHED)] == []
        assert child.get("/topics") == sorted(TOPICS)


@pytest.mark.parametrize(
    ("scenario", "says"),
    [
        ("fold-raises", "ValueError('five')"),
        ("reader-dies", "Hole("),
        ("loop-stalls", "the event loop stands still"),
        ("fold-raises-and-stop-hangs", "ValueError('five')"),
    ],
)
def test_a_failure_ends_the_process_with_a_code_of_its_own(tmp_path: Path, scenario: str, says: str) -> None:
    with process(scenario, tmp_path) as child:
        assert child.end(timeout_s=PATIENCE_S)[0] == EXIT_FAILED
        assert says in child.stderr.read_text()


def test_a_port_in_use_ends_it_non_zero(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, process("plain", tmp_path, port=taken.getsockname()[1]) as child:
        assert child.first_line == ""
        assert child.end()[0] == EXIT_FAILED
        assert "address already in use" in child.stderr.read_text()


def test_a_process_that_was_stopped_and_woken_goes_on(tmp_path: Path) -> None:
    with process("plain", tmp_path, stall_limit_s=4.0, still_limit_s=4.0) as child:
        child.popen.send_signal(signal.SIGSTOP)
        time.sleep(6)
        child.popen.send_signal(signal.SIGCONT)
        time.sleep(2)
        assert child.get()["folding"]
        assert child.end(signal.SIGTERM)[0] == 0


@pytest.mark.kafka
def test_kills_and_random_failures_fold_every_committed_record_once(tmp_path: Path, kafka: KafkaSettings, topics: Topics) -> None:
    log, total = KafkaLog(kafka), 20_000
    names = [topics.events, topics.refusals]
    log.ensure_topics([TopicSpec(name, PARTITIONS) for name in names])
    settings = {"bootstrap": kafka.bootstrap_servers, "topics": names}
    numbers = iter(range(total))
    codes: list[int] = []
    seed = random.Random(7)

    def produce(count: int) -> None:
        write(log, list(itertools.islice(numbers, count)), names, per_transaction=50)

    for life in range(9):
        if life % 2:  # at least three chunks to fold, so that the one it fails at comes
            produce(3_000)
            with process("kafka", tmp_path, fails_at=seed.randint(1, 3), **settings) as child:
                codes.append(child.end()[0])
        else:
            with process("kafka", tmp_path, fails_at=None, **settings) as child:
                produce(1_000)  # beside its folding
                time.sleep(seed.uniform(0.0, 0.5))
                codes.append(child.end(signal.SIGKILL)[0])
    produce(total)  # the rest
    assert codes == [-signal.SIGKILL, EXIT_FAILED] * 4 + [-signal.SIGKILL]
    with process("kafka", tmp_path, **settings) as child:
        deadline = time.monotonic() + PATIENCE_S
        while child.get()["behind"] != 0:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert child.end(signal.SIGTERM)[0] == 0
    store = RocksStore(tmp_path / "rocks")
    counts = Counter(store, names).counts()
    store.close()
    assert counts == {b"%d" % n: 1 for n in range(total)}


# The program


def main(settings: dict[str, Any]) -> int:
    logging.basicConfig()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    scenario, folder = settings["scenario"], Path(settings["folder"])
    log: MemoryLog | KafkaLog
    if scenario == "kafka":
        log = KafkaLog(KafkaSettings(bootstrap_servers=settings["bootstrap"]))
        counter = Counter(RocksStore(folder / "rocks"), settings["topics"])
        chunks = itertools.count(1)

        def maybe_fail(_: Sequence[Record]) -> None:
            if next(chunks) == settings.get("fails_at"):
                raise ValueError("as told")

        counter.before_write = maybe_fail
    else:
        log = memory_log()
        counter = Counter(MemoryStore())
    if scenario.startswith("fold-raises"):

        def refuse(records: Sequence[Record]) -> None:
            raise ValueError("five")

        counter.before_write = refuse
    app = build_app(
        app_id="test",
        log=log,
        folder=counter,
        state_dir=folder,
        check_s=0.5,
        still_limit_s=settings.get("still_limit_s", 15.0),
        stall_limit_s=settings.get("stall_limit_s", 4.0),
        exit_grace_s=1.0 if scenario.endswith("hangs") else 10.0,
    )

    def started(port: int) -> None:
        print(port, flush=True)
        if isinstance(log, MemoryLog) and scenario != "plain":
            if scenario == "reader-dies":
                write(log, range(10))
                threading.Timer(1.0, log.recreate, ["a"]).start()
            elif scenario == "loop-stalls":
                time.sleep(60)
            else:
                write(log, range(10))

    def stopping() -> None:
        if scenario.endswith("hangs"):
            time.sleep(60)

    asgi = Asgi(app, log, counter)
    port = settings.get("port", 0)
    return run(app, asgi, host="127.0.0.1", port=port, on_started=started, on_stopping=stopping, access_log=False)


class Asgi:
    """A few answers over HTTP."""

    def __init__(self, app: FoldApp, log: MemoryLog | KafkaLog, counter: Counter) -> None:
        self.app, self.log, self.counter = app, log, counter

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for _ in range(2):
                await send({"type": (await receive())["type"] + ".complete"})
            return
        if scope["path"] == "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send({"type": "http.response.body", "body": b":\n", "more_body": True})
                await asyncio.sleep(0.1)
        body: Any
        answered = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
        if scope["path"] == "/topics":
            assert isinstance(self.log, MemoryLog)
            body = sorted(self.log._state.topics)
        elif scope["path"] == "/write-later":
            assert isinstance(self.log, MemoryLog)
            await send(answered)
            await asyncio.sleep(0.7)
            write(self.log, [1])
            await until(lambda: b"1" in self.counter.counts())
            await send({"type": "http.response.body", "body": json.dumps({"folded": True}).encode()})
            return
        else:
            status = self.app.status()
            body = {"folding": status.folding, "behind": status.behind, "connected": status.connected}
        await send(answered)
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
