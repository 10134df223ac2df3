"""Erasure of a customer's personal data (A12). The ledger holds none, so it and its chain stay as they are."""

from __future__ import annotations

import re

from fastapi import APIRouter
from starlette.responses import Response

from api import docs
from api.call import Call
from api.context import AppContext
from api.edge import json_response
from api.erasure import erase
from api.errors import FieldError, Problem
from api.patterns import NAME
from api.payloads import EraseBody
from api.representations import to_json
from ledger.order import Order, display
from ledger.transitions import Status
from ledger.turns import Steps
from projections.queries import OrderFilter

PAGE_ORDERS = 500
_ENDED = (Status.DELIVERED, Status.CANCELLED)


def add_routes(router: APIRouter) -> None:
    router.add_api_route("/customers/{customer_id}/erasure", erase_customer, methods=["POST"], **docs.ERASE_CUSTOMER)


async def erase_customer(call: Call) -> Response:
    """The contacts of a customer are erased, durably, when this answers. Doing it again is harmless."""
    call.allow("operator")
    customer: str = call.path_params["customer_id"]
    if not re.fullmatch(NAME, customer):
        raise Problem("invalid-field", "A customer id is a pseudonym.", errors=[FieldError("/customer_id", "pattern", "path")])
    _, body = await call.body_as(EraseBody)
    ctx = call.ctx
    status = ctx.status()
    if not status.connected:
        raise Problem("ledger-unavailable")
    if status.staleness_ms:
        raise Problem("not-caught-up", "This node does not know every order yet.")
    await call.caught_up()
    orders = await call.in_turns(_orders_of(ctx, customer))
    open_orders = [order.order_id for order in orders if display(order) not in _ENDED]
    if open_orders and not body.force:
        raise Problem("open-orders", f"{len(open_orders)} orders of this customer are neither delivered nor cancelled.")
    return json_response(to_json({"contacts_deleted": await erase(ctx, customer)}))


def _orders_of(ctx: AppContext, customer: str) -> Steps[list[Order]]:
    wanted = OrderFilter(customer_id=customer)
    found: list[Order] = []
    resume = None
    while True:
        page = yield from ctx.queries.page(wanted, PAGE_ORDERS, resume)
        found += page.orders
        if page.resume is None:
            return found
        resume = page.resume
