"""`decide(command, order, at_ms) -> OrderEvent | Refusal`: the outcome of one command. Pure.

`order` is the current fold (None: no events yet), `at_ms` the broker's time of the command. A new order is decided here, a
request about an order in `commands.requests`, an observed fact in `commands.facts`. The returned event lacks its envelope
(`envelope.seal` adds it). Duplicates by command id never get here (`idempotency`).
"""

from __future__ import annotations

from commands.decisions import Decision, MalformedCommand, Refusal, need
from commands.facts import FACTS, resolve_attention
from commands.flaws import flaws, malformed
from commands.messages import OrderCommand
from commands.requests import answer
from ledger import events, transitions
from ledger.order import Order
from ledger.transitions import Code, Operation


def decide(command: OrderCommand, order: Order | None, at_ms: int, number: str = "") -> Decision:
    """The outcome of `command`. `number` is for a new order: its number for people. Raises `MalformedCommand` for a command that no correct sender creates."""
    try:
        operation = Operation(command.operation)
    except ValueError:
        raise MalformedCommand(f"unknown operation {command.operation!r}") from None
    if operation is Operation.PLACE_ORDER:
        return _place(command, order, at_ms, number)
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
    if not command.customer_id or command.operation == Operation.PLACE_ORDER:
        return False
    return order is None or command.customer_id != order.customer_id


def _place(command: OrderCommand, order: Order | None, at_ms: int, number: str) -> Decision:
    place = need(command.place, command)
    if order is not None:
        # The order id derives from the command id, so another command for the same id is the same key with another body.
        return Refusal(Code.IDEMPOTENCY_KEY_REUSED, "an order was already placed with this key")
    if why := malformed(command.customer_id, place):
        raise MalformedCommand(f"PlaceOrder: {why}")
    for flaw in flaws(place):
        if flaw.kind != "total_mismatch":
            raise MalformedCommand(f"PlaceOrder: {flaw.sentence}")
        return Refusal(Code.AMOUNT_DIFFERS, "lines and adjustments do not add up to the total")
    if not 0 < place.payment_window_ms <= transitions.MAX_PAYMENT_WINDOW_S * 1000:
        return Refusal(Code.PAYMENT_WINDOW_NOT_ALLOWED, f"the time to pay must be 1 to {transitions.MAX_PAYMENT_WINDOW_S} s")
    return events.OrderEvent(
        order_id=command.order_id,
        version=1,
        type=events.ORDER_PLACED,
        occurred_at=at_ms,
        customer_id=command.customer_id,
        currency=place.currency,
        total_minor=place.total_minor,
        actor=command.actor,
        command_id=command.command_id,
        fingerprint=command.fingerprint,
        placed=events.Placed(
            lines=place.lines,
            adjustments=place.adjustments,
            contact_digest=place.contact_digest,
            expires_at=at_ms + place.payment_window_ms,
            reference=place.reference,
            metadata=place.metadata,
            number=number,
        ),
    )
