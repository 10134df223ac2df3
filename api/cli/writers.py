"""The verbs `writers show` and `writers set`: how many writers share the partitions of the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.table import Table

from api.cli.acts import ActOptions, Acts, Ask, confirmed
from api.cli.terminal import Terminal, write_json
from api.processes.patient_log import patient
from api.processes.wiring import open_log
from api.settings import Settings
from ledger.audit import DONE, WRITERS_CHANGE
from ledger.errors import ConfigError, LogError, LogUnavailable
from ledger.kafka.settings import KafkaSettings
from ledger.log import EventLog
from ledger.topics import Topics

# A process that was killed holds its writers for a session of 6 s.
HELD_S, PAUSE_S = 60.0, 0.5
FENCE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WritersOptions(ActOptions):
    """`count`: the new number of writers."""

    count: int


def run_show(kafka: KafkaSettings, settings: Settings, terminal: Terminal) -> int:
    """Show which partitions each writer decides, and which writers nobody holds. Returns 0. Raises `LogError`."""
    event_log, topics = patient(open_log(kafka, settings.topics)), settings.topics
    partitions, count = event_log.partitions(topics.events), event_log.partitions(topics.writers)
    unheld = event_log.unheld(topics.writers, settings.ledger_id)
    rows = [{"writer": w, "partitions": list(range(w, partitions, count)), "is_held": w not in unheld} for w in range(count)]
    if terminal.as_json:
        write_json({"writers": rows})
        return 0
    table = Table("writer", "partitions", "held by a process")
    for w in range(count):
        numbers = ", ".join(map(str, range(w, partitions, count)))
        table.add_row(str(w), numbers, "no" if w in unheld else "yes")
    terminal.out.print(table)
    return 0


def run_set(kafka: KafkaSettings, settings: Settings, options: WritersOptions, terminal: Terminal, ask: Ask) -> int:
    """Change the number of writers. Returns 2 if not confirmed; then nothing is done.

    Raises `ConfigError` while a `commands` runs anywhere, or if there are fewer partitions; `NotDurable`, `LogError`.
    """
    event_log, topics = patient(open_log(kafka, settings.topics)), settings.topics
    partitions, before = event_log.partitions(topics.events), current(event_log, topics)
    if not 1 <= options.count <= partitions:
        raise ConfigError(f"there are {partitions} partitions, so there may be 1 to {partitions} writers")
    wait_until_unheld(event_log, topics, settings.ledger_id, terminal.err.print)
    if not terminal.as_json:
        terminal.out.print(
            f"{before} writers become {options.count}. Each partition that moves to another writer is folded from the beginning "
            f"of the log when its `commands` starts. Set WRITERS={options.count} for every process before you start it again."
        )
    if not confirmed(options, terminal, ask):
        return 2
    acts = Acts(event_log, settings, WRITERS_CHANGE, options.why)
    acts.request(count=options.count)
    change(event_log, topics, settings.ledger_id, before, options.count)
    acts.record(DONE, count=options.count)
    if terminal.as_json:
        write_json({"ok": True, "before": before, "writers": options.count})
    else:
        terminal.out.print(f"Done: {options.count} writers.", style="green")
    return 0


def current(event_log: EventLog, topics: Topics) -> int:
    """The number of writers; 0 if a change was interrupted when their topic was deleted. Raises `LogUnavailable`."""
    try:
        return event_log.partitions(topics.writers)
    except LogUnavailable:
        raise
    except LogError:
        return 0


def wait_until_unheld(event_log: EventLog, topics: Topics, ledger_id: str, say: Callable[[str], object]) -> None:
    """Raises `ConfigError` if a process still holds a writer after `HELD_S`."""
    deadline, count = time.monotonic() + HELD_S, current(event_log, topics)
    while count and (held := sorted(set(range(count)) - set(event_log.unheld(topics.writers, ledger_id)))):
        if time.monotonic() > deadline:
            raise ConfigError(f"writers {held} are held by running processes: stop every `commands` of this ledger first")
        say(f"waiting until writers {held} are released")
        time.sleep(PAUSE_S)


def change(event_log: EventLog, topics: Topics, ledger_id: str, before: int, count: int) -> None:
    """Replace the topic of writers, then fence every writer of the old layout. Repeated after a kill, it does the rest.

    In this order: whoever starts as a writer after it was fenced sees the new topic before it decides (`WriterLoop`).
    """
    if before != count:
        (spec,) = (spec for spec in topics.specs(partitions=count, writers=count) if spec.name == topics.writers)
        event_log.replace_topic(spec)
    # However many there were: of an interrupted change, only the new number is known.
    fence_writers(event_log, ledger_id, max(count, event_log.partitions(topics.events)))


def fence_writers(event_log: EventLog, ledger_id: str, count: int) -> None:
    """End whatever writers 0 to `count` - 1 have begun. Who writes next under their names must fold first. Raises `LogError`."""
    for w in range(count):
        writer = event_log.writer(f"{ledger_id}-{w}")
        try:
            writer.start(FENCE_S)
        finally:
            writer.close()
