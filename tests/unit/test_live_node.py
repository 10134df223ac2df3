"""A running node's work for the verbs beside it does not block the event loop: a thread handles files and old databases."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ledger.errors import ConfigError, StoreError
from ledger.files import write_json
from ledger.log import TopicPartition
from ledger.memory.log import MemoryLog
from ledger.memory.store import MemoryStore
from ledger.schemas.codec import event_codec
from ledger.supervision import keep_at
from ledger.topics import Topics
from projections import live
from projections.bulk import BulkFold
from projections.databases import Databases
from projections.digests import CHECKPOINT_EVENTS
from projections.generations import Generations
from projections.live import LiveNode
from projections.opening import open_generation, projections_of
from projections.projector import Projector
from projections.read_models import VERSION, read_history_value
from tests.benchmarks.lives import decided_lives, read_back
from tests.support.patience import PATIENCE_S

TOPICS = Topics()


class Node:
    """A live node in `root` over so many events; records which threads removed what."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, events: int) -> None:
        self.root, self.removers = root, set[int]()
        self.databases = Databases(lambda name: MemoryStore(), TOPICS, [0], 1)
        records = list(read_back(decided_lives(TOPICS, 1, events, now_ms=1_700_000_000_000)))
        for start in range(0, len(records), 5_000):
            self.databases.write_chunk(TopicPartition(TOPICS.events, 0), records[start : start + 5_000])
        rmtree = shutil.rmtree

        def removed(path: Any, *arguments: Any, **more: Any) -> None:
            self.removers.add(threading.get_ident())
            rmtree(path, *arguments, **more)

        monkeypatch.setattr(shutil, "rmtree", removed)
        monkeypatch.setattr(live, "TEND_EVERY_S", 0.01)
        self.generations = Generations(root, lambda path: self.removers.add(threading.get_ident()))
        self.live = LiveNode(
            self.generations,
            self.generations.first(),
            Projector(self.databases),
            MemoryLog(),
            lambda name: self.databases,
            asyncio.Lock,
            lambda: None,
        )

    async def until(self, holds: Callable[[], object]) -> None:
        tending = asyncio.create_task(self.live.tend_for_ever())
        async with asyncio.timeout(PATIENCE_S):
            while not holds():  # noqa: ASYNC110  the file system sends no events
                await asyncio.sleep(0.01)
        tending.cancel()


def test_leftovers_of_earlier_runs_are_removed_by_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(tmp_path, monkeypatch, 100)
    (tmp_path / "requests" / "copy").mkdir(parents=True)
    old = tmp_path / "g000099" / "p0"
    old.mkdir(parents=True)
    asyncio.run(node.until(lambda: not old.exists() and not list((tmp_path / "requests").iterdir())))
    assert node.removers, "something was removed"
    assert threading.get_ident() not in node.removers


def test_a_question_is_answered_in_pieces_with_every_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SOME_CHECKPOINTS", 1)
    node = Node(tmp_path, monkeypatch, 2 * CHECKPOINT_EVENTS + 1)
    question, answer = tmp_path / "requests" / "q.json", tmp_path / "requests" / "q.answer.json"

    async def ask() -> None:
        tending = asyncio.create_task(node.live.tend_for_ever())
        async with asyncio.timeout(PATIENCE_S):
            while not (tmp_path / "serving.json").exists():  # noqa: ASYNC110  it deletes leftovers first
                await asyncio.sleep(0.01)
            question.parent.mkdir(exist_ok=True)
            question.write_text(json.dumps({"want": "digests"}))
            while not answer.exists():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        tending.cancel()

    asyncio.run(ask())
    answered = json.loads(answer.read_text())
    assert [checkpoint["events"] for checkpoint in answered["checkpoints"]["0"]] == [CHECKPOINT_EVENTS, 2 * CHECKPOINT_EVENTS]
    assert answered["digests"]["0"]["events"] == 2 * CHECKPOINT_EVENTS + 1
    assert not question.exists()


def test_a_take_over_wakes_those_who_wait_for_outcomes_some_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everyone who waits when a thousand outcomes were folded elsewhere is woken, and others have their turns meanwhile."""
    node = Node(tmp_path, monkeypatch, 2_000)
    empty = Projector(Databases(lambda name: MemoryStore(), TOPICS, [0], 1))
    rows = itertools.islice(node.databases.stores[0].scan(b"e/"), 1_000)
    known = [event_codec().decode(read_history_value(row)[1]) for _, row in rows]

    async def main() -> None:
        waiting = [empty.waiters.outcome(event.command_id, event.fingerprint) for event in known]
        unknown = empty.waiters.outcome("cmd_nobody", bytes(16))
        empty.take_over(node.databases)
        assert not any(waiter.done() for waiter in waiting), "a thousand outcomes are not checked in one go"
        steps = sum(1 for _ in empty.wake_outcomes())
        assert steps == len(known) + 1
        assert all(waiter.done() for waiter in waiting)
        assert not unknown.done()

    asyncio.run(main())


def test_a_generation_of_another_log_is_not_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(tmp_path, monkeypatch, 100)
    node.databases.note_log({TOPICS.events: b"e" * 16, TOPICS.refusals: b"r" * 16})
    other = Databases(lambda name: MemoryStore(), TOPICS, [0], 1)
    other.note_log({TOPICS.events: b"x" * 16, TOPICS.refusals: b"r" * 16})
    assert not node.live._is_of_this_log(other)
    unknown = Databases(lambda name: MemoryStore(), TOPICS, [0], 1)  # built by an earlier version
    assert node.live._is_of_this_log(unknown)
    assert unknown.log_ids() == node.databases.log_ids()


@pytest.mark.parametrize("place", ["run", "__init__", "close"])
def test_a_switch_that_failed_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """It leaves no database open that is not read, neither the new ones nor, afterwards, the old ones."""
    monkeypatch.setattr(live, "TEND_EVERY_S", 0.01)
    log, generations = MemoryLog(), projections_of(tmp_path)
    log.ensure_topics(TOPICS.specs(2, 1))
    before = generations.first()

    def opened(name: str) -> Databases:
        return open_generation(generations, name, TOPICS, 2)

    projector = Projector(opened(before))
    node = LiveNode(generations, before, projector, log, opened, asyncio.Lock, lambda: None)
    faults, raised, work = [StoreError("the disk is full")], list[StoreError](), getattr(BulkFold, place)

    def failing(self: BulkFold, *arguments: Any, **more: Any) -> Any:
        answer = work(self, *arguments, **more) if place == "close" else None
        if faults:
            raised.append(faults.pop())  # with its traceback, which keeps what its frames have
            raise raised[0]
        return answer if place == "close" else work(self, *arguments, **more)

    monkeypatch.setattr(BulkFold, place, failing)
    generations.point(after := generations.create(), None)

    async def main() -> None:
        tending = asyncio.create_task(keep_at("verbs beside serve", node.tend_for_ever))
        async with asyncio.timeout(PATIENCE_S):
            while live.serving(tmp_path / "projections") != after or generations.folder(before).exists():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        tending.cancel()

    try:
        asyncio.run(main())
        assert raised
    finally:
        projector.close()


def test_an_answer_says_of_which_log_it_is(tmp_path: Path) -> None:
    ids = {TOPICS.events: b"e" * 16, TOPICS.refusals: b"r" * 16}

    def reply(log_ids: dict[str, str]) -> None:
        while not (questions := list((tmp_path / "requests").glob("*.json"))):
            threading.Event().wait(0.01)
        content = {"generation": "g000001", "read_models": VERSION, "digests": {}, "checkpoints": {}, "log_ids": log_ids}
        write_json(questions[0].with_name(f"{questions[0].stem}.answer.json"), content)

    for log_ids, refused in (({}, False), ({TOPICS.events: ids[TOPICS.events].hex()}, False), ({TOPICS.events: "00" * 16}, True)):
        thread = threading.Thread(target=reply, args=(log_ids,))
        thread.start()
        try:
            if refused:
                with pytest.raises(ConfigError, match="reads another order-events"):
                    live.ask(tmp_path, "digests", ids)
            else:
                assert live.ask(tmp_path, "digests", ids)["generation"] == "g000001"
        finally:
            thread.join(PATIENCE_S)
