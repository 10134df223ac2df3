"""Secrets and signatures of Standard Webhooks (https://www.standardwebhooks.com, version 1, symmetric). Pure.

The secret of an endpoint is derived from `LEDGER_HASH_KEY`, the endpoint's name and a salt that is no secret. So it is stored
nowhere, every node has it, and a new salt is a new secret.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence

PREFIX = "whsec_"
VERSION = "v1"
SECRET_BYTES = 32


def secret_of(hash_key: bytes, name: str, salt: str) -> bytes:
    """The key with which messages to an endpoint are signed."""
    return hmac.digest(hash_key, f"webhook\0{name}\0{salt}".encode(), "sha256")[:SECRET_BYTES]


def shown(secret: bytes) -> str:
    """The secret as receivers configure it."""
    return PREFIX + base64.b64encode(secret).decode()


def digest_of(secret: bytes) -> str:
    """Says whether two nodes derive the same secret, and nothing about it."""
    return hashlib.sha256(b"webhook-check\0" + secret).hexdigest()[:16]


def signature(secrets: Sequence[bytes], message_id: str, timestamp_s: int, body: bytes) -> str:
    """Value of `webhook-signature`: one signature for each secret, the newest first. `message_id` contains no dot."""
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp_s, body)
    return " ".join(f"{VERSION},{base64.b64encode(hmac.digest(s, signed, 'sha256')).decode()}" for s in secrets)


def headers(secrets: Sequence[bytes], message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """The headers that a receiver verifies."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": signature(secrets, message_id, timestamp_s, body),
    }
