"""The verb `audit`: prints what staff did and saw, for a person or a script."""

from __future__ import annotations

from typing import Any

import msgspec

from api.cli.tail import start_positions
from api.cli.terminal import has_reader, write_line, write_text
from api.processes.signals import stopper
from api.processes.wiring import KafkaDoors
from api.settings import Settings
from ledger.audit import (
    ACTIONS,
    CUSTOMER_ERASURE,
    DONE,
    GAP_ACCEPTANCE,
    LOG_COPY,
    REQUESTED,
    WRITERS_CHANGE,
    AuditRecord,
)
from ledger.errors import ConfigError, DecodeError
from ledger.kafka.settings import KafkaSettings
from ledger.log import Record
from ledger.reading import committed
from ledger.rfc3339 import format_ms
from ledger.schemas.codec import audit_codec

# The things that `count` counts.
COUNTED = {
    (CUSTOMER_ERASURE, DONE): "contacts",
    (GAP_ACCEPTANCE, REQUESTED): "commands",
    (GAP_ACCEPTANCE, DONE): "commands",
    (WRITERS_CHANGE, REQUESTED): "writers",
    (WRITERS_CHANGE, DONE): "writers",
    (LOG_COPY, REQUESTED): "partitions",
    (LOG_COPY, DONE): "events",
}


def run_audit(
    kafka: KafkaSettings,
    settings: Settings,
    *,
    start: str,
    wanted: dict[str, str | None],
    follow: bool,
    as_json: bool,
) -> int:
    """Print audit records until interrupted, or without `follow` until the end. Returns 1 if one could not be decoded.

    `wanted`: required values of members; None means any. Raises `LogError`, `ConfigError`.
    """
    if (action := wanted.get("action")) is not None and action not in ACTIONS:
        raise ConfigError(f"--action takes one of {', '.join(ACTIONS)}")
    stopping = stopper()
    event_log = KafkaDoors(kafka, settings.topics).open_log(stopping, for_ever=follow)
    positions = start_positions(event_log, settings.topics.audit, start)
    ends = event_log.ends(positions)
    reader = event_log.reader("audit", eof=True)
    unreadable = 0
    try:
        for record in committed(reader, positions, None if follow else ends, stopping, lambda: not has_reader()):
            unreadable += not _show(record, wanted, as_json)
    finally:
        reader.close()
    return int(unreadable > 0)


def _show(record: Record, wanted: dict[str, str | None], as_json: bool) -> bool:
    """Returns whether the record could be decoded."""
    place = f"{record.partition}-{record.offset}"
    try:
        entry = audit_codec().decode(record.value)
    except DecodeError as exc:
        if as_json:
            write_line({"partition": record.partition, "offset": record.offset, "undecodable": str(exc)})
        else:
            write_text([f"{place}: undecodable ({exc})"])
        return False
    if all(value is None or getattr(entry, name) == value for name, value in wanted.items()):
        if as_json:
            write_line(_members(entry, record))
        else:
            write_text([_line(entry, place)])
    return True


def _members(entry: AuditRecord, record: Record) -> dict[str, Any]:
    """The record as JSON members. `written_at` is the broker's append time, which no node can set."""
    members: dict[str, Any] = msgspec.to_builtins(entry)
    times = {"occurred_at": format_ms(entry.occurred_at), "written_at": format_ms(record.timestamp_ms)}
    return {"partition": record.partition, "offset": record.offset} | members | times


def _line(entry: AuditRecord, place: str) -> str:
    counted = COUNTED.get((entry.action, entry.outcome), "")  # "": of a later program
    about = [
        entry.order_id,
        entry.customer_id,
        entry.reason,
        None if entry.count is None else f"{entry.count} {counted}".strip(),
        entry.why,
    ]
    return (
        f"{format_ms(entry.occurred_at)}  {place:>9}  {entry.actor:<20} {entry.action:<20} {entry.outcome:<9}  "
        f"{'  '.join(word for word in about if word)}"
    )
