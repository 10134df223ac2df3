"""The HTTP application: routes, the rim around them, and the answers of the framework in our shape."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from api import customers, events, orders, registry, reports, system, tracking
from api.call import Call
from api.context import AppContext
from api.edge import Edge, LedgerRoute, problem_response
from api.errors import Problem
from api.openapi import openapi_document

__all__ = ["AppContext", "build_app"]


class LedgerApp(FastAPI):
    """FastAPI with our routes' class and our description."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = openapi_document(self)
        return self.openapi_schema


def build_app(ctx: AppContext) -> FastAPI:
    """The ASGI application over `ctx`. Touches neither the log nor an event loop; call `ctx.end_streams()` when stopping."""
    app = LedgerApp(title="Order Ledger", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.router.route_class = LedgerRoute
    for module in (orders, events, tracking, customers, reports, registry, system):
        module.add_routes(app.router)
    if ctx.settings.app_env == "development":
        system.add_docs_page(app)
    app.state.registry = system.metrics_registry(ctx)
    app.add_exception_handler(HTTPException, _framework_answer)
    app.add_middleware(Edge, ctx=ctx)
    return app


async def _framework_answer(request: Request, exc: Exception) -> Response:
    """What the framework refuses before any route: in practice a path that does not exist."""
    assert isinstance(exc, HTTPException)
    if request.url.path.startswith(registry.PREFIXES):
        return registry.not_found() if exc.status_code == 404 else registry.error_response(exc.status_code, exc.detail)
    slug = {404: "not-found", 405: "method-not-allowed"}.get(exc.status_code)
    if slug is None:
        raise exc
    return problem_response(Problem(slug, headers=dict(exc.headers or {})), Call(request.scope).instance)
