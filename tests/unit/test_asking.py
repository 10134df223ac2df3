"""Asking the log until it answers: which questions are repeated, which are not; and a stop is noticed while a client waits."""

from __future__ import annotations

import threading
import time

import pytest

from ledger.asking import until_answered
from ledger.errors import Hole, LogError, LogUnavailable, TopicMismatch
from tests.support.patience import PATIENCE_S


def test_it_asks_again_until_there_is_an_answer() -> None:
    asked: list[int] = []

    def question() -> int:
        asked.append(1)
        if len(asked) < 3:
            raise LogUnavailable("not yet")
        return len(asked)

    assert until_answered(question, threading.Event()) == 3


@pytest.mark.parametrize("error", [TopicMismatch("no"), Hole("no"), LogError("no"), ValueError("no"), SystemExit(3)])
def test_any_other_error_goes_to_the_caller(error: BaseException) -> None:
    def question() -> int:
        raise error

    with pytest.raises(type(error)) as raised:
        until_answered(question, threading.Event())
    assert raised.value is error


def test_the_caller_may_wait_out_other_errors_too() -> None:
    errors: list[LogError] = [LogError("unknown topic"), LogUnavailable("away")]

    def question() -> str:
        if errors:
            raise errors.pop()
        return "there"

    assert until_answered(question, threading.Event(), LogError) == "there"


def test_a_stop_is_noticed_while_a_client_waits() -> None:
    stopping, released, answers = threading.Event(), threading.Event(), list[object]()

    def question() -> str:
        released.wait(PATIENCE_S)
        return "too late"

    asking = threading.Thread(target=lambda: answers.append(until_answered(question, stopping)))
    asking.start()
    time.sleep(0.3)
    assert answers == []
    stopping.set()
    asking.join(PATIENCE_S)
    assert answers == [None]
    released.set()


def test_nothing_is_asked_after_a_stop() -> None:
    stopping = threading.Event()
    stopping.set()
    asked: list[int] = []
    assert until_answered(lambda: asked.append(1), stopping) is None
    assert asked == []
