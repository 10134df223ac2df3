"""The verbs `transactions` and `transactions end`: show open transactions, and end one that Kafka left open."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from api.cli.terminal import Screen, Terminal, write_json
from api.processes.patient_log import patient
from api.processes.wiring import open_log
from api.settings import Settings
from ledger.clock import now_ms
from ledger.errors import LogUnavailable
from ledger.hanging import Advice, End, advise, open_transactions, why_not_to_end
from ledger.kafka.settings import KafkaSettings
from ledger.log import EventLog, OpenTransaction, TopicPartition
from ledger.rfc3339 import format_ms
from ledger.topics import Topics

SEEN_S = 60.0  # patience until readers see the end that was written
TopicWord = Literal["events", "refusals"]


@dataclass(frozen=True, slots=True)
class Advised:
    """An open transaction, and how to end it if it hangs."""

    one: OpenTransaction
    advice: Advice | None  # None: it does not hang


def find(
    event_log: EventLog, topics: Topics, ledger_id: str, partition: int | None = None, topic: TopicWord | None = None
) -> list[Advised]:
    """Open transactions in the topics that writers write to; `partition` and `topic` narrow the search.

    Raises `NotAllowed` if this user cannot see which of them hang, `LogError`.
    """
    names = [topics.events, topics.refusals] if topic is None else [getattr(topics, topic)]
    count = event_log.partitions(topics.events)
    wanted = [TopicPartition(name, p) for name in names for p in range(count) if partition in (None, p)]
    return [
        Advised(one, None if one.known else advise(event_log, topics, one))
        for one in sorted(
            open_transactions(event_log, topics, ledger_id, wanted), key=lambda one: (one.partition, one.start_offset)
        )
    ]


def run_transactions(kafka: KafkaSettings, settings: Settings, as_json: bool, out: Screen) -> int:
    """Show every open transaction. Returns 1 if one hangs."""
    transactions = find(patient(open_log(kafka, settings.topics)), settings.topics, settings.ledger_id)
    hanging = [f for f in transactions if f.advice is not None]
    if as_json:
        write_json({"ok": not hanging, "transactions": [_row(f) for f in transactions]})
        return int(bool(hanging))
    if not transactions:
        out.print("No transaction is open.")
        return 0
    table = Table("partition", "from offset", "producer", "transactional id", "since", "state", "outcome")
    for f in transactions:
        one = f.one
        fate = Text("ends by itself", "green") if f.advice is None else Text("HANGS: must be ended", "red")
        table.add_row(
            f"{one.partition.topic}/{one.partition.partition}",
            str(one.start_offset),
            f"{one.producer_id}, epoch {one.producer_epoch}",
            one.transactional_id or "none",
            format_ms(one.last_timestamp_ms),
            one.state or "unknown",
            fate,
        )
    out.print(table)
    for f in hanging:
        out.print(_plain(f))
    if hanging:
        out.print("End it with: order-ledger transactions end --partition N")
    return int(bool(hanging))


@dataclass(frozen=True, slots=True, kw_only=True)
class EndOptions:
    """The options of `transactions end`. `topic` None: both topics; `end_as` None: as the records call for."""

    partition: int
    topic: TopicWord | None
    end_as: End | None
    yes: bool


def run_end(kafka: KafkaSettings, settings: Settings, options: EndOptions, terminal: Terminal, ask: Callable[[str], bool]) -> int:
    """End the hanging transactions of a partition. Returns 1 if one was refused, 2 if not confirmed; then nothing is done.

    `ask(question)` returns the person's answer.
    """
    event_log = patient(open_log(kafka, settings.topics))
    every = find(event_log, settings.topics, settings.ledger_id, options.partition, options.topic)
    ended: list[tuple[Advised, End]] = []
    refused: list[tuple[Advised, str]] = []
    for f in every:
        chosen = options.end_as or (f.advice.end if f.advice is not None else "abort")
        if why := why_not_to_end(f.one, now_ms()):
            refused.append((f, why))
        elif chosen is None:
            assert f.advice is not None
            refused.append((f, f"the ledger cannot tell how to end it ({f.advice.why}): pass --as commit or --as abort"))
        else:
            ended.append((f, chosen))
    if not terminal.as_json:
        for line in [*(f"{_where(f.one)}: left alone, {why}." for f, why in refused), *(_deed(f, how) for f, how in ended)]:
            terminal.out.print(line)
        if not every:
            terminal.out.print(f"No transaction is open in partition {options.partition}.")
    if ended and not (options.yes or (not terminal.as_json and sys.stdin.isatty() and ask("Continue?"))):
        terminal.err.print("nothing was done: pass --yes", style="red")
        return 2
    for f, how in ended:
        event_log.end_transaction(f.one, commit=how == "commit")
    for f, _ in ended:
        _wait_until_seen(event_log, f.one)
    if terminal.as_json:
        rows = {"ended": [{**_row(f), "as": how} for f, how in ended], "refused": [{**_row(f), "why": why} for f, why in refused]}
        write_json({"ok": not refused, **rows})
    elif ended:
        terminal.out.print("Done. `commands` resumes the partition within a few seconds.")
    return int(bool(refused))


def _wait_until_seen(event_log: EventLog, one: OpenTransaction) -> None:
    deadline = time.monotonic() + SEEN_S
    while event_log.ends([one.partition])[one.partition] <= one.start_offset and _others(event_log, one) == []:
        if time.monotonic() > deadline:
            raise LogUnavailable(f"the end of the transaction in {one} was written, but readers do not see it yet")
        time.sleep(0.1)


def _others(event_log: EventLog, one: OpenTransaction) -> Sequence[OpenTransaction]:
    """Transactions that still block its partition."""
    return [other for other in event_log.open_transactions([one.partition]) if other.start_offset <= one.start_offset]


def _where(one: OpenTransaction) -> str:
    return f"{one.partition.topic}/{one.partition.partition}"


def _plain(f: Advised) -> str:
    """Describe a hanging transaction and its effect."""
    one = f.one
    assert f.advice is not None
    whose = f"of {one.transactional_id}" if one.transactional_id else "of a producer that no coordinator knows"
    return (
        f"{_where(one)}: Kafka left a transaction {whose} open at offset {one.start_offset}, "
        f"since {format_ms(one.last_timestamp_ms)}. {_records(f)} in it cannot be read, "
        "and nothing later in this partition can be decided."
    )


def _records(f: Advised) -> str:
    count = 0 if f.advice is None else f.advice.records
    return "The record" if count == 1 else f"The {count} records" if count else "Whatever is"


def _deed(f: Advised, how: End) -> str:
    """Say what will be done, and the consequence."""
    said = _plain(f) if f.advice is not None else f"{_where(f.one)}: its coordinator should have ended it long ago but has not."
    if how == "commit":
        deed = "It will be committed: its records become a permanent part of the ledger."
    else:
        deed = "It will be aborted: its records are never seen, and their commands are decided again."
    if f.advice is None:
        return f"{said} {deed}"
    if f.advice.end == how:
        return f"{said} {deed} Why: {f.advice.why}."
    if f.advice.end is None:
        return f"{said} {deed} The ledger cannot tell which is right: {f.advice.why}."
    warning = "decisions that were acted on may be reverted" if how == "abort" else "Kafka decided otherwise"
    return f"{said} {deed} The ledger would {f.advice.end} it, because {f.advice.why}: {warning}."


def _row(f: Advised) -> dict[str, Any]:
    one = f.one
    row: dict[str, Any] = {
        "topic": one.partition.topic,
        "partition": one.partition.partition,
        "offset": one.start_offset,
        "producer_id": one.producer_id,
        "producer_epoch": one.producer_epoch,
        "transactional_id": one.transactional_id,
        "state": one.state,
        "since": format_ms(one.last_timestamp_ms),
        "hangs": f.advice is not None,
    }
    if f.advice is not None:
        row |= {"code": "hanging_transaction", "records": f.advice.records, "advice": f.advice.end, "why": f.advice.why}
    return row
