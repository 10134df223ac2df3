"""Contacts of orders: the only personal data, kept in `order-contacts` and never in the ledger. Pure.

Records of that topic, by key:

    order_id/contact_digest           the contact; a tombstone deletes it
    order_id/note-<id>                a note of the desk about the order
    order_id/contact_digest/erased    the contact is permanently erased: one written later under its key is ignored; notes alike
    erasure:<customer_id>             an erasure of the customer, and its progress (`ledger.erasures`)
    barrier                           empty; a reader that has read it has read everything written before it
"""

from __future__ import annotations

from msgspec import Struct

BARRIER_KEY = b"barrier"
_ERASED = b"/erased"


class Address(Struct, frozen=True, omit_defaults=True):
    """A postal address."""

    line1: str
    city: str
    postcode: str
    country: str
    line2: str | None = None
    region: str | None = None


class Note(Struct, frozen=True):
    """What somebody at the desk wrote about an order. `by` is the principal, `at` ms since the epoch."""

    text: str
    by: str
    at: int


class OrderContact(Struct, frozen=True, omit_defaults=True):
    """Contact of one order. `customer_id` is used to find and erase the contacts of a customer, `email_digest` (16 bytes, keyed)
    to find those of an e-mail address. `locale` is a language tag (BCP 47): the language of messages to the customer.
    """

    customer_id: str
    name: str
    email: str
    shipping_address: Address
    phone: str | None = None
    billing_address: Address | None = None
    delivery_note: str | None = None
    email_digest: bytes | None = None
    note: Note | None = None  # then only `customer_id` is set besides
    locale: str | None = None


NOWHERE = Address("", "", "", "")
# The value of an erased key: not a tombstone, because it must survive compaction. It follows the schema of the topic.
NOBODY = OrderContact("", "", "", NOWHERE)


def contact_key(order_id: str, digest: bytes) -> bytes:
    """Key of the record in `order-contacts`: `order_id/contact_digest`, the digest in hex."""
    return f"{order_id}/{digest.hex()}".encode()


def note_of(customer_id: str, note: Note) -> OrderContact:
    """The record of a note about an order of this customer."""
    return OrderContact(customer_id, "", "", NOWHERE, note=note)


def note_key(order_id: str, note_id: str) -> bytes:
    """Key of a note."""
    return f"{order_id}/note-{note_id}".encode()


def note_id_of(key: bytes) -> str | None:
    """The id of the note with this key; None if it is the key of a contact."""
    _, _, name = key.decode("utf-8", "replace").partition("/note-")
    return name or None


def order_of(key: bytes) -> str:
    """The order id in the key of a contact."""
    return key.split(b"/", 1)[0].decode("utf-8", "replace")


def erased_key(key: bytes) -> bytes:
    """Key of the record that marks the contact, or note, with `key` as permanently erased."""
    return key + _ERASED


def erased_contact(key: bytes) -> bytes | None:
    """The key of the contact or note if `key` is an erased key; else None."""
    return key.removesuffix(_ERASED) if key.endswith(_ERASED) else None
