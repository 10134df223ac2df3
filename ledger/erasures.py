"""The record of a customer's erasure: what was requested, which node works on it, and its progress. Pure.

It is kept in `order-contacts` under a key of its own (keys of contacts always contain a slash), so every node knows about it and
any node can resume it. Its value follows the schema of the topic: a contact of nobody whose note is JSON. It contains no personal
data: a customer id is a pseudonym.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ledger.contacts import NOBODY
from ledger.errors import DecodeError
from ledger.schemas.codec import contact_codec

_PREFIX = "erasure:"


class Erasure(Struct, frozen=True):
    """Times are ms since the epoch. `node` works on it, or did last. `contacts_deleted` counts durable deletions.

    `done_at` None: not finished.
    """

    customer_id: str
    requested_at: int
    node: str
    contacts_deleted: int = 0
    done_at: int | None = None


class KeptErasure(Struct, frozen=True, array_like=True):
    """`noted_at` is the timestamp of its last record: when a node last worked on it."""

    noted_at: int
    erasure: Erasure


def erasure_key(customer_id: str) -> bytes:
    """Key of the record of this customer's last erasure."""
    return (_PREFIX + customer_id).encode()


def is_erasure(key: bytes) -> bool:
    """Whether the key of a record belongs to an erasure."""
    return key.startswith(_PREFIX.encode())


def erased_customer(key: bytes) -> str:
    """The customer whom the key of an erasure names."""
    return key.decode("utf-8", "replace").removeprefix(_PREFIX)


def encode_erasure(erasure: Erasure) -> bytes:
    """The record's value."""
    return contact_codec().encode(replace(NOBODY, delivery_note=msgspec.json.encode(erasure).decode()))


def decode_erasure(value: bytes) -> Erasure:
    """Raises `DecodeError`."""
    try:
        return _decode(contact_codec().decode(value).delivery_note or "")
    except msgspec.MsgspecError as exc:
        raise DecodeError("malformed", str(exc)) from None


_decode = msgspec.json.Decoder(Erasure).decode
