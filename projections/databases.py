"""The databases of one generation, and the only code that writes them: rows, position and digest in one write.

    p0, p1, ...     rows derived from `order-events` and `order-refusals` of that partition (`read_models`)
    contacts        all contacts: they can be erased, the rows of the ledger cannot

`serve` folds chunks into all of them as they arrive; `rebuild` and `verify` fold the log in bulk into some of them. Both use the
same `write_chunk`, so there is only one definition of the content of a database.

Bookkeeping rows begin with NUL:

    \\0version                    of the read models
    \\0position/<topic>/<p>       next offset to fold, timestamp and link of the record before it (`ledger.log_identity`)
    \\0log/<topic>                the id of the topic that the position is of
    \\0digest                     the current digest of the database
    \\0digest/<events>            the digest after every 10,000th record of `order-events`
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import msgspec
import structlog

from ledger.contact_rows import CONTACTS_STORE, KeptContacts
from ledger.errors import ConfigError, DecodeError, Hole
from ledger.events import OrderEvent, OrderRefusal
from ledger.log import Record, TopicPartition
from ledger.log_identity import Mark
from ledger.order import FoldError
from ledger.outcomes import decode_outcome, refusal_row
from ledger.schemas.codec import event_codec, link_of, refusal_codec
from ledger.store import Store
from ledger.topics import Topics
from projections import digests
from projections.digests import CHECKPOINT_EVENTS, Digest
from projections.read_models import VERSION, PartitionFold, Rows, held_prefix

log = structlog.get_logger(__name__)

_POSITION, _LOG = b"\0position/", b"\0log/"
_PLACE = struct.Struct(">QQ")  # next offset, timestamp (ms) of the record before it
_VERSION = b"\0version"
_DIGEST = b"\0digest"
_NO_DIGEST = Digest(0, 0, digests.as_bytes(0))
_encode_digest = msgspec.msgpack.Encoder().encode
_decode_digest = msgspec.msgpack.Decoder(Digest).decode

OpenStore = Callable[[str], Store]


class OtherReadModels(ConfigError):
    """A database has read models of another version: it must be rebuilt."""

    code = "other_read_models"


class Folded(NamedTuple):
    """The content of one `write_chunk`, to wake waiting requests."""

    events: list[OrderEvent]
    refusals: list[OrderRefusal]
    contacts: list[bytes]  # keys


def store_name(partition: int) -> str:
    """Name of the database of a partition."""
    return f"p{partition}"


class Databases:
    """Open databases of some partitions, and the contacts database, unless `contacts` is None. One thread at a time folds."""

    def __init__(self, open_store: OpenStore, topics: Topics, partitions: Iterable[int], contacts: int | None) -> None:
        """`open_store(name)` opens or creates a database; `contacts` is the number of partitions of that topic; None: omit it.

        Raises `OtherReadModels`, or `StoreError` if a database is open elsewhere, after closing all opened ones.
        """
        self.topics = topics
        self.stores: dict[int, Store] = {}
        self.contacts: KeptContacts | None = None
        self._events, self._refusals = event_codec(), refusal_codec()
        self._positions: dict[TopicPartition, int] = {}
        self._links: dict[TopicPartition, bytes] = {}
        self._log_ids: dict[TopicPartition, bytes] = {}
        self._renamed: dict[TopicPartition, bytes] = {}  # names of topics under which positions are kept until `note_log`
        self._log_times: dict[TopicPartition, int] = {}
        self._digests: dict[int, Digest] = {}
        self._frozen: dict[int, set[str]] = {}
        try:
            for p in partitions:
                self.stores[p] = open_store(store_name(p))
                self._load(p, self.stores[p])
            if contacts is not None:
                self.contacts = KeptContacts(open_store(CONTACTS_STORE), topics.contacts, contacts)
        except BaseException:
            self.close()
            raise

    def _load(self, p: int, store: Store) -> None:
        raw = store.get(_VERSION)
        if raw is None:
            store.write({_VERSION: b"%d" % VERSION})
        elif int(raw) != VERSION:
            raise OtherReadModels(
                f"database {store_name(p)} has read models of version {int(raw)}, this program has {VERSION}: rebuild it"
            )
        for topic in (self.topics.events, self.topics.refusals):
            self._load_position(store, TopicPartition(topic, p))
        kept = store.get(_DIGEST)
        self._digests[p] = _decode_digest(kept) if kept else _NO_DIGEST
        self._frozen[p] = {key[2:].decode() for key, _ in store.scan(b"f/")}
        for order_id in sorted(self._frozen[p]):
            self.thaw(p, order_id)  # this program may know more than the one that froze it

    def _load_position(self, store: Store, tp: TopicPartition) -> None:
        raw, topic = store.get(_position_key(tp)), tp.topic.encode()
        if raw is None and (before := self._under_another_prefix(store, tp)) is not None:
            raw, topic = before
            self._renamed[tp] = topic
        self._positions[tp], self._log_times[tp] = _PLACE.unpack(raw[: _PLACE.size]) if raw else (0, 0)
        self._links[tp] = raw[_PLACE.size :] if raw else b""  # empty also in a row of an earlier version
        self._log_ids[tp] = store.get(_LOG + topic) or b""

    def _under_another_prefix(self, store: Store, tp: TopicPartition) -> tuple[bytes, bytes] | None:
        """(position row, topic) if the database was folded under another TOPIC_PREFIX: its rows are those of that position."""
        base = tp.topic.removeprefix(self.topics.prefix).encode()
        rows = ((key[len(_POSITION) :].rpartition(b"/")[0], row) for key, row in store.scan(_POSITION))
        return next(((row, topic) for topic, row in rows if topic.endswith(base)), None)

    # ---- how far

    def positions(self) -> dict[TopicPartition, int]:
        """The next offset of every partition of the three topics that is folded here."""
        return self._positions | (self.contacts.positions() if self.contacts is not None else {})

    def position(self, tp: TopicPartition) -> int:
        if tp.topic == self.topics.contacts and self.contacts is not None:
            return self.contacts.position(tp)
        return self._positions[tp]

    def marks(self) -> dict[TopicPartition, Mark]:
        """The positions of events and refusals, with what is kept beside them."""
        return {tp: Mark(position, self._log_ids[tp], self._links[tp]) for tp, position in self._positions.items()}

    def log_ids(self) -> dict[str, bytes]:
        """The ids of the topics of events and refusals from which these databases are folded; empty where unknown."""
        return {tp.topic: log_id for tp, log_id in self._log_ids.items()}

    def note_log(self, ids: Mapping[str, bytes]) -> None:
        """Note that the positions are of the topics with these ids, which the caller has checked. Raises `StoreError`."""
        for p, store in self.stores.items():
            rows: Rows = {}
            for tp in [tp for tp in self._log_ids if tp.partition == p]:
                if self._log_ids[tp] != ids[tp.topic] or tp in self._renamed:
                    rows[_LOG + tp.topic.encode()] = ids[tp.topic]
                if (before := self._renamed.get(tp)) is not None:
                    rows[_position_key(tp)] = self._place_row(tp)
                    rows[_POSITION + before + b"/%d" % p] = rows[_LOG + before] = None
            if rows:
                store.write(rows)
        self._log_ids = {tp: ids[tp.topic] for tp in self._log_ids}
        self._renamed.clear()

    def _place_row(self, tp: TopicPartition) -> bytes:
        return _PLACE.pack(self._positions[tp], self._log_times[tp]) + self._links[tp]

    def log_time(self, tp: TopicPartition) -> int:
        """Timestamp of the last folded event or refusal, ms since the epoch (0: none)."""
        return self._log_times[tp]

    def digest(self, partition: int) -> Digest:
        """The digest of the current rows."""
        return self._digests[partition]

    def digests(self) -> dict[int, Digest]:
        return dict(self._digests)

    def checkpoints(self, partition: int) -> Iterator[Digest]:
        """The digests stored every `CHECKPOINT_EVENTS` events, oldest first."""
        for _, row in self.stores[partition].scan(_DIGEST + b"/"):
            yield _decode_digest(row)

    def frozen(self, partition: int, order_id: str) -> bool:
        return order_id in self._frozen[partition]

    def frozen_count(self) -> int:
        return sum(map(len, self._frozen.values()))

    def skip_expired(self, starts: Mapping[TopicPartition, int]) -> None:
        """Continue at `starts` if the log no longer reaches back to the position.

        Only for `order-refusals`, which is kept for 60 days: a key is honoured for 30, so deleted refusals are not needed.
        """
        for tp, start in starts.items():
            if tp.topic == self.topics.refusals and self._positions.get(tp, start) < start:
                log.info("expired refusals skipped", partition=tp.partition, position=self._positions[tp], start=start)
                self._positions[tp] = start

    # ---- the fold

    def write_chunk(self, tp: TopicPartition, records: Sequence[Record], return_events: bool = True) -> Folded:
        """Fold records of one partition, in order; skip those below the position.

        In bulk nobody waits for events, and keeping thousands of them costs a tenth: pass `return_events=False`.

        After any exception, the database is consistent at an earlier position. Raises `StoreError`, `Hole`, `ContactsTooOld`.
        """
        position = self.position(tp)
        if records and records[0].offset < position:
            records = [record for record in records if record.offset >= position]
        folded = Folded([], [], [])
        if not records:
            return folded
        if tp.topic == self.topics.events:
            self._fold_events(tp, records, folded.events if return_events else None)
        elif tp.topic == self.topics.refusals:
            self._fold_refusals(tp, records, folded.refusals)
        else:
            assert self.contacts is not None
            folded.contacts.extend(self.contacts.fold(tp, records))
        return folded

    def breaks_chain(self, tp: TopicPartition, record: Record) -> bool:
        """Whether `record`, the next event of a partition whose log is known, does not follow the last one that was folded."""
        link = self._links[tp] if tp.topic == self.topics.events and self._log_ids[tp] else b""
        if not link or record.offset < self._positions[tp]:
            return False
        try:
            return self._events.decode(record.value).prev_hash != link
        except DecodeError:
            return False  # it freezes its order

    def _write(self, store: Store, tp: TopicPartition, rows: Rows, last: Record) -> None:
        position = last.offset + 1
        if position <= self._positions[tp]:
            raise Hole(f"{tp.topic}/{tp.partition}: position would move back from {self._positions[tp]} to {position}")
        link = link_of(last.value or b"")
        rows[_position_key(tp)] = _PLACE.pack(position, last.timestamp_ms) + link
        store.write(rows)
        self._positions[tp], self._log_times[tp], self._links[tp] = position, last.timestamp_ms, link

    def _fold_events(self, tp: TopicPartition, records: Sequence[Record], done: list[OrderEvent] | None) -> None:
        start = 0
        while start < len(records):  # a write ends where a digest must be stored, regardless of the chunks
            room = CHECKPOINT_EVENTS - self._digests[tp.partition].events % CHECKPOINT_EVENTS
            self._fold_some_events(tp, records[start : start + room] if start or room < len(records) else records, done)
            start += room

    def _fold_some_events(self, tp: TopicPartition, records: Sequence[Record], done: list[OrderEvent] | None) -> None:
        store, p = self.stores[tp.partition], tp.partition
        fold = PartitionFold(store.get, self._frozen[p])
        decode = self._events.decode
        for record in records:
            value = record.value or b""
            try:
                event = decode(value)
            except DecodeError as exc:
                self._freeze(fold, (record.key or b"").decode("utf-8", "replace"), record.offset, str(exc), value)
                continue
            if done is not None:
                done.append(event)
            self._fold_event(fold, event, record.offset, value)
        rows = fold.finish()
        was, last = self._digests[p], records[-1]
        digest = Digest(was.events + len(records), last.offset + 1, _moved(was, fold.change))
        rows[_DIGEST] = row = _encode_digest(digest)
        if digest.events % CHECKPOINT_EVENTS == 0:
            rows[_DIGEST + b"/" + digest.events.to_bytes(8, "big")] = row
        self._write(store, tp, rows, last)
        self._digests[p] = digest

    def _fold_event(self, fold: PartitionFold, event: OrderEvent, offset: int, value: bytes) -> None:
        if fold.frozen(event.order_id):
            fold.note(event, offset, value)
            return
        try:
            fold.fold(event, offset, value)
        except FoldError as exc:
            self._freeze(fold, event.order_id, offset, str(exc), value)
            before = fold.order(event.order_id)
            if event.version == (before.version if before else 0) + 1:
                fold.note(event, offset, value)  # its version is valid: shown in the history, and its command answered

    @staticmethod
    def _freeze(fold: PartitionFold, order_id: str, offset: int, reason: str, value: bytes) -> None:
        if fold.freeze(order_id, offset, reason, value):
            log.error("order frozen", order_id=order_id, offset=offset, reason=reason)

    # ---- frozen orders, when this program can read more than the one that froze them

    def thaw(self, partition: int, order_id: str) -> list[OrderEvent]:
        """Fold the records that wait for a frozen order again, in one write, because this program may know more than before.

        Afterwards rows and digest are those of a fold from the beginning. If they changed, checkpoints since then are deleted,
        because at that time other rows were right. Returns the events of these records; empty if nothing changed.
        """
        store = self.stores[partition]
        prefix = held_prefix(order_id)
        rows = [(key, value) for key, value in store.scan(prefix) if len(key) == len(prefix) + 8]
        held = {int.from_bytes(key[-8:], "big"): (value, self._event_of(order_id, value)) for key, value in rows}
        fold = PartitionFold(store.get, self._frozen[partition])
        if not held:
            return []
        events = {offset: event for offset, (_, event) in held.items() if isinstance(event, OrderEvent)}
        fold.thaw(order_id, {offset: (value, events.get(offset)) for offset, (value, _) in held.items()})
        for offset, (value, event) in held.items():
            if isinstance(event, OrderEvent):
                self._fold_event(fold, event, offset, value)
            else:
                self._freeze(fold, order_id, offset, str(event), value)
        changed, was = fold.finish(), self._digests[partition]
        if not fold.change:
            return []
        digest = Digest(was.events, was.position, _moved(was, fold.change))
        changed[_DIGEST] = _encode_digest(digest)
        since = next(iter(held))
        changed |= {key: None for key, row in store.scan(_DIGEST + b"/") if _decode_digest(row).position > since}
        store.write(changed)
        self._digests[partition] = digest
        log.warning("frozen order folded again", order_id=order_id, partition=partition, frozen=fold.frozen(order_id))
        return list(events.values())

    def _event_of(self, order_id: str, value: bytes) -> OrderEvent | DecodeError:
        """The event in a held record, or why there is none."""
        try:
            event = self._events.decode(value)
        except DecodeError as exc:
            return exc
        return event if event.order_id == order_id else DecodeError("malformed", "the event has the key of another order")

    def frozen_orders(self) -> list[tuple[int, str]]:
        """(partition, id) of every frozen order."""
        return [(p, order_id) for p, order_ids in self._frozen.items() for order_id in sorted(order_ids)]

    def _fold_refusals(self, tp: TopicPartition, records: Sequence[Record], refusals: list[OrderRefusal]) -> None:
        store = self.stores[tp.partition]
        rows: Rows = {}
        for record in records:
            try:
                refusal = self._refusals.decode(record.value)
            except DecodeError as exc:
                log.error("undecodable refusal", partition=tp.partition, offset=record.offset, reason=str(exc))
                continue
            if (row := refusal_row(refusal)) is not None:
                known = store.get(row[0])
                if known is None or decode_outcome(known).code is not None:  # an event's outcome has precedence, in any order
                    rows[row[0]] = row[1]
                refusals.append(refusal)
        self._write(store, tp, rows, records[-1])

    def close(self) -> None:
        """Close all databases, also if one of them cannot be closed; may be called twice. Raises `StoreError`."""
        with ExitStack() as closing:
            for store in self.stores.values():
                closing.callback(store.close)
            if self.contacts is not None:
                closing.callback(self.contacts.close)


def _moved(digest: Digest, change: int) -> bytes:
    return digests.as_bytes(digests.moved(digests.from_bytes(digest.value), change))


def _position_key(tp: TopicPartition) -> bytes:
    return _POSITION + tp.topic.encode() + b"/%d" % tp.partition
