"""The verbs `tail`, `history` and `diff`: the ledger for a person or a script."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from api.cli.terminal import Screen, has_reader, write_json, write_line, write_text
from api.processes.signals import stopper
from api.processes.wiring import KafkaDoors
from api.settings import Settings
from ledger.errors import ConfigError, DecodeError, LedgerError
from ledger.events import OrderEvent
from ledger.http_client import BlockingHttp, NoAnswer, with_query
from ledger.kafka.settings import KafkaSettings
from ledger.log import EventLog, Reader, Record, TopicPartition
from ledger.rfc3339 import format_ms
from ledger.schemas.codec import event_codec, link_of

PATIENCE_S = 100.0  # for an answer from the API


class ApiError(LedgerError):
    """The API answered with a problem."""

    code = "api"


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
        found = {TopicPartition(topic, int(place[1])): int(place[2]) for place in places if place}
        if unknown := found.keys() - set(tps):
            raise ConfigError(f"{topic} has no partition {min(unknown).partition}")
        return found
    at = _time(start, "--from (or beginning, now, a position like 3-1017)")
    return event_log.offset_at(tps, max(0, int(at.timestamp() * 1000)))  # Kafka gives negative offsets a meaning of their own


class Continuity:
    """Finds the duplicates, gaps and chain breaks that an analytics consumer would see, from any starting point.

    Keeps the last version of every order and the last link of every partition. Does not fold; uses only the envelope.
    """

    def __init__(self) -> None:
        self._versions: dict[str, int] = {}
        self._links: dict[int, bytes] = {}
        self.events = 0
        self.found: Counter[str] = Counter()

    def look(self, record: Record) -> Iterator[str]:
        """Yields one line per fault."""
        self.events += 1
        place = f"{record.partition}-{record.offset}"
        try:
            event = event_codec().decode(record.value)
        except DecodeError as exc:
            self.found["undecodable"] += 1
            self._links.pop(record.partition, None)
            yield f"{place}: undecodable ({exc})"
            return
        if event.prev_hash != self._links.get(record.partition, event.prev_hash):
            self.found["chain breaks"] += 1
            yield f"{place}: chain break: {event.order_id} v{event.version} does not name the event before"
        self._links[record.partition] = link_of(record.value or b"")
        before = self._versions.get(event.order_id)
        if before is not None and event.version <= before:
            self.found["duplicates"] += 1
            yield f"{place}: duplicate: {event.order_id} v{event.version} after v{before}"
        elif before is not None and event.version > before + 1:
            self.found["gaps"] += 1
            yield f"{place}: gap: {event.order_id} v{event.version} after v{before}"
        self._versions[event.order_id] = max(event.version, before or 0)

    def __str__(self) -> str:
        names = ("duplicates", "gaps", "chain breaks", "undecodable")
        return f"{self.events:,} events: " + ", ".join(f"{self.found[name]} {name}" for name in names)


def run_tail(  # noqa: PLR0913  # an option each
    kafka: KafkaSettings,
    settings: Settings,
    *,
    start: str,
    order: str | None,
    customer: str | None,
    kind: str | None,
    follow: bool,
    check: bool,
    form: Form,
    out: Screen,
    err: Screen,
) -> int:
    """Print matching events until interrupted, or without `follow` until the end of the log. Raises `LogError`.

    With `check`, prints only faults and returns 1 if there are any.
    """
    stopping = stopper()
    event_log = KafkaDoors(kafka).open_log(stopping, for_ever=follow)
    positions = start_positions(event_log, settings.topics.events, start)
    ends = event_log.ends(positions)
    reader = event_log.reader("tail", eof=True, headers=form == "raw")
    continuity = Continuity()
    try:
        for record in committed(reader, positions, None if follow else ends, stopping, lambda: not has_reader()):
            if check:
                for line in continuity.look(record):
                    out.print(line, style="red")
            else:
                _show(record, order, customer, kind, form, out)
    finally:
        reader.close()
    if check:
        err.print(str(continuity))
    return int(bool(continuity.found))


def committed(
    reader: Reader,
    positions: Mapping[TopicPartition, int],
    until: Mapping[TopicPartition, int] | None,
    stopping: threading.Event,
    enough: Callable[[], bool] = lambda: False,
) -> Iterator[Record]:
    """Records from `positions` on, up to `until` if set, until `stopping` or `enough`. `reader` must report partition ends."""
    reader.assign(positions)
    left = set(positions) if until is None else {tp for tp, position in positions.items() if position < until[tp]}
    while left and not stopping.is_set() and not enough():
        for record in reader.poll(500, 0.2):
            tp = TopicPartition(record.topic, record.partition)
            if until is None or record.offset < until[tp]:
                yield record
            if until is not None and record.offset + 1 >= until[tp]:
                left.discard(tp)
        if until is not None:
            left -= {tp for tp, end in reader.reached_end().items() if end >= until[tp]}


def _show(record: Record, order: str | None, customer: str | None, kind: str | None, form: Form, out: Screen) -> None:
    try:
        event = event_codec().decode(record.value)
    except DecodeError as exc:
        if form == "table":
            out.print(f"{record.partition}-{record.offset}: undecodable ({exc})", style="red")
        else:
            write_line({"partition": record.partition, "offset": record.offset, "undecodable": str(exc)})
        return
    if (order, customer, kind) != (
        order and event.order_id,
        customer and event.customer_id,
        kind and event.type,
    ):
        return
    if form == "table":
        write_text([_line(event, record)])
        return
    line: dict[str, Any] = {"partition": record.partition, "offset": record.offset}
    if form == "json":
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


def run_history(order_id: str, url: str, token: str, at: str | None, as_json: bool, err: Screen) -> int:
    """Print the events of one order, up to the time `at` (RFC 3339) if set. Returns 1 if there is no such order."""
    rows: list[dict[str, Any]] = []
    until = None if at is None else _time(at, "--at")
    path = f"/orders/{quote(order_id, safe='')}"
    with _client(url, token) as client:
        while True:
            answer = _get(client, f"{path}/events", {"after": rows[-1]["version"] if rows else 0, "limit": 200})
            if answer is None:
                err.print(f"no order {' '.join(order_id.split())}", style="red")
                return 1
            rows += answer["data"]
            if len(answer["data"]) < 200:
                break
    if until is not None:
        rows = [row for row in rows if datetime.fromisoformat(row["occurred_at"]) <= until]
    if as_json:
        write_json(rows)
        return 0
    for row in rows:
        place = f"{row['partition']}-{row['offset']}"
        head = f"v{row['version']:<3} {row['occurred_at']}  {place:>9}  {row['type']:<18} {row['status']:<10} {row['actor']}"
        write_text([head])
        if detail := {name: value for name, value in row["detail"].items() if value not in (None, [], "")}:
            write_text([f"     {json.dumps(detail, ensure_ascii=False)}"])
    return 0


def run_diff(order_id: str, before: int, after: int, url: str, token: str, as_json: bool, err: Screen) -> int:
    """Print the fields in which two versions of an order differ. Returns 1 if there is no such order or version."""
    path = f"/orders/{quote(order_id, safe='')}"
    with _client(url, token) as client:
        states = [_get(client, path, {"version": version}) for version in (before, after)]
    if states[0] is None or states[1] is None:
        err.print(f"no order {' '.join(order_id.split())} with versions {before} and {after}", style="red")
        return 1
    left, right = _flat(states[0]), _flat(states[1])
    changed = [name for name in {**left, **right} if left.get(name) != right.get(name)]
    if as_json:
        rows = [{"field": name, "before": left.get(name), "after": right.get(name)} for name in changed]
        write_json({"order_id": order_id, "from": before, "to": after, "changes": rows})
        return 0
    for name in changed:
        was, now = (json.dumps(side[name], ensure_ascii=False) if name in side else "-" for side in (left, right))
        write_text([f"{name:<28} {was} -> {now}"])
    return 0


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Leaves by path: `axes.payment`, `lines[0].sku`."""
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in _flat(inner, f"{name}.{key}" if name else key).items()}
    if isinstance(value, list) and value:
        return {k: v for i, inner in enumerate(value) for k, v in _flat(inner, f"{name}[{i}]").items()}
    return {name: value}


def _client(url: str, token: str) -> BlockingHttp:
    """Raises `ConfigError` for an invalid address or token."""
    if not token.isascii():
        raise ConfigError("the token contains characters that are not ASCII")
    try:
        return BlockingHttp(url, PATIENCE_S, {"Authorization": f"Bearer {token}"})
    except ConfigError as exc:
        raise ConfigError(f"{url!r}: {exc}") from None


def _get(client: BlockingHttp, path: str, params: dict[str, Any]) -> dict[str, Any] | None:
    """The body of the answer; None for 404. Raises `ApiError`."""
    try:
        answer = client.get(with_query(path, params))
    except NoAnswer as exc:
        raise ApiError(f"{client.base_url} does not answer: {exc}") from exc
    if answer.status == 404:
        return None
    if answer.status != 200:
        raise ApiError(f"{answer.status} {answer.text[:300]}")
    try:
        body: dict[str, Any] = answer.json()
    except ValueError:
        raise ApiError(f"{client.base_url} is not the ledger's API: its answer is not JSON") from None
    return body


def _time(text: str, option: str) -> datetime:
    """Raises `ConfigError` unless `text` is an RFC 3339 time with a time zone."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{option} takes an RFC 3339 time, not {text!r}") from None
    if at.tzinfo is None:
        raise ConfigError(f"{option} needs a time zone, for example 2030-01-31T12:00:00Z")
    return at
