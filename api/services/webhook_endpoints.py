"""Webhook endpoints as `serve` reads and changes them: records of `order-control`, and the delivery log.

Questions are rare, so nothing is followed: each reads what was written since the last one. If two admins change one endpoint on
two nodes at the same moment, the last one stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TypeVar

import msgspec

from commands.webhooks.endpoints import EndpointsView
from commands.webhooks.tries import Tried, decode_tried
from ledger.errors import LogError, NotDurable
from ledger.log import EventLog, Record, TopicPartition
from ledger.reading import committed_within
from ledger.topics import Topics
from ledger.upgrades.control import Control

READ_S = 10.0
MOST_TRIES = 5_000  # read for one page

T = TypeVar("T")


class WebhookEndpoints:
    """Of one node, used on the event loop."""

    def __init__(self, log: EventLog, topics: Topics) -> None:
        self._log, self._topics, self._view, self._one_at_a_time = log, topics, EndpointsView(), asyncio.Lock()

    async def view(self) -> EndpointsView:
        """The endpoints as they are in the log now. Raises `NotDurable` if it does not answer."""
        return await self._asked(self._read)

    async def write(self, records: Sequence[tuple[bytes, bytes | None]]) -> EndpointsView:
        """Write (key, value) pairs; durable when this returns, with the endpoints as they are then. Raises `NotDurable`."""
        return await self._asked(lambda: self._write(records))

    async def tries(self, name: str, before: int | None, limit: int) -> tuple[list[tuple[int, Tried]], int | None]:
        """(the tries of an endpoint before an offset, newest first, each with its offset; the next `before`, None at the end).

        Raises `NotDurable`.
        """
        return await self._asked(lambda: self._tries(name, before, limit))

    async def log_id(self) -> str:
        """The id of the topic of the events. Raises `NotDurable`."""
        return await self._asked(lambda: self._log.topic_id(self._topics.events).hex())

    async def positions(self, partitions: int, at_ms: int | None = None) -> dict[int, int]:
        """By partition, the first event that is not older than `at_ms` (None: the end). Raises `NotDurable`."""
        tps = [TopicPartition(self._topics.events, p) for p in range(partitions)]

        def ask() -> dict[int, int]:
            at = self._log.ends(tps) if at_ms is None else self._log.offset_at(tps, at_ms)
            return {tp.partition: position for tp, position in at.items()}

        return await self._asked(ask)

    async def _asked(self, question: Callable[[], T]) -> T:
        async with self._one_at_a_time:  # the next one waits here: a thread that waits would be one less for other work
            try:
                return await asyncio.to_thread(question)
            except LogError as exc:
                raise NotDurable(str(exc)) from exc

    # ---- on a worker thread, one at a time

    def _read(self) -> EndpointsView:
        with closing(Control(self._log, self._topics)) as control:
            return control.read(self._view).copy()

    def _write(self, records: Sequence[tuple[bytes, bytes | None]]) -> EndpointsView:
        with closing(Control(self._log, self._topics)) as control:
            control.write(records)
            return control.read(self._view).copy()

    def _tries(self, name: str, before: int | None, limit: int) -> tuple[list[tuple[int, Tried]], int | None]:
        tp = TopicPartition(self._topics.deliveries, 0)
        first, end = self._log.starts([tp])[tp], self._log.ends([tp])[tp]
        end = end if before is None else min(end, before)
        start = max(first, end - MOST_TRIES)
        tries: list[tuple[int, Tried]] = []
        if start < end:
            with closing(self._log.reader("deliveries", eof=True, max_wait_ms=10)) as reader:
                records = committed_within(reader, {tp: start}, {tp: end}, READ_S)
                tries = [(record.offset, tried) for record in records if (tried := _of(name, record)) is not None]
        tries.reverse()
        if len(tries) > limit:
            return tries[:limit], tries[limit - 1][0]
        return tries, start if start > first else None


def _of(name: str, record: Record) -> Tried | None:
    """The try in a record, if it is of this endpoint and can be read."""
    if record.key != name.encode() or record.value is None:
        return None
    try:
        return decode_tried(record.value)
    except msgspec.MsgspecError:
        return None
