"""Which contacts a restored ledger has: those of its orders, except of erased people."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledger.contacts import erased_key
from ledger.erasures import decode_erasure, erasure_key
from tests.support.backed_up import NAME, BackedUp, contacts_in, records_in
from tests.support.one_log import TOPICS


@pytest.fixture
def backed(tmp_path: Path) -> BackedUp:
    return BackedUp(tmp_path / "backup")


def test_a_contact_that_was_erased_after_its_backup_does_not_come_back(backed: BackedUp) -> None:
    erased, kept = backed.orders("first", 2)
    keys = backed.contact(erased), backed.contact(kept)
    backed.backup()
    backed.mark_erased(keys[0])
    backed.backup()
    proven, log = backed.restore()
    assert set(contacts_in(log)) == {keys[1], erased_key(keys[0])}
    assert proven.fates["contacts"] == 1


@pytest.mark.parametrize("finished", [True, False])
def test_an_erasure_that_is_newer_than_a_contact_keeps_it_out_also_without_a_mark(backed: BackedUp, finished: bool) -> None:
    """The ends of partitions are not read in one instant, so a backup can have an erasure without all of its marks."""
    mine, others = backed.orders("mine", 2, "c-gone"), backed.orders("others", 2, "c-2")
    for order in (*mine, *others):
        backed.contact(order)
    note = backed.note(mine[0])
    backed.backup()
    backed.erasure("c-gone", backed.clock_ms + 5, backed.clock_ms + 9 if finished else None)
    backed.backup()
    proven, log = backed.restore()
    contacts = contacts_in(log)
    assert proven.fates["erased"] == 3
    assert note not in contacts
    assert not [key for key, value in contacts.items() if key.startswith(mine[0].order_id.encode()) and NAME.encode() in value]
    assert [key for key in contacts if key.endswith(b"/erased")]  # a retry of the order does not bring it back
    assert (decode_erasure(contacts[erasure_key("c-gone")] or b"").done_at is not None) == finished
    assert len([key for key in contacts if key.split(b"/")[0].decode() in {order.order_id for order in others}]) == 2


def test_a_contact_written_after_a_finished_erasure_comes_back(backed: BackedUp) -> None:
    order = backed.orders("new", 1)[0]
    backed.erasure("c-1", backed.clock_ms - 9, backed.clock_ms - 5)
    key = backed.contact(order)
    backed.backup()
    assert key in contacts_in(backed.restore()[1])


def test_an_unreadable_erasure_keeps_its_customer_out(backed: BackedUp) -> None:
    key = backed.contact(backed.orders("first", 1)[0])
    backed.write(erasure_key("c-1"), b"junk")
    backed.backup()
    assert key not in contacts_in(backed.restore()[1])


def test_customers_erased_after_the_last_backup_are_named_at_the_restore(backed: BackedUp) -> None:
    gone, kept = backed.orders("gone", 1, "c-gone")[0], backed.orders("kept", 1, "c-2")[0]
    keys = backed.contact(gone), backed.contact(kept)
    backed.backup()
    _, log = backed.restore(also_erased=["c-gone"])
    contacts = contacts_in(log)
    assert set(contacts) == {erased_key(keys[0]), keys[1], erasure_key("c-gone")}
    promised = decode_erasure(contacts[erasure_key("c-gone")] or b"")
    assert (promised.node, promised.done_at) == ("restored", None)  # `serve` finishes it, and records it in the audit


def test_a_contact_without_its_order_does_not_come_back(backed: BackedUp) -> None:
    placed = backed.orders("first", 1)[0]
    key = backed.contact(placed)
    nobodys = f"{placed.order_id}/{'ab' * 32}".encode()  # of an attempt that no event names
    for other in (b"ord_unknown/" + b"00" * 32, nobodys, b"ord_unknown/note-1"):
        backed.write(other, b"\0")
    backed.backup()
    proven, log = backed.restore()
    assert set(contacts_in(log)) == {key}
    assert proven.fates["without_order"] == 3


def test_notes_and_the_last_value_of_a_key_come_back(backed: BackedUp) -> None:
    order = backed.orders("first", 1)[0]
    key, note = backed.contact(order), backed.note(order, "first")
    backed.backup()
    backed.contact(order, at=backed.clock_ms + 5)
    backed.note(order, "last")
    backed.backup()
    proven, log = backed.restore()
    assert contacts_in(log) == contacts_in(backed.before.log)
    assert {record.key for record in records_in(log, TOPICS.contacts)} == {key, note}
    assert [r.timestamp_ms for r in records_in(log, TOPICS.contacts) if r.key == key] == [backed.clock_ms + 5]
    assert (proven.fates["contacts"], proven.fates["notes"], proven.fates["superseded"]) == (1, 1, 2)
