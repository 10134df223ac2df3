"""What a port answers: facts, a definite no, or nothing that can be relied on. Pure.

A port never raises for what the other side did or failed to do; it raises for our bugs only. `Unknown` leads to no command:
whatever was asked for may have happened, and the same call with the same key tells.
"""

from __future__ import annotations

from msgspec import Struct

from commands.messages import OrderCommand, RecordDispute, RecordPayment, RecordRefund, RecordStock
from ledger.transitions import Operation

Fact = RecordPayment | RecordRefund | RecordDispute | RecordStock


class Done(Struct, frozen=True):
    """What is true now, in causal order (captured before refunded): one command per fact. Empty: nothing to report."""

    facts: tuple[Fact, ...] = ()


class No(Struct, frozen=True):
    """Definitely not done, and asking again with the same key changes nothing. `code` is the other side's word for why."""

    code: str


class Unknown(Struct, frozen=True):
    """Time-out, 5xx, 429, a reset connection, an answer that makes no sense: it may have been done. `why` is for the log.

    `after_s`: how long the other side asks to be left alone; 0 when it does not. `looked`: a look before it was answered, so the
    other side is there.
    """

    why: str
    after_s: float = 0.0
    looked: bool = False


Answer = Done | No | Unknown


class Told(Struct, frozen=True):
    """What a message says of one of our orders: a hint. Never reported, only compared with what is known already."""

    order_id: str
    facts: tuple[Fact, ...]


def command_of(fact: Fact, order_id: str, command_id: str, actor: str) -> OrderCommand:
    """The command that reports `fact`. Facts carry no fingerprint: they are told apart by state, never by id."""
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
