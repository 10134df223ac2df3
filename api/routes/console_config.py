"""What the console's page must know before somebody has logged in (`/console/config.json`). Public: it contains no secret."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from api.call import Call
from api.callers.oidc import Oidc
from api.contract import operations as docs
from api.contract.desk_responses import ConsoleConfigOut, ConsoleLoginOut
from api.edge import json_response
from api.representations import to_json


def add_routes(router: APIRouter) -> None:
    """Register the route."""
    router.add_api_route("/console/config.json", console_config, methods=["GET"], **docs.CONSOLE_CONFIG)


async def console_config(call: Call) -> Response:
    """The issuer's addresses are those of its discovery document: the page need not read it, and works under a strict policy."""
    return json_response(to_json(ConsoleConfigOut(_login(call.ctx.oidc))))


def _login(oidc: Oidc | None) -> ConsoleLoginOut | None:
    if oidc is None or oidc.rules.console is None:
        return None
    console, discovery = oidc.rules.console, oidc.issuer.discovery
    return ConsoleLoginOut(
        oidc.rules.issuer,
        console.client_id,
        console.scopes,
        console.parameters,
        discovery.authorization_endpoint or None,
        discovery.token_endpoint or None,
        discovery.end_session_endpoint or None,
    )
