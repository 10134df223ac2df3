"""Who an order is for: the only personal data, kept in `order-contacts` and never in the ledger. Pure.

Records of that topic, by key:

    order_id/contact_digest           the contact; a tombstone deletes it
    order_id/contact_digest/erased    the contact is erased for good: one written later under its key is not kept
    erasure:<customer_id>             what was promised to be erased, and how far that is (`ledger.erasures`)
    barrier                           nothing; whoever has read it has read everything written before it
"""

from __future__ import annotations

from msgspec import Struct

BARRIER_KEY = b"barrier"
_ERASED = b"/erased"


class Address(Struct, frozen=True, omit_defaults=True):
    line1: str
    city: str
    postcode: str
    country: str
    line2: str | None = None
    region: str | None = None


class OrderContact(Struct, frozen=True, omit_defaults=True):
    """Contact of one order. `customer_id` lets a customer's contacts be found and erased."""

    customer_id: str
    name: str
    email: str
    shipping_address: Address
    phone: str | None = None
    billing_address: Address | None = None
    delivery_note: str | None = None


# The value of an erased key: no tombstone, for it must outlive compaction; and it fits the topic's schema.
NOBODY = OrderContact("", "", "", Address("", "", "", ""))


def contact_key(order_id: str, digest: bytes) -> bytes:
    """Key of the record in `order-contacts`: `order_id/contact_digest`, the digest in hex."""
    return f"{order_id}/{digest.hex()}".encode()


def order_of(key: bytes) -> str:
    """The order that a contact's key names."""
    return key.split(b"/", 1)[0].decode("utf-8", "replace")


def erased_key(key: bytes) -> bytes:
    """Key of the record that says that the contact with `key` is erased for good."""
    return key + _ERASED


def erased_contact(key: bytes) -> bytes | None:
    """The contact's key, when `key` is an erased key; else None."""
    return key.removesuffix(_ERASED) if key.endswith(_ERASED) else None
