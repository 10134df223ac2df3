"""Decides, for every route, what a caller may see of an order.

    gateway     orders of the customer it acts for, with contact and client secret
    admin       every order, with its contact
    reader      every order, without contact
    operator    orders that it changes, without contact

An order that a caller may not see is answered as if it did not exist, also by commands. Routes show orders only through these
functions; one test enforces this, and another calls every route with every role for everybody's orders.
"""

from __future__ import annotations

from typing import NamedTuple

from api.call import Call
from api.callers.roles import Role
from api.contract.responses import FrozenOut, OrderSummaryOut
from api.problems import Problem
from api.representations import frozen_shown, order_summary, to_json, whole_order
from ledger.audit import CONTACT_READ, DONE
from ledger.contacts import OrderContact, contact_key
from ledger.order import Order

READERS: tuple[Role, ...] = ("gateway", "admin", "reader")  # of orders


class Sight(NamedTuple):
    """What a role may see: only orders of its customer or all, contacts, client secrets."""

    own_orders_only: bool
    contact: bool
    client_secret: bool


SIGHT: dict[Role, Sight] = {
    "gateway": Sight(own_orders_only=True, contact=True, client_secret=True),
    "admin": Sight(own_orders_only=False, contact=True, client_secret=False),
    "reader": Sight(own_orders_only=False, contact=False, client_secret=False),
    "operator": Sight(own_orders_only=False, contact=False, client_secret=False),
}


def sight(call: Call) -> Sight:
    """What the caller may see. Call `call.allow` first, and for a gateway `call.customer`."""
    principal = call.exchange.principal
    assert principal is not None
    return SIGHT[principal.role]


# ---- which orders


def may_see(call: Call, order: Order) -> bool:
    """Whether the caller may see this order."""
    return not sight(call).own_orders_only or order.customer_id == call.exchange.customer


def may_hear(call: Call, order_id: str) -> bool:
    """Whether the caller may learn the outcome of a command about this order, which may not exist."""
    if not sight(call).own_orders_only:
        return True
    partition = call.ctx.partition_of(order_id)
    order = call.ctx.queries.order(partition, order_id)
    if order is not None:
        return may_see(call, order)
    return call.ctx.frozen(partition, order_id) is None  # an order that cannot be folded at all: its owner is unknown


async def order_of_path(call: Call) -> tuple[int, Order]:
    """(partition, current order) of the path. Raises `order-not-found`, `order-frozen`, and the problems of `Call`."""
    call.customer(call.allow(*READERS))
    order_id = call.order_id()
    await call.caught_up()
    partition = call.ctx.partition_of(order_id)
    order = call.ctx.queries.order(partition, order_id)
    if order is None and call.ctx.frozen(partition, order_id) is not None and may_hear(call, order_id):
        raise Problem("order-frozen", members={"order_id": order_id, "frozen": frozen(call, order_id)})
    if order is None or not may_see(call, order):
        raise Problem("order-not-found")
    return partition, order


# ---- what of an order


def frozen(call: Call, order_id: str) -> FrozenOut | None:
    """Why and where the fold of an order stopped, if the caller may see it."""
    partition = call.ctx.partition_of(order_id)
    return frozen_shown(call.ctx.frozen(partition, order_id), partition)


def order_shown(call: Call, order: Order, just_sent: OrderContact | None = None) -> bytes:
    """The complete order as JSON. `just_sent`: its contact, if this request sent it. Raises `not-caught-up`.

    If staff see a contact, that is audited.
    """
    assert may_see(call, order)
    contact = (just_sent or _contact(call, order)) if sight(call).contact else None
    return to_json(whole_order(order, frozen(call, order.order_id), contact))


def row_shown(call: Call, order: Order) -> OrderSummaryOut:
    """One order in a list."""
    assert may_see(call, order)
    return order_summary(order, frozen(call, order.order_id))


def sees_client_secret(call: Call) -> bool:
    """Whether the answer may contain the client secret."""
    return sight(call).client_secret


def _contact(call: Call, order: Order) -> OrderContact | None:
    call.ctx.refuse_unfolded_contacts(call.ctx.partition_of(order.order_id))
    contact = call.ctx.projector.contact(contact_key(order.order_id, order.contact_digest))
    if contact is not None and call.method != "HEAD" and not sight(call).own_orders_only:
        call.ctx.audit.note(call.by, CONTACT_READ, DONE, order_id=order.order_id, customer_id=order.customer_id)
    return contact
