"""Every store says which version of the fold wrote it. One of another version, earlier or later, is not used: it is folded again.

So an upgrade in place and a downgrade in place both find stores that are theirs.
"""

from __future__ import annotations

import pytest

from commands.processor import desk as desks
from commands.processor.desk import Desk
from ledger import contact_rows
from ledger.contact_rows import KeptContacts
from ledger.contacts import Address, OrderContact, contact_key
from ledger.log import Record, TopicPartition
from ledger.memory.store import MemoryStore
from ledger.schemas.codec import contact_codec
from ledger.topics import Topics
from projections.databases import Databases, OtherReadModels
from projections.read_models import VERSION
from tests.support.desk_line import COMMAND_LOG, PAY, PLACE, a_line, rows_of

pytestmark = pytest.mark.usefixtures("logged")
TOPICS = Topics()
CONTACTS = TopicPartition(TOPICS.contacts, 0)
KEY = contact_key("ord_1", bytes(32))
ADA = contact_codec().encode(OrderContact("c-1", "Ada", "ada@example.org", Address("1 Mill Lane", "Leeds", "LS1 1AA", "GB")))

both_ways = pytest.mark.parametrize("step", [-1, 1], ids=["an earlier version", "a later version"])


@both_ways
def test_the_desk_of_a_partition_is_folded_again(step: int) -> None:
    line = a_line(PLACE, PAY)
    expected, _ = rows_of(line.desk)
    line.store.write(
        {b"0/version": b"%d" % (int(desks.VERSION) + step), b"0/o/ord_1": b"of another program", b"0/z/": b"unknown"}
    )
    again = Desk(line.store, 0, 1, TOPICS, COMMAND_LOG)
    assert (again.meta.events, again.meta.refusals, again.order("ord_1")) == (0, 0, None)
    line.take_over()
    assert rows_of(line.desk)[0] == expected


@both_ways
def test_read_models_are_refused_so_that_a_new_generation_is_built(step: int) -> None:
    store = MemoryStore()
    Databases(lambda name: store, TOPICS, [0], None)
    store.write({b"\0version": b"%d" % (VERSION + step)})
    with pytest.raises(OtherReadModels, match=f"version {VERSION + step}, this program has {VERSION}"):
        Databases(lambda name: store, TOPICS, [0], None)


@both_ways
def test_contacts_are_read_again_from_their_topic(step: int) -> None:
    store = MemoryStore()
    contacts = KeptContacts(store, TOPICS.contacts, 1)
    contacts.fold(CONTACTS, [Record(TOPICS.contacts, 0, 0, 1, KEY, ADA)])
    store.write({b"\0version": b"%d" % (int(contact_rows.VERSION) + step)})
    again = KeptContacts(store, TOPICS.contacts, 1)
    assert again.positions() == {CONTACTS: 0}
    assert again.contact(KEY) is None
