"""Names that make a retry meet its first attempt: command id, order id, fingerprint. Pure.

`command_id` = hash(principal name, customer, operation, order id or "-", Idempotency-Key), so two customers of one gateway
never share a key, and a retried `POST /orders`, whose order id derives from its command id, meets its first attempt in the
same partition and the same order (ARCHITECTURE, Idempotency).
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

import msgspec

NEW_ORDER = "-"
FINGERPRINT_BYTES, CONTACT_DIGEST_BYTES = 16, 32


def _name(parts: list[str]) -> str:
    """26 characters (a-z, 2-7): 128 bits of SHA-256 over an unambiguous list."""
    return _base32(hashlib.sha256(canonical(parts)).digest()[:16])


_DIGITS = "abcdefghijklmnopqrstuvwxyz234567"  # RFC 4648 base32, in lower case
_PAIRS = [a + b for a in _DIGITS for b in _DIGITS]


def _base32(of: bytes) -> str:
    """16 bytes as 26 characters, as `base64.b32encode` without padding; by a table, for every request makes two."""
    number = int.from_bytes(of, "big") << 2
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)])


def command_id_of(principal: str, customer_id: str, operation: str, order_id: str, idempotency_key: str) -> str:
    """The command's id: `cmd_` and 26 characters. `order_id` is `NEW_ORDER` for a new order."""
    return "cmd_" + _name([principal, customer_id, operation, order_id, idempotency_key])


def order_id_of(command_id: str) -> str:
    """The id of the order that this command places: `ord_` and 26 characters."""
    return "ord_" + _name(["order", command_id])


def fresh_command_id() -> str:
    """An id for a fact that the reconciler reports: never reused, for facts are told apart by state."""
    return "fct_" + _base32(secrets.token_bytes(16))


_sorted_json = msgspec.json.Encoder(order="sorted").encode


def canonical(body: Any) -> bytes:
    """One spelling of a JSON value: sorted keys, no white space, UTF-8. Integers only, so no number has two spellings."""
    return _sorted_json(body)


def fingerprint_of(body: Any, hash_key: bytes) -> bytes:
    """16 bytes that tell one request body from another and nothing else: keyed BLAKE2b."""
    return _keyed(canonical(body), hash_key, FINGERPRINT_BYTES, b"fingerprint")


def contact_digest_of(contact: Any, order_id: str, hash_key: bytes) -> bytes:
    """32 bytes that name a contact of one order without telling what is in it: the same person's orders do not match."""
    return _keyed(order_id.encode() + b"\0" + canonical(contact), hash_key, CONTACT_DIGEST_BYTES, b"contact")


def _keyed(data: bytes, key: bytes, size: int, purpose: bytes) -> bytes:
    """Keyed BLAKE2b (RFC 7693), `purpose` being its personalisation. Of short `data` it keeps the interpreter, which `hmac`
    gives away at every call; under load getting it back costs a request more than the hash."""
    if len(key) > hashlib.blake2b.MAX_KEY_SIZE:
        key = hashlib.blake2b(key).digest()
    return hashlib.blake2b(data, digest_size=size, key=key, person=purpose).digest()
