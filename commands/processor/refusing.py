"""The refusals that a desk records: of a command, of a duplicate of one that was refused long ago, of unreadable bytes. Pure."""

from __future__ import annotations

from commands.decisions import Refusal
from commands.messages import OrderCommand
from ledger.durations import DAY_MS
from ledger.envelope import Written
from ledger.errors import DecodeError
from ledger.events import OrderRefusal
from ledger.log import Record
from ledger.order import Order
from ledger.outcomes import Outcome
from ledger.topics import REFUSALS_MS
from ledger.transitions import Code

# An unreadable command is kept in full up to this size; no correct sender writes a larger one, and its head is enough.
MAX_ORIGINAL_BYTES = 64 * 1024
# Brokers delete whole segments, by a clock of their own: a refusal of this age may be gone already.
REFUSED_AGAIN_MS = REFUSALS_MS - DAY_MS


def refusal_of(why: Refusal, command: OrderCommand, met: Order | None, record: Record, written: Written) -> OrderRefusal:
    """The refusal of `command`, which met this order."""
    return OrderRefusal(
        code=why.code,
        detail=why.detail,
        occurred_at=record.timestamp_ms,
        command_log=written.command_log,
        command_offset=record.offset,
        batch_first=written.batch_first,
        writer_epoch=written.writer_epoch,
        order_id=command.order_id,
        command_id=command.command_id,
        fingerprint=command.fingerprint,
        actor=command.actor,
        customer_id=command.customer_id,
        order_version=met.version if met is not None else None,
    )


def refusal_again(outcome: Outcome, command_id: str, record: Record, written: Written) -> OrderRefusal | None:
    """The refusal of a duplicate, if the log may have deleted the first one, so that younger folds do not know it; else None."""
    if outcome.code is None or record.timestamp_ms - outcome.at < REFUSED_AGAIN_MS:
        return None
    return OrderRefusal(
        code=outcome.code,
        detail=outcome.detail,
        occurred_at=record.timestamp_ms,
        command_log=written.command_log,
        command_offset=record.offset,
        batch_first=written.batch_first,
        writer_epoch=written.writer_epoch,
        order_id=outcome.order_id,
        command_id=command_id,
        fingerprint=outcome.fingerprint,
        actor=outcome.actor,
        customer_id=outcome.customer_id,
        order_version=outcome.version,
    )


def refusal_of_unreadable(why: DecodeError, record: Record, written: Written) -> OrderRefusal:
    """The refusal of bytes that are no command; it keeps them."""
    return OrderRefusal(
        code=Code.UNDECODABLE,
        detail=str(why),
        occurred_at=record.timestamp_ms,
        command_log=written.command_log,
        command_offset=record.offset,
        batch_first=written.batch_first,
        writer_epoch=written.writer_epoch,
        original=(record.value or b"")[:MAX_ORIGINAL_BYTES],
    )
