"""Orders of an older service (`importOrder`): recorded as they were; the ledger owes nothing for them."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from api.call import Call
from api.context import AppContext
from api.contract import desk_operations as docs
from api.contract.requests import ImportOrderBody
from api.problems import FieldError, Problem, sentence
from api.replies import carry_out
from api.routes.content import contact_of, content_of, problem_of_flaw
from commands.flaws import flaw_of_import, flaws
from commands.idempotency import NEW_ORDER, command_id_of, order_id_of
from commands.messages import ImportOrder, OrderCommand
from ledger.clock import now_ms
from ledger.rfc3339 import parse_ms
from ledger.transitions import Operation

IMPORT = "ImportOrder"  # name of the operation in command ids; never changes


def add_routes(router: APIRouter) -> None:
    """Register the route."""
    router.add_api_route("/imports", import_order, methods=["POST"], **docs.IMPORT_ORDER)


async def import_order(call: Call) -> Response:
    """`importOrder`. The old id is the key: whoever sends it again, and when, gets the first answer."""
    principal = call.allow("admin")
    value, body = await call.body_as(ImportOrderBody)
    ctx = call.ctx
    command_id = command_id_of("", "", IMPORT, NEW_ORDER, body.old_id)
    order_id = order_id_of(command_id)
    wanted = import_of(body, ctx.contact_digest(value.get("contact"), order_id))
    for flaw in flaws(wanted.place):
        raise problem_of_flaw(flaw)
    if why := flaw_of_import(wanted, now_ms()):
        raise Problem("invalid-field", sentence(why), errors=[FieldError("/status", "impossible")])
    if ctx.queries.outcome(ctx.partition_of(order_id), command_id) is None:  # a repetition gets its first answer
        _refuse_number_in_use(ctx, wanted.number, order_id)
    command = OrderCommand(
        command_id=command_id,
        order_id=order_id,
        fingerprint=ctx.fingerprint(value),
        operation=Operation.IMPORT_ORDER.value,
        actor=principal.actor,
        customer_id=body.customer_id,
        import_order=wanted,
    )
    contact = None
    if body.contact is not None:
        contact = contact_of(body.contact, body.customer_id, ctx.email_digest(body.contact.email))
    return await carry_out(call, command, created=True, contact=contact)


def _refuse_number_in_use(ctx: AppContext, number: str | None, order_id: str) -> None:
    """Raises `Problem` `number-in-use` if this node knows another order with this number.

    Beyond that, the writer of a partition refuses numbers of its own orders. Two imports at the same time, in different
    partitions, can still give one number to two orders: nothing in the ledger is locked for that.
    """
    if number is not None and (other := ctx.queries.by_number(number)) is not None and other.order_id != order_id:
        raise Problem("number-in-use", members={"order_id": other.order_id})


def import_of(body: ImportOrderBody, contact_digest: bytes) -> ImportOrder:
    """What the body says. Raises `Problem` for an invalid time."""
    return ImportOrder(
        place=content_of(body, contact_digest, 1),
        old_id=body.old_id,
        placed_at=_time(body.placed_at, "placed_at"),
        status=body.status,
        captured_minor=body.captured_minor,
        refunded_minor=body.refunded_minor,
        number=body.number,
        shipped_at=None if body.shipped_at is None else _time(body.shipped_at, "shipped_at"),
        delivered_at=None if body.delivered_at is None else _time(body.delivered_at, "delivered_at"),
        carrier=body.carrier,
        tracking=body.tracking,
        cancel_reason=body.cancel_reason,
    )


def _time(text: str, name: str) -> int:
    at_ms = parse_ms(text)
    if at_ms is None:
        error = FieldError(f"/{name}", "not-a-time")
        raise Problem("invalid-field", f"{name} must be an RFC 3339 time with a time zone.", errors=[error])
    return at_ms
