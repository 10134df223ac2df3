"""Who an order is for: the only personal data, kept in `order-contacts` and never in the ledger (DESIGN 3, promise 8). Pure."""

from __future__ import annotations

from msgspec import Struct


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


def contact_key(order_id: str, digest: bytes) -> bytes:
    """Key of the record in `order-contacts`: `order_id/contact_digest`, the digest in hex."""
    return f"{order_id}/{digest.hex()}".encode()
