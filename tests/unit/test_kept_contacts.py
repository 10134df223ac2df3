"""The fold of contacts: what is kept of each, its customer, what is erased for good, and when the fold starts over."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from commands.idempotency import order_id_of
from ledger import contact_rows as kept_contacts
from ledger import sparse_keys
from ledger.contact_rows import NOTE_EVERY_MS, TOO_OLD_MS, ContactsTooOld, KeptContacts
from ledger.contacts import BARRIER_KEY, NOBODY, Address, OrderContact, contact_key, erased_contact, erased_key
from ledger.erasures import Erasure, KeptErasure, encode_erasure, erasure_key
from ledger.log import Record, TopicPartition
from ledger.memory.store import MemoryStore
from ledger.rocks_store import RocksStore
from ledger.schemas.codec import contact_codec
from ledger.store import Store
from ledger.topics import CONTACT_TOMBSTONES_MS, DAY_MS, Topics
from ledger.turns import in_one_go

TOPIC = Topics().contacts
HERE = TopicPartition(TOPIC, 0)
NOW = 1_900_000_000_000
A, B = contact_key("ord_a", b"a" * 32), contact_key("ord_b", b"b" * 32)
encode = contact_codec().encode
MARK = encode(NOBODY)
LOG_ID = bytes(range(16))


def contact(customer: str = "ada", name: str = "Ada") -> OrderContact:
    return OrderContact(customer, name, "ada@example.org", Address("1 Mill Lane", "Leeds", "LS1 1AA", "GB"))


ADA = encode(contact())


class Fold:
    """Contacts in memory, a clock that stands still, and the topic they are folded from."""

    def __init__(self, store: Store | None = None) -> None:
        self.store, self.now, self.offset = store or MemoryStore(), NOW, 0
        self.contacts = self.open()

    def open(self) -> KeptContacts:
        self.contacts = KeptContacts(self.store, TOPIC, 1, lambda: self.now)
        return self.contacts

    def take(self, *records: tuple[bytes, bytes | None]) -> None:
        """Fold these (key, value), each at the next offset."""
        batch = [Record(TOPIC, 0, self.offset + n, NOW + n, key, value) for n, (key, value) in enumerate(records)]
        self.offset += len(batch)
        self.contacts.fold(HERE, batch)

    def of(self, customer: str, most: int = 100) -> list[bytes]:
        return in_one_go(self.contacts.keys_of(customer, b"", most))


def test_the_last_record_of_a_key_is_kept_with_its_time_and_its_customer() -> None:
    fold = Fold()
    fold.take((A, encode(contact(name="Old"))), (A, ADA), (B, encode(contact("bob", "Bob"))))
    contacts = fold.contacts
    assert (contacts.contact(A), contacts.written_at(A), contacts.position(HERE)) == (contact(), NOW + 1, 3)
    assert (fold.of("ada"), fold.of("bob"), fold.of("eve"), fold.of("ad")) == ([A], [B], [], [])
    assert in_one_go(contacts.keys(b"", 100)) == [A, B]
    assert contacts.has_order("ord_a")
    assert not contacts.has_order("ord_")
    fold.take((A, None))
    assert (contacts.contact(A), contacts.written_at(A), fold.of("ada"), in_one_go(contacts.keys(b"", 100))) == (
        None,
        None,
        [],
        [B],
    )
    fold.take((A, ADA))
    assert (contacts.contact(A), fold.of("ada")) == (contact(), [A]), "a tombstone alone is not for good"


def test_a_contact_that_changes_hands_has_one_customer() -> None:
    fold = Fold()
    fold.take((A, ADA), (A, encode(contact("bob"))))
    assert (fold.of("ada"), fold.of("bob")) == ([], [A])


def test_an_erased_contact_is_not_kept_again_whatever_is_written() -> None:
    fold = Fold()
    fold.take((A, ADA), (erased_key(A), MARK), (A, None))
    assert (fold.contacts.contact(A), fold.contacts.is_erased(A), fold.contacts.is_order_erased("ord_a")) == (None, True, True)
    assert not fold.contacts.has_late
    fold.take((A, ADA))
    assert (fold.contacts.contact(A), fold.of("ada"), fold.of("")) == (None, [], [A])
    assert fold.contacts.written_at(A) is not None, "the log has it, so it must be deleted there"
    assert (fold.contacts.late(), fold.contacts.late()) == ([A], [])
    assert b"Ada" not in b"".join(value for _, value in fold.store.scan(b""))
    fold.take((A, None))
    assert (fold.contacts.written_at(A), fold.of("")) == (None, [])
    fold.open()
    assert fold.contacts.is_erased(A), "for ever"


def test_an_erasure_without_its_tombstone_leaves_nothing_to_read_but_something_to_delete() -> None:
    fold = Fold()
    fold.take((A, ADA), (erased_key(A), MARK))
    assert (fold.contacts.contact(A), fold.of("ada"), in_one_go(fold.contacts.keys(b"", 100))) == (None, [], [A])
    assert b"Ada" not in b"".join(value for _, value in fold.store.scan(b""))


def test_junk_and_barriers_are_skipped() -> None:
    fold = Fold()
    fold.take((A, b"junk"), (BARRIER_KEY, None), (b"", b"x"), (b"\0version", ADA), (BARRIER_KEY, ADA))
    assert (fold.contacts.contact(A), fold.of(""), in_one_go(fold.contacts.keys(b"", 100))) == (None, [A], [A])
    assert fold.contacts.position(HERE) == 5


def test_contacts_put_ahead_of_the_fold_end_as_the_fold_does() -> None:
    fold = Fold()
    fold.contacts.put([(A, ADA, NOW)])
    assert (fold.contacts.contact(A), fold.contacts.position(HERE)) == (contact(), 0)
    fold.contacts.put([(erased_key(A), MARK, NOW), (A, None, NOW)])
    fold.take((A, ADA), (erased_key(A), MARK), (A, None))
    assert (fold.contacts.contact(A), in_one_go(fold.contacts.keys(b"", 100))) == (None, [])


keys = st.sampled_from([A, B, erased_key(A), erased_key(B), BARRIER_KEY])
values = st.sampled_from([ADA, encode(contact("bob", "Bob")), b"junk", None])


@given(st.lists(st.tuples(keys, values), max_size=12), st.integers(1, 5))
def test_the_fold_is_what_the_records_say_however_they_are_cut(records: list[tuple[bytes, bytes | None]], size: int) -> None:
    fold = Fold()
    records = [(key, MARK if erased_contact(key) else None if key == BARRIER_KEY else value) for key, value in records]
    for n in range(0, len(records), size):
        fold.take(*records[n : n + size])
    log: dict[bytes, bytes | None] = {}
    erased: set[bytes] = set()
    for key, value in records:  # the model: a record at a time
        if (of := erased_contact(key)) is not None:
            erased.add(of)
        elif key != BARRIER_KEY:
            log[key] = value
    readable = {k: v for k, v in log.items() if v not in (None, b"junk") and k not in erased}
    kept = {key: fold.contacts.contact(key) for key in (A, B)}
    assert {key: encode(c) for key, c in kept.items() if c is not None} == readable
    assert set(in_one_go(fold.contacts.keys(b"", 100))) == {key for key, value in log.items() if value is not None}
    for customer in ("ada", "bob"):
        assert fold.of(customer) == sorted(key for key, c in kept.items() if c is not None and c.customer_id == customer)
    assert set(fold.of("")) == {key for key, value in log.items() if value is not None and kept[key] is None}


# ---- erasures -------------------------------------------------------------------------------------------------------


def test_an_erasure_is_in_progress_until_its_record_says_that_it_is_done() -> None:
    fold, running, done = Fold(), Erasure("ada", NOW, "one"), Erasure("ada", NOW, "one", 7, NOW + 9)
    for erasure, in_progress in ((running, [KeptErasure(NOW, running)]), (done, []), (running, [KeptErasure(NOW, running)])):
        fold.take((erasure_key("ada"), encode_erasure(erasure)))
        assert fold.contacts.last_erasure("ada") == erasure
        assert fold.contacts.erasures_in_progress() == in_progress
        assert fold.contacts.last_erasure("ad") is None
    assert in_one_go(fold.contacts.keys(b"", 100)) == [], "no contact of anybody"


def test_a_record_of_an_earlier_erasure_does_not_end_a_later_one() -> None:
    first, second = Erasure("ada", NOW, "one"), Erasure("ada", NOW + 1, "two")
    late = [replace(first, contacts_deleted=5), replace(first, done_at=NOW + 9)]
    fold = Fold()
    for erasure in (first, second, *late):
        fold.take((erasure_key("ada"), encode_erasure(erasure)))
    assert fold.contacts.last_erasure("ada") == second
    together = Fold()
    together.take(*((erasure_key("ada"), encode_erasure(erasure)) for erasure in (first, second, *late)))
    assert together.contacts.last_erasure("ada") == second
    assert [kept.erasure for kept in together.contacts.erasures_in_progress()] == [second]
    fold.take((erasure_key("ada"), encode_erasure(done := replace(second, done_at=NOW + 9))))
    assert (fold.contacts.last_erasure("ada"), fold.contacts.erasures_in_progress()) == (done, [])


@pytest.mark.parametrize("value", [None, b"", b"junk", MARK, ADA])
def test_an_erasure_that_cannot_be_read_changes_nothing(value: bytes | None) -> None:
    fold = Fold()
    fold.take((erasure_key("ada"), value))
    assert (fold.contacts.last_erasure("ada"), fold.contacts.erasures_in_progress()) == (None, [])
    assert in_one_go(fold.contacts.keys(b"", 100)) == []
    assert fold.contacts.position(HERE) == 1


# ---- starting over --------------------------------------------------------------------------------------------------


def test_a_fold_resumes_within_half_the_lifetime_of_tombstones() -> None:
    assert TOO_OLD_MS * 2 == CONTACT_TOMBSTONES_MS == 7 * DAY_MS
    fold = Fold()
    fold.take((A, ADA))
    fold.now += TOO_OLD_MS
    fold.open()
    assert (fold.contacts.position(HERE), fold.contacts.contact(A)) == (1, contact())


@pytest.mark.parametrize("away_ms", [TOO_OLD_MS + 1, 100 * TOO_OLD_MS, -TOO_OLD_MS - 1])
def test_a_fold_that_is_older_is_discarded(away_ms: int) -> None:
    fold = Fold()
    fold.take((A, ADA), (erased_key(B), MARK))
    fold.now += away_ms
    fold.open()
    assert (fold.contacts.position(HERE), fold.contacts.contact(A), fold.of("ada")) == (0, None, [])
    assert b"Ada" not in b"".join(value for _, value in fold.store.scan(b""))
    fold.offset = 0
    fold.take((B, ADA))
    assert fold.contacts.contact(B) == contact()


def test_a_fold_that_is_noted_as_current_is_kept() -> None:
    fold = Fold()
    fold.take((A, ADA))
    for _ in range(5):
        fold.now += TOO_OLD_MS
        fold.contacts.note_current(fold.now - NOTE_EVERY_MS)
        fold.open()
    assert fold.contacts.contact(A) == contact()


def test_a_fold_that_is_half_discarded_is_discarded_whole_at_the_next_start() -> None:
    fold = Fold()
    fold.take((A, ADA), (B, ADA))
    fold.store.write({b"\0anew": b"", A: None})  # as a kill in the middle would leave it
    fold.open()
    assert (fold.contacts.position(HERE), in_one_go(fold.contacts.keys(b"", 100))) == (0, [])
    assert fold.store.get(b"\0anew") is None


def test_a_running_fold_that_comes_back_too_late_takes_nothing_and_starts_over_when_it_is_opened() -> None:
    fold = Fold()
    fold.take((A, ADA))
    fold.now += TOO_OLD_MS + 1
    with pytest.raises(ContactsTooOld):
        fold.take((B, ADA))
    fold.open()
    assert (fold.contacts.position(HERE), in_one_go(fold.contacts.keys(b"", 100))) == (0, [])


def test_rows_of_another_format_are_folded_again() -> None:
    store = MemoryStore()
    store.write({A: b"as an earlier program kept it", b"\0position/" + TOPIC.encode() + b"/0": bytes(7) + b"\7" + bytes(8)})
    contacts = KeptContacts(store, TOPIC, 1, lambda: NOW)
    assert (contacts.position(HERE), in_one_go(contacts.keys(b"", 100))) == (0, [])


def test_a_topic_that_ends_before_the_fold_is_another_topic() -> None:
    fold = Fold()
    fold.take((A, ADA))
    fold.contacts.follow({HERE: 1, TopicPartition("other", 7): 0}, LOG_ID)
    assert fold.contacts.contact(A) == contact()
    fold.contacts.follow({HERE: 0}, LOG_ID)
    assert (fold.contacts.position(HERE), fold.contacts.contact(A)) == (0, None)


def test_a_topic_with_another_id_is_another_topic_however_much_is_in_it() -> None:
    fold = Fold()
    fold.contacts.follow({HERE: 0}, LOG_ID)
    fold.take((A, ADA))
    fold.open().follow({HERE: 1}, LOG_ID)
    assert fold.contacts.contact(A) == contact()
    fold.open().follow({HERE: 1}, bytes(16))
    assert (fold.contacts.position(HERE), fold.contacts.contact(A), fold.contacts.log_id) == (0, None, bytes(16))


def test_contacts_of_an_earlier_version_get_the_id_of_the_topic() -> None:
    fold = Fold()
    fold.take((A, ADA))
    assert fold.contacts.log_id == b""
    fold.contacts.follow({HERE: 1}, LOG_ID)
    assert (fold.contacts.contact(A), fold.open().log_id) == (contact(), LOG_ID)


# ---- removed from the files -----------------------------------------------------------------------------------------


def test_a_deleted_contact_waits_to_be_purged_and_one_replaced_by_a_retry_does_not() -> None:
    fold = Fold()
    fold.take((A, ADA), (A, ADA), (B, ADA))
    assert in_one_go(fold.contacts.unpurged()) == {}
    fold.take((A, None), (erased_key(B), MARK))
    fold.open()
    unpurged = in_one_go(fold.contacts.unpurged())
    assert [row.removeprefix(b"\0unpurged/") for row in unpurged] == [A, B]
    assert fold.contacts.purge(unpurged, lambda: False)
    fold.take((A, ADA), (A, None))  # meanwhile
    in_one_go(fold.contacts.purged(unpurged))
    assert [row.removeprefix(b"\0unpurged/") for row in in_one_go(fold.contacts.unpurged())] == [A]


def test_leftovers_of_many_deletions_are_purged_and_passed_over_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk: in memory nothing is left of deleted rows."""
    monkeypatch.setattr(kept_contacts, "PURGE_KEYS", 100)
    monkeypatch.setattr(sparse_keys, "MOST_DELETED", 20)
    fold = Fold(RocksStore(tmp_path / "contacts"))
    try:
        keys = [contact_key(order_id_of(f"cmd_{n}"), bytes(32)) for n in range(1_000)]
        other = [contact_key(f"{name}", bytes(32)) for name in ("a", "ord_", "ord_~", "z")]
        fold.take(*((key, ADA) for key in keys + other))
        assert fold.of("ada", 2_000) == sorted(keys + other)
        fold.take(*((key, None) for key in keys))
        steps, taken = fold.contacts.keys_of("ada", b"", 2_000), 0
        while True:
            try:
                next(steps)
            except StopIteration as done:
                keys_left = done.value
                break
            taken += 1
        assert keys_left == sorted(other)
        assert taken > 1_000 // 20, "one step passed over more than it may"
        unpurged = in_one_go(fold.contacts.unpurged())
        assert len(unpurged) == 1_000
        assert fold.contacts.purge(unpurged, lambda: False)
        in_one_go(fold.contacts.purged(unpurged))
        assert in_one_go(fold.contacts.unpurged()) == {}
        assert fold.of("ada", 2_000) == sorted(other)
    finally:
        fold.contacts.close()
