"""The verb `tail`: prints events as they are committed, for a person or a script."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import msgspec

from api.cli.terminal import Screen, Terminal, has_reader, write_line, write_text
from api.processes.signals import stopper
from api.processes.wiring import KafkaDoors
from api.settings import Settings
from ledger.errors import ConfigError, DecodeError
from ledger.events import OrderEvent
from ledger.kafka.settings import KafkaSettings
from ledger.log import EventLog, Record, TopicPartition
from ledger.reading import committed
from ledger.rfc3339 import format_ms
from ledger.schemas.codec import event_codec, link_of


def plain(value: Any) -> Any:
    """An event as JSON values: bytes in hex, absent details omitted."""
    fields = msgspec.to_builtins(value, builtin_types=(bytes,))
    return _plain({name: field for name, field in fields.items() if field is not None})


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {name: _plain(field) for name, field in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


Form = Literal["table", "json", "raw"]
_POSITION = re.compile(r"^([0-9]{1,5})-([0-9]{1,18})$")


def start_positions(event_log: EventLog, topic: str, start: str) -> dict[TopicPartition, int]:
    """Positions for `beginning`, `now`, an RFC 3339 time, or comma-separated positions `P-N` (only those partitions are read).

    Raises `ConfigError` for anything else.
    """
    tps = [TopicPartition(topic, p) for p in range(event_log.partitions(topic))]
    if start == "beginning":
        return event_log.starts(tps)
    if start == "now":
        return event_log.ends(tps)
    places = [_POSITION.match(place.strip()) for place in start.split(",")]
    if all(places):
        positions = {TopicPartition(topic, int(place[1])): int(place[2]) for place in places if place}
        if unknown := positions.keys() - set(tps):
            raise ConfigError(f"{topic} has no partition {min(unknown).partition}")
        return positions
    at = time_option(start, "--from (or beginning, now, a position like 3-1017)")
    return event_log.offset_at(tps, max(0, int(at.timestamp() * 1000)))  # Kafka gives negative offsets a meaning of their own


class Continuity:
    """Finds the duplicates, gaps and chain breaks that an analytics consumer would see, from any starting point.

    Keeps the last version of every order and the last link of every partition. Does not fold; uses only the envelope.
    """

    NAMES = ("duplicates", "gaps", "chain breaks", "undecodable")

    def __init__(self) -> None:
        self._versions: dict[str, int] = {}
        self._links: dict[int, bytes] = {}
        self.events = 0
        self.faults: Counter[str] = Counter()

    def check(self, record: Record) -> Iterator[str]:
        """Yields one line per fault."""
        self.events += 1
        place = f"{record.partition}-{record.offset}"
        try:
            event = event_codec().decode(record.value)
        except DecodeError as exc:
            self.faults["undecodable"] += 1
            self._links.pop(record.partition, None)
            yield f"{place}: undecodable ({exc})"
            return
        if event.prev_hash != self._links.get(record.partition, event.prev_hash):
            self.faults["chain breaks"] += 1
            yield f"{place}: chain break: {event.order_id} v{event.version} does not name the event before"
        self._links[record.partition] = link_of(record.value or b"")
        before = self._versions.get(event.order_id)
        if before is not None and event.version <= before:
            self.faults["duplicates"] += 1
            yield f"{place}: duplicate: {event.order_id} v{event.version} after v{before}"
        elif before is not None and event.version > before + 1:
            self.faults["gaps"] += 1
            yield f"{place}: gap: {event.order_id} v{event.version} after v{before}"
        self._versions[event.order_id] = max(event.version, before or 0)

    def as_json(self) -> dict[str, int]:
        """How many events there are, and how many faults of each kind."""
        return {"events": self.events} | {name.replace(" ", "_"): self.faults[name] for name in self.NAMES}

    def __str__(self) -> str:
        return f"{self.events:,} events: " + ", ".join(f"{self.faults[name]} {name}" for name in self.NAMES)


@dataclass(frozen=True, slots=True, kw_only=True)
class TailOptions:
    """The options of `tail`. `order`, `customer` and `kind` (an event type) select; None selects everything."""

    start: str
    order: str | None
    customer: str | None
    kind: str | None
    follow: bool
    check: bool
    form: Form

    def selects(self, event: OrderEvent) -> bool:
        """Whether the event is to be printed."""
        return (
            self.order in (None, event.order_id)
            and self.customer in (None, event.customer_id)
            and self.kind in (None, event.type)
        )


def run_tail(kafka: KafkaSettings, settings: Settings, options: TailOptions, terminal: Terminal) -> int:
    """Print matching events until interrupted, or without `follow` until the end of the log. Raises `LogError`.

    With `check`, prints only faults and returns 1 if there are any.
    """
    stopping = stopper()
    event_log = KafkaDoors(kafka, settings.topics).open_log(stopping, for_ever=options.follow)
    positions = start_positions(event_log, settings.topics.events, options.start)
    ends = event_log.ends(positions)
    reader = event_log.reader("tail", eof=True, headers=options.form == "raw")
    continuity = Continuity()
    try:
        for record in committed(reader, positions, None if options.follow else ends, stopping, lambda: not has_reader()):
            if options.check:
                for line in continuity.check(record):
                    if options.form == "json":
                        write_line({"fault": line})
                    else:
                        terminal.out.print(line, style="red")
            else:
                _show(record, options, terminal.out)
    finally:
        reader.close()
    if options.check and options.form == "json":
        write_line(continuity.as_json())
    elif options.check:
        terminal.err.print(str(continuity))
    return int(bool(continuity.faults))


def _show(record: Record, options: TailOptions, out: Screen) -> None:
    try:
        event = event_codec().decode(record.value)
    except DecodeError as exc:
        if options.form == "table":
            out.print(f"{record.partition}-{record.offset}: undecodable ({exc})", style="red")
        else:
            write_line({"partition": record.partition, "offset": record.offset, "undecodable": str(exc)})
        return
    if not options.selects(event):
        return
    if options.form == "table":
        write_text([_line(event, record)])
        return
    line: dict[str, Any] = {"partition": record.partition, "offset": record.offset}
    if options.form == "json":
        line |= plain(event)
    else:
        line |= {
            "timestamp_ms": record.timestamp_ms,
            "key": (record.key or b"").decode("utf-8", "replace"),
            "headers": {name: value.decode("utf-8", "replace") for name, value in record.headers},
            "value_hex": (record.value or b"").hex(),
        }
    write_line(line)


def _line(event: OrderEvent, record: Record) -> str:
    money = f"{event.total_minor} {event.currency}"
    place = f"{record.partition}-{record.offset}"
    return (
        f"{format_ms(event.occurred_at)}  {place:>9}  {event.order_id}  v{event.version:<3} {event.type:<18} "
        f"{event.status:<10} {event.payment_state:<12} {money:>14}  {event.actor}"
    )


def time_option(text: str, option: str) -> datetime:
    """Raises `ConfigError` unless `text` is an RFC 3339 time with a time zone."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{option} takes an RFC 3339 time, not {text!r}") from None
    if at.tzinfo is None:
        raise ConfigError(f"{option} needs a time zone, for example 2030-01-31T12:00:00Z")
    return at
