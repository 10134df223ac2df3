"""Follows the endpoints in `order-control`, and runs a loop for each that is active (`delivering`). A `Companion` of `commands`.

an endpoint     that changed gets a new loop, which continues from the stored position
health          of this node's deliveries is published when it turns, and once a minute if counts changed
disabled        are endpoints whose deliveries have all failed for a week, on every node, and those that answered 410
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing

import structlog

from commands.webhooks.delivering import EndpointLoop, WithEndpoints, group_of
from commands.webhooks.endpoints import FAILING, GONE, EndpointsView, Health, Off, encode, health_key, is_hopeless, off_key
from ledger.errors import LogError
from ledger.log import NOTE_AGAIN_S, TopicPartition
from ledger.order import Order
from ledger.supervision import WorkerThread
from ledger.upgrades.control import Control

POLL_S = 0.2
PUBLISH_EVERY_S = 5.0
COUNTS_EVERY_S = 60.0  # a start reads all that was published since the last compaction
STOP_S = 5.0
KEEP_EVERY_S = NOTE_AGAIN_S

log = structlog.get_logger(__name__)


class Webhooks:
    """Runs the loops of all active endpoints, for the partitions that this process owns."""

    def __init__(self, shared: WithEndpoints, on_fatal: Callable[[BaseException], None]) -> None:
        self._shared, self._node = shared, shared.node
        self._lock = threading.Lock()
        self._owned: set[int] = set()
        self._stopping = threading.Event()
        self._view = EndpointsView()
        self._loops: dict[str, EndpointLoop] = {}
        self._published: dict[str, tuple[Health, float]] = {}
        self._totals = {"webhooks delivered": 0, "webhooks failed": 0, "webhooks given up": 0}  # of loops that ended
        self._thread = WorkerThread("webhooks", self._run, on_fatal, again=True, stopping=self._stopping)

    @property
    def restarts(self) -> int:
        """How often its thread was restarted."""
        return self._thread.restarts

    # ---- from other threads

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def own(self, partitions: Sequence[int]) -> None:
        self._own(lambda owned: owned.update(partitions))

    def disown(self, partitions: Sequence[int]) -> None:
        self._own(lambda owned: owned.difference_update(partitions))

    def _own(self, change: Callable[[set[int]], None]) -> None:
        with self._lock:
            change(self._owned)
            for one in self._loops.values():
                one.own(self._owned)

    def changed(self, orders: Sequence[Order]) -> None:
        """Does nothing: events are read."""

    def asked(self, order_ids: Sequence[str]) -> None:
        """Does nothing."""

    def counts(self) -> dict[str, int]:
        with self._lock:
            totals = dict(self._totals)
            for one in self._loops.values():
                _add(totals, one.health)
        return totals

    def healths(self) -> list[Health]:
        """How the deliveries to the active endpoints go."""
        with self._lock:
            return [one.health for one in self._loops.values()]

    # ---- the thread

    def _run(self) -> None:
        with (
            closing(Control(self._shared.log, self._shared.topics)) as control,
            closing(self._shared.log.reader("webhooks", max_wait_ms=500)) as reader,
        ):
            self._view = control.read(EndpointsView())
            reader.assign({control.partition: self._view.position})
            publish_at = keep_at = 0.0
            try:
                while not self._stopping.is_set():
                    self._follow()
                    if (now := time.monotonic()) >= publish_at:
                        self._publish(control)
                        publish_at = now + PUBLISH_EVERY_S
                    if now >= keep_at:
                        self._keep_positions()
                        keep_at = now + KEEP_EVERY_S
                    self._view.apply(reader.poll(500, POLL_S))
            finally:
                self._end(list(self._loops))

    def _follow(self) -> None:
        """Run the loops of the active endpoints as they are now."""
        changed = [
            name
            for name, one in self._loops.items()
            if not self._view.is_active(name) or self._view.endpoints[name] != one.endpoint
        ]
        self._end(changed)
        for name, endpoint in self._view.endpoints.items():
            if name not in self._loops and self._view.is_active(name):
                with self._lock:
                    before = self._view.healths_of(name).get(self._node)
                    one = self._loops[name] = EndpointLoop(self._shared, name, endpoint, self._owned, before)
                one.start()

    def _end(self, names: Sequence[str]) -> None:
        loops = [self._loops[name] for name in names]
        for one in loops:
            one.stop()
        deadline = time.monotonic() + STOP_S
        for one in loops:
            one.join(max(0.0, deadline - time.monotonic()))
            with self._lock:
                del self._loops[one.name]
                _add(self._totals, one.health)

    def _keep_positions(self) -> None:
        """Write those of disabled endpoints again: the log forgets them after a week, and enabled later they continue there."""
        with self._lock:
            own = [TopicPartition(self._shared.topics.events, p) for p in sorted(self._owned)]
        for name in self._view.endpoints if own else ():
            if name in self._loops:
                continue
            try:
                self._keep_position(name, own)
            except LogError as exc:  # the others are delivered to; it is written in an hour
                log.warning("position of a disabled webhook endpoint not kept", endpoint=name, why=str(exc))

    def _keep_position(self, name: str, own: Sequence[TopicPartition]) -> None:
        with closing(self._shared.log.bookmark(group_of(self._shared, name))) as bookmark:
            known, notes = bookmark.read(own), bookmark.notes(own)
            if kept := {tp: at for tp, at in known.items() if at is not None}:
                bookmark.write(kept, {tp: notes[tp] for tp in kept})

    def _publish(self, writer: Control) -> None:
        """Write what changed since the last time: health, and endpoints that are disabled from now on."""
        now, records = self._shared.clock_ms(), list[tuple[bytes, bytes | None]]()
        for name, one in self._loops.items():
            health, (before, at) = one.health, self._published.get(name, (Health(), -COUNTS_EVERY_S))
            is_turned = (health.failing_since > 0, health.error) != (before.failing_since > 0, before.error)
            if health != before and (is_turned or time.monotonic() - at >= COUNTS_EVERY_S):
                records.append((health_key(name, self._node), encode(health)))
                self._published[name] = health, time.monotonic()
            mine = health.failing_since > 0 and is_hopeless(self._view.health(name), one.endpoint.enabled_at, now)
            if one.is_gone or mine:
                reason = GONE if one.is_gone else FAILING
                log.error("webhook endpoint disabled", endpoint=name, reason=reason)
                records.append((off_key(name), encode(Off(one.endpoint.enabled_at, now, reason))))
        for name in [name for name in self._published if name not in self._view.endpoints]:
            del self._published[name]
            records.append((health_key(name, self._node), None))
        if records:
            writer.write(records)


def _add(totals: dict[str, int], health: Health) -> None:
    totals["webhooks delivered"] += health.delivered
    totals["webhooks failed"] += health.failed
    totals["webhooks given up"] += health.abandoned
