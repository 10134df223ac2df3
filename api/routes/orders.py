"""Orders: place, set status, cancel, read, list (`placeOrder` to `cancelOrder`)."""

from __future__ import annotations

from contextlib import suppress

from fastapi import APIRouter
from starlette.responses import Response

from api.call import Call
from api.context import AppContext
from api.contract import operations as docs
from api.contract.queries import AdminOrdersQuery, OrderQuery, OrdersQuery, OwnOrdersQuery
from api.contract.requests import CancelOrderBody, PlaceOrderBody, SetStatusBody
from api.contract.responses import OrderPageOut
from api.cursors import read_cursor, signed_cursor
from api.edge import json_response
from api.problems import FieldError, Problem
from api.replies import carry_out
from api.representations import etag, to_json
from api.routes.content import contact_of, content_of, problem_of_flaw
from api.visibility import READERS, frozen, may_see, order_of_path, order_shown, row_shown
from commands.flaws import flaws
from commands.idempotency import NEW_ORDER, command_id_of, order_id_of
from commands.messages import CancelOrder, OrderCommand, ShipOrder
from ledger.audit import CONTACT_SEARCH, DONE
from ledger.order import FoldError
from ledger.order_numbers import read_number
from ledger.transitions import Operation, Status
from ledger.turns import Steps
from projections.queries import OrderFilter, VersionNotFound

# Names of operations in command ids: part of a key's scope, they never change, even if paths do.
PLACE, SET_STATUS, CANCEL = "PlaceOrder", "SetStatus", "CancelOrder"


def add_routes(router: APIRouter) -> None:
    """Register the routes; the busiest first, because they are matched in order."""
    router.add_api_route("/orders", place_order, methods=["POST"], **docs.PLACE_ORDER)
    router.add_api_route("/orders/{order_id}", read_order, methods=["GET"], **docs.READ_ORDER)
    router.add_api_route("/orders", list_orders, methods=["GET"], **docs.LIST_ORDERS)
    router.add_api_route("/orders/{order_id}/status", set_status, methods=["PUT"], **docs.SET_STATUS)
    router.add_api_route("/orders/{order_id}/cancel", cancel_order, methods=["POST"], **docs.CANCEL_ORDER)


# ---- commands -------------------------------------------------------------------------------------------------------


async def place_order(call: Call) -> Response:
    """`placeOrder`. The order's id derives from the key, so a retry meets its first attempt."""
    principal = call.allow("gateway")
    customer = call.customer(principal)
    key = call.idempotency_key()
    value, body = await call.body_as(PlaceOrderBody)
    ctx = call.ctx
    command_id = command_id_of(principal.name, customer, PLACE, NEW_ORDER, key)
    order_id = order_id_of(command_id)
    fingerprint = ctx.fingerprint(value)
    not_allowed = _not_allowed(body, ctx)
    # A setting may now forbid what was placed before: a retry still gets its first answer, but not another body under its key.
    if not_allowed is not None and ctx.queries.outcome(ctx.partition_of(order_id), command_id, fingerprint) is None:
        raise not_allowed
    contact = contact_of(body.contact, customer, ctx.email_digest(body.contact.email))
    window_ms = 1000 * (body.payment_window_seconds or ctx.settings.payment_window_seconds)
    place = content_of(body, ctx.contact_digest(value["contact"], order_id), window_ms)
    for flaw in flaws(place):
        raise problem_of_flaw(flaw)
    command = OrderCommand(
        command_id=command_id,
        order_id=order_id,
        fingerprint=fingerprint,
        operation=Operation.PLACE_ORDER.value,
        actor=principal.actor,
        customer_id=customer,
        place=place,
    )
    return await carry_out(call, command, created=True, contact=contact)


def _not_allowed(body: PlaceOrderBody, ctx: AppContext) -> Problem | None:
    """The problem, if the current settings forbid this order."""
    if body.currency not in ctx.currencies:
        return Problem(
            "currency-not-supported",
            f"The shop supports {', '.join(sorted(ctx.currencies))}.",
            errors=[FieldError("/currency", "currency-not-supported")],
        )
    window_s, least, most = body.payment_window_seconds, *ctx.payment_window_bounds_s
    if window_s is not None and not least <= window_s <= most:
        return Problem(
            "payment-window-not-allowed",
            f"The time to pay must be {least} to {most} seconds.",
            errors=[FieldError("/payment_window_seconds", "payment-window-not-allowed")],
        )
    return None


async def set_status(call: Call) -> Response:
    """`setOrderStatus`. `pending` and `paid` follow from facts and cannot be set."""
    principal = call.allow("admin")
    order_id = call.order_id()
    key = call.idempotency_key()
    expected_version = call.expected_version()
    value, body = await call.body_as(SetStatusBody)
    if body.status in ("pending", "paid"):
        raise Problem("status-not-settable", errors=[FieldError("/status", "status-not-settable")])
    _check_belongs(body)
    command = OrderCommand(
        command_id=command_id_of(principal.name, "", SET_STATUS, order_id, key),
        order_id=order_id,
        fingerprint=call.ctx.fingerprint(value),
        operation=_OPERATION_OF[body.status].value,
        actor=principal.actor,
        expected_version=expected_version,
        cancel=CancelOrder(body.reason or "other") if body.status == "cancelled" else None,
        ship=ShipOrder(body.carrier, body.tracking) if body.status == "shipped" else None,
    )
    return await carry_out(call, command)


_OPERATION_OF: dict[str, Operation] = {
    Status.PROCESSING: Operation.START_FULFILMENT,
    Status.SHIPPED: Operation.SHIP_ORDER,
    Status.DELIVERED: Operation.CONFIRM_DELIVERY,
    Status.CANCELLED: Operation.CANCEL_ORDER,
}


def _check_belongs(body: SetStatusBody) -> None:
    """Raises `invalid-field` for a member that belongs to another status."""
    for name, status in (("carrier", "shipped"), ("tracking", "shipped"), ("reason", "cancelled")):
        if getattr(body, name) is not None and body.status != status:
            raise Problem(
                "invalid-field", f"{name} is allowed only with {status}.", errors=[FieldError(f"/{name}", "wrong-status")]
            )


async def cancel_order(call: Call) -> Response:
    """`cancelOrder`. Answers when the cancellation is decided; refund and stock release follow."""
    principal = call.allow("gateway", "admin")
    customer = call.customer(principal)
    order_id = call.order_id()
    key = call.idempotency_key()
    expected_version = call.expected_version()
    value, body = await call.body_as(CancelOrderBody)
    reason = body.reason or ("customer_request" if customer else "other")
    command = OrderCommand(
        command_id=command_id_of(principal.name, customer, CANCEL, order_id, key),
        order_id=order_id,
        fingerprint=call.ctx.fingerprint(value),
        operation=Operation.CANCEL_ORDER.value,
        actor=principal.actor,
        customer_id=customer,
        expected_version=expected_version,
        cancel=CancelOrder(reason),
    )
    return await carry_out(call, command)


# ---- reads ----------------------------------------------------------------------------------------------------------


async def read_order(call: Call) -> Response:
    """`readOrder`: now, as of a version, or as of a time."""
    partition, order = await order_of_path(call)
    query = call.query(OrderQuery)
    version, at_ms = query.version, query.at_ms
    ctx = call.ctx
    try:
        if version is not None and at_ms is not None:
            raise Problem(
                "invalid-field",
                "Send `version` or `at`, not both.",
                errors=[FieldError("/at", "excludes-version", "query")],
            )
        if version is not None:
            order = await call.in_turns(ctx.queries.as_of_version(partition, order.order_id, version))
        elif at_ms is not None:
            order = await call.in_turns(ctx.queries.as_of_time(partition, order.order_id, at_ms))
    except VersionNotFound:
        raise Problem("version-not-found", members={"order_id": order.order_id}) from None
    except FoldError:
        members = {"order_id": order.order_id, "frozen": frozen(call, order.order_id)}
        raise Problem("order-frozen", members=members) from None
    headers = {"ETag": etag(order.version), "Ledger-Position": ctx.position(partition)}
    if call.has_version(order.version):
        return Response(None, 304, headers)
    return json_response(order_shown(call, order), 200, headers)


async def list_orders(call: Call) -> Response:
    """`listOrders`: newest first across all partitions. A gateway sees only its customer's orders, whatever the cursor says."""
    principal = call.allow(*READERS)
    customer = call.customer(principal)
    query = call.query(OwnOrdersQuery if customer else AdminOrdersQuery if principal.role == "admin" else OrdersQuery)
    if isinstance(query, AdminOrdersQuery) and query.email is not None:
        return await _by_email(call, query, query.email)
    if query.number is not None:
        await call.caught_up()
        return json_response(_by_number(call, query, query.number))
    if query.reference is not None and (query.status or query.attention):
        error = FieldError("/reference", "excludes-others", "query")
        raise Problem("invalid-field", "Send `reference` without `status` and `attention`.", errors=[error])
    wanted = OrderFilter(
        reference=query.reference,
        status=query.status,
        customer_id=query.customer_id if isinstance(query, OrdersQuery) else customer,
        placed_from_ms=query.placed_from_ms,
        placed_to_ms=query.placed_to_ms,
        attention=True if query.attention else None,
    )
    await call.caught_up()
    ctx = call.ctx
    resume = None if query.cursor is None else read_cursor(ctx, wanted, query.cursor)
    body = await call.in_turns(_page(call, wanted, query.limit, resume))
    return json_response(body)


async def _by_email(call: Call, query: AdminOrdersQuery, email: str) -> Response:
    """Orders whose contact has this address, for whoever may read contacts. The audit records it, without the address."""
    ctx = call.ctx
    error = FieldError("/email", "excludes-others", "query")
    if query.model_fields_set - {"email", "limit", "cursor"}:
        raise Problem("invalid-field", "Send `email` without other filters.", errors=[error])
    try:
        wanted = OrderFilter(email_digest=ctx.email_digest(email))
    except ValueError:
        error = FieldError("/email", "not-an-email-address", "query")
        raise Problem("invalid-field", "email must be an e-mail address.", errors=[error]) from None
    await call.caught_up()
    ctx.refuse_unfolded_contacts()
    resume = None if query.cursor is None else read_cursor(ctx, wanted, query.cursor)
    body = await call.in_turns(_page(call, wanted, query.limit, resume))
    ctx.audit.note(call.by, CONTACT_SEARCH, DONE)
    return json_response(body)


def _by_number(call: Call, query: OwnOrdersQuery, number: str) -> bytes:
    """The page of at most one order: with exactly this number, as an older service may have given it, or as people type it."""
    if query.model_fields_set - {"number", "limit"}:
        raise Problem("invalid-field", "Send `number` alone.", errors=[FieldError("/number", "excludes-others", "query")])
    numbers = [number]
    with suppress(ValueError):
        numbers.append(read_number(number))
    for one in dict.fromkeys(numbers):
        order = call.ctx.queries.by_number(one)
        if order is not None and may_see(call, order):
            return to_json(OrderPageOut([row_shown(call, order)], None))
    return to_json(OrderPageOut([], None))


def _page(call: Call, wanted: OrderFilter, limit: int, resume: dict[int, bytes] | None) -> Steps[bytes]:
    """The body of a page."""
    ctx = call.ctx
    page = yield from ctx.queries.page(wanted, limit, resume)
    rows = []
    for order in page.orders:
        rows.append(row_shown(call, order))
        yield
    next_cursor = None if page.resume is None else signed_cursor(ctx, wanted, page.resume)
    return to_json(OrderPageOut(rows, next_cursor))
