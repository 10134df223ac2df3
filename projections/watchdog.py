"""The watchdog: ends the process if its fold is stuck although the log answers, or if the event loop stalls."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TypeVar

import structlog

from ledger.errors import LogError
from ledger.log import EventLog, NoLeader, TopicPartition
from ledger.reading import of_led
from ledger.supervision import WorkerThread
from projections.fail_stop import leave
from projections.feed import Check, Feed, Folder, FoldStuck

log = structlog.get_logger(__name__)

TICK_S = 1.0  # of the watchdog
FIRST_TICK_S = 0.05  # a node is ready when it has seen the end of the log: an early first check makes starts faster
T = TypeVar("T")


class Watchdog:
    """A thread that checks the event loop every second and the end of the log every `check_s`.

    Ends the process if the loop does not respond for `stall_limit_s`, or if a partition is stuck below the end of the log for
    `still_limit_s`. It does not if the log is unreachable: reads continue, marked as stale.
    """

    def __init__(
        self, log: EventLog, feed: Feed, folder: Folder, *, check_s: float, still_limit_s: float, stall_limit_s: float
    ) -> None:
        self._log, self._feed, self._folder = log, feed, folder
        self._check_s, self._still_limit_s, self._stall_limit_s = check_s, still_limit_s, stall_limit_s
        self._stop = threading.Event()
        self._thread = WorkerThread("watchdog", self._watch, self._fail, again=False)
        self._stuck: dict[TopicPartition, tuple[int, float]] = {}  # (offset, for how long in seconds)
        self._held: dict[TopicPartition, tuple[int, float]] = {}  # (committed end, since when, monotonic)
        self._judged_at = 0.0
        self._idle_polls = 0

    def start(self) -> None:
        """Start watching the running event loop."""
        self._loop, self._loop_thread = asyncio.get_running_loop(), threading.get_ident()
        self._thread.start()

    def close(self) -> None:
        self._stop.set()

    def _fail(self, exc: BaseException) -> None:
        if not self._stop.is_set():  # errors while the loop is shutting down do not count
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
                silent_s += 2 * TICK_S  # counted in ticks: a process that was suspended and resumed has not stalled
                if silent_s >= self._stall_limit_s and not self._stop.is_set():
                    self._end_stalled(silent_s)

    def _ask(self, question: Callable[[], T]) -> T:
        """Call `question` on the event loop. Raises `TimeoutError` if there is no answer within a tick."""
        answer: Future[T] = Future()

        def reply() -> None:
            try:
                answer.set_result(question())
            except BaseException as exc:  # raised again in the calling thread
                answer.set_exception(exc)

        self._loop.call_soon_threadsafe(reply)
        return answer.result(timeout=TICK_S)

    def _check(self, partitions: Sequence[TopicPartition]) -> bool:
        """Compare the fold with the end of the log. Returns whether it is there."""
        asked_at, before = time.monotonic(), self._feed.check
        try:
            ends, leaderless = of_led(self._log.ends, partitions)
            if partitions and not ends:
                raise NoLeader(leaderless)
            written, lost = of_led(lambda tps: self._log.ends(tps, "read_uncommitted"), ends)
            ends, leaderless = {tp: ends[tp] for tp in written}, leaderless | lost
        except LogError as exc:
            if before.answered:
                log.warning("log does not answer, reads continue and are stale", error=str(exc))
            self._feed.check = replace(before, answered=False)
            self._stuck = {}
            return False
        below = self._ask(lambda: self._feed.below(ends))
        while below and time.monotonic() < asked_at + TICK_S and not self._stop.wait(0.05):
            below = self._ask(lambda: self._feed.below(ends))  # records that were just committed are on their way
        behind = sum(end - offset for offset, end in below.values())
        held_back_s = self._held_back_s(ends, written)
        led_at = before.led_at if below else asked_at
        current_at = before.current_at if leaderless else led_at
        reached = before.reached | (ends.keys() - below.keys())
        self._feed.check = Check(True, behind, current_at, held_back_s, led_at, leaderless, reached)
        if not before.answered:
            log.info("log answers", behind=behind)
        if leaderless != before.leaderless:
            places = [f"{tp.topic}/{tp.partition}" for tp in sorted(leaderless)]
            (log.warning if places else log.info)("partitions without a leader", partitions=places)
        self._judge({tp: offset for tp, (offset, _) in below.items()})
        return not below

    def _held_back_s(self, ends: Mapping[TopicPartition, int], written: Mapping[TopicPartition, int]) -> float:
        """The longest time, in seconds, that a committed end has not moved although there are later records.

        The cause is an open transaction. If it stays open for long, Kafka left it open, or its writer is suspended.
        """
        now, before = time.monotonic(), self._held
        held = {tp: end for tp, end in ends.items() if end < written[tp]}
        self._held = {tp: (end, before[tp][1] if before.get(tp, (-1, 0.0))[0] == end else now) for tp, end in held.items()}
        return max((now - since for _, since in self._held.values()), default=0.0)

    def _judge(self, below: Mapping[TopicPartition, int]) -> None:
        """Count how long each partition has been stuck although the log has records to fold.

        Raises `FoldStuck` at the limit.
        """
        now, idle_polls = time.monotonic(), self._feed.idle_polls
        passed_s = min(now - self._judged_at, 5 * TICK_S)  # bounded: a process that was suspended and resumed was not stuck
        same = {tp for tp, offset in below.items() if tp in self._stuck and self._stuck[tp][0] == offset}
        nothing_to_do = idle_polls != self._idle_polls or same == set(self._stuck)
        stuck = {}
        for tp, offset in below.items():
            stuck_s = self._stuck[tp][1] + passed_s * nothing_to_do if tp in same else 0.0
            if stuck_s >= self._still_limit_s:
                raise FoldStuck(f"{tp.topic}-{tp.partition}: stuck at {offset} for {stuck_s:.0f} s, the log continues")
            stuck[tp] = (offset, stuck_s)
        self._stuck, self._judged_at, self._idle_polls = stuck, now, idle_polls

    def _end_stalled(self, silent_s: float) -> None:
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001  # there is no public name
        stack = "".join(traceback.format_stack(frame)) if frame else "(no stack)"
        log.critical("event loop is stalled, ending the process", silent_s=silent_s, stack=stack)
        leave()
