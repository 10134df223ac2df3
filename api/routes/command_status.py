"""The state of a command (`readCommand`): from this node's fold, else from the command's own record in the log."""

from __future__ import annotations

import re

from fastapi import APIRouter
from starlette.responses import Response

from api.call import Call
from api.callers.auth import Principal
from api.context import AppContext
from api.contract import operations as docs
from api.contract.patterns import NAME
from api.contract.queries import CommandQuery
from api.edge import json_response
from api.problems import Problem
from api.replies import command_state
from api.services.look_ups import TooManyLookUps
from commands.messages import CommandHead
from ledger.errors import LogError
from ledger.outcomes import Outcome

_COMMAND_ID = re.compile(NAME)


def add_routes(router: APIRouter) -> None:
    """Register the routes."""
    router.add_api_route("/commands/{command_id}", read_command, methods=["GET"], **docs.READ_COMMAND)


async def read_command(call: Call) -> Response:
    """Pending, accepted or refused. Unknown to everybody except the principal and customer that sent it."""
    principal = call.allow()
    customer = call.customer(principal)
    command_id: str = call.path_params["command_id"]
    at = call.query(CommandQuery).at
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
    if place is None:  # also if somebody else sent it: nobody else may learn that it exists
        raise Problem(
            "command-unknown", "To distinguish pending from unknown, send the position `at` from the Location of the 202."
        )
    command = None if outcome is not None else await _read_back(ctx, *place)
    if command is None:
        # Too old to be in the log: the fold still knows the outcome of this id.
        outcome = ctx.queries.outcome(place[0], command_id)
        if outcome is None or not _sent_by(principal, customer, outcome):
            raise Problem("command-unknown")
        return json_response(await command_state(call, command_id, outcome.order_id, outcome))
    if command.command_id != command_id or not _sent_by(principal, customer, command):
        raise Problem("command-unknown")
    outcome = ctx.queries.outcome(place[0], command_id, command.fingerprint)
    return json_response(await command_state(call, command_id, command.order_id, outcome))


def _decided_there(ctx: AppContext, command_id: str, partition: int, offset: int) -> Outcome | None:
    """The outcome, if the fold alone shows that it belongs to the command at exactly this position.

    Another command with the same id (a reused key) has another position and another outcome; only its record tells them apart.
    """
    outcome = ctx.queries.outcome(partition, command_id)
    if outcome is None or outcome.version is None or outcome.code is not None:
        return None
    past = ctx.queries.event(partition, outcome.order_id, outcome.version)
    return outcome if past and past.event.command_offset == offset else None


async def _read_back(ctx: AppContext, partition: int, offset: int) -> CommandHead | None:
    """The command at this position; None if there is none, or no longer. Raises `ledger-unavailable`, `too-many-requests`."""
    try:
        return await ctx.look_ups.at(partition, offset)
    except TooManyLookUps:
        raise Problem("too-many-requests") from None
    except LogError:
        raise Problem("ledger-unavailable", "The record of the command cannot be read at the moment.") from None


def _sent_by(principal: Principal, customer: str, command: Outcome | CommandHead) -> bool:
    """Whether this principal and customer sent it. Commands of staff have no customer; their outcome has that of the order."""
    return command.actor == principal.actor and customer in ("", command.customer_id)
