"""The Faust app over the log: what it folds, when it stops, and that it stops for good."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ledger.log import Record, TopicPartition
from ledger.memory.log import MemoryLog
from ledger.memory.store import MemoryStore
from projections.faust_app import FoldApp, build_app
from projections.feed import Chunk, ChunkLost, FoldStuck
from tests.support.counting_fold import Counter, memory_log, write
from tests.support.patience import PATIENCE_S, until_async


@asynccontextmanager
async def folding(log: MemoryLog, folder: Counter, tmp_path: Path, **options: Any) -> AsyncIterator[FoldApp]:
    app = build_app(app_id="test", log=log, folder=folder, state_dir=tmp_path, exit_grace_s=None, check_s=0.2, **options)
    app.conf.web_enabled = False  # without `run` Faust would open a server of its own, on a fixed port of every interface
    await app.start()
    try:
        yield app
    finally:
        await app.stop()


def test_it_folds_every_record_of_all_topics_once_and_says_so(tmp_path: Path) -> None:
    log, folder = memory_log(), Counter(MemoryStore())
    write(log, range(500))

    async def main() -> None:
        async with folding(log, folder, tmp_path) as app:
            await until_async(lambda: len(folder.counts()) == 500)
            write(log, range(500, 600))
            await until_async(lambda: len(folder.counts()) == 600)
            await until_async(lambda: app.status().behind == 0)
            status = app.status()
            assert status.folding
            assert status.connected
            assert status.staleness_ms == 0
            assert status.records == 600
            assert status.failure is None
        assert not app.status().folding

    asyncio.run(main())
    assert set(folder.counts().values()) == {1}


def test_it_begins_where_the_databases_end(tmp_path: Path) -> None:
    log, store = memory_log(), MemoryStore()
    write(log, range(100))

    async def fold_all() -> None:
        folder = Counter(store)
        async with folding(log, folder, tmp_path) as app:
            await until_async(lambda: app.status().behind == 0)

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

            def count_ahead(_: Sequence[Record]) -> None:
                nonlocal most
                time.sleep(0.005)  # long enough for the reader thread to run ahead
                most = max(most, app.feed.number - app.status().chunks)

            folder.before_write = count_ahead
            await until_async(lambda: len(folder.counts()) == 200)

    asyncio.run(main())
    assert most == 2


def test_a_fold_that_raises_is_the_last_fold(tmp_path: Path) -> None:
    log, folder = memory_log(), Counter(MemoryStore())
    failures: list[BaseException] = []

    def refuse(records: Sequence[Record]) -> None:
        if any(r.value == b"5" for r in records):
            raise ValueError("five")

    folder.before_write = refuse

    async def main() -> None:
        async with folding(log, folder, tmp_path, on_failure=failures.append) as app:
            write(log, range(5), per_transaction=5)
            await until_async(lambda: len(folder.counts()) == 5)
            write(log, range(5, 6))
            await until_async(lambda: app.crashed)
            write(log, range(6, 50))
            await asyncio.sleep(0.5)
            assert app.status().failure == "ValueError('five')"
            assert not app.status().folding

    asyncio.run(main())
    assert [str(f) for f in failures] == ["five"]
    assert folder.counts() == {b"%d" % n: 1 for n in range(5)}


def lose(app: FoldApp, number: int) -> None:
    """Make chunk `number` disappear between the agent and the fold (a fold that waits for it already cannot lose it earlier)."""
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
            await until_async(lambda: app.feed.failure is not None)
            return app.feed.failure

    assert isinstance(asyncio.run(main()), ChunkLost)
    assert len(folder.counts()) == 5


def test_a_lost_chunk_that_no_other_follows_is_found_by_the_watchdog(tmp_path: Path) -> None:
    log, folder = memory_log(), Counter(MemoryStore())

    async def main() -> BaseException | None:
        async with folding(log, folder, tmp_path, still_limit_s=2.0) as app:
            await until_async(lambda: app.status().behind == 0)
            lose(app, 1)
            write(log, range(5))
            await until_async(lambda: app.feed.failure is not None)
            return app.feed.failure

    assert isinstance(asyncio.run(main()), FoldStuck)


def test_records_that_do_not_follow_the_databases_are_not_folded(tmp_path: Path) -> None:
    log, folder = memory_log(), Counter(MemoryStore())
    write(log, range(60))

    async def main() -> BaseException | None:
        async with folding(log, folder, tmp_path) as app:
            await until_async(lambda: app.status().behind == 0)
            folder._positions = dict.fromkeys(folder.positions(), 0)  # other databases, without a reposition
            write(log, range(60, 70))
            await until_async(lambda: app.feed.failure is not None)
            return app.feed.failure

    assert isinstance(asyncio.run(main()), ChunkLost)


def test_a_reposition_reads_from_where_the_folder_is_now(tmp_path: Path) -> None:
    log, folder = memory_log(), Counter(MemoryStore())
    write(log, range(300))

    async def main() -> None:
        async with folding(log, folder, tmp_path, chunk_records=20) as app:
            await until_async(lambda: len(folder.counts()) == 300)
            folder.store, folder._positions = MemoryStore(), dict.fromkeys(folder.positions(), 0)
            app.reposition()
            write(log, range(300, 310))
            await until_async(lambda: len(folder.counts()) == 310)
            await until_async(lambda: app.status().behind == 0)
            assert app.status().failure is None

    asyncio.run(main())
    assert set(folder.counts().values()) == {1}


def test_reads_are_stale_while_the_log_is_unreachable_and_current_after(tmp_path: Path) -> None:
    log, folder = memory_log(), Counter(MemoryStore())
    write(log, range(10))

    async def main() -> None:
        async with folding(log, folder, tmp_path, still_limit_s=3.0) as app:
            await until_async(lambda: app.status().behind == 0)
            log.away(True)
            await until_async(lambda: not app.status().connected)
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
            await until_async(lambda: app.status().staleness_ms == 0 and len(folder.counts()) == 20)

    asyncio.run(main())


def test_an_app_that_waits_reads_nothing_and_says_how_old_it_is_until_it_begins(tmp_path: Path) -> None:
    log, folder = memory_log(), Counter(MemoryStore())
    write(log, range(10))
    log.away(True)  # as at a start without it

    async def main() -> None:
        async with folding(log, folder, tmp_path, wait=True, still_limit_s=1.0) as app:
            before = app.status()
            assert (before.begun, before.folding, before.connected, before.caught_up) == (False, False, False, False)
            assert (before.connecting, before.staleness_ms, before.behind, before.answered) == (True, None, None, False)
            app.feed.known_current_at = time.monotonic() - 60
            await until_async(lambda: not app.status().connecting)
            later = app.status()
            assert later.staleness_ms is not None
            assert later.staleness_ms >= 60_000
            assert (later.connected, later.caught_up, app.feed.failure, folder.counts()) == (False, False, None, {})
            log.away(False)
            assert not later.answered
            app.note_answer()
            assert (app.status().answered, app.status().begun) == (True, False)
            app.begin(time.monotonic() - 30)
            status = app.status()
            assert (status.begun, status.caught_up) == (True, False)
            assert status.staleness_ms is not None
            assert status.staleness_ms >= 30_000
            await until_async(lambda: app.status().caught_up)
            assert len(folder.counts()) == 10
            await until_async(lambda: app.status().staleness_ms == 0)
            assert app.feed.failure is None

    asyncio.run(main())


def test_begin_may_be_called_before_the_app_has_started(tmp_path: Path) -> None:
    log, folder = memory_log(), Counter(MemoryStore())
    write(log, range(10))

    async def main() -> None:
        app = build_app(app_id="test", log=log, folder=folder, state_dir=tmp_path, exit_grace_s=None, check_s=0.2, wait=True)
        app.conf.web_enabled = False
        app.begin()
        await app.start()
        try:
            await until_async(lambda: len(folder.counts()) == 10)
        finally:
            await app.stop()

    asyncio.run(main())


def test_a_node_that_answers_and_is_behind_says_how_old_it_is_until_it_is_current(tmp_path: Path) -> None:
    log, folder = memory_log(), Counter(MemoryStore())
    write(log, range(10))

    async def main() -> None:
        async with folding(log, folder, tmp_path, still_limit_s=PATIENCE_S) as app:
            await until_async(lambda: app.status().staleness_ms == 0)
            ends = log.ends

            def further(*args: Any, **kwargs: Any) -> dict[TopicPartition, int]:
                return {tp: end + (tp == TopicPartition("a", 1)) for tp, end in ends(*args, **kwargs).items()}

            log.ends = further  # type: ignore[method-assign]
            await until_async(lambda: app.status().behind == 1)
            status = app.status()
            assert (status.connected, status.caught_up) == (True, True)
            assert status.staleness_ms
            log.ends = ends  # type: ignore[method-assign]
            await until_async(lambda: app.status().staleness_ms == 0)

    asyncio.run(main())


def test_a_partition_whose_end_was_reached_is_known_while_others_are_behind(tmp_path: Path) -> None:
    log, folder = memory_log(), Counter(MemoryStore())
    write(log, range(10))
    ends, behind = log.ends, TopicPartition("a", 1)

    def further(*args: Any, **kwargs: Any) -> dict[TopicPartition, int]:
        return {tp: end + (tp == behind) for tp, end in ends(*args, **kwargs).items()}

    log.ends = further  # type: ignore[method-assign]

    async def main() -> None:
        async with folding(log, folder, tmp_path, still_limit_s=PATIENCE_S) as app:
            others = folder.positions().keys() - {behind}
            await until_async(lambda: app.status().reached == others)
            status = app.status()
            assert (status.caught_up, status.was_at_end(behind), all(map(status.was_at_end, others))) == (False, False, True)
            log.ends = ends  # type: ignore[method-assign]
            await until_async(lambda: app.status().caught_up)
            assert app.status().reached == others | {behind}

    asyncio.run(main())


def test_a_partition_that_stands_still_below_the_end_is_a_failure(tmp_path: Path) -> None:
    log, folder = memory_log(), Counter(MemoryStore())
    write(log, range(10))

    async def main() -> str | None:
        async with folding(log, folder, tmp_path, still_limit_s=2.0) as app:
            await until_async(lambda: app.status().behind == 0)
            ends = log.ends

            def further(*args: Any, **kwargs: Any) -> dict[TopicPartition, int]:
                return {tp: end + (tp == TopicPartition("a", 1)) for tp, end in ends(*args, **kwargs).items()}

            log.ends = further  # type: ignore[method-assign]
            await until_async(lambda: app.feed.failure is not None)
            return app.status().failure

    failure = asyncio.run(main())
    assert failure is not None
    assert failure.startswith("FoldStuck('a-1: stuck at ")


def test_transaction_markers_at_the_end_are_no_lag(tmp_path: Path) -> None:
    log, folder = memory_log(), Counter(MemoryStore())
    write(log, range(6))
    tps = list(folder.positions())

    async def main() -> None:
        async with folding(log, folder, tmp_path, still_limit_s=1.0) as app:
            await until_async(lambda: app.status().behind == 0)
            assert any(folder.positions()[tp] < end for tp, end in log.ends(tps).items())
            await asyncio.sleep(3)
            assert app.feed.failure is None

    asyncio.run(main())
