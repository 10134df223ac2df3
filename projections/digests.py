"""The digest of a partition's database: one number that tells whether two databases hold the same rows. Pure.

The digest is the sum, modulo 2**256, of a hash of every row that follows from `order-events`. It is kept in the write that
changes the rows (minus the old row's hash, plus the new one's), so it costs no scan, does not depend on how the log was cut into
chunks, and stands for exactly the position written with it.

It is the fold of the log, exactly: should two events bear one command id, which no correct writer does and `verify` names, the
outcomes of both are in it although the later row has replaced the earlier one.

Not in it: bookkeeping (keys that begin with NUL) and what refusals led to, which the log keeps for 60 days only. Contacts are in
another database. It finds mistakes, not forgers: who may write both databases can make the sums equal. Forgery is what the
chain and its signed heads are for (`projections.verify`).
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from msgspec import Struct

from ledger.outcomes import OUTCOMES, REUSED, decode_outcome

CHECKPOINT_EVENTS = 10_000  # the digest is also kept as it was after every so many events of the partition
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
    """SHA-256 of the row; the key's length goes first, or two rows could be read as one another's."""
    return _from_bytes(sha256(len(key).to_bytes(4, "big") + key + value).digest(), "big")


def sum_of(rows: Iterable[tuple[bytes, bytes | None]]) -> int:
    """The sum of `row_hash` over rows that are there (not None). Written out: it is a tenth of a rebuild."""
    convert, hash_of = _from_bytes, sha256
    return sum(
        [convert(hash_of(len(key).to_bytes(4, "big") + key + value).digest(), "big") for key, value in rows if value is not None]
    )


def moved(digest: int, change: int) -> int:
    """`digest` after a sum of row hashes went up by `change` (which may be negative)."""
    return (digest + change) & _MASK


def as_bytes(digest: int) -> bytes:
    """A digest as it is stored."""
    return digest.to_bytes(BITS // 8, "big")


def from_bytes(value: bytes) -> int:
    """A digest that was stored."""
    return _from_bytes(value, "big")


def counts(key: bytes, value: bytes) -> bool:
    """Whether a row is in the digest."""
    if key.startswith(OUTCOMES):
        return decode_outcome(value).code is None  # what an event led to; refusals are not in
    return not key.startswith((b"\0", REUSED))


def digest_of(rows: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The digest of a whole database by looking at every row: what the kept one must be equal to."""
    return as_bytes(sum_of(row for row in rows if counts(*row)) & _MASK)
