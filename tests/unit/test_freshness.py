"""What a node may answer from its disk before the log answers: only from read models that are known to have been current."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from api.settings import Settings
from ledger.log import TopicPartition
from ledger.memory.log import MemoryLog
from ledger.topics import Topics
from projections import databases
from projections.freshness import Note, read_note, write_note
from projections.generations import Generations
from projections.opening import Opened, nothing, open_caught_up, open_known, projections_of
from projections.projector import Projector
from projections.queries import Queries

PARTITIONS = 2


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(_env_file=None, state_dir=tmp_path, partitions=PARTITIONS)


@pytest.fixture
def generations(settings: Settings) -> Generations:
    """One generation of empty databases, at the end of an empty log, noted as current an hour ago."""
    kept = projections_of(settings.state_dir)
    opened = caught_up(kept, settings)
    write_note(kept.folder(opened.name), Note(time.time() - 3600, opened.databases.positions()))
    opened.databases.close()
    return kept


def caught_up(generations: Generations, settings: Settings) -> Opened:
    log = MemoryLog()
    log.ensure_topics(settings.topics.specs(PARTITIONS, 1))
    opened = open_caught_up(generations, settings.topics, log, PARTITIONS, threading.Event(), generations.root / "folding.json")
    assert opened is not None
    return opened


def rewrite(generations: Generations, text: str) -> None:
    name = generations.current()
    assert name is not None
    (generations.folder(name) / "current_at.json").write_text(text)


def test_read_models_that_were_current_are_read_and_are_as_old_as_that(generations: Generations) -> None:
    opened = open_known(generations, Topics())
    assert opened is not None
    assert 3600 <= time.monotonic() - opened.current_at < 3900
    assert sorted(opened.databases.stores) == [0, 1]
    opened.databases.close()


def test_a_clock_that_was_set_back_makes_nothing_newer_than_now(generations: Generations) -> None:
    name = generations.current()
    assert name is not None
    note = read_note(generations.folder(name))
    assert note is not None
    write_note(generations.folder(name), note._replace(at=time.time() + 3600))
    opened = open_known(generations, Topics())
    assert opened is not None
    assert opened.current_at <= time.monotonic()
    opened.databases.close()


def test_nothing_is_read_before_the_first_note(settings: Settings) -> None:
    generations = projections_of(settings.state_dir)
    assert open_known(generations, Topics()) is None
    caught_up(generations, settings).databases.close()  # killed before it was noted
    assert open_known(generations, Topics()) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", '{"at": "x"}', '{"at": 1}', '{"at": 1, "positions": [[1]]}'])
def test_a_note_that_cannot_be_read_counts_as_none(generations: Generations, text: str) -> None:
    rewrite(generations, text)
    assert open_known(generations, Topics()) is None


def test_databases_that_lost_rows_since_are_not_read(generations: Generations) -> None:
    at = [["order-events", 0, 1], ["order-events", 1, 0]]
    rewrite(generations, json.dumps({"at": time.time(), "positions": at}))
    assert open_known(generations, Topics()) is None


def test_a_note_about_other_topics_does_not_count_for_these(generations: Generations) -> None:
    assert open_known(generations, Topics("other.")) is None


def test_other_read_models_are_not_read(generations: Generations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "VERSION", databases.VERSION + 1)
    assert open_known(generations, Topics()) is None
    assert generations.current() == "g000001", "it is replaced only when the log answers"


def test_a_note_holds_for_databases_that_are_further() -> None:
    tp = TopicPartition("order-events", 0)
    note = Note(0.0, {tp: 7})
    assert [note.holds_for({tp: at}) for at in (6, 7, 8)] == [False, True, True]
    assert not note.holds_for({})


def test_a_projector_of_nothing_reads_what_it_takes_over(settings: Settings) -> None:
    projector = Projector(nothing(Topics()))
    assert (projector.partitions, projector.positions(), Queries(projector).counts()["pending"]) == (0, {}, 0)
    opened = caught_up(projections_of(settings.state_dir), settings)
    projector.take_over(opened.databases).close()
    assert (projector.partitions, len(projector.positions())) == (PARTITIONS, 3 * PARTITIONS)
    projector.close()


def test_a_first_fold_reaches_the_end_that_it_asked_for(settings: Settings) -> None:
    before = time.monotonic()
    opened = caught_up(projections_of(settings.state_dir), settings)
    assert before <= opened.current_at <= time.monotonic()
    opened.databases.close()
