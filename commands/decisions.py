"""Outcomes of commands: an event or a refusal; shared by the rules for requests and those for facts. Pure."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from commands.messages import OrderCommand
from ledger import events
from ledger.order import Order
from ledger.transitions import Code


class Refusal(Struct, frozen=True):
    """The command changed nothing, and why. `detail` is for people; it contains no personal data and no text of the request."""

    code: Code
    detail: str = ""


class MalformedCommand(ValueError):
    """A command that no correct sender creates: unknown operation or fact, missing payload. Becomes `could_not_decide`."""


Decision = events.OrderEvent | Refusal


def event_of(command: OrderCommand, order: Order, at_ms: int, kind: str, detail: events.Detail) -> events.OrderEvent:
    """The next event of the order, without its envelope."""
    details: dict[str, Any] = {events.DETAIL_OF[kind]: detail}
    return events.OrderEvent(
        order_id=order.order_id,
        version=order.version + 1,
        type=kind,
        occurred_at=at_ms,
        customer_id=order.customer_id,
        currency=order.currency,
        total_minor=order.total_minor,
        actor=command.actor,
        command_id=command.command_id,
        fingerprint=command.fingerprint,
        **details,
    )


def need(payload: Any, command: OrderCommand) -> Any:
    """The payload. Raises `MalformedCommand` if it is missing."""
    if payload is None:
        raise MalformedCommand(f"{command.operation} lacks its payload")
    return payload
