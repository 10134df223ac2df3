"""Verbs ask again when a cluster cannot answer, and give up only where waiting does not help."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from api.processes import patient_log
from api.processes.patient_log import patient
from ledger.errors import Hole, LogError, LogUnavailable
from ledger.log import EventLog, OpenTransaction, TopicPartition
from ledger.memory.log import MemoryLog
from ledger.topics import Topics, TopicSpec

TOPICS = Topics()
TP = TopicPartition(TOPICS.events, 0)
QUESTIONS: dict[str, Callable[[EventLog], Any]] = {
    "durability": lambda log: log.durability([TOPICS.events]),
    "partitions": lambda log: log.partitions(TOPICS.events),
    "topic_id": lambda log: log.topic_id(TOPICS.events),
    "check_topics": lambda log: log.check_topics(TOPICS.specs(4, 1)),
    "ensure_topics": lambda log: log.ensure_topics(TOPICS.specs(4, 1)),
    "replace_topic": lambda log: log.replace_topic(TopicSpec(TOPICS.writers, 2)),
    "starts": lambda log: log.starts(iter([TP])),
    "ends": lambda log: log.ends(iter([TP]), "read_uncommitted"),
    "offset_at": lambda log: log.offset_at(iter([TP]), 1),
    "unheld": lambda log: log.unheld(TOPICS.commands, "app"),
    "open_transactions": lambda log: log.open_transactions(iter([TP])),
    "hidden_ids": lambda log: log.hidden_ids(iter(["w"])),
    "end_transaction": lambda log: log.end_transaction(OpenTransaction(TP, 0, 0, 0, 0, 0, "w", "Empty", 0, False), True),
    "progress": lambda log: log.progress("app", iter([TP])),
}


class Away(MemoryLog):
    """A log that answers every question with these errors first."""

    def __init__(self, *errors: LogError) -> None:
        super().__init__()
        super().ensure_topics(TOPICS.specs(4, 1))
        self.errors = list(errors)

    def __getattribute__(self, name: str) -> Any:
        if name in QUESTIONS and self.errors:
            error = self.errors.pop(0)

            def fail(*_: object, **__: object) -> None:
                raise error

            return fail
        return super().__getattribute__(name)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient_log, "FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(patient_log, "MOST_PAUSE_S", 0.0)


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_question_is_asked_again_until_there_is_an_answer(question: str) -> None:
    said: list[str] = []
    away = Away(*[LogUnavailable("reading offsets: UNKNOWN_LEADER_EPOCH: Broker: Unknown leader epoch")] * 5)
    answer = QUESTIONS[question](patient(away, said.append))
    assert answer == QUESTIONS[question](away)
    assert len(said) == 1
    assert "UNKNOWN_LEADER_EPOCH" in said[0]


def test_the_questions_are_all_that_the_log_has() -> None:
    """The other methods open a client, which recovers on its own, or need no cluster."""
    others = {"partition_for", "bookmark", "reader", "writer", "sender", "lease"}
    assert {name for name in vars(EventLog) if not name.startswith("_")} == set(QUESTIONS) | others


@pytest.mark.parametrize("error", [LogError("no such topic"), Hole("gone")])
def test_an_error_that_waiting_cannot_cure_is_raised(error: LogError) -> None:
    said: list[str] = []
    with pytest.raises(type(error)):
        patient(Away(error), said.append).partitions(TOPICS.events)
    assert said == []


def test_patience_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 10_000, 30))
    monkeypatch.setattr(patient_log.time, "monotonic", lambda: next(now))
    away = Away(*[LogUnavailable("nobody")] * 100)
    with pytest.raises(LogUnavailable):
        patient(away, lambda _: None, patience_s=100).partitions(TOPICS.events)
    assert len(away.errors) == 96


def test_a_stop_ends_the_patience() -> None:
    stopping = threading.Event()
    away = Away(*[LogUnavailable("nobody")] * 100)
    with pytest.raises(LogUnavailable):
        patient(away, lambda _: stopping.set(), stopping=stopping).partitions(TOPICS.events)
    assert len(away.errors) == 98
