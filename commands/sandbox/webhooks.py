"""Sends the payment provider's messages: signed like Stripe's, repeated until accepted, late or twice if chaos says so."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import structlog

from commands.reconciler.stripe_webhook import sign
from commands.sandbox.chaos import Chaos
from commands.sandbox.journal import Journal
from ledger.faults import in_short
from ledger.http_client import HttpClient, NoAnswer
from ledger.jitter import between

TRIES = 12
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
TIMEOUT_S = 20.0
AT_ONCE = 16

log = structlog.get_logger(__name__)


class WebhookSender:
    """Sends the rows of the table `messages`, in no particular order; a row is deleted when accepted or given up."""

    def __init__(self, journal: Journal, chaos: Chaos) -> None:
        self._journal, self._chaos = journal, chaos
        self._url = self._secret = ""
        self._wake = asyncio.Event()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._sending: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients: dict[str, HttpClient] = {}  # by address, which may change while it runs

    def send_to(self, url: str, secret: str) -> None:
        """Set the address and the secret; until then, messages wait."""
        self._url, self._secret = url, secret

    def wake(self) -> None:
        """Check for messages now."""
        self._wake.set()

    async def run(self) -> None:
        """Run until cancelled. Messages of an earlier run are sent first."""
        try:
            while True:
                for row in self._journal.rows("select id, body from messages order by at_s, id") if self._url else ():
                    if row["id"] not in self._sending:
                        self._sending.add(row["id"])
                        task = asyncio.create_task(self._send(row["id"], row["body"].encode()))
                        self._tasks.add(task)
                        task.add_done_callback(partial(self._ended, row["id"]))
                await self._wake.wait()
                self._wake.clear()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            while self._clients:
                await self._clients.popitem()[1].close()

    def _ended(self, event_id: str, task: asyncio.Task[None]) -> None:
        """Also of a task that was cancelled before it began."""
        self._tasks.discard(task)
        self._sending.discard(event_id)

    async def _send(self, event_id: str, body: bytes) -> None:
        """After a fault, the message stays in the table and is sent again later."""
        try:
            copies = [self._send_copy(body, delay_ms) for delay_ms in self._chaos.webhook_sends()]
            await asyncio.gather(*copies)
            with self._journal.transaction() as db:
                db.execute("delete from messages where id = ?", (event_id,))
        except Exception as exc:
            log.error("message not sent", why=in_short(exc))
            asyncio.get_running_loop().call_later(LONGEST_PAUSE_S, self._wake.set)

    async def _send_copy(self, body: bytes, delay_ms: int) -> None:
        await asyncio.sleep(delay_ms / 1000)
        pause_s = FIRST_PAUSE_S
        for _ in range(TRIES):
            headers = {"Stripe-Signature": sign(body, self._secret, int(time.time())), "Content-Type": "application/json"}
            try:
                async with self._slots, asyncio.timeout(TIMEOUT_S):
                    answer = await self._client().request("POST", "", body=body, headers=headers)
                if answer.ok:
                    return
                why = str(answer.status)
            except (NoAnswer, TimeoutError) as exc:
                why = str(exc) or "time-out"
            log.info("message not accepted", why=why, again_s=pause_s)
            await asyncio.sleep(pause_s * between(0.8, 1.2))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        log.warning("message given up")

    def _client(self) -> HttpClient:
        if self._url not in self._clients:
            self._clients[self._url] = HttpClient(self._url, connections=AT_ONCE)
        return self._clients[self._url]
