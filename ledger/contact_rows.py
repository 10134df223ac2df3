"""The contacts as one node keeps them: a fold of all of `order-contacts` into a store of its own, for `serve` and the notifier.

    order_id/contact_digest            the contact; none where it cannot be read, or was written after its erasure
    \\0customer/<customer>NUL<key>      the contacts of a customer; of customer "" are those without a contact
    \\0erased/<key>                     erased for good
    \\0erasing/<customer>               an erasure that is not finished (`ledger.erasures`)
    \\0erasure/<customer>               the last one that is
    \\0unpurged/<key>                   deleted, and perhaps still to be read in the store's files: see `purge`
    \\0position/<topic>/<p>             next offset to fold, timestamp of the record before it
    \\0current                          as of when everything written to the topic is known to be folded, ms since the epoch
    \\0version                          of these rows
    \\0anew                             they are being thrown away

Values are not those of the log: a contact is read far more often than written, and Avro costs ten times as much to decode.

Erasure reaches a node as tombstones, and Kafka keeps those for `delete.retention.ms` only. A fold that was away for longer may
have missed one for ever; so one that was away for half of it is thrown away and begun again from the start of the topic.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice

import msgspec
import structlog
from msgspec import Struct

from ledger.clock import now_ms
from ledger.contacts import BARRIER_KEY, OrderContact, erased_contact
from ledger.erasures import Erasure, KeptErasure, decode_erasure, is_erasure
from ledger.errors import DecodeError, LedgerError
from ledger.log import Record, TopicPartition
from ledger.schemas.codec import contact_codec
from ledger.sparse_keys import SparseKeys
from ledger.store import Store
from ledger.topics import CONTACT_TOMBSTONES_MS
from ledger.turns import Steps

CONTACTS_STORE = "contacts"
VERSION = b"1"
TOO_OLD_MS = CONTACT_TOMBSTONES_MS // 2
NOTE_EVERY_MS = 60_000
PURGE_KEYS = 10_000  # of more than these the whole store is purged, which then costs less
MOST_PURGED = 200_000  # dealt with in one go

_VERSION, _CURRENT, _ANEW = b"\0version", b"\0current", b"\0anew"
_POSITION, _CUSTOMER, _ERASED, _UNPURGED = b"\0position/", b"\0customer/", b"\0erased/", b"\0unpurged/"
_UNDER_WAY, _FINISHED = b"\0erasing/", b"\0erasure/"
_PLACE = struct.Struct(">QQ")
_FIRST_KEY = b"\x01"  # behind the rows that begin with NUL
_CHUNK = 1_000
_SOME_ROWS = 50  # read and deleted in one step
# Ids of orders begin so, and go on with letters: a first stretch is as long as the step of the first of these.
_LEAD, _LETTER = b"ord_", 1 << 56

Rows = dict[bytes, bytes | None]

log = structlog.get_logger(__name__)


class ContactsTooOld(LedgerError):
    """This fold was away from the log for so long that it may have missed an erasure. Opened again, it begins anew."""

    code = "contacts_too_old"


class KeptContact(Struct, frozen=True, array_like=True):
    """One row. `written_at` is the record's timestamp, ms since the epoch."""

    written_at: int
    contact: OrderContact | None


_decode = msgspec.msgpack.Decoder(KeptContact).decode
_decode_erasure = msgspec.msgpack.Decoder(KeptErasure).decode
_encode = msgspec.msgpack.Encoder().encode


class KeptContacts:
    """Contacts of all partitions of `topic` in `store`. Used by one thread at a time, but for `purge`."""

    def __init__(self, store: Store, topic: str, partitions: int, clock: Callable[[], int] = now_ms) -> None:
        """Takes up what is in `store`, or throws it away where it cannot be relied on. Raises `StoreError`."""
        self.store = store
        self._clock = clock
        self._codec = contact_codec()
        self._partitions = [TopicPartition(topic, p) for p in range(partitions)]
        self._late: list[bytes] = []
        self._take_up()

    def _take_up(self) -> None:
        version, current = self.store.get(_VERSION), self.store.get(_CURRENT)
        self._current = int(current or b"0")
        if version is None and next(self.store.scan(b""), None) is None:
            self._begin()
        elif self.store.get(_ANEW) is not None:
            self.begin_anew("that was interrupted")
        elif version != VERSION:
            self.begin_anew("they were kept in another form")
        elif self._is_too_old():
            self.begin_anew("this node was away for longer than erasures are told of")
        self._positions = {tp: self._position_in_store(tp)[0] for tp in self._partitions}

    def _begin(self) -> None:
        self._current = self._clock()
        self.store.write({_ANEW: None, _VERSION: VERSION, _CURRENT: b"%d" % self._current})

    def begin_anew(self, why: str) -> None:
        """Forget everything, so that the topic is folded from its start. Raises `StoreError`."""
        log.warning("contacts are read anew from the log", why=why)
        self.store.write({_ANEW: b""})  # killed on the way, it is done again, to the end
        after: bytes | None = None
        while rows := [key for key, _ in islice(self.store.scan(b"", after), _CHUNK)]:
            self.store.write({key: None for key in rows if key != _ANEW})
            after = rows[-1] + b"\0"
        self.store.purge(None)
        self._begin()
        self._positions = dict.fromkeys(self._partitions, 0)

    def follow(self, ends: Mapping[TopicPartition, int]) -> None:
        """Begin anew where the topic ends before what is folded: it is another one. `ends` may have others' partitions."""
        if any(at > ends[tp] for tp, at in self._positions.items()):
            self.begin_anew("their topic was made anew")

    # ---- how far

    def positions(self) -> dict[TopicPartition, int]:
        """The next offset of every partition."""
        return dict(self._positions)

    def position(self, tp: TopicPartition) -> int:
        return self._positions[tp]

    def _position_in_store(self, tp: TopicPartition) -> tuple[int, int]:
        raw = self.store.get(_position_key(tp))
        return _PLACE.unpack(raw) if raw else (0, 0)

    def last_written_at(self, partition: int) -> int:
        """Time of the last record folded of a partition, ms since the epoch; 0: there was none."""
        return self._position_in_store(self._partitions[partition])[1]

    def note_current(self, as_of_ms: int) -> None:
        """Everything written before `as_of_ms` is folded. To be said now and then while the log answers."""
        if abs(as_of_ms - self._current) >= NOTE_EVERY_MS:
            self._current = as_of_ms
            self.store.write({_CURRENT: b"%d" % as_of_ms})

    def _is_too_old(self) -> bool:
        """Also what is said to be of the future: a clock was wrong, so nobody knows how old it is."""
        return not -TOO_OLD_MS <= self._clock() - self._current <= TOO_OLD_MS

    # ---- the fold

    def fold(self, tp: TopicPartition, records: Sequence[Record]) -> list[bytes]:
        """Fold records of one partition, in order, that are not folded yet; their keys. One write. Raises `ContactsTooOld`."""
        if self._is_too_old():
            raise ContactsTooOld("contacts are older than erasures are told of; a restart reads them anew")
        rows = self._rows((record.key or b"", record.value, record.timestamp_ms) for record in records)
        last = records[-1]
        rows[_position_key(tp)] = _PLACE.pack(last.offset + 1, last.timestamp_ms)
        self.store.write(rows)
        self._positions[tp] = last.offset + 1
        return [record.key or b"" for record in records]

    def reached(self, tp: TopicPartition, position: int) -> None:
        """There is nothing between the last record folded and `position`: compaction leaves gaps."""
        if position > self._positions[tp]:
            at = self._position_in_store(tp)[1]
            self.store.write({_position_key(tp): _PLACE.pack(position, at)})
            self._positions[tp] = position

    def put(self, records: Iterable[tuple[bytes, bytes | None, int]]) -> None:
        """What the log is known to hold and the fold will meet, as (key, value, time): here at once."""
        if rows := self._rows(records):
            self.store.write(rows)

    def _rows(self, records: Iterable[tuple[bytes, bytes | None, int]]) -> Rows:
        rows: Rows = {}

        def get(key: bytes) -> bytes | None:
            return rows[key] if key in rows else self.store.get(key)

        for key, value, written_at in records:
            if (erased := erased_contact(key)) is not None:
                rows[_ERASED + erased] = b""
                if (raw := get(erased)) is not None:  # whose tombstone comes next, or is owed
                    self._replace(rows, erased, raw, KeptContact(_decode(raw).written_at, None))
            elif is_erasure(key):
                rows |= _erasure_rows(value, written_at)
            elif key and key[0] and key != BARRIER_KEY:
                raw = get(key)
                if value is None and raw is None:
                    continue
                kept = None if value is None else KeptContact(written_at, self._readable(value))
                if kept is not None and get(_ERASED + key) is not None:
                    kept = KeptContact(written_at, None)
                    self._late.append(key)
                self._replace(rows, key, raw, kept)
        return rows

    @staticmethod
    def _replace(rows: Rows, key: bytes, raw: bytes | None, kept: KeptContact | None) -> None:
        if raw is not None:
            rows[_index_key(_decode(raw).contact, key)] = None
            if kept is None or kept.contact is None:
                rows[_UNPURGED + key] = b"%d" % time.time_ns()  # tells this deletion from a later one
        rows[key] = None if kept is None else _encode(kept)
        if kept is not None:
            rows[_index_key(kept.contact, key)] = b""

    def _readable(self, value: bytes) -> OrderContact | None:
        try:
            return self._codec.decode(value)
        except DecodeError as exc:
            log.error("unreadable contact", reason=exc.reason)
            return None

    @property
    def has_late(self) -> bool:
        """Whether `late` has something to say."""
        return bool(self._late)

    def late(self) -> list[bytes]:
        """Keys of contacts that came after their erasure, since this was asked last: the log still has them."""
        late, self._late = self._late, []
        return late

    # ---- reads

    def contact(self, key: bytes) -> OrderContact | None:
        """The contact with this key (`ledger.contacts.contact_key`); None when unknown, erased or unreadable."""
        raw = self.store.get(key)
        return _decode(raw).contact if raw else None

    def written_at(self, key: bytes) -> int | None:
        """When the record with this key was written, if the log has one; ms since the epoch."""
        raw = self.store.get(key)
        return _decode(raw).written_at if raw else None

    def is_erased(self, key: bytes) -> bool:
        """Whether the contact with this key is erased for good, whatever is written."""
        return self.store.get(_ERASED + key) is not None

    def is_order_erased(self, order_id: str) -> bool:
        """Whether a contact of this order is erased for good."""
        return next(self.store.scan(_ERASED + order_id.encode() + b"/"), None) is not None

    def keys(self, after: bytes, most: int) -> Steps[list[bytes]]:
        """Keys of all contacts that the log has, behind `after`, at most so many."""
        return self._keys(b"", max(after + b"\0", _FIRST_KEY), most)

    def keys_of(self, customer_id: str, after: bytes, most: int) -> Steps[list[bytes]]:
        """Keys of a customer's contacts, behind `after`. Customer "": those whose contact cannot be read, or came too late."""
        prefix = _CUSTOMER + customer_id.encode() + b"\0"
        return self._keys(prefix, prefix + after + b"\0" if after else prefix, most)

    def _keys(self, prefix: bytes, start: bytes, most: int) -> Steps[list[bytes]]:
        found: list[bytes] = []
        keys = SparseKeys(self.store, prefix, start, _LEAD, _LETTER)
        while len(found) < most and (key := (yield from keys.following())) is not None:
            found.append(key[len(prefix) :])
            yield
        return found

    # ---- erasures

    def last_erasure(self, customer_id: str) -> Erasure | None:
        """The customer's erasure that is under way, else the last one that is finished, as far as the fold knows."""
        for row in self.store.get_many([_UNDER_WAY + customer_id.encode(), _FINISHED + customer_id.encode()]):
            if row is not None:
                return _decode_erasure(row).erasure
        return None

    def erasures_under_way(self) -> list[KeptErasure]:
        return [_decode_erasure(row) for _, row in self.store.scan(_UNDER_WAY)]

    def has_order(self, order_id: str) -> bool:
        """Whether there is a contact of this order."""
        prefix = order_id.encode() + b"/"
        return any(_decode(row).contact is not None for _, row in self.store.scan(prefix))

    # ---- what is deleted must be gone from the disk as well

    def unpurged(self) -> Steps[dict[bytes, bytes]]:
        """What was deleted since the last purge, some of it: the rows that say so. For `purge`, and then for `purged`."""
        found: dict[bytes, bytes] = {}
        keys = SparseKeys(self.store, _UNPURGED, b"", _LEAD, _LETTER)
        while len(found) < MOST_PURGED and (row := (yield from keys.following())) is not None:
            found[row] = self.store.get(row) or b""
            yield
        return found

    def purge(self, unpurged: dict[bytes, bytes], stopping: Callable[[], bool]) -> bool:
        """Rewrite the files that may hold what was deleted; whether that was done to the end. Takes seconds, in any thread."""
        keys = [row[len(_UNPURGED) :] for row in unpurged] if len(unpurged) <= PURGE_KEYS else None
        return self.store.purge(keys, stopping)

    def purged(self, unpurged: dict[bytes, bytes]) -> Steps[None]:
        """To be done after `purge` was done to the end: what was deleted meanwhile still waits."""
        rows = iter(unpurged.items())
        while some := dict(islice(rows, _SOME_ROWS)):
            still = self.store.get_many(list(some))
            self.store.write({row: None for (row, at), now in zip(some.items(), still, strict=True) if at == now})
            yield

    def close(self) -> None:
        self.store.close()


def _erasure_rows(value: bytes | None, written_at: int) -> Rows:
    try:
        erasure = decode_erasure(value or b"")
    except DecodeError as exc:
        log.error("unreadable erasure", reason=exc.reason)
        return {}
    under_way, finished = _UNDER_WAY + erasure.customer_id.encode(), _FINISHED + erasure.customer_id.encode()
    row = _encode(KeptErasure(written_at, erasure))
    return {under_way: row, finished: None} if erasure.done_at is None else {under_way: None, finished: row}


def _index_key(contact: OrderContact | None, key: bytes) -> bytes:
    return _CUSTOMER + (contact.customer_id if contact else "").encode() + b"\0" + key


def _position_key(tp: TopicPartition) -> bytes:
    return _POSITION + tp.topic.encode() + b"/%d" % tp.partition
