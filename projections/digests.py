"""The digest of a partition's database: one number that shows whether two databases have the same rows. Pure.

The digest is the sum, modulo 2**256, of a hash of every row derived from `order-events`. It is updated in the write that changes
the rows (minus the hash of the old row, plus that of the new one), so it needs no scan, does not depend on chunks, and belongs to
exactly the position written with it.

It reflects the log exactly: if two events had the same command id, which no correct writer produces and `verify` reports, it
would include the outcomes of both, although the later row replaced the earlier one.

It excludes bookkeeping (keys that begin with NUL) and rows of refusals, which the log keeps only for 60 days. Contacts are in
another database. It detects mistakes, not forgery: whoever can write both databases can make the sums equal. The chain and its
signed heads detect forgery (`projections.verify`).
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from msgspec import Struct

from ledger.outcomes import OUTCOMES, REUSED, decode_outcome

CHECKPOINT_EVENTS = 10_000  # the digest is also stored after every so many events of the partition
BITS = 256
_MASK = (1 << BITS) - 1
_from_bytes = int.from_bytes


class Digest(Struct, frozen=True, array_like=True):
    """The digest after `events` records of the partition, the last of them before `position`."""

    events: int
    position: int
    value: bytes

    def hex(self) -> str:
        return self.value.hex()


def row_hash(key: bytes, value: bytes) -> int:
    """SHA-256 of the row, prefixed with the length of the key, so that different rows cannot collide."""
    return _from_bytes(sha256(len(key).to_bytes(4, "big") + key + value).digest(), "big")


def sum_of(rows: Iterable[tuple[bytes, bytes | None]]) -> int:
    """The sum of `row_hash` over existing rows (not None). Inlined: it is a tenth of a rebuild."""
    convert, hash_of = _from_bytes, sha256
    return sum(
        [convert(hash_of(len(key).to_bytes(4, "big") + key + value).digest(), "big") for key, value in rows if value is not None]
    )


def moved(digest: int, change: int) -> int:
    """`digest` after the sum of row hashes changed by `change` (which may be negative)."""
    return (digest + change) & _MASK


def as_bytes(digest: int) -> bytes:
    """The stored form of a digest."""
    return digest.to_bytes(BITS // 8, "big")


def from_bytes(value: bytes) -> int:
    """A digest from its stored form."""
    return _from_bytes(value, "big")


def counts(key: bytes, value: bytes) -> bool:
    """Whether a row is included in the digest."""
    if key.startswith(OUTCOMES):
        return decode_outcome(value).code is None  # outcomes of events; refusals are excluded
    return not key.startswith((b"\0", REUSED))


def digest_of(rows: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The digest of a whole database, computed from all rows: the stored one must be equal to it."""
    return as_bytes(sum_of(row for row in rows if counts(*row)) & _MASK)
