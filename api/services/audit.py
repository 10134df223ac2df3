"""Writes `order-audit`: what staff did and saw that no event records.

    note     does not wait: the record is passed to the sender immediately, and sent again after a failure until it is durable
    keep     waits until the record is durable

Records that are not durable after a second, because the log is unreachable, are also kept in a file of this node, so that neither
a kill nor a stop loses them: the next start sends them. A record that cannot even wait is counted (`ledger_audit_lost`) and
logged. One that was written twice has the same `audit_id` both times.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypedDict, Unpack

import structlog

from api.services.audit_spool import AuditSpool
from ledger.audit import ACTIONS, AuditRecord
from ledger.clock import now_ms
from ledger.errors import LedgerError, LogError
from ledger.log import Acked, NewRecord, Sender
from ledger.schemas.codec import audit_codec
from ledger.topics import Topics

EVERY_S = 0.25
RETRY_S = 1.0
SPOOL_AFTER_S = 1.0
MAX_WAITING = 20_000  # 5 MB; staff who read a hundred contacts a second fill it in three minutes while the log is unreachable
MAX_IN_PROGRESS = 1_000  # of the sender's 20,000 slots, which commands need
SLICE, PAUSE_S = 100, 0.02  # sent without interruption: 1 ms
SAY_AGAIN_S = 60.0

log = structlog.get_logger(__name__)

UNKNOWN = "unknown"  # the action of a waiting record that a crash cut short


class By(NamedTuple):
    """The actor and the request."""

    actor: str
    role: str = ""
    request_id: str | None = None


BY_ITSELF = By("serve")


class About(TypedDict, total=False):
    """The objects; see `AuditRecord`."""

    order_id: str | None
    customer_id: str | None
    reason: str | None
    count: int | None
    why: str | None


class _Item:
    """One record that is not durable yet."""

    __slots__ = ("action", "kept", "record", "since")

    def __init__(self, action: str, record: NewRecord) -> None:
        self.action, self.record = action, record
        self.since, self.kept = time.monotonic(), False


class Audit:
    """The audit of one `serve`. On the event loop, except callbacks of the sender. `spool`: file for waiting records, or None.

    `send_all` makes records durable or raises `NotDurable` (`Submissions.send_all`).
    """

    def __init__(
        self,
        sender: Sender,
        send_all: Callable[[Sequence[NewRecord]], Awaitable[list[Acked]]],
        topics: Topics,
        node: str,
        spool: Path | None = None,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self._sender, self._send_all, self._topic, self._node, self._clock = sender, send_all, topics.audit, node, clock
        self._codec = audit_codec()
        self._waiting: deque[_Item] = deque()
        self._in_progress: dict[_Item, None] = {}
        self._answers: deque[tuple[_Item, LogError | None, bool]] = deque()  # from the sender's thread: error, is it durable
        self._again_at = 0.0
        self._said: dict[str, float] = {}  # time of the last line, by event
        self._troubled = False
        self.written = Counter(dict.fromkeys(ACTIONS, 0))
        self.lost = Counter(dict.fromkeys((*ACTIONS, UNKNOWN), 0))
        self._spool = None if spool is None else AuditSpool(spool)
        self._load()

    @property
    def waiting(self) -> int:
        """Number of records that are not known to be durable."""
        return len(self._waiting) + len(self._in_progress)

    def note(self, by: By, action: str, outcome: str, **about: Unpack[About]) -> None:
        """Record it. Never waits, never raises."""
        item = _Item(action, self._record(by, action, outcome, about))
        if self.waiting >= MAX_WAITING:
            self._lose([item], "too many are waiting")
            return
        self._waiting.append(item)
        self._send()

    async def keep(self, by: By, action: str, outcome: str, **about: Unpack[About]) -> None:
        """Record it; durable when this returns. Raises `NotDurable`."""
        await self._send_all([self._record(by, action, outcome, about)])
        self.written[action] += 1

    def _record(self, by: By, action: str, outcome: str, about: About) -> NewRecord:
        record = AuditRecord(
            audit_id=secrets.token_hex(16),
            occurred_at=self._clock(),
            node=self._node[:255],
            actor=by.actor,
            role=by.role,
            action=action,
            outcome=outcome,
            request_id=by.request_id,
            **about,
        )
        key = (record.order_id or record.customer_id or "").encode()
        return NewRecord(self._topic, 0, key or None, self._codec.encode(record))

    # ---- on its way

    def _send(self) -> None:
        if time.monotonic() < self._again_at:
            return
        for _ in range(min(len(self._waiting), SLICE, MAX_IN_PROGRESS - len(self._in_progress))):
            if not self._hand_over():
                self._again_at = time.monotonic() + RETRY_S
                return

    def _hand_over(self) -> bool:
        """Pass the first waiting record to the sender. Returns whether it was accepted."""
        item = self._waiting[0]
        try:
            self._sender.send(item.record, partial(self._answered, item))
        except LedgerError as exc:
            self._in_trouble(exc)
            return False
        self._in_progress[self._waiting.popleft()] = None
        return True

    def _answered(self, item: _Item, acked: Acked | None, error: LogError | None) -> None:
        """Note an answer, on the sender's thread, without waking the event loop."""
        self._answers.append((item, error if acked is None else None, acked is not None))

    async def tend_for_ever(self) -> None:
        while True:
            self.tend()
            await asyncio.sleep(PAUSE_S if self._waiting and not self._troubled else EVERY_S)

    def tend(self) -> None:
        """Process answers of the sender, spool records that wait too long, send the others."""
        self._take_answers()
        if self._spool is not None:
            self._spool_waiting(time.monotonic() - SPOOL_AFTER_S)
        self._send()

    def _take_answers(self) -> None:
        answered: list[_Item] = []
        failed: list[_Item] = []
        why: LogError | None = None
        while self._answers:
            item, error, is_durable = self._answers.popleft()
            answered.append(item)
            if is_durable:
                self.written[item.action] += 1
            else:
                failed.append(item)
                why = error
        self._waiting.extendleft(reversed(failed))
        for item in answered:  # last, so that a failed record never counts as neither waiting nor sent
            del self._in_progress[item]
        if failed:
            self._again_at = time.monotonic() + RETRY_S
            self._in_trouble(why)
        elif self._troubled and not self.waiting:
            self._troubled = False
            self._said.clear()
            log.info("all audit records are durable")
        if self._spool is not None and not self.waiting:
            self._spool.clear()

    def _spool_waiting(self, since: float) -> None:
        assert self._spool is not None
        old = [item for item in (*self._in_progress, *self._waiting) if not item.kept and item.since <= since]
        if not old:
            return
        try:
            self._spool.add([(item.action, item.record.key, item.record.value or b"") for item in old])
        except OSError as exc:
            self._say(
                "waiting audit records could not be spooled to a file", why=exc.strerror or type(exc).__name__, count=len(old)
            )
            return
        for item in old:
            item.kept = True

    def _load(self) -> None:
        """Load records that the last process of this node could not write."""
        if self._spool is None:
            return
        entries, torn = self._spool.read()
        for action, key, value in entries:
            item = _Item(action, NewRecord(self._topic, 0, key, value))
            item.kept = True
            self._waiting.append(item)
        if torn:
            self.lost[UNKNOWN] += torn
            log.error("audit records are lost", count=torn, why="the spool file is damaged")

    def close(self) -> None:
        """Call before closing the sender: passes everything to it, even after failures."""
        self._take_answers()
        while self._waiting and self._hand_over():
            pass

    def end(self) -> None:
        """Call after closing the sender, which has answered everything: remaining records are spooled, or lost."""
        self._take_answers()
        left = [*self._in_progress, *self._waiting]
        if left and self._spool is not None:
            self._spool_waiting(time.monotonic())
        if kept := sum(item.kept for item in left):
            log.warning("audit records are kept for the next start", count=kept)
        if gone := [item for item in left if not item.kept]:
            self._lose(gone, "the log is unreachable and the process ends")

    def _in_trouble(self, error: LedgerError | None) -> None:
        self._troubled = True
        self._say(
            "audit records are waiting for the log", why=str(error or "neither acknowledged nor refused"), waiting=self.waiting
        )

    def _lose(self, items: Sequence[_Item], why: str) -> None:
        for item in items:
            self.lost[item.action] += 1
        self._say("audit records are lost", why=why, lost=self.lost.total())

    def _say(self, event: str, **members: object) -> None:
        """Log at most one line per minute and event, not one per record."""
        now = time.monotonic()
        if now >= self._said.get(event, now):
            self._said[event] = now + SAY_AGAIN_S
            log.error(event, **members)
