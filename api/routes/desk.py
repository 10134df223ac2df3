"""What a shop's desk does with an order (`cancelLines` to `changeMetadata`), and what it can do (`readOutlook`)."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from api.call import Call
from api.callers.auth import Principal
from api.context import AppContext
from api.contract import desk_operations as docs
from api.contract.queries import QueryParameters
from api.contract.requests import (
    CancelLinesBody,
    ChangeMetadataBody,
    CreateShipmentBody,
    EmptyBody,
    RequestRefundBody,
    UnitsBody,
)
from api.edge import json_response
from api.problems import FieldError, Problem
from api.replies import carry_out
from api.representations import etag, outlook, refund_list, to_json
from api.visibility import order_of_path
from commands.idempotency import command_id_of
from commands.messages import CancelLines, ChangeMetadata, DeliverParcel, EntryChange, OrderCommand, RequestRefund, ShipOrder
from commands.outlook import allowed, since_when
from ledger.clock import now_ms
from ledger.events import Units
from ledger.evolve import evolve
from ledger.order import Order
from ledger.transitions import Operation
from ledger.turns import Steps

# Names of operations in command ids: part of a key's scope, they never change, even if paths do.
CANCEL_LINES, REFUND, SHIPMENT, DELIVERED, METADATA = (
    "CancelLines",
    "RequestRefund",
    "CreateShipment",
    "ConfirmShipment",
    "ChangeMetadata",
)


def add_routes(router: APIRouter) -> None:
    """Register the routes."""
    order = "/orders/{order_id}"
    router.add_api_route(f"{order}/lines/cancel", cancel_lines, methods=["POST"], **docs.CANCEL_LINES)
    router.add_api_route(f"{order}/refunds", request_refund, methods=["POST"], **docs.REQUEST_REFUND)
    router.add_api_route(f"{order}/refunds", read_refunds, methods=["GET"], **docs.READ_REFUNDS)
    router.add_api_route(f"{order}/outlook", read_outlook, methods=["GET"], **docs.READ_OUTLOOK)
    router.add_api_route(f"{order}/shipments", create_shipment, methods=["POST"], **docs.CREATE_SHIPMENT)
    router.add_api_route(f"{order}/shipments/{{number}}/delivered", confirm_shipment, methods=["POST"], **docs.CONFIRM_SHIPMENT)
    router.add_api_route(f"{order}/metadata", change_metadata, methods=["PATCH"], **docs.CHANGE_METADATA)


async def cancel_lines(call: Call) -> Response:
    """`cancelLines`. Cancelling the last units cancels the order."""
    principal = call.allow("gateway", "admin")
    customer = call.customer(principal)
    head = _head(call)
    value, body = await call.body_as(CancelLinesBody)
    reason = body.reason or ("customer_request" if customer else "other")
    payload = CancelLines(_units(body.lines), reason, body.shipping)
    return await _command(call, principal, CANCEL_LINES, Operation.CANCEL_LINES, head, value, customer, cancel_lines=payload)


async def request_refund(call: Call) -> Response:
    """`requestRefund`: of an amount, of units, of the shipping."""
    principal = call.allow("admin")
    head = _head(call)
    value, body = await call.body_as(RequestRefundBody)
    if body.amount_minor is None and not body.lines and not body.shipping:
        raise Problem("invalid-field", "Send `amount_minor`, `lines` or `shipping`.", errors=[FieldError("", "missing")])
    if body.restock and not body.lines:
        raise Problem("invalid-field", "`restock` is for `lines`.", errors=[FieldError("/restock", "without-lines")])
    payload = RequestRefund(body.reason, _units(body.lines), body.amount_minor, body.shipping, body.restock)
    return await _command(call, principal, REFUND, Operation.REQUEST_REFUND, head, value, request_refund=payload)


async def read_refunds(call: Call) -> Response:
    """`readRefunds`: what was refunded, is being refunded, and is still owed."""
    partition, order = await order_of_path(call)
    call.query(QueryParameters)
    return json_response(to_json(refund_list(order)), 200, {"Ledger-Position": call.ctx.position(partition)})


async def read_outlook(call: Call) -> Response:
    """`readOutlook`. An order whose fold stopped accepts no command, and may get notes."""
    principal = call.allow("admin", "reader")
    partition, order = await order_of_path(call)
    call.query(QueryParameters)
    acts = principal.role == "admin"
    actions = allowed(order, now_ms()) if acts and call.ctx.frozen(partition, order.order_id) is None else ()
    since = await call.in_turns(_owed_since(call.ctx, partition, order))
    body = to_json(outlook(order, since, actions, notes=acts))
    return json_response(body, 200, {"ETag": etag(order.version), "Ledger-Position": call.ctx.position(partition)})


def _owed_since(ctx: AppContext, partition: int, order: Order) -> Steps[dict[str, int]]:
    """Since when the order owes what it owes, by key: from its whole history."""
    folded: Order | None = None
    since: dict[str, int] = {}
    for past in (yield from ctx.queries.history(partition, order.order_id, 0, order.version)):
        folded = evolve(folded, past.event)
        since = since_when(folded, past.event.occurred_at, since)
        yield
    return since


async def create_shipment(call: Call) -> Response:
    """`createShipment`: one parcel."""
    principal = call.allow("admin")
    head = _head(call)
    value, body = await call.body_as(CreateShipmentBody)
    payload = ShipOrder(body.carrier, body.tracking, _units(body.lines))
    return await _command(call, principal, SHIPMENT, Operation.SHIP_PARCEL, head, value, ship=payload)


async def confirm_shipment(call: Call) -> Response:
    """`confirmShipment`. The number is part of what the key stands for."""
    principal = call.allow("admin")
    head = _head(call)
    number = call.number("number")
    value, _ = await call.body_as(EmptyBody)
    payload = DeliverParcel(number)
    named = {"body": value, "number": number}
    return await _command(call, principal, DELIVERED, Operation.CONFIRM_PARCEL, head, named, deliver=payload)


async def change_metadata(call: Call) -> Response:
    """`changeMetadata`: a merge patch."""
    principal = call.allow("admin")
    head = _head(call)
    value, body = await call.body_as(ChangeMetadataBody)
    payload = ChangeMetadata(tuple(EntryChange(name, text) for name, text in sorted(body.metadata.items())))
    return await _command(call, principal, METADATA, Operation.CHANGE_METADATA, head, value, change_metadata=payload)


def _head(call: Call) -> tuple[str, str, int | None]:
    """(order id, key, expected version) of the request."""
    return call.order_id(), call.idempotency_key(), call.expected_version()


async def _command(  # its parts
    call: Call,
    principal: Principal,
    scope: str,
    operation: Operation,
    head: tuple[str, str, int | None],
    value: Any,
    customer: str = "",
    **payload: Any,
) -> Response:
    order_id, key, expected_version = head
    command = OrderCommand(
        command_id=command_id_of(principal.name, customer, scope, order_id, key),
        order_id=order_id,
        fingerprint=call.ctx.fingerprint(value),
        operation=operation.value,
        actor=principal.actor,
        customer_id=customer,
        expected_version=expected_version,
        **payload,
    )
    return await carry_out(call, command)


def _units(lines: list[UnitsBody]) -> tuple[Units, ...]:
    """Raises `Problem` for a line that is named twice."""
    for index, line in enumerate(lines):
        if any((line.service, line.sku) == (other.service, other.sku) for other in lines[:index]):
            error = FieldError(f"/lines/{index}/sku", "duplicate-line")
            raise Problem("duplicate-line", "Send one line with the sum.", errors=[error])
    return tuple(Units(line.service, line.sku, line.quantity) for line in lines)
