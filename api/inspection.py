"""`tail` and `history`: the ledger as a person or a script reads it."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec
from rich.console import Console

from api.wiring import open_log
from ledger.codec import event_codec
from ledger.config import KafkaSettings, Settings
from ledger.errors import ConfigError, DecodeError, LedgerError
from ledger.events import OrderEvent
from ledger.log import EventLog, Record, TopicPartition


class ApiError(LedgerError):
    """The API answered with a problem."""

    code = "api"


def iso(ms: int) -> str:
    """RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def plain(value: Any) -> Any:
    """An event as JSON values: bytes in hex, absent details left out."""
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


def start_positions(event_log: EventLog, topic: str, start: str) -> dict[TopicPartition, int]:
    """Positions for `beginning`, `now` or an RFC 3339 time. Raises `ConfigError` for anything else."""
    tps = [TopicPartition(topic, p) for p in range(event_log.partitions(topic))]
    if start == "beginning":
        return event_log.starts(tps)
    if start == "now":
        return event_log.ends(tps)
    try:
        at = datetime.fromisoformat(start)
    except ValueError:
        raise ConfigError(f"--from takes beginning, now or an RFC 3339 time, not {start!r}") from None
    if at.tzinfo is None:
        raise ConfigError("--from needs a time zone, for instance 2030-01-31T12:00:00Z")
    return event_log.offset_at(tps, int(at.timestamp() * 1000))


def run_tail(
    kafka: KafkaSettings,
    settings: Settings,
    start: str,
    order: str | None,
    customer: str | None,
    kind: str | None,
    follow: bool,
    as_json: bool,
    out: Console,
) -> int:
    """Print matching events until interrupted, or until the end of the log without `follow`. Raises `LogError`."""
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    event_log = open_log(kafka)
    topic = settings.topics.events
    positions = start_positions(event_log, topic, start)
    ends = event_log.ends(positions)
    reader = event_log.reader("tail")
    reader.assign(positions)
    try:
        for record in _records(reader, positions, None if follow else ends, stopping):
            _show(record, order, customer, kind, as_json, out)
    finally:
        reader.close()
    return 0


def _records(
    reader: Any, positions: dict[TopicPartition, int], until: dict[TopicPartition, int] | None, stopping: threading.Event
) -> Iterator[Record]:
    """Records in reading order; ends when every partition has reached `until` (positions may end at a marker)."""
    if until is None:
        while not stopping.is_set():
            yield from reader.poll(500, 0.2)
        return
    left = {tp for tp, position in positions.items() if position < until[tp]}
    silent = 0
    while left and not stopping.is_set() and silent < 10:
        records = reader.poll(500, 0.2)
        # A partition that ends in a transaction marker never shows its last offset: two quiet seconds end it too.
        silent = 0 if records else silent + 1
        for record in records:
            tp = TopicPartition(record.topic, record.partition)
            if record.offset < until[tp]:
                yield record
            if record.offset + 2 >= until[tp]:
                left.discard(tp)


def _show(record: Record, order: str | None, customer: str | None, kind: str | None, as_json: bool, out: Console) -> None:
    try:
        event = event_codec().decode(record.value)
    except DecodeError as exc:
        out.print(f"{record.partition}-{record.offset}: undecodable ({exc})", style="red", highlight=False)
        return
    if (order, customer, kind) != (
        order and event.order_id,
        customer and event.customer_id,
        kind and event.type,
    ):
        return
    if as_json:
        line = {"partition": record.partition, "offset": record.offset, **plain(event)}
        out.print(json.dumps(line, ensure_ascii=False), highlight=False, soft_wrap=True, markup=False)
    else:
        out.print(_line(event, record), highlight=False, soft_wrap=True, markup=False)


def _line(event: OrderEvent, record: Record) -> str:
    money = f"{event.total_minor} {event.currency}"
    place = f"{record.partition}-{record.offset}"
    return (
        f"{iso(event.occurred_at)}  {place:>9}  {event.order_id}  v{event.version:<3} {event.type:<18} "
        f"{event.status:<10} {event.payment_state:<12} {money:>14}  {event.actor}"
    )


def run_history(order_id: str, url: str, token: str, as_json: bool, out: Console, err: Console) -> int:
    """Print all events of one order by paging through the API. Returns 1 when there is no such order."""
    rows: list[dict[str, Any]] = []
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=10.0) as client:
        after = 0
        while True:
            try:
                answer = client.get(f"/orders/{order_id}/events", params={"after": after, "limit": 200})
            except httpx.HTTPError as exc:
                raise ApiError(f"{url} does not answer: {exc}") from exc
            if answer.status_code == 404:
                err.print(f"no order {order_id}", style="red")
                return 1
            if answer.status_code != 200:
                raise ApiError(f"{answer.status_code} {answer.json().get('detail', '')}")
            page = answer.json()["data"]
            rows += page
            if len(page) < 200:
                break
            after = page[-1]["version"]
    if as_json:
        out.print_json(data=rows)
        return 0
    for row in rows:
        place = f"{row['partition']}-{row['offset']}"
        head = f"v{row['version']:<3} {row['occurred_at']}  {place:>9}  {row['type']:<18} {row['status']:<10} {row['actor']}"
        out.print(head, highlight=False, soft_wrap=True, markup=False)
        if detail := {name: value for name, value in row["detail"].items() if value not in (None, [], "")}:
            out.print(f"     {json.dumps(detail, ensure_ascii=False)}", style="dim", highlight=False, markup=False)
    return 0
