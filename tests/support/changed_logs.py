"""Logs that are not the one from before, made from the in-memory log of a `Ledger` whose processes have stopped."""

from __future__ import annotations

from collections.abc import Callable

from commands.messages import OrderCommand
from ledger.log import NewRecord, Record, TopicPartition
from ledger.memory.log import MemoryLog
from tests.support.one_log import PARTITIONS, TOPICS, WRITERS, Ledger, cancel, place
from tests.support.patience import PATIENCE_S

FOLDED = (TOPICS.events, TOPICS.refusals)


def send(ledger: Ledger, commands: list[OrderCommand]) -> None:
    for command in commands:
        ledger.send(command)

    def answered() -> bool:
        assert not [running.refused or running.codes for running in ledger.running if not running.thread.is_alive()]
        return {c.command_id for c in commands} <= set(ledger.answers())

    ledger.wait_for(answered)


def live(ledger: Ledger) -> list[OrderCommand]:
    """Events and refusals in every partition, decided by a process that has stopped since."""
    running = ledger.start()
    placed = [place(f"k{n}") for n in range(24)]
    send(ledger, placed)
    send(ledger, [cancel(command, "once") for command in placed[:16]])
    send(ledger, refused := [cancel(command, "twice") for command in placed[:16]])
    ledger.stop(running)
    for topic in FOLDED:
        assert {r.partition for r in ledger.records(topic)} == set(range(PARTITIONS))
    return [*placed, *[cancel(command, "once") for command in placed[:16]], *refused]


def write_again(log: MemoryLog, records: list[Record], batch: int = 50) -> None:
    """Write the same bytes in larger transactions than they had: fewer markers, so other offsets."""
    writer = log.writer("import")
    writer.start(PATIENCE_S)
    for n in range(0, len(records), batch):
        some = records[n : n + batch]
        writer.transact([NewRecord(r.topic, r.partition, r.key, r.value, r.timestamp_ms, r.headers) for r in some])
    writer.close()


def recreate_all(log: MemoryLog) -> None:
    for spec in TOPICS.specs(PARTITIONS, WRITERS):
        log.recreate(spec.name)


def read_all(ledger: Ledger) -> list[Record]:
    return [record for topic in FOLDED for record in ledger.records(topic)]


def last_events(ledger: Ledger) -> dict[int, int]:
    """The offset of the last event of each partition."""
    return {record.partition: record.offset for record in ledger.records(TOPICS.events)}


def mirrored(ledger: Ledger) -> None:
    for spec in TOPICS.specs(PARTITIONS, WRITERS):
        ledger.log.mirror(spec.name)


def restored(ledger: Ledger) -> None:
    """As by `import-log`: events and refusals, byte for byte, at other offsets, and no commands."""
    records, before = read_all(ledger), last_events(ledger)
    for batch in (1, 50):  # each may have been decided in a transaction of its own
        recreate_all(ledger.log)
        write_again(ledger.log, records, batch)
        if last_events(ledger) != before:
            return


def restored_too_short(ledger: Ledger) -> None:
    records, last = read_all(ledger), last_events(ledger)
    recreate_all(ledger.log)
    write_again(ledger.log, [r for r in records if r.topic != TOPICS.events or r.offset < last[r.partition]])


def recreated_empty(ledger: Ledger) -> None:
    recreate_all(ledger.log)


def another_ledgers(ledger: Ledger) -> None:
    """Longer than the one before, with as many partitions."""
    other = Ledger()
    running = other.start()
    try:
        send(other, [place(f"other{n}") for n in range(60)])
        records = read_all(other)
    finally:
        other.stop(running)
    recreate_all(ledger.log)
    write_again(ledger.log, records, batch=1)


def recreated_and_regrown(ledger: Ledger) -> None:
    """By the same clients, whose retries have the same ids."""
    recreate_all(ledger.log)
    fresh, stores = Ledger(), ledger.stores
    fresh.log, fresh.sender = ledger.log, ledger.log.sender("fresh")
    running = fresh.start("fresh")
    try:
        send(fresh, [place(f"k{n}") for n in reversed(range(24))] + [place(f"new{n}") for n in range(40)])
    finally:
        fresh.stop(running)
    ledger.stores = stores


def lost_its_end(ledger: Ledger) -> None:
    """The same topic without its last records, as after an unclean leader election."""
    for p in range(PARTITIONS):
        tp = TopicPartition(TOPICS.events, p)
        ledger.log.lose_end(tp, ledger.log.ends([tp])[tp] - 3)


CONTINUES = [mirrored, restored]
REFUSES = [restored_too_short, recreated_empty, another_ledgers, recreated_and_regrown, lost_its_end]
Change = Callable[[Ledger], None]
