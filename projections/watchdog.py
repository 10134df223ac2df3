"""The watchdog: ends the process when its fold stands still although the log answers, or when the loop stalls."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TypeVar

import structlog

from ledger.errors import LogError
from ledger.log import EventLog, TopicPartition
from ledger.supervision import WorkerThread
from projections.feed import Check, Feed, Folder, StandsStill, leave

log = structlog.get_logger(__name__)

TICK_S = 1.0  # of the watchdog
FIRST_TICK_S = 0.05  # a node is ready once the log's end was seen: the first look is worth a start's wait
T = TypeVar("T")


class Watchdog:
    """A thread that looks at the event loop every second and at the log's end every `check_s`.

    Ends the process when the loop answers nothing for `stall_limit_s`, or when a partition stands below an end that the log
    itself reports for `still_limit_s`. A log that does not answer is no reason: reads go on, marked stale.
    """

    def __init__(
        self, log: EventLog, feed: Feed, folder: Folder, *, check_s: float, still_limit_s: float, stall_limit_s: float
    ) -> None:
        self._log, self._feed, self._folder = log, feed, folder
        self._check_s, self._still_limit_s, self._stall_limit_s = check_s, still_limit_s, stall_limit_s
        self._stop = threading.Event()
        self._thread = WorkerThread("watchdog", self._watch, self._fail, again=False)
        self._still: dict[TopicPartition, tuple[int, float]] = {}  # stand, for how long, in seconds
        self._held: dict[TopicPartition, tuple[int, float]] = {}  # committed end, since when (monotonic)
        self._judged_at = 0.0
        self._idle_polls = 0

    def start(self) -> None:
        """Begin to watch the running event loop."""
        self._loop, self._loop_thread = asyncio.get_running_loop(), threading.get_ident()
        self._thread.start()

    def close(self) -> None:
        self._stop.set()

    def _fail(self, exc: BaseException) -> None:
        if not self._stop.is_set():  # what fails while the loop goes away is no failure
            self._feed.fail(exc)

    def _watch(self) -> None:
        silent_s, next_check, pause_s = 0.0, 0.0, FIRST_TICK_S
        while not self._stop.wait(pause_s):
            begun = self._feed.begun.wait(TICK_S)
            pause_s = TICK_S if begun else 0.0
            try:
                partitions = self._ask(lambda: list(self._folder.positions()))
                if begun and time.monotonic() >= next_check:
                    current = self._check(partitions)
                    next_check = time.monotonic() + (self._check_s if current else TICK_S)
                silent_s = 0.0
            except TimeoutError:
                silent_s += 2 * TICK_S  # in ticks of our own: a process that was stopped and woken has not stalled
                if silent_s >= self._stall_limit_s and not self._stop.is_set():
                    self._end_stalled(silent_s)

    def _ask(self, question: Callable[[], T]) -> T:
        """The answer of the event loop. Raises `TimeoutError` when it gives none within a tick."""
        answer: Future[T] = Future()

        def reply() -> None:
            try:
                answer.set_result(question())
            except BaseException as exc:  # raised again in the asking thread
                answer.set_exception(exc)

        self._loop.call_soon_threadsafe(reply)
        return answer.result(timeout=TICK_S)

    def _check(self, partitions: Sequence[TopicPartition]) -> bool:
        """Compare the fold with the log's end; whether it is there."""
        asked_at, before = time.monotonic(), self._feed.check
        try:
            ends = self._log.ends(partitions, "read_committed")
            written = self._log.ends(partitions, "read_uncommitted")
        except LogError as exc:
            if before.answered:
                log.warning("the log does not answer, reads go on and are stale", error=str(exc))
            self._feed.check = Check(False, before.behind, before.current_at, before.held_back_s)
            self._still = {}
            return False
        below = self._ask(lambda: self._feed.below(ends))
        while below and time.monotonic() < asked_at + TICK_S and not self._stop.wait(0.05):
            below = self._ask(lambda: self._feed.below(ends))  # records committed just now are under way
        behind = sum(end - stand for stand, end in below.values())
        held_back_s = self._held_back_s(ends, written)
        self._feed.check = Check(True, behind, before.current_at if below else asked_at, held_back_s)
        if not before.answered:
            log.info("the log answers", behind=behind)
        self._judge({tp: stand for tp, (stand, _) in below.items()})
        return not below

    def _held_back_s(self, ends: Mapping[TopicPartition, int], written: Mapping[TopicPartition, int]) -> float:
        """How long a committed end has stood where it is although the log goes further: the longest, in seconds.

        That is an open transaction. One that lives for long was left open by Kafka itself, or its writer is paused.
        """
        now, before = time.monotonic(), self._held
        held = {tp: end for tp, end in ends.items() if end < written[tp]}
        self._held = {tp: (end, before[tp][1] if before.get(tp, (-1, 0.0))[0] == end else now) for tp, end in held.items()}
        return max((now - since for _, since in self._held.values()), default=0.0)

    def _judge(self, below: Mapping[TopicPartition, int]) -> None:
        """Count how long each partition has stood still although nothing, or nothing else, was there to fold.

        Raises `StandsStill` at the limit.
        """
        now, idle_polls = time.monotonic(), self._feed.idle_polls
        passed_s = min(now - self._judged_at, 5 * TICK_S)  # bounded: a process that was stopped and woken has not stood still
        same = {tp for tp, stand in below.items() if tp in self._still and self._still[tp][0] == stand}
        nothing_to_do = idle_polls != self._idle_polls or same == set(self._still)
        still = {}
        for tp, stand in below.items():
            still_s = self._still[tp][1] + passed_s * nothing_to_do if tp in same else 0.0
            if still_s >= self._still_limit_s:
                raise StandsStill(f"{tp.topic}-{tp.partition}: folded to {stand} for {still_s:.0f} s, the log goes further")
            still[tp] = (stand, still_s)
        self._still, self._judged_at, self._idle_polls = still, now, idle_polls

    def _end_stalled(self, silent_s: float) -> None:
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001  # there is no public name
        stack = "".join(traceback.format_stack(frame)) if frame else "(no stack)"
        log.critical("the event loop stands still, this process ends", silent_s=silent_s, stack=stack)
        leave()
