"""`verify`: checks that one correct writer wrote the log, and that the read models match it.

The log is checked from its beginning (`ledger.walk`) and folded into temporary databases. Then every row of the current read
models is compared with the fold at the same position. A running `serve` provides a copy of its databases for that, so nothing is
interrupted.

That the log was truncated at its end or rewritten as a whole can be detected only with heads of the chains that were signed and
kept elsewhere (`sign_heads`).
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ledger.errors import LedgerError
from ledger.log import Record, TopicPartition
from ledger.order import Order
from ledger.outcomes import OUTCOMES, REUSED, decode_outcome, outcome_key
from ledger.store import Store
from ledger.walk import Fault, Head, Mismatch, Walk
from projections import digests, read_models
from projections.databases import Databases
from projections.event_rows import offset_of, read_place

SHOWN = 20  # number of faults and differences kept; all are counted


class RowDifference(msgspec.Struct, frozen=True):
    """One row that differs from the log. `offset`: of its event or, for an order, of the last event."""

    partition: int
    offset: int | None
    order_id: str
    row: str
    field: str
    live: str
    fold: str


@dataclass(slots=True)
class Findings:
    """The results of `verify`. Well if there are no faults and no differences."""

    events: int = 0
    faults: list[Fault] = field(default_factory=list)
    fault_count: int = 0
    differences: list[RowDifference] = field(default_factory=list)
    difference_count: int = 0
    rows: int = 0
    expired_refusals: int = 0
    mismatches: list[Mismatch] = field(default_factory=list)
    heads: dict[int, Head] = field(default_factory=dict)
    compared_with: str | None = None
    not_compared_because: str = ""

    @property
    def well(self) -> bool:
        return not self.fault_count and not self.difference_count

    def add_fault(self, fault: Fault) -> None:
        self.fault_count += 1
        if len(self.faults) < SHOWN:
            self.faults.append(fault)

    def add_difference(self, difference: RowDifference) -> None:
        self.difference_count += 1
        if len(self.differences) < SHOWN:
            self.differences.append(difference)


class LogWalk:
    """Checks all partitions of `order-events` from the beginning, together with a fold into `databases`."""

    def __init__(self, databases: Databases, findings: Findings, heads: Mapping[int, list[Head]]) -> None:
        """`databases` are empty and have all partitions; the chains must contain `heads` (by partition)."""
        self._findings = findings
        self._topics = databases.topics
        partitions = len(databases.stores)
        self._walks = {
            p: Walk(p, partitions, _order_in(store), _answered_in(store), heads.get(p, ()))
            for p, store in databases.stores.items()
        }

    def check(self, tp: TopicPartition, records: list[Record]) -> None:
        """Check one batch of a partition, which the caller then folds."""
        if tp.topic != self._topics.events:
            return
        walk = self._walks[tp.partition]
        walk.batch_ends()  # the previous batch is folded by now
        for record in records:
            for fault in walk.check(record):
                self._findings.add_fault(fault)
        self._findings.events += len(records)

    def end(self) -> None:
        """Check the end of the log."""
        for p, walk in self._walks.items():
            for fault in walk.end():
                self._findings.add_fault(fault)
            self._findings.mismatches += walk.mismatched.values()
            self._findings.heads[p] = walk.head


def _order_in(store: Store) -> Callable[[str], Order | None]:
    def order(order_id: str) -> Order | None:
        raw = store.get(read_models.order_key(order_id))
        return read_models.decode_order(raw) if raw else None

    return order


def _answered_in(store: Store) -> Callable[[str], bool]:
    def answered(command_id: str) -> bool:
        raw = store.get(outcome_key(command_id))
        return raw is not None and decode_outcome(raw).code is None

    return answered


# ---- rows


def compare(live: Store, fold: Store, partition: int, kept: digests.Digest, refusals_expire: bool, findings: Findings) -> None:
    """Compare all rows of a partition's database with the fold at the same position, and the stored digest with the rows."""
    total = 0
    for key, live_row, fold_row in _side_by_side(live, fold):
        if live_row is not None and digests.counts(key, live_row):
            total += digests.row_hash(key, live_row)
        findings.rows += 1
        if live_row == fold_row:
            continue
        if fold_row is None and refusals_expire and _is_refusal(key, live_row):
            findings.expired_refusals += 1  # the log keeps refusals for 60 days, the read models keep them for ever
            continue
        findings.add_difference(_difference(fold, partition, key, live_row, fold_row))
    value = digests.as_bytes(digests.moved(0, total))
    if value != kept.value:
        difference = RowDifference(partition, kept.position - 1, "", "digest", "digest", kept.hex(), value.hex())
        findings.add_difference(difference)


def _side_by_side(live: Store, fold: Store) -> Iterator[tuple[bytes, bytes | None, bytes | None]]:
    """(key, live row, row of the fold) of all keys of either, in order, except bookkeeping."""
    live_rows, fold_rows = live.scan(b"", b"\x01"), fold.scan(b"", b"\x01")
    left, right = next(live_rows, None), next(fold_rows, None)
    while left is not None or right is not None:
        if right is None or (left is not None and left[0] < right[0]):
            assert left is not None
            yield left[0], left[1], None
            left = next(live_rows, None)
        elif left is None or right[0] < left[0]:
            yield right[0], None, right[1]
            right = next(fold_rows, None)
        else:
            yield left[0], left[1], right[1]
            left, right = next(live_rows, None), next(fold_rows, None)


def _is_refusal(key: bytes, row: bytes | None) -> bool:
    return row is not None and (key.startswith(REUSED) or (key.startswith(OUTCOMES) and decode_outcome(row).code is not None))


_KINDS = {
    b"o/": "order",
    b"e/": "event",
    b"n/": "list of all orders",
    b"u/": "list of a customer's orders",
    b"s/": "list of orders by status",
    b"v/": "list of a customer's orders by status",
    b"tn": "list of orders that need attention",
    b"tu": "list of a customer's orders that need attention",
    b"ts": "list of orders that need attention, by status",
    b"tv": "list of a customer's orders that need attention, by status",
    b"g/": "order as of a version",
    b"c/": "outcome of a command",
    b"x/": "outcome of a reused key",
    b"d/": "totals of a day",
    b"q/": "count of a status",
    b"f/": "frozen order",
    b"h/": "record that waits for a frozen order",
    b"l/": "list of all events",
    b"m/": "list of a customer's events",
}


_DECODERS: dict[bytes, Callable[[bytes], Any]] = {
    b"o/": read_models.decode_order,
    b"g/": read_models.decode_order,
    b"c/": decode_outcome,
    b"d/": read_models.decode_daily,
}


def _difference(fold: Store, partition: int, key: bytes, live: bytes | None, folded: bytes | None) -> RowDifference:
    order_id = _order_of(key, live, folded)
    name, left, right = _first_field(key, live, folded)
    offset = _offset_of(fold, key, order_id, live, folded)
    return RowDifference(partition, offset, order_id, _KINDS.get(key[:2], "row"), name, left, right)


def _order_of(key: bytes, live: bytes | None, fold: bytes | None) -> str:
    match key[:2]:
        case b"o/" | b"f/":
            return key[2:].decode("utf-8", "replace")
        case b"h/":
            return key[2:-9].decode("utf-8", "replace")
        case b"e/" | b"g/":
            return key[2:-5].decode("utf-8", "replace")
        case b"n/" | b"u/" | b"s/" | b"v/" | b"tn" | b"tu" | b"ts" | b"tv":
            return read_models.place_in(key)[8:].decode("utf-8", "replace")
        case b"l/":
            return read_place(fold or live or b"").order_id
        case b"c/" | b"x/":
            for row in (fold, live):
                try:
                    return decode_outcome(row).order_id if row else ""
                except msgspec.MsgspecError:
                    continue
    return ""


def _offset_of(fold: Store, key: bytes, order_id: str, live: bytes | None, folded: bytes | None) -> int | None:
    if key.startswith((b"l/", b"m/")):
        return offset_of(key)
    if key.startswith(b"e/"):
        return read_models.read_history_value(folded or live or bytes(8))[0]
    last = None
    if order_id:
        for _, row in fold.scan(read_models.history_prefix(order_id), reverse=True):
            last = read_models.read_history_value(row)[0]
            break
    return last


def _first_field(key: bytes, live: bytes | None, fold: bytes | None) -> tuple[str, str, str]:
    """(field, live value, value of the fold) of the first field in which two rows differ."""
    if live is None or fold is None:
        return "", "no row" if live is None else "a row", "no row" if fold is None else "a row"
    if (decode := _DECODERS.get(key[:2])) is not None:
        try:
            left, right = decode(live), decode(fold)
        except msgspec.MsgspecError as exc:
            return "", f"unreadable ({exc})", fold[:40].hex()
        for name in left.__struct_fields__:
            if getattr(left, name) != getattr(right, name):
                return name, repr(getattr(left, name)), repr(getattr(right, name))
    place = next((i for i, (a, b) in enumerate(zip(live, fold, strict=False)) if a != b), min(len(live), len(fold)))
    return f"byte {place}", live[place : place + 16].hex(), fold[place : place + 16].hex()


# ---- heads kept elsewhere


class HeadsError(LedgerError):
    """The file does not contain heads, or its signature does not match."""

    code = "heads"


def sign_heads(heads: Mapping[int, Head], topic: str, topic_id: bytes, made_at: str, key: bytes) -> dict[str, Any]:
    """Heads as JSON values with a signature (HMAC-SHA256), which requires `key`."""
    members = {
        "topic": topic,
        "topic_id": topic_id.hex(),
        "made_at": made_at,
        "partitions": heads_to_json(heads),
    }
    return members | {"signature": _signature(members, key)}


def heads_to_json(heads: Mapping[int, Head]) -> dict[str, Any]:
    """The heads of the chains, by partition."""
    return {str(p): {"events": head.events, "offset": head.offset, "link": head.link.hex()} for p, head in sorted(heads.items())}


def read_heads(content: Any, key: bytes) -> tuple[dict[int, Head], bytes]:
    """(heads, topic id) of a signed file. Raises `HeadsError`."""
    try:
        signature = bytes.fromhex(content["signature"])
        unsigned = {name: value for name, value in content.items() if name != "signature"}
        heads = {
            int(p): Head(head["events"], head["offset"], bytes.fromhex(head["link"])) for p, head in content["partitions"].items()
        }
        topic_id = bytes.fromhex(content["topic_id"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise HeadsError("the file does not contain heads") from None
    if not hmac.compare_digest(bytes.fromhex(_signature(unsigned, key)), signature):
        raise HeadsError("the signature does not match: the file was changed, or written with another LEDGER_HASH_KEY")
    return heads, topic_id


def _signature(members: Mapping[str, Any], key: bytes) -> str:
    text = json.dumps(members, sort_keys=True, separators=(",", ":"))
    return hmac.new(key, b"order-ledger heads 1\0" + text.encode(), hashlib.sha256).hexdigest()
