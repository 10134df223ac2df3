"""Resolution of an order's attention by staff (`resolveAttention`)."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from api.call import Call
from api.contract import operations as docs
from api.contract.requests import ResolveAttentionBody
from api.problems import FieldError, Problem, problem_of
from api.replies import carry_out
from commands.idempotency import command_id_of
from commands.messages import OrderCommand, ResolveAttention
from ledger.audit import ATTENTION_RESOLUTION, DONE, REFUSED, UNDECIDED
from ledger.errors import NotNow
from ledger.transitions import Operation

RESOLVE = "ResolveAttention"  # name of the operation in command ids; never changes


def add_routes(router: APIRouter) -> None:
    """Register the routes."""
    router.add_api_route("/orders/{order_id}/attention", resolve, methods=["POST"], **docs.RESOLVE_ATTENTION)


async def resolve(call: Call) -> Response:
    """`resolveAttention`: removes the flag. `retry` repeats what failed; `settled_elsewhere` counts the amount as refunded."""
    principal = call.allow("admin", "operator")
    order_id = call.order_id()
    key = call.idempotency_key()
    expected_version = call.expected_version()
    value, body = await call.body_as(ResolveAttentionBody)
    if body.action == "retry" and body.amount_minor is not None:
        text = "amount_minor is allowed only with settled_elsewhere."
        raise Problem("invalid-field", text, errors=[FieldError("/amount_minor", "wrong-action")])
    command = OrderCommand(
        command_id=command_id_of(principal.name, "", RESOLVE, order_id, key),
        order_id=order_id,
        fingerprint=call.ctx.fingerprint(value),
        operation=Operation.RESOLVE_ATTENTION.value,
        actor=principal.actor,
        expected_version=expected_version,
        resolve_attention=ResolveAttention(body.code, body.obligation_key, body.action, body.amount_minor, body.ticket),
    )
    audit = call.ctx.audit
    try:
        response = await carry_out(call, command)
    except (Problem, NotNow) as exc:
        problem = exc if isinstance(exc, Problem) else problem_of(exc)
        outcome = UNDECIDED if problem.status >= 500 else REFUSED
        audit.note(call.by, ATTENTION_RESOLUTION, outcome, order_id=order_id, reason=problem.slug)
        raise
    audit.note(call.by, ATTENTION_RESOLUTION, UNDECIDED if response.status_code == 202 else DONE, order_id=order_id)
    return response
