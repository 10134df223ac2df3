"""The read model of contacts: what the last record of each key says, with the time it was written. Pure.

    order_id/contact_digest      the contact, or None where the record cannot be read

Rows are not those of the log: a contact is read far more often than written, and Avro costs ten times as much to decode.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog
from msgspec import Struct

from ledger.codec import contact_codec
from ledger.contacts import OrderContact
from ledger.errors import DecodeError

log = structlog.get_logger(__name__)


class KeptContact(Struct, frozen=True, array_like=True):
    """One row. `written_at` is the record's timestamp, ms since the epoch."""

    written_at: int
    contact: OrderContact | None


decode_contact = msgspec.msgpack.Decoder(KeptContact).decode
_encode = msgspec.msgpack.Encoder().encode


def contact_rows() -> Callable[[bytes | None, int], bytes | None]:
    """A function from a record's value and timestamp to its row; a tombstone's row is None, which deletes."""
    codec = contact_codec()

    def row(value: bytes | None, written_at: int) -> bytes | None:
        if value is None:
            return None
        contact: OrderContact | None = None
        try:
            contact = codec.decode(value)
        except DecodeError as exc:
            log.error("unreadable contact", reason=str(exc))
        return _encode(KeptContact(written_at, contact))

    return row
