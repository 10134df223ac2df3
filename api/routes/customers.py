"""Erasure of a customer's personal data (`eraseCustomer`). The ledger contains none, so it and its chain stay unchanged."""

from __future__ import annotations

import re

from fastapi import APIRouter
from starlette.responses import Response

from api.call import Call
from api.context import AppContext
from api.contract import operations as docs
from api.contract.patterns import NAME
from api.contract.queries import QueryParameters
from api.contract.requests import EraseBody
from api.contract.responses import ErasureOut
from api.edge import json_response
from api.problems import FieldError, Problem
from api.replies import wait_of
from api.representations import erasure_state, to_json
from ledger.audit import CUSTOMER_ERASURE, REFUSED, REQUESTED
from ledger.transitions import Status
from ledger.turns import Steps
from projections.queries import OrderFilter

COUNTED_ORDERS = 1_000  # counted at most, in a refusal
_ENDED = (Status.DELIVERED, Status.CANCELLED)


def add_routes(router: APIRouter) -> None:
    """Register the routes."""
    router.add_api_route("/customers/{customer_id}/erasure", erase_customer, methods=["POST"], **docs.ERASE_CUSTOMER)
    router.add_api_route("/customers/{customer_id}/erasure", read_erasure, methods=["GET"], **docs.READ_ERASURE)


async def erase_customer(call: Call) -> Response:
    """Erase the contacts of a customer: 202 when the erasure is durable, 200 when it is done. It can safely be repeated.

    The request is in the audit log before the erasure begins.
    """
    call.allow("operator")
    customer = _customer(call)
    _, body = await call.body_as(EraseBody)
    ctx = call.ctx
    status = ctx.status()
    if not status.connected:
        raise Problem("ledger-unavailable")
    if status.staleness_ms:
        raise Problem("not-caught-up", "This node does not have every order yet.")
    await call.caught_up()
    if not body.force and (count := await call.in_turns(_open_orders(ctx, customer))):
        ctx.audit.note(call.by, CUSTOMER_ERASURE, REFUSED, customer_id=customer, reason="open-orders")
        orders = f"{COUNTED_ORDERS:,} or more" if count >= COUNTED_ORDERS else str(count)
        raise Problem("open-orders", f"{orders} orders of this customer are neither delivered nor cancelled.")
    await ctx.audit.keep(call.by, CUSTOMER_ERASURE, REQUESTED, customer_id=customer)
    promised = await ctx.erasures.promise(customer)
    await ctx.erasures.wait(customer, wait_of(call.preferences))
    erasure = ctx.erasures.last(customer) or promised
    headers = {"Preference-Applied": call.preferences.applied} if call.preferences.applied else {}
    if erasure.done_at is not None:
        return json_response(to_json(ErasureOut(erasure.contacts_deleted)), 200, headers)
    return json_response(to_json(erasure_state(erasure)), 202, {**headers, "Location": f"/customers/{customer}/erasure"})


async def read_erasure(call: Call) -> Response:
    """Progress of the last erasure of a customer."""
    call.allow("operator")
    customer = _customer(call)
    call.query(QueryParameters)
    erasure = call.ctx.erasures.last(customer)
    if erasure is None:
        raise Problem("not-found", "No erasure of this customer has been requested.")
    return json_response(to_json(erasure_state(erasure)))


def _customer(call: Call) -> str:
    customer: str = call.path_params["customer_id"]
    if not re.fullmatch(NAME, customer):
        raise Problem(
            "invalid-field",
            "A customer id must be a pseudonym: 1 to 64 letters, digits, - and _.",
            errors=[FieldError("/customer_id", "pattern", "path")],
        )
    return customer


def _open_orders(ctx: AppContext, customer: str) -> Steps[int]:
    """Number of orders of the customer that are neither delivered nor cancelled, at most `COUNTED_ORDERS`."""
    count = 0
    for status in Status:
        if status not in _ENDED:
            count += yield from ctx.queries.count(OrderFilter(status, customer), COUNTED_ORDERS - count)
    return count
