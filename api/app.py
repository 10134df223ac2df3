"""The HTTP application: the routes, the edge around them, and problems in place of the framework's own errors."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from api.call import Call
from api.context import AppContext
from api.contract.openapi import openapi_document
from api.edge import Edge, LedgerRoute, SystemRoute, problem_response
from api.problems import Problem
from api.routes import (
    attention,
    console,
    console_config,
    customers,
    desk,
    docs_page,
    events,
    feed,
    imports,
    notes,
    orders,
    payments,
    registry,
    reports,
    system,
    webhook_endpoints,
    webhooks,
)
from api.routes import command_status as tracking

__all__ = ["AppContext", "build_app"]


_LEDGER = (
    orders,
    payments,
    events,
    feed,
    webhooks,
    tracking,
    attention,
    desk,
    notes,
    imports,
    customers,
    reports,
    webhook_endpoints,
)


class HttpApp(FastAPI):
    """FastAPI's routing and description, with `Edge` as the only middleware.

    FastAPI's own middlewares serve features that no route here uses (exception handlers, dependencies, body limits, telemetry).
    """

    def __init__(self, ctx: AppContext) -> None:
        super().__init__(
            title="Order Ledger",
            openapi_url=None,
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
            # Spans are `ledger.tracing`'s. FastAPI would ask OpenTelemetry for its providers at every request.
            telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        )
        self._ctx = ctx
        self.router.route_class = LedgerRoute
        self.router.default = no_such_path

    def build_middleware_stack(self) -> ASGIApp:
        return Edge(self.router, self._ctx)

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = openapi_document(self, self._ctx.settings)
        return self.openapi_schema


def build_app(ctx: AppContext) -> FastAPI:
    """The ASGI application for `ctx`. Uses neither the log nor an event loop. Call `ctx.end_streams()` when stopping."""
    app = HttpApp(ctx)
    for module in _LEDGER:
        module.add_routes(app.router)
    app.router.route_class = SystemRoute
    for module in (registry, system, console_config, console):
        module.add_routes(app.router)
    if ctx.settings.app_env != "production":
        docs_page.add_docs_page(app)
    app.state.registry = system.metrics_registry(ctx)
    app.state.documents = {}
    return app


async def no_such_path(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a path without a route. Raises `HTTPException` for a WebSocket, which the server refuses."""
    if scope["type"] != "http":
        raise HTTPException(404)
    response = registry.not_found(scope["path"])
    await (response or problem_response(Problem("not-found"), Call(scope).instance))(scope, receive, send)
