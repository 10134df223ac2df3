"""Repeats a request until the log answers. For the start of a process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import structlog

from ledger.errors import LogError, LogUnavailable

PAUSE_S = 0.3
STOP_CHECK_S = 0.1  # how late a stop is noticed
SAY_AFTER_S = 3.0

T = TypeVar("T")

log = structlog.get_logger(__name__)


class _Attempt(threading.Thread, Generic[T]):
    """One request on its own thread: Kafka's client blocks without noticing signals, and is abandoned at a stop."""

    def __init__(self, question: Callable[[], T]) -> None:
        super().__init__(name="asking-the-log", daemon=True)
        self._question = question
        self.done = threading.Event()
        self.answer: T | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.answer = self._question()
        except BaseException as exc:  # raised again by the caller
            self.error = exc
        finally:
            self.done.set()


def until_answered(question: Callable[[], T], stopping: threading.Event, passing: type[LogError] = LogUnavailable) -> T | None:
    """The result of `question`, repeated while it raises `passing`. None once `stopping` is set, within a tenth of a second.

    Passes on any other exception.
    """
    began, said, said_why = time.monotonic(), False, False
    while not stopping.is_set():
        attempt = _Attempt(question)
        attempt.start()
        while not attempt.done.wait(STOP_CHECK_S):
            if stopping.is_set():
                return None
            if not said and time.monotonic() - began > SAY_AFTER_S:
                said = True
                log.warning("waiting for Kafka", why="no answer yet")
        if attempt.error is None:
            return attempt.answer
        if not isinstance(attempt.error, passing):
            raise attempt.error
        if not said_why:
            said = said_why = True
            log.warning("waiting for Kafka", why=str(attempt.error))
        stopping.wait(PAUSE_S)
    return None
