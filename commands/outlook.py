"""What staff may do with an order now, and since when it owes what it owes. Pure.

There is no second table of what is legal: `allowed` asks `decide` itself, with a sample of each request.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from msgspec.structs import replace

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
from ledger.currencies import payable_step
from ledger.events import Units
from ledger.order import Flag, Order, refund_room_minor
from ledger.transitions import Code, Operation

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
    return tuple(action for action, samples in _samples(order) if _accepted(samples, order, at_ms))


def since_when(order: Order, occurred_at: int, before: dict[str, int]) -> dict[str, int]:
    """Since when (ms since the epoch) `order` owes what it owes, by key, after an event at `occurred_at`.

    `before` is the answer for the previous version. Fold it over a history, from `{}`.
    """
    return {owed.key: before.get(owed.key, occurred_at) for owed in obligations(order)}


def _accepted(samples: Iterable[OrderCommand], order: Order, at_ms: int) -> bool:
    """Whether one of them is accepted. They differ in their amount alone, so any other refusal is that of all."""
    for sample in samples:
        decision = refuse_held(sample, order) or decide(sample, order, at_ms)
        if not isinstance(decision, Refusal):
            return True
        if decision.code is not Code.AMOUNT_NOT_PAYABLE:
            return False
    return False


def _samples(o: Order) -> Iterator[tuple[Action, Iterable[OrderCommand]]]:
    """Every request of a desk, each with commands of which one is accepted if any of its kind is.

    Of cancelled units these are all that remain, or those of one line, or one unit: other choices may be payable where none of
    these is, in the currencies that have a `payable_step`.
    """
    to_ship = units.to_ship(o)
    op = Operation
    yield Action(op.START_FULFILMENT), [_command(o, op.START_FULFILMENT)]
    if to_ship:
        yield Action(op.SHIP_PARCEL, to_ship), [_command(o, op.SHIP_PARCEL, ship=ShipOrder(lines=to_ship))]
    yield Action(op.SHIP_ORDER), [_command(o, op.SHIP_ORDER, ship=ShipOrder())]
    for p in o.parcels:
        sample = _command(o, op.CONFIRM_PARCEL, deliver=DeliverParcel(p.no))
        yield Action(op.CONFIRM_PARCEL, p.lines, parcel=p.no), [sample]
    yield Action(op.CONFIRM_DELIVERY), [_command(o, op.CONFIRM_DELIVERY)]
    room, step = refund_room_minor(o), payable_step(o.currency)
    sample = _command(o, op.REQUEST_REFUND, request_refund=RequestRefund("other", amount_minor=step))
    yield Action(op.REQUEST_REFUND, _refundable(o), room - room % step), [sample]
    if to_ship:
        yield Action(op.CANCEL_LINES, to_ship), (_command(o, op.CANCEL_LINES, cancel_lines=cut) for cut in _cuts(to_ship))
    yield Action(op.CANCEL_ORDER), [_command(o, op.CANCEL_ORDER, cancel=CancelOrder("other"))]
    for flag in o.attention:
        resolution = ResolveAttention(flag.code, flag.obligation_key, "retry")
        yield Action(op.RESOLVE_ATTENTION, flag=flag), [_command(o, op.RESOLVE_ATTENTION, resolve_attention=resolution)]
    change = EntryChange(o.metadata[0].name) if o.metadata else EntryChange("sample", "1")
    yield Action(op.CHANGE_METADATA), [_command(o, op.CHANGE_METADATA, change_metadata=ChangeMetadata((change,)))]


def _cuts(to_ship: tuple[Units, ...]) -> Iterator[CancelLines]:
    """All units that remain, those of each line, and one of each; with the shipping, too."""
    yield CancelLines(to_ship, "other")
    yield CancelLines(to_ship, "other", shipping=True)
    for part in (*to_ship, *(replace(some, quantity=1) for some in to_ship if some.quantity > 1)):
        yield CancelLines((part,), "other")
        yield CancelLines((part,), "other", shipping=True)


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
