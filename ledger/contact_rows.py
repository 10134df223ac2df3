"""The contacts of one node: a fold of all of `order-contacts` into its own store, for `serve` and the notifier.

    order_id/contact_digest            the contact; nothing if it cannot be decoded, or was written after its erasure
    \\0customer/<customer>NUL<key>      the contacts of a customer; of customer "" are those without a contact
    \\0email/<digest>/<place>           the contacts of an e-mail address, newest first: 8 bytes of time, then the key
    \\0erased/<key>                     permanently erased
    \\0erasing/<customer>               an erasure in progress (`ledger.erasures`)
    \\0erasure/<customer>               the last finished one
    \\0unpurged/<key>                   deleted, but perhaps still readable in the files of the store: see `purge`
    \\0position/<topic>/<p>             next offset to fold, timestamp of the record before it
    \\0log                              the id of the topic; no link of a record, because compaction deletes records
    \\0current                          everything written before this time is known to be folded, ms since the epoch
    \\0version                          of these rows
    \\0anew                             they are being deleted

Values are encoded differently from the log: a contact is read far more often than written, and Avro takes ten times as long to
decode.

Erasures reach a node as tombstones, which Kafka keeps only for `delete.retention.ms`. A fold that was offline for longer may have
missed one; so after half that time offline, it is deleted and repeated from the start of the topic.
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
from ledger.contacts import BARRIER_KEY, Note, OrderContact, erased_contact, note_id_of, note_key
from ledger.erasures import Erasure, KeptErasure, decode_erasure, is_erasure
from ledger.errors import DecodeError, LedgerError
from ledger.log import Record, TopicPartition
from ledger.schemas.codec import contact_codec
from ledger.sparse_keys import SparseKeys
from ledger.store import Store
from ledger.topics import CONTACT_TOMBSTONES_MS
from ledger.turns import Steps

CONTACTS_STORE = "contacts"
VERSION = b"2"
TOO_OLD_MS = CONTACT_TOMBSTONES_MS // 2
NOTE_EVERY_MS = 60_000
PURGE_KEYS = 10_000  # for more than these, the whole store is purged, which is then cheaper
MOST_PURGED = 200_000  # handled in one step

_VERSION, _CURRENT, _CLEARING, _LOG = b"\0version", b"\0current", b"\0anew", b"\0log"
_POSITION, _CUSTOMER, _ERASED, _UNPURGED = b"\0position/", b"\0customer/", b"\0erased/", b"\0unpurged/"
_IN_PROGRESS, _FINISHED = b"\0erasing/", b"\0erasure/"
_EMAIL = b"\0email/"
_FAR = (1 << 64) - 1
_PLACE = struct.Struct(">QQ")
_FIRST_KEY = b"\x01"  # after the rows that begin with NUL
_CHUNK = 1_000
_SOME_ROWS = 50  # read and deleted in one step
# Order ids begin like this and continue with letters: the first stretch is one step of the first letter.
_LEAD, _LETTER = b"ord_", 1 << 56

Rows = dict[bytes, bytes | None]

log = structlog.get_logger(__name__)


class ContactsTooOld(LedgerError):
    """This fold was offline for so long that it may have missed an erasure. When reopened, it starts from scratch."""

    code = "contacts_too_old"


class KeptContact(Struct, frozen=True, array_like=True):
    """One row. `written_at` is the timestamp of the record, ms since the epoch."""

    written_at: int
    contact: OrderContact | None


_decode = msgspec.msgpack.Decoder(KeptContact).decode
_decode_erasure = msgspec.msgpack.Decoder(KeptErasure).decode
_encode = msgspec.msgpack.Encoder().encode


class KeptContacts:
    """Contacts of all partitions of `topic` in `store`. Used by one thread at a time, except `purge`."""

    def __init__(self, store: Store, topic: str, partitions: int, clock: Callable[[], int] = now_ms) -> None:
        """Continue from the content of `store`, or delete it if it cannot be trusted. Raises `StoreError`, and closes `store`."""
        self.store = store
        self._clock = clock
        self._codec = contact_codec()
        self._partitions = [TopicPartition(topic, p) for p in range(partitions)]
        self._late: list[bytes] = []
        try:
            self._take_up()
        except BaseException:
            store.close()
            raise

    def _take_up(self) -> None:
        version, current = self.store.get(_VERSION), self.store.get(_CURRENT)
        self._current = int(current or b"0")
        if version is None and next(self.store.scan(b""), None) is None:
            self._begin()
        elif self.store.get(_CLEARING) is not None:
            self.start_over("deleting them was interrupted")
        elif version != VERSION:
            self.start_over("they have another format")
        elif self._is_too_old():
            self.start_over("this node was offline for longer than erasures are kept")
        self._positions = {tp: self._position_in_store(tp)[0] for tp in self._partitions}

    def _begin(self) -> None:
        self._current = self._clock()
        self.store.write({_CLEARING: None, _VERSION: VERSION, _CURRENT: b"%d" % self._current})

    def start_over(self, why: str) -> None:
        """Delete everything, so that the topic is folded from its start. Raises `StoreError`."""
        log.warning("reading all contacts from the log again", why=why)
        self.store.write({_CLEARING: b""})  # if killed on the way, it is repeated
        after: bytes | None = None
        while rows := [key for key, _ in islice(self.store.scan(b"", after), _CHUNK)]:
            self.store.write({key: None for key in rows if key != _CLEARING})
            after = rows[-1] + b"\0"
        self.store.purge(None)
        self._begin()
        self._positions = dict.fromkeys(self._partitions, 0)

    def follow(self, ends: Mapping[TopicPartition, int], log_id: bytes) -> None:
        """Start from scratch if it is another topic than that of the fold: by its id, or because it ends before the fold.

        A mirror of the same topic is read again, too: nothing else shows whether it is one. `ends` may have other partitions.
        """
        if self.log_id not in (b"", log_id) or any(at > ends[tp] for tp, at in self._positions.items()):
            self.start_over("their topic was recreated, or is a copy")
        self.note_log(log_id)

    @property
    def log_id(self) -> bytes:
        """The id of the topic from which this is folded; empty if unknown."""
        return log_id_in(self.store)

    def note_log(self, log_id: bytes) -> None:
        """Note that the positions are of the topic with this id."""
        if self.log_id != log_id:
            self.store.write({_LOG: log_id})

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
        """Time of the last folded record of a partition, ms since the epoch; 0 if there is none."""
        return self._position_in_store(self._partitions[partition])[1]

    def note_current(self, as_of_ms: int) -> None:
        """Note that everything written before `as_of_ms` is folded. Call it regularly while the log answers."""
        if abs(as_of_ms - self._current) >= NOTE_EVERY_MS:
            self._current = as_of_ms
            self.store.write({_CURRENT: b"%d" % as_of_ms})

    def _is_too_old(self) -> bool:
        """Whether it was offline too long. True also for a time in the future: a clock was wrong, so its age is unknown."""
        return not -TOO_OLD_MS <= self._clock() - self._current <= TOO_OLD_MS

    # ---- the fold

    def fold(self, tp: TopicPartition, records: Sequence[Record]) -> list[bytes]:
        """Fold those records of one partition that are new, in one write; returns their keys. Raises `ContactsTooOld`."""
        if self._is_too_old():
            raise ContactsTooOld("contacts are older than erasures are kept; a restart reads them again")
        rows = self._rows((record.key or b"", record.value, record.timestamp_ms) for record in records)
        last = records[-1]
        rows[_position_key(tp)] = _PLACE.pack(last.offset + 1, last.timestamp_ms)
        self.store.write(rows)
        self._positions[tp] = last.offset + 1
        return [record.key or b"" for record in records]

    def reached(self, tp: TopicPartition, position: int) -> None:
        """Note that there is no record between the last folded one and `position`: compaction leaves gaps."""
        if position > self._positions[tp]:
            at = self._position_in_store(tp)[1]
            self.store.write({_position_key(tp): _PLACE.pack(position, at)})
            self._positions[tp] = position

    def put(self, records: Iterable[tuple[bytes, bytes | None, int]]) -> None:
        """Apply (key, value, time) of durable records immediately, before the fold reaches them."""
        if rows := self._rows(records):
            self.store.write(rows)

    def _rows(self, records: Iterable[tuple[bytes, bytes | None, int]]) -> Rows:
        rows: Rows = {}

        def get(key: bytes) -> bytes | None:
            return rows[key] if key in rows else self.store.get(key)

        for key, value, written_at in records:
            if (erased := erased_contact(key)) is not None:
                rows[_ERASED + erased] = b""
                if (raw := get(erased)) is not None:  # its tombstone comes next, or is still to be written
                    self._replace(rows, erased, raw, KeptContact(_decode(raw).written_at, None))
            elif is_erasure(key):
                rows |= _erasure_rows(value, written_at, get)
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
            rows |= dict.fromkeys(_index_keys(_decode(raw), key))
            if kept is None or kept.contact is None:
                rows[_UNPURGED + key] = b"%d" % time.time_ns()  # distinguishes this deletion from a later one
        rows[key] = None if kept is None else _encode(kept)
        if kept is not None:
            rows |= dict.fromkeys(_index_keys(kept, key), b"")

    def _readable(self, value: bytes) -> OrderContact | None:
        try:
            return self._codec.decode(value)
        except DecodeError as exc:
            log.error("undecodable contact", reason=exc.reason)
            return None

    @property
    def has_late(self) -> bool:
        """Whether `late` has keys to return."""
        return bool(self._late)

    def late(self) -> list[bytes]:
        """Keys of contacts written after their erasure, since the last call: the log still has them."""
        late, self._late = self._late, []
        return late

    # ---- reads

    def contact(self, key: bytes) -> OrderContact | None:
        """The contact with this key (`ledger.contacts.contact_key`); None if it is unknown, erased or undecodable."""
        raw = self.store.get(key)
        return _decode(raw).contact if raw else None

    def written_at(self, key: bytes) -> int | None:
        """When the record with this key was written, ms since the epoch; None if the log has none."""
        raw = self.store.get(key)
        return _decode(raw).written_at if raw else None

    def is_erased(self, key: bytes) -> bool:
        """Whether the contact, or note, with this key is permanently erased."""
        return self.store.get(_ERASED + key) is not None

    def note(self, order_id: str, note_id: str) -> Note | None:
        """The note with this id, if the order has it."""
        contact = self.contact(note_key(order_id, note_id))
        return contact.note if contact else None

    def notes(self, order_id: str) -> list[tuple[str, Note]]:
        """(id, note) of all notes about an order, oldest first."""
        notes = []
        for key, row in self.store.scan(note_key(order_id, "")):
            contact, note_id = _decode(row).contact, note_id_of(key)
            if contact is not None and contact.note is not None and note_id is not None:
                notes.append((note_id, contact.note))
        return sorted(notes, key=lambda row: (row[1].at, row[0]))

    def is_order_erased(self, order_id: str) -> bool:
        """Whether a contact of this order, or a note, is permanently erased."""
        return next(self.store.scan(_ERASED + order_id.encode() + b"/"), None) is not None

    def keys(self, after: bytes, most: int) -> Steps[list[bytes]]:
        """Keys of all contacts in the log after `after`, at most `most`."""
        return self._keys(b"", max(after + b"\0", _FIRST_KEY), most)

    def keys_of(self, customer_id: str, after: bytes, most: int) -> Steps[list[bytes]]:
        """Keys of a customer's contacts after `after`. Customer "": undecodable contacts, and those written too late."""
        prefix = _CUSTOMER + customer_id.encode() + b"\0"
        return self._keys(prefix, prefix + after + b"\0" if after else prefix, most)

    def _keys(self, prefix: bytes, start: bytes, most: int) -> Steps[list[bytes]]:
        suffixes: list[bytes] = []
        keys = SparseKeys(self.store, prefix, start, _LEAD, _LETTER)
        while len(suffixes) < most and (key := (yield from keys.following())) is not None:
            suffixes.append(key[len(prefix) :])
            yield
        return suffixes

    # ---- erasures

    def last_erasure(self, customer_id: str) -> Erasure | None:
        """The customer's erasure in progress, else the last finished one, according to the fold."""
        for row in self.store.get_many([_IN_PROGRESS + customer_id.encode(), _FINISHED + customer_id.encode()]):
            if row is not None:
                return _decode_erasure(row).erasure
        return None

    def erasures_in_progress(self) -> list[KeptErasure]:
        return [_decode_erasure(row) for _, row in self.store.scan(_IN_PROGRESS)]

    def has_order(self, order_id: str) -> bool:
        """Whether there is a contact of this order."""
        prefix = order_id.encode() + b"/"
        return any(_decode(row).contact is not None for _, row in self.store.scan(prefix))

    # ---- deleted contacts must also vanish from the disk

    def unpurged(self) -> Steps[dict[bytes, bytes]]:
        """Rows of contacts deleted since the last purge, or some of them. For `purge`, and then for `purged`."""
        rows: dict[bytes, bytes] = {}
        keys = SparseKeys(self.store, _UNPURGED, b"", _LEAD, _LETTER)
        while len(rows) < MOST_PURGED and (row := (yield from keys.following())) is not None:
            rows[row] = self.store.get(row) or b""
            yield
        return rows

    def purge(self, unpurged: dict[bytes, bytes], stopping: Callable[[], bool]) -> bool:
        """Rewrite the files that may contain deleted contacts; returns whether it finished. Takes seconds, in any thread."""
        keys = [row[len(_UNPURGED) :] for row in unpurged] if len(unpurged) <= PURGE_KEYS else None
        return self.store.purge(keys, stopping)

    def purged(self, unpurged: dict[bytes, bytes]) -> Steps[None]:
        """Call this after `purge` has finished: rows of later deletions remain."""
        rows = iter(unpurged.items())
        while some := dict(islice(rows, _SOME_ROWS)):
            still = self.store.get_many(list(some))
            self.store.write({row: None for (row, at), now in zip(some.items(), still, strict=True) if at == now})
            yield

    def close(self) -> None:
        self.store.close()


def _erasure_rows(value: bytes | None, written_at: int, get: Callable[[bytes], bytes | None]) -> Rows:
    """A record of an earlier request does not end a later one: the node that wrote it may not have known of that."""
    try:
        erasure = decode_erasure(value or b"")
    except DecodeError as exc:
        log.error("undecodable erasure", reason=exc.reason)
        return {}
    in_progress, finished = _IN_PROGRESS + erasure.customer_id.encode(), _FINISHED + erasure.customer_id.encode()
    if (raw := get(in_progress)) is not None and _decode_erasure(raw).erasure.requested_at > erasure.requested_at:
        return {}
    row = _encode(KeptErasure(written_at, erasure))
    return {in_progress: row, finished: None} if erasure.done_at is None else {in_progress: None, finished: row}


def _index_keys(kept: KeptContact, key: bytes) -> list[bytes]:
    contact = kept.contact
    keys = [_CUSTOMER + (contact.customer_id if contact else "").encode() + b"\0" + key]
    if contact is not None and contact.email_digest is not None:
        keys.append(email_prefix(contact.email_digest) + (_FAR - kept.written_at).to_bytes(8, "big") + key)
    return keys


def log_id_in(store: Store) -> bytes:
    """The id of the topic from which contacts were folded into `store`; empty if unknown. Changes nothing."""
    return store.get(_LOG) or b""


def email_prefix(digest: bytes) -> bytes:
    """Prefix of the keys of the contacts of an e-mail address. The place follows: see `place_of_contact`."""
    return _EMAIL + digest.hex().encode() + b"/"


def place_of_contact(suffix: bytes) -> bytes:
    """What follows `email_prefix` in a key, as a place in a list of orders: 8 bytes of time, then the order id."""
    return suffix[:8] + suffix[8:].split(b"/", 1)[0]


def _position_key(tp: TopicPartition) -> bytes:
    return _POSITION + tp.topic.encode() + b"/%d" % tp.partition
