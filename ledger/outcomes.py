"""Outcomes of commands, by command id: with these rows a retry gets its first answer (ARCHITECTURE, Idempotency). Pure.

Outcomes are separate rows, not part of the order. Events and refusals are folded in any order of the two topics, so the first
fingerprint of an id does not depend on which comes first: any record except `idempotency_key_reused` has it. A reused id is
refused under its own fingerprint and gets a separate row, so that its retry leaves no second record.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from ledger.events import OrderEvent, OrderRefusal
from ledger.transitions import Code


class Outcome(Struct, frozen=True, array_like=True):
    """The outcome of one command, and its sender.

    `version` is the one that the command produced; if it was refused (`code`, `detail`), the current one then (None: no order).
    """

    fingerprint: bytes
    order_id: str
    version: int | None
    code: str | None
    detail: str
    actor: str
    customer_id: str
    at: int


OUTCOMES, REUSED = b"c/", b"x/"  # prefixes of the keys

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Outcome).decode


def outcome_key(command_id: str) -> bytes:
    """Key of the outcome of a command id, for its first fingerprint."""
    return OUTCOMES + command_id.encode()


def reused_key(command_id: str, fingerprint: bytes) -> bytes:
    """Key of the refusal of a different body under a known command id."""
    return REUSED + command_id.encode() + b"/" + fingerprint


def decode_outcome(row: bytes) -> Outcome:
    """The outcome in a row."""
    return _decode(row)


def event_row(event: OrderEvent) -> tuple[bytes, bytes]:
    """Row for the command that led to `event`."""
    outcome = Outcome(
        event.fingerprint, event.order_id, event.version, None, "", event.actor, event.customer_id, event.occurred_at
    )
    return outcome_key(event.command_id), _encode(outcome)


def refusal_row(refusal: OrderRefusal) -> tuple[bytes, bytes] | None:
    """Row for a refused command; None if it could not be decoded and has no id."""
    if refusal.command_id is None or refusal.fingerprint is None:
        return None
    outcome = Outcome(
        refusal.fingerprint,
        refusal.order_id or "",
        refusal.order_version,
        refusal.code,
        refusal.detail,
        refusal.actor or "",
        refusal.customer_id or "",
        refusal.occurred_at,
    )
    if refusal.code == Code.IDEMPOTENCY_KEY_REUSED:
        return reused_key(refusal.command_id, refusal.fingerprint), _encode(outcome)
    return outcome_key(refusal.command_id), _encode(outcome)
