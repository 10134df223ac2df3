"""`decide(command, order, at_ms) -> OrderEvent | Refusal`: the outcome of one command. Pure.

`order` is the current fold (None: no events yet), `at_ms` the broker's time of the command. A new order is decided here, a
request about an order in `commands.requests`, an observed fact in `commands.facts`. The returned event lacks its envelope
(`envelope.seal` adds it). Duplicates by command id never get here (`idempotency`).
"""

from __future__ import annotations

from typing import Any

from commands.decisions import Decision, MalformedCommand, Refusal, need
from commands.facts import FACTS, resolve_attention
from commands.flaws import flaw_of_import, flaws, malformed
from commands.messages import OrderCommand, PlaceOrder
from commands.requests import answer
from ledger import events, transitions
from ledger.order import Order
from ledger.transitions import Code, Operation


def decide(command: OrderCommand, order: Order | None, at_ms: int, number: str = "") -> Decision:
    """The outcome of `command`. Raises `MalformedCommand` for a command that no correct sender creates.

    `number` is the number for people of a new order; empty if an imported one brings a number that another order has.
    """
    try:
        operation = Operation(command.operation)
    except ValueError:
        raise MalformedCommand(f"unknown operation {command.operation!r}") from None
    if operation is Operation.PLACE_ORDER:
        return _place(command, order, at_ms, number)
    if operation is Operation.IMPORT_ORDER:
        return _import(command, order, at_ms, number)
    if order is None or is_foreign(command, order):
        return Refusal(Code.ORDER_NOT_FOUND, "there is no such order")
    at_ms = max(at_ms, order.updated_at)
    if operation in FACTS:
        return FACTS[operation](command, order, at_ms)
    if command.expected_version is not None and command.expected_version != order.version:
        return Refusal(Code.VERSION_CONFLICT, f"the order is at version {order.version}, not {command.expected_version}")
    if operation is Operation.RESOLVE_ATTENTION:
        return resolve_attention(command, order, at_ms)
    return answer(operation, command, order, at_ms)


def is_foreign(command: OrderCommand, order: Order | None) -> bool:
    """Whether `command` is about an order of another customer, or of no known order.

    The two must look alike. Staff and the ledger's own services act for no customer, so nothing is foreign to them.
    """
    if not command.customer_id or command.operation in (Operation.PLACE_ORDER, Operation.IMPORT_ORDER):
        return False
    return order is None or command.customer_id != order.customer_id


def _place(command: OrderCommand, order: Order | None, at_ms: int, number: str) -> Decision:
    place = need(command.place, command)
    if (no := _not_new(command, place, order)) is not None:
        return no
    if not 0 < place.payment_window_ms <= transitions.MAX_PAYMENT_WINDOW_S * 1000:
        return Refusal(Code.PAYMENT_WINDOW_NOT_ALLOWED, f"the time to pay must be 1 to {transitions.MAX_PAYMENT_WINDOW_S} s")
    return _first(command, at_ms, place, placed=_content(place, at_ms + place.payment_window_ms, number))


def _import(command: OrderCommand, order: Order | None, at_ms: int, number: str) -> Decision:
    wanted = need(command.import_order, command)
    if (no := _not_new(command, wanted.place, order)) is not None:
        return no
    if flaw := flaw_of_import(wanted, at_ms):
        raise MalformedCommand(f"ImportOrder: {flaw}")
    if wanted.number is not None and not number:
        return Refusal(Code.NUMBER_IN_USE, "another order has this number")
    imported = events.Imported(
        placed=_content(wanted.place, wanted.placed_at, wanted.number or number),
        old_id=wanted.old_id,
        placed_at=wanted.placed_at,
        status=wanted.status,
        captured_minor=wanted.captured_minor,
        refunded_minor=wanted.refunded_minor,
        shipped_at=wanted.shipped_at,
        delivered_at=wanted.delivered_at,
        carrier=wanted.carrier,
        tracking=wanted.tracking,
        cancel_reason=wanted.cancel_reason,
    )
    return _first(command, at_ms, wanted.place, imported=imported)


def _not_new(command: OrderCommand, place: PlaceOrder, order: Order | None) -> Refusal | None:
    """Why the command places no order; None if it may. Raises `MalformedCommand`."""
    if order is not None:
        # The order id derives from the command id, so another command for the same id is the same key with another body.
        return Refusal(Code.IDEMPOTENCY_KEY_REUSED, "an order was already placed with this key")
    if why := malformed(command.customer_id, place):
        raise MalformedCommand(f"{command.operation}: {why}")
    for flaw in flaws(place):
        if flaw.kind != "total_mismatch":
            raise MalformedCommand(f"{command.operation}: {flaw.sentence}")
        return Refusal(Code.AMOUNT_DIFFERS, "lines and adjustments do not add up to the total")
    return None


def _content(place: PlaceOrder, expires_at: int, number: str) -> events.Placed:
    return events.Placed(
        lines=place.lines,
        adjustments=place.adjustments,
        contact_digest=place.contact_digest,
        expires_at=expires_at,
        reference=place.reference,
        metadata=tuple(sorted(place.metadata, key=lambda entry: entry.name)),
        number=number,
    )


def _first(command: OrderCommand, at_ms: int, place: PlaceOrder, **detail: Any) -> events.OrderEvent:
    """The first event of an order."""
    return events.OrderEvent(
        order_id=command.order_id,
        version=1,
        type=events.ORDER_IMPORTED if "imported" in detail else events.ORDER_PLACED,
        occurred_at=at_ms,
        customer_id=command.customer_id,
        currency=place.currency,
        total_minor=place.total_minor,
        actor=command.actor,
        command_id=command.command_id,
        fingerprint=command.fingerprint,
        **detail,
    )
