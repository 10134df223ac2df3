"""The start of `serve`, beside answering: waits for the log, prepares topics, builds missing read models, begins to fold.

    event loop                                     thread "beginning"
    /live, stale reads, 503 for everything else    waits for the cluster; creates topics, counts partitions
    shows no contact until all are folded  ◄────── notes the first answer
                                                   if no read models were ever current: folds the log in bulk
    opens the result, begins to fold       ◄────── hands over

So a node that starts while Kafka is unreachable answers what it can, and becomes ready by itself. From Kafka's first answer on,
it shows no contact before it has folded all of them, however long the start takes: some may have been erased.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple

from api.context import AppContext
from api.processes.running import FOLDING_FILE
from api.processes.wiring import prepare_topics
from api.settings import Settings
from ledger.asking import until_answered
from ledger.errors import ConfigError, LogError
from ledger.log import EventLog, TopicPartition
from ledger.supervision import WorkerThread
from ledger.upgrades.membership import Membership
from projections.faust_app import FoldApp
from projections.generations import Generations
from projections.opening import Opened, build_new, expirable_starts, open_caught_up
from projections.origin import OtherOffsets, check_log

STOP_S = 10.0  # a bulk batch is folded in well below a second


class Bounds(NamedTuple):
    """Where the log begins and ends: what read models on disk must know before they resume folding."""

    refusal_starts: Mapping[TopicPartition, int]
    contact_ends: Mapping[TopicPartition, int]
    contacts_id: bytes


class Beginning:
    """One start of one node. Its projector reads what was `opened`, or nothing yet."""

    def __init__(
        self,
        settings: Settings,
        event_log: EventLog,
        generations: Generations,
        opened: Opened | None,
        app: FoldApp,
        ctx: AppContext,
        membership: Membership,
        end_process: Callable[[], object],
    ) -> None:
        """`end_process` stops the process in order; the reason is then in `error`."""
        self._membership = membership
        self._settings, self._log, self._generations, self._opened = settings, event_log, generations, opened
        self._app, self._ctx, self._projector, self._end_process = app, ctx, ctx.projector, end_process
        self._stopping = threading.Event()
        self._served = threading.Event()
        # A fault ends the process, like any error at its start.
        self._thread = WorkerThread("beginning", self._prepare, self.fail, again=False, ends=True)
        self.error: BaseException | None = None

    def start(self) -> None:
        """Start waiting for the log. Called before the event loop runs, because both take time to start."""
        self._thread.start()

    def served(self, on_begun: Callable[[str], None]) -> None:
        """Called when the event loop runs. Calls `on_begun(generation)` on it when the fold begins."""
        self._loop, self._on_begun = asyncio.get_running_loop(), on_begun
        self._served.set()

    def stop(self) -> None:
        """Stop waiting."""
        self._stopping.set()
        self._served.set()

    def end(self) -> None:
        """Stop, and wait for the thread: afterwards nothing is opened or folded."""
        self.stop()
        self._thread.join(STOP_S)

    # ---- the thread

    def _prepare(self) -> None:
        settings, stopping = self._settings, self._stopping
        if not prepare_topics(self._log, settings, stopping, self._membership, self._app.note_answer):
            return
        partitions = until_answered(lambda: self._log.partitions(settings.topics.events), stopping, LogError)
        if partitions is None:
            return
        caught_up: Opened | None = None
        bounds: Bounds | None = None
        place = (self._generations, settings.topics, self._log, partitions, stopping, self._generations.root / FOLDING_FILE)
        if self._opened is None:
            self._ctx.making = True
            caught_up = open_caught_up(*place)
        elif self._projector.partitions != partitions:
            raise ConfigError(
                f"{settings.topics.events} has {partitions} partitions, the read models in {self._generations.root} have "
                f"{self._projector.partitions}: were they built from another cluster?"
            )
        else:
            try:
                until_answered(lambda: check_log(self._projector.databases, self._log, stopping), stopping)
                bounds = until_answered(self._bounds, stopping)
            except OtherOffsets as exc:
                caught_up = build_new(*place, exc)  # meanwhile, reads are answered from what is open, marked stale
            else:
                if bounds is not None:  # nothing folds yet; forgetting them all takes a while
                    self._projector.contacts.follow(bounds.contact_ends, bounds.contacts_id)
        if caught_up is None and bounds is None:
            return
        self._served.wait()
        if not stopping.is_set():
            self._loop.call_soon_threadsafe(self._begin, caught_up, bounds)
        elif caught_up is not None:
            caught_up.databases.close()

    def _bounds(self) -> Bounds:
        contacts = [TopicPartition(self._settings.topics.contacts, p) for p in range(self._projector.partitions)]
        starts = expirable_starts(self._projector.databases, self._log)
        return Bounds(starts, self._log.ends(contacts), self._log.topic_id(self._settings.topics.contacts))

    def fail(self, exc: BaseException) -> None:
        """End the process with this error. From any thread."""
        self.error = exc
        self._served.wait()
        if not self._stopping.is_set():
            self._loop.call_soon_threadsafe(self._end_process)

    # ---- on the event loop

    def _begin(self, caught_up: Opened | None, bounds: Bounds | None) -> None:
        opened = caught_up or self._opened
        assert opened is not None
        try:
            if caught_up is not None:
                self._projector.take_over(caught_up.databases, caught_up.moved).close()
                self._ctx.making = False
            elif bounds is not None:
                self._projector.databases.skip_expired(bounds.refusal_starts)
            self._app.begin(opened.current_at)
            self._on_begun(opened.name)
        except BaseException as exc:
            self.fail(exc)
