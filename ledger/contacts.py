"""Contacts of orders: the only personal data, kept in `order-contacts` and never in the ledger. Pure.

Records of that topic, by key:

    order_id/contact_digest           the contact; a tombstone deletes it
    order_id/contact_digest/erased    the contact is permanently erased: one written later under its key is ignored
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


class OrderContact(Struct, frozen=True, omit_defaults=True):
    """Contact of one order. `customer_id` is used to find and erase the contacts of a customer, `email_digest` (16 bytes, keyed)
    to find those of an e-mail address."""

    customer_id: str
    name: str
    email: str
    shipping_address: Address
    phone: str | None = None
    billing_address: Address | None = None
    delivery_note: str | None = None
    email_digest: bytes | None = None


# The value of an erased key: not a tombstone, because it must survive compaction. It follows the schema of the topic.
NOBODY = OrderContact("", "", "", Address("", "", "", ""))


def contact_key(order_id: str, digest: bytes) -> bytes:
    """Key of the record in `order-contacts`: `order_id/contact_digest`, the digest in hex."""
    return f"{order_id}/{digest.hex()}".encode()


def order_of(key: bytes) -> str:
    """The order id in the key of a contact."""
    return key.split(b"/", 1)[0].decode("utf-8", "replace")


def erased_key(key: bytes) -> bytes:
    """Key of the record that marks the contact with `key` as permanently erased."""
    return key + _ERASED


def erased_contact(key: bytes) -> bytes | None:
    """The key of the contact if `key` is an erased key; else None."""
    return key.removesuffix(_ERASED) if key.endswith(_ERASED) else None
