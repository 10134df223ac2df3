"""What staff may do with an order now, and since when it owes what it owes. Pure.

There is no second table of what is legal: `allowed` asks `decide` itself, with a sample of each request.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from commands.decide import decide
from commands.decisions import Refusal
from commands.holds import refuse_held
from commands.messages import (
    CancelLines,
    CancelOrder,
    ChangeMetadata,
    DeliverParcel,
    EntryChange,
    OrderCommand,
    RequestRefund,
    ResolveAttention,
    ShipOrder,
)
from commands.obligations import obligations
from ledger import units
from ledger.events import Units
from ledger.order import Flag, Order, refund_room_minor
from ledger.transitions import Operation

_STAFF = "admin:sample"
_NO_DIGEST = bytes(16)


class Action(NamedTuple):
    """A request that would be accepted. `lines`: of at most these units; `amount_minor`: of at most this amount."""

    operation: Operation
    lines: tuple[Units, ...] = ()
    amount_minor: int | None = None
    parcel: int | None = None
    flag: Flag | None = None


def allowed(order: Order, at_ms: int) -> tuple[Action, ...]:
    """What staff may request at `at_ms` (ms since the epoch), in the order in which a desk uses it."""
    return tuple(action for action, sample in _samples(order) if _accepted(sample, order, at_ms))


def since_when(order: Order, occurred_at: int, before: dict[str, int]) -> dict[str, int]:
    """Since when (ms since the epoch) `order` owes what it owes, by key, after an event at `occurred_at`.

    `before` is the answer for the previous version. Fold it over a history, from `{}`.
    """
    return {owed.key: before.get(owed.key, occurred_at) for owed in obligations(order)}


def _accepted(command: OrderCommand, order: Order, at_ms: int) -> bool:
    return not isinstance(refuse_held(command, order) or decide(command, order, at_ms), Refusal)


def _samples(o: Order) -> Iterator[tuple[Action, OrderCommand]]:
    """Every request of a desk, each with a command that is accepted if any of its kind is."""
    to_ship = units.to_ship(o)
    op = Operation
    yield Action(op.START_FULFILMENT), _command(o, op.START_FULFILMENT)
    if to_ship:
        yield Action(op.SHIP_PARCEL, to_ship), _command(o, op.SHIP_PARCEL, ship=ShipOrder(lines=to_ship))
    yield Action(op.SHIP_ORDER), _command(o, op.SHIP_ORDER, ship=ShipOrder())
    for p in o.parcels:
        sample = _command(o, op.CONFIRM_PARCEL, deliver=DeliverParcel(p.no))
        yield Action(op.CONFIRM_PARCEL, p.lines, parcel=p.no), sample
    yield Action(op.CONFIRM_DELIVERY), _command(o, op.CONFIRM_DELIVERY)
    room = refund_room_minor(o)
    sample = _command(o, op.REQUEST_REFUND, request_refund=RequestRefund("other", amount_minor=1))
    yield Action(op.REQUEST_REFUND, _refundable(o), room), sample
    if to_ship:
        sample = _command(o, op.CANCEL_LINES, cancel_lines=CancelLines(to_ship, "other"))
        yield Action(op.CANCEL_LINES, to_ship), sample
    yield Action(op.CANCEL_ORDER), _command(o, op.CANCEL_ORDER, cancel=CancelOrder("other"))
    for flag in o.attention:
        resolution = ResolveAttention(flag.code, flag.obligation_key, "retry")
        yield Action(op.RESOLVE_ATTENTION, flag=flag), _command(o, op.RESOLVE_ATTENTION, resolve_attention=resolution)
    change = EntryChange(o.metadata[0].name) if o.metadata else EntryChange("sample", "1")
    yield Action(op.CHANGE_METADATA), _command(o, op.CHANGE_METADATA, change_metadata=ChangeMetadata((change,)))


def _refundable(o: Order) -> tuple[Units, ...]:
    left = ((line, units.refundable(line, count)) for line, count in zip(o.lines, o.counts, strict=True))
    return tuple(Units(line.service, line.sku, quantity) for line, quantity in left if quantity > 0)


def _command(o: Order, operation: Operation, **payload: object) -> OrderCommand:
    return OrderCommand(
        command_id="cmd_sample",
        order_id=o.order_id,
        fingerprint=_NO_DIGEST,
        operation=operation.value,
        actor=_STAFF,
        **payload,  # type: ignore[arg-type]  # one of the payloads, by its name
    )
