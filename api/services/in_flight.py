"""Records on their way to the log, shared by the event loop and the sender's thread.

    event loop                          sender's thread                     event loop
    waiter, then send(contact) ───────► contact durable: send(command) ───► the outcome is folded: waiter done
                                        command durable: noted only

Nothing is woken when a command becomes durable, unless a request waits for just that: the outcome follows a few milliseconds
later anyway. Its position is noted for the 202.
"""

from __future__ import annotations

import asyncio
import threading

from ledger.errors import LedgerError
from ledger.log import Acked, NewRecord, Sender
from ledger.log_clock import LogClock
from projections.waiters import Waiter


class SentCommand:
    """One sent command. The loop writes `waiter` and `wants_ack`, the sender's thread all other attributes.

    The acknowledgement of the command is a measure of the log's `clock`.
    """

    __slots__ = ("acked", "clock", "command", "contact", "contact_acked", "error", "loop", "sender", "waiter", "wants_ack")

    def __init__(self, sender: Sender, command: NewRecord, contact: NewRecord | None, waiter: Waiter, clock: LogClock) -> None:
        self.sender, self.command, self.contact, self.clock = sender, command, contact, clock
        self.loop = asyncio.get_running_loop()
        self.waiter = waiter
        self.wants_ack = False
        self.acked: Acked | None = None
        self.contact_acked: Acked | None = None
        self.error: LedgerError | None = None

    def send(self) -> None:
        """Send contact and command. Raises `LedgerError` if nothing could be queued."""
        if self.contact is None:
            self.sender.send(self.command, self._command_acked)
        else:
            self.sender.send(self.contact, self._contact_acked)

    def _contact_acked(self, acked: Acked | None, error: LedgerError | None) -> None:
        if acked is None:
            self._fail(error)
            return
        self.contact_acked = acked
        try:
            self.sender.send(self.command, self._command_acked)
        except LedgerError as exc:
            self._fail(exc)

    def _command_acked(self, acked: Acked | None, error: LedgerError | None) -> None:
        if acked is None:
            self._fail(error)
            return
        self.acked = acked
        self.clock.appended(acked.timestamp_ms, acked.partition)
        if self.wants_ack:
            self._wake_from_thread()

    def _fail(self, error: LedgerError | None) -> None:
        self.error = error or LedgerError("neither acknowledged nor refused")
        self._wake_from_thread()

    def _wake_from_thread(self) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.wake)

    def wake(self) -> None:
        """Wake the request that awaits `waiter`, to check again."""
        if not self.waiter.done():
            self.waiter.set_result(None)


class SentBatch:
    """Acknowledgements of several records. Only the last one wakes the loop: a wake-up costs more than sending a record."""

    def __init__(self, count: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._left, self._lock = count, threading.Lock()
        self.settled: asyncio.Future[None] = self._loop.create_future()
        self.acks: list[Acked | None] = [None] * count
        self.error: LedgerError | None = None
        if count == 0:
            self._end()

    def settle(self, number: int, acked: Acked | None, error: LedgerError | None) -> None:
        """Note the result of one record. Call it once for each, from any thread."""
        self.acks[number], self.error = acked, error or self.error
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        if not self.settled.done():
            self.settled.set_result(None)
