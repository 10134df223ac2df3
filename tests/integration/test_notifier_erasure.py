"""Personal data that the notifier keeps goes with the contacts."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from commands.notifier import followed_contacts
from commands.notifier.email_door import EmlDoor
from commands.notifier.followed_contacts import FollowedContacts
from commands.notifier.loop import GIVEN_UP
from ledger import events as e
from ledger.contact_rows import TOO_OLD_MS, KeptContacts
from ledger.contacts import NOBODY, Address, Note, OrderContact, contact_key, erased_key, note_key, note_of
from ledger.log import TopicPartition
from ledger.memory.store import MemoryStore
from ledger.schemas.codec import contact_codec
from tests.support.patience import until
from tests.support.post import DIGEST, MailServer, Post, running


def test_contacts_of_a_new_topic_are_read_from_their_start(post: Post, mails: MailServer) -> None:
    post.contact("ord_1")
    kept = Kept()  # also when Kafka makes the notifier start over
    KeptContacts(kept, post.topics.contacts, 2).reached(TopicPartition(post.topics.contacts, 0), 1_000)  # of the previous topic
    with running(post, contacts=kept):
        post.event("ord_1", e.ORDER_PLACED)
        until(lambda: mails.mails)
    assert mails.subjects() == ["ord_1"]


def test_an_erased_contact_gets_no_message(post: Post, mails: MailServer) -> None:
    with running(post):
        post.contact("ord_1")
        post.contact("ord_1", gone=True)
        post.event("ord_1", e.ORDER_PLACED)
        post.placed("ord_2", "bob@example.org")
        until(lambda: mails.subjects("bob@example.org"))
    assert mails.subjects() == []


def test_a_message_that_waits_to_be_sent_goes_with_its_contact(post: Post, mails: MailServer) -> None:
    mails.refuse = {"busy@example.org": "451 try later"}
    with running(post) as notifier:
        post.placed("ord_1", "busy@example.org")
        until(lambda: notifier._parked)
        post.erase("ord_1")
        until(lambda: not notifier._parked)
        mails.refuse.clear()
        post.placed("ord_2")
        until(lambda: mails.mails)
        until(post.at_end)
        assert notifier.with_fate(GIVEN_UP) == 0
    assert mails.subjects("busy@example.org") == []


@pytest.mark.parametrize("for_good", [True, False])
def test_erasures_while_no_notifier_ran_are_known_before_anything_is_sent(post: Post, mails: MailServer, for_good: bool) -> None:
    kept = Kept()
    with running(post, contacts=kept):
        post.placed("ord_1")
        until(lambda: mails.mails)
        until(post.at_end)
    post.event("ord_1", e.ORDER_SHIPPED, shipment=e.Shipment("DHL", "0034"), status="shipped")
    post.erase("ord_1") if for_good else post.contact("ord_1", gone=True)
    with running(post, contacts=kept):
        post.placed("ord_2", "bob@example.org")
        until(lambda: mails.subjects("bob@example.org"))
    assert mails.subjects() == ["ord_1"]
    assert kept.customers() == {"bob@example.org"}


def test_a_notifier_away_for_longer_than_the_log_keeps_erasures_reads_contacts_again(post: Post, mails: MailServer) -> None:
    kept = Kept()
    contacts = KeptContacts(kept, post.topics.contacts, 2)
    contact = OrderContact("c-1", "Ada", "ada@example.org", Address("1 Mill Lane", "Leeds", "LS1", "GB"))
    contacts.put([(contact_key("ord_1", DIGEST), contact_codec().encode(contact), 1)])  # its tombstone is compacted away
    contacts.note_current(time.time_ns() // 1_000_000 - TOO_OLD_MS - 60_000)
    with running(post, contacts=kept):
        post.event("ord_1", e.ORDER_PLACED)
        post.placed("ord_2", "bob@example.org")
        until(lambda: mails.subjects("bob@example.org"))
    assert mails.subjects() == []
    assert kept.customers() == {"bob@example.org"}


def test_an_erasure_reaches_contacts_of_partitions_that_another_notifier_has(post: Post, mails: MailServer) -> None:
    kept = Kept()
    with running(post, contacts=kept):
        post.contact("ord_1", "eve@example.org", partition=1)
        until(lambda: kept.customers() == {"eve@example.org"})
        post.erase("ord_1", partition=1)
        until(lambda: kept.customers() == set())
    assert mails.mails == []


class Kept(MemoryStore):
    """Contacts that outlive their notifier, which closes them."""

    def __init__(self) -> None:
        super().__init__()
        self._one_at_a_time = threading.Lock()

    def write(self, rows: Mapping[bytes, bytes | None]) -> None:
        with self._one_at_a_time:
            super().write(rows)

    def close(self) -> None:
        pass

    def customers(self) -> set[str]:
        """The customers of its contacts."""
        with self._one_at_a_time:
            return self._customers()

    def _customers(self) -> set[str]:
        rows = [row for key, row in self.scan(b"") if not key.startswith(b"\0")]
        return {
            address for address in ("ada@example.org", "bob@example.org", "eve@example.org") if address.encode() in b"".join(rows)
        }


def test_messages_that_a_door_keeps_go_with_their_contact(post: Post, tmp_path: Path) -> None:
    def files() -> set[str]:
        return {path.name for path in tmp_path.iterdir()}

    doors = {"email": EmlDoor(tmp_path, "shop@example.org")}
    with running(post, doors=doors):
        post.placed("ord_1")
        post.placed("ord_1-1")
        post.event("ord_1", e.ORDER_CANCELLED, cancel=e.Cancel("other", "admin"), status="cancelled")
        until(lambda: files() == {"ord_1-1-email.eml", "ord_1-2-email.eml", "ord_1-1-1-email.eml"})
        (tmp_path / ".ord_1-2-email.part").write_text("half a message")
        (tmp_path / "notes.txt").write_text("not ours")
        post.erase("ord_1")
        until(lambda: files() == {"ord_1-1-1-email.eml", "notes.txt"})
    post.erase("ord_1-1")
    (tmp_path / "another-1-email.eml").write_text("of another ledger")
    with running(post, doors=doors):
        until(lambda: files() == {"another-1-email.eml", "notes.txt"})


def test_messages_that_a_door_keeps_stay_when_a_note_about_their_order_is_deleted(post: Post, tmp_path: Path) -> None:
    def files() -> set[str]:
        return {path.name for path in tmp_path.iterdir()}

    note, nobody = note_key("ord_1", "n"), contact_codec().encode(NOBODY)
    with running(post, doors={"email": EmlDoor(tmp_path, "shop@example.org")}):
        post.placed("ord_1")
        post.placed("ord_2")
        until(lambda: files() == {"ord_1-1-email.eml", "ord_2-1-email.eml"})
        post.write(note, contact_codec().encode(note_of("c-1", Note("Call back", "admin:desk", 1))), 0)
        post.write(erased_key(note), nobody, 0)
        post.write(note, None, 0)
        post.erase("ord_2")
        until(lambda: files() == {"ord_1-1-email.eml"})


def test_messages_go_out_while_contacts_keep_arriving(post: Post, mails: MailServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """They do so for a minute when a customer with many orders is erased."""
    monkeypatch.setattr(followed_contacts, "ARRIVING_S", 0.05)
    fold = FollowedContacts._fold
    monkeypatch.setattr(FollowedContacts, "_fold", lambda self, timeout_s: fold(self, timeout_s) or timeout_s == 0)
    with running(post):
        post.placed("ord_1")
        until(lambda: len(mails.mails) == 1)


def test_messages_that_a_door_keeps_are_searched_once_for_many_erasures(post: Post) -> None:
    class Counting(EmlDoor):
        searches = 0

        def forget(self, order_ids: Collection[str]) -> None:
            self.searches += 1
            super().forget(order_ids)

    door = Counting(Path("no such folder"), "Shop <shop@example.org>")
    for number in range(500):
        post.contact(f"ord_{number}")
        post.erase(f"ord_{number}")
    with running(post, doors={"email": door}):
        assert 0 < door.searches <= 2, "one for new erasures, one for earlier messages"
