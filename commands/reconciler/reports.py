"""Sends facts as commands to `order-commands`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog

from commands.messages import OrderCommand, command_codec
from ledger import tracing
from ledger.errors import LedgerError
from ledger.log import Acked, NewRecord, Sender
from ledger.log_clock import LogClock
from ledger.topics import Topics

log = structlog.get_logger(__name__)


class Reports:
    """Sends the reconciler's commands. Each acknowledgement is a measure of the log's `clock`."""

    def __init__(self, sender: Sender, topics: Topics, partition_of: Callable[[str], int], clock: LogClock) -> None:
        self._sender, self._topics, self._partition_of, self._clock = sender, topics, partition_of, clock
        self._codec = command_codec()

    async def send(self, commands: Sequence[OrderCommand]) -> bool:
        """Send in order. Returns whether all of them are durable."""
        acked = [self._send(command) for command in commands]
        return all(await asyncio.gather(*acked))

    def _send(self, command: OrderCommand) -> asyncio.Future[bool]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        partition = self._partition_of(command.order_id)

        def settle(durable: bool) -> None:
            if not future.done():
                future.set_result(durable)

        def on_ack(acked: Acked | None, error: LedgerError | None) -> None:
            if acked is None:
                log.warning("fact not reported", order_id=command.order_id, operation=command.operation, why=str(error))
            else:
                self._clock.appended(acked.timestamp_ms, partition)
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, acked is not None)

        try:
            key, value = command.order_id.encode(), self._codec.encode(command)
            record = NewRecord(self._topics.commands, partition, key, value, headers=tracing.headers())
            self._sender.send(record, on_ack)
        except LedgerError as exc:
            on_ack(None, exc)
        return future
