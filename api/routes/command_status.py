"""What became of a command (`readCommand`): from this node's fold, else from the command's own record in the log."""

from __future__ import annotations

import re

from fastapi import APIRouter
from starlette.responses import Response

from api.call import Call
from api.callers.auth import Principal
from api.context import AppContext
from api.contract import operations as docs
from api.contract.patterns import NAME
from api.edge import json_response
from api.problems import Problem
from api.replies import command_state
from api.services.look_ups import TooManyLookUps
from commands.messages import CommandHead
from ledger.errors import LogError
from ledger.outcomes import Outcome

_COMMAND_ID = re.compile(NAME)


def add_routes(router: APIRouter) -> None:
    router.add_api_route("/commands/{command_id}", read_command, methods=["GET"], **docs.READ_COMMAND)


async def read_command(call: Call) -> Response:
    """Pending, accepted or refused; unknown to everybody but the principal and customer that sent it."""
    principal = call.allow()
    customer = call.customer(principal)
    command_id: str = call.path_params["command_id"]
    query = call.query()
    at = query.text("at")
    query.done()
    ctx = call.ctx
    place = None if at is None else ctx.parse_position(at, "at", "query")
    if not _COMMAND_ID.fullmatch(command_id):
        raise Problem("command-unknown")
    await call.caught_up()
    if place is None:
        outcome = next(filter(None, (ctx.queries.outcome(p, command_id) for p in range(ctx.partitions))), None)
    else:
        outcome = _decided_there(ctx, command_id, *place)
    if outcome is not None and _sent_by(principal, customer, outcome):
        return json_response(await command_state(call, command_id, outcome.order_id, outcome))
    if place is None:  # also for what somebody else sent: that there is such a command is nobody else's to know
        raise Problem("command-unknown", "Send the position `at` from the Location of the 202 to tell pending from unknown.")
    command = None if outcome is not None else await _read_back(ctx, *place)
    if command is None:
        # Too old to be in the log: what the fold knows of this id is what became of it.
        outcome = ctx.queries.outcome(place[0], command_id)
        if outcome is None or not _sent_by(principal, customer, outcome):
            raise Problem("command-unknown")
        return json_response(await command_state(call, command_id, outcome.order_id, outcome))
    if command.command_id != command_id or not _sent_by(principal, customer, command):
        raise Problem("command-unknown")
    outcome = ctx.queries.outcome(place[0], command_id, command.fingerprint)
    return json_response(await command_state(call, command_id, command.order_id, outcome))


def _decided_there(ctx: AppContext, command_id: str, partition: int, offset: int) -> Outcome | None:
    """The outcome, when the fold alone can tell that it is that of the command at this very place.

    Another command under the same id (a reused key) stands at another place and has another outcome; only its record tells.
    """
    outcome = ctx.queries.outcome(partition, command_id)
    if outcome is None or outcome.version is None or outcome.code is not None:
        return None
    past = ctx.queries.event(partition, outcome.order_id, outcome.version)
    return outcome if past and past.event.command_offset == offset else None


async def _read_back(ctx: AppContext, partition: int, offset: int) -> CommandHead | None:
    """The command at this place; None when there is none (any more). Raises `ledger-unavailable`, `too-many-requests`."""
    try:
        return await ctx.look_ups.at(partition, offset)
    except TooManyLookUps:
        raise Problem("too-many-requests") from None
    except LogError:
        raise Problem("ledger-unavailable", "The command's record cannot be read now.") from None


def _sent_by(principal: Principal, customer: str, command: Outcome | CommandHead) -> bool:
    """Staff act for no customer: what became of their command bears the order's."""
    return command.actor == principal.actor and customer in ("", command.customer_id)
