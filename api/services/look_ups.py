"""Commands by their position in `order-commands`: those that this node recently answered with 202, else read from the log.

One reader serves all look-ups of a node, one after the other, and results are cached: clients poll after a 202, and each consumer
takes one of the process's 1,024 thread-local keys and a connection.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping

from commands.messages import CommandHead, OrderCommand, command_codec
from ledger.errors import DecodeError, Hole, LogError, LogUnavailable
from ledger.log import EventLog, Reader, TopicPartition

ANSWER_S = 2.0
KEPT = 10_000
MAX_WAITING = 64

Place = tuple[int, int]  # partition, offset


class TooManyLookUps(LogError):
    """More look-ups are waiting than one reader can serve in time."""

    code = "too_many_look_ups"


class LookUps:
    """Look-ups, used on the event loop. Call `close` after the last request."""

    def __init__(self, log: EventLog, topic: str) -> None:
        self._log, self._topic = log, topic
        self._known: OrderedDict[Place, CommandHead] = OrderedDict()
        self._one_at_a_time = asyncio.Lock()
        self._reader: Reader | None = None
        self._waiting = 0

    def note(self, partition: int, offset: int, command: OrderCommand) -> None:
        """Note the position of a command that this node sent."""
        self._known[partition, offset] = CommandHead(
            command_id=command.command_id,
            order_id=command.order_id,
            fingerprint=command.fingerprint,
            actor=command.actor,
            customer_id=command.customer_id,
        )
        self._known.move_to_end((partition, offset))
        while len(self._known) > KEPT:
            self._known.popitem(last=False)

    def forget(self) -> None:
        """Forget everything, like a node that has just started."""
        self._known.clear()

    async def at(self, partition: int, offset: int) -> CommandHead | None:
        """The command at this position; None if there is none, or no longer. Raises `LogError` if that is unknown now."""
        if (known := self._known.get((partition, offset))) is not None:
            return known
        if self._waiting >= MAX_WAITING:
            raise TooManyLookUps(f"{self._waiting} look-ups are waiting")
        self._waiting += 1
        try:
            async with self._one_at_a_time:
                if (known := self._known.get((partition, offset))) is None:
                    command = await asyncio.to_thread(self._read_back, partition, offset)
                    if command is not None:
                        self.note(partition, offset, command)
                        known = self._known[partition, offset]
        finally:
            self._waiting -= 1
        return known

    def close(self) -> None:
        self._close_reader()

    # ---- on a worker thread, one at a time

    def _read_back(self, partition: int, offset: int) -> OrderCommand | None:
        tp = TopicPartition(self._topic, partition)
        try:
            value = self._value_at(tp, offset)
        except LogError:
            self._close_reader()  # so that the next look-up starts clean after this failure
            raise
        if value is None:
            return None
        try:
            return command_codec().decode(value)
        except DecodeError:
            return None

    def _value_at(self, tp: TopicPartition, offset: int) -> bytes | None:
        if self._reader is None:
            self._reader = self._log.reader("command-look-up", eof=True, max_wait_ms=10)
        try:
            self._reader.assign({tp: offset})
            records = self._reader.poll(1, ANSWER_S)
            ended: Mapping[TopicPartition, int] = self._reader.reached_end()
            self._reader.assign({})  # otherwise it would continue to fetch
        except Hole:
            self._close_reader()
            self._refuse_if_there(tp, offset)
            return None
        if records:
            return records[0].value if records[0].offset == offset else None
        if tp in ended:
            self._refuse_if_there(tp, offset)
            return None
        raise LogUnavailable(f"no answer from {tp.topic}/{tp.partition} within {ANSWER_S} s")

    def _refuse_if_there(self, tp: TopicPartition, offset: int) -> None:
        """Raises `LogUnavailable` if the log should have it: a new leader may report too low an end for a moment."""
        start, end = self._log.starts([tp])[tp], self._log.ends([tp], "read_uncommitted")[tp]
        if start <= offset < end:
            raise LogUnavailable(f"{tp.topic}/{tp.partition} did not return the record at {offset}, which it has")

    def _close_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
