"""Answers of a port: facts, a definite no, or unknown. Pure.

A port never raises for a failure of the other side, only for bugs here. `Unknown` leads to no command: the request may have
been carried out, and the same call with the same key will show it.
"""

from __future__ import annotations

from msgspec import Struct

from commands.messages import OrderCommand, RecordDispute, RecordPayment, RecordRefund, RecordStock
from ledger.transitions import Operation

Fact = RecordPayment | RecordRefund | RecordDispute | RecordStock


class Done(Struct, frozen=True):
    """Current facts, in causal order (captured before refunded): one command per fact. Empty: nothing to report."""

    facts: tuple[Fact, ...] = ()


class No(Struct, frozen=True):
    """Definitely not done; a retry with the same key would not help. `code` is the other side's reason."""

    code: str


class Unknown(Struct, frozen=True):
    """Time-out, 5xx, 429, reset connection, invalid answer: it may have been done. `why` is for the log.

    `after_s`: pause requested by the other side, 0 for none. `reachable`: an earlier read was answered, so the other side is
    reachable.
    """

    why: str
    after_s: float = 0.0
    reachable: bool = False


Answer = Done | No | Unknown


class Hint(Struct, frozen=True):
    """What a webhook says about an order: a hint. Never reported, only compared with the known state."""

    order_id: str
    facts: tuple[Fact, ...]


def command_of(fact: Fact, order_id: str, command_id: str, actor: str) -> OrderCommand:
    """The command that reports `fact`. Facts have no fingerprint: duplicates are recognised by state, never by id."""
    match fact:
        case RecordPayment():
            operation, payload = Operation.RECORD_PAYMENT, "record_payment"
        case RecordRefund():
            operation, payload = Operation.RECORD_REFUND, "record_refund"
        case RecordDispute():
            operation, payload = Operation.RECORD_DISPUTE, "record_dispute"
        case RecordStock():
            operation, payload = Operation.RECORD_STOCK, "record_stock"
    return OrderCommand(
        command_id=command_id,
        order_id=order_id,
        fingerprint=bytes(16),
        operation=operation,
        actor=actor,
        **{payload: fact},  # type: ignore[arg-type]  # one of four fields, each of its own type
    )
