"""Commands by their position, from a log that is not always complete."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from api.services.look_ups import LookUps, TooManyLookUps
from commands.messages import OrderCommand, command_codec
from ledger.errors import LogError, LogUnavailable
from ledger.log import NewRecord, TopicPartition
from ledger.memory.log import MemoryLog
from ledger.topics import Topics

TOPIC = Topics().commands
TP = TopicPartition(TOPIC, 0)


def command(number: int) -> OrderCommand:
    return OrderCommand(
        command_id=f"cmd_{number}", order_id="o", fingerprint=bytes(16), operation="CancelOrder", actor="admin:desk"
    )


@pytest.fixture
def log() -> MemoryLog:
    created = MemoryLog()
    created.ensure_topics(Topics().specs(1, 1))
    return created


@pytest.fixture
def look_ups(log: MemoryLog) -> Iterator[LookUps]:
    created = LookUps(log, TOPIC)
    yield created
    created.close()


def send(log: MemoryLog, *values: bytes) -> None:
    writer = log.writer("w")
    writer.start(1)
    writer.transact([NewRecord(TOPIC, 0, b"k", value) for value in values])
    writer.close()


def command_id_at(look_ups: LookUps, offset: int) -> str | None:
    command = asyncio.run(look_ups.at(0, offset))
    return None if command is None else command.command_id


def test_each_position_names_its_command_and_a_position_without_one_names_none(log: MemoryLog, look_ups: LookUps) -> None:
    send(log, command_codec().encode(command(0)), b"junk", command_codec().encode(command(2)))
    assert [command_id_at(look_ups, offset) for offset in (0, 1, 2, 4, 1000)] == ["cmd_0", None, "cmd_2", None, None]
    assert command_id_at(look_ups, 0) == "cmd_0"


def test_a_command_that_retention_removed_is_none(log: MemoryLog, look_ups: LookUps) -> None:
    send(log, *(command_codec().encode(command(n)) for n in range(3)))
    log.truncate(TP, 2)
    assert [command_id_at(look_ups, offset) for offset in (0, 2)] == [None, "cmd_2"]


def test_a_command_that_the_log_has_but_does_not_show_is_not_unknown(log: MemoryLog, look_ups: LookUps) -> None:
    log.fail_next_commit("before")  # the transaction stays open, and holds readers back
    with pytest.raises(LogError):
        send(log, command_codec().encode(command(0)))
    with pytest.raises(LogUnavailable):
        command_id_at(look_ups, 0)


def test_an_unreachable_log_is_an_error_and_the_next_look_up_works(log: MemoryLog, look_ups: LookUps) -> None:
    send(log, command_codec().encode(command(0)))
    log.away(True)
    with pytest.raises(LogUnavailable):
        command_id_at(look_ups, 0)
    log.away(False)
    assert command_id_at(look_ups, 0) == "cmd_0"


def test_more_look_ups_than_one_reader_serves_are_refused_and_harm_nobody(log: MemoryLog, look_ups: LookUps) -> None:
    send(log, command_codec().encode(command(0)))
    log.away(True)

    async def many() -> list[object]:
        waiting = [look_ups.at(0, 0) for _ in range(65)]
        return list(await asyncio.gather(*waiting, asyncio.to_thread(log.away, False), return_exceptions=True))

    results = asyncio.run(many())
    assert sum(isinstance(r, TooManyLookUps) for r in results) == 1
    assert command_id_at(look_ups, 0) == "cmd_0"
