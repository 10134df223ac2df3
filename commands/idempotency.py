"""Ids by which a retry meets its first attempt: command id, order id, fingerprint. Pure.

`command_id` = hash(principal name, customer, operation, order id or "-", Idempotency-Key), so two customers of one gateway
never share a key. The order id of `POST /orders` derives from its command id, so a retry meets its first attempt in the same
partition and the same order (ARCHITECTURE, Idempotency).
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

import msgspec

NEW_ORDER = "-"
FINGERPRINT_BYTES, CONTACT_DIGEST_BYTES = 16, 32


def _name(parts: list[str]) -> str:
    """26 characters (a-z, 2-7): 128 bits of SHA-256 over an unambiguous encoding of `parts`."""
    return _base32(hashlib.sha256(canonical(parts)).digest()[:16])


_DIGITS = "abcdefghijklmnopqrstuvwxyz234567"  # RFC 4648 base32, in lower case
_PAIRS = [a + b for a in _DIGITS for b in _DIGITS]


def _base32(of: bytes) -> str:
    """16 bytes as 26 characters, like `base64.b32encode` without padding, but faster: every request needs two."""
    number = int.from_bytes(of, "big") << 2
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)])


def command_id_of(principal: str, customer_id: str, operation: str, order_id: str, idempotency_key: str) -> str:
    """The id of a command: `cmd_` and 26 characters. `order_id` is `NEW_ORDER` for a new order."""
    return "cmd_" + _name([principal, customer_id, operation, order_id, idempotency_key])


def order_id_of(command_id: str) -> str:
    """The id of the order that this command places: `ord_` and 26 characters."""
    return "ord_" + _name(["order", command_id])


def fresh_command_id() -> str:
    """An id for a fact that the reconciler reports. Never reused: duplicates of facts are recognised by state."""
    return "fct_" + _base32(secrets.token_bytes(16))


_sorted_json = msgspec.json.Encoder(order="sorted").encode


def canonical(body: Any) -> bytes:
    """Canonical form of a JSON value: sorted keys, no white space, UTF-8. Integers only, so every number has one form."""
    return _sorted_json(body)


def fingerprint_of(body: Any, hash_key: bytes) -> bytes:
    """16 bytes that distinguish request bodies and reveal nothing else: keyed BLAKE2b."""
    return _keyed(canonical(body), hash_key, FINGERPRINT_BYTES, b"fingerprint")


def contact_digest_of(contact: Any, order_id: str, hash_key: bytes) -> bytes:
    """32 bytes that identify the contact of one order without revealing it: two orders of one person do not match."""
    return _keyed(order_id.encode() + b"\0" + canonical(contact), hash_key, CONTACT_DIGEST_BYTES, b"contact")


def email_digest_of(address: str, hash_key: bytes) -> bytes:
    """16 bytes that identify an e-mail address (`mailboxes.mailbox`) to whoever has the key. Case is ignored, as people do."""
    return _keyed(address.lower().encode(), hash_key, FINGERPRINT_BYTES, b"email")


def _keyed(data: bytes, key: bytes, size: int, purpose: bytes) -> bytes:
    """Keyed BLAKE2b (RFC 7693) with `purpose` as personalisation.

    For short `data` it keeps the interpreter lock, which `hmac` releases at every call; under load, regaining it costs a request
    more than the hash.
    """
    if len(key) > hashlib.blake2b.MAX_KEY_SIZE:
        key = hashlib.blake2b(key).digest()
    return hashlib.blake2b(data, digest_size=size, key=key, person=purpose).digest()
