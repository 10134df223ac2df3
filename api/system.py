"""What is about the system and not about orders (A14): health, metrics, documents, the meaning of problems."""

from __future__ import annotations

import html
from collections.abc import Iterable

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.responses import HTMLResponse, Response

from api import docs
from api.asyncapi import asyncapi_document
from api.call import Call
from api.context import AppContext
from api.edge import json_response
from api.errors import PROBLEMS, Problem
from api.metrics import EndedConnections, Gauges, Workers
from api.representations import to_json


def add_routes(router: APIRouter) -> None:
    router.add_api_route("/live", live, methods=["GET"], **docs.LIVE)
    router.add_api_route("/ready", ready, methods=["GET"], **docs.READY)
    router.add_api_route("/metrics", metrics, methods=["GET"], **docs.METRICS)
    router.add_api_route("/openapi.json", openapi, methods=["GET"], **docs.OPENAPI)
    router.add_api_route("/asyncapi.json", asyncapi, methods=["GET"], **docs.ASYNCAPI)
    router.add_api_route("/problems/{slug}", read_problem, methods=["GET"], **docs.READ_PROBLEM)


def add_docs_page(app: FastAPI) -> None:
    """`/docs`, open to all: for development. The page holds the document, because `/openapi.json` needs a token."""
    app.router.add_api_route("/docs", docs_page, methods=["GET"], include_in_schema=False)


# ---- health ---------------------------------------------------------------------------------------------------------


async def live(call: Call) -> Response:
    """The event loop answers, which is all that a restart could mend."""
    return json_response(to_json({"status": "live", "checks": {}}))


async def ready(call: Call) -> Response:
    """Whether this node should get requests: it folds, and has seen the end of the log once.

    A broker that is away is told and does not make the node unready: reads go on, and every other node has the same trouble.
    """
    status = call.ctx.status()
    checks = {
        "fold": "ok" if status.folding else "stopped",
        "caught_up": "ok" if status.staleness_ms is not None else f"behind by {'?' if status.behind is None else status.behind}",
        "log": "ok" if status.connected else "away",
    }
    is_ready = checks["fold"] == checks["caught_up"] == "ok" and not call.ctx.stopping
    body = to_json({"status": "ready" if is_ready else "not_ready", "checks": checks})
    return json_response(body, 200 if is_ready else 503, {} if is_ready else {"Retry-After": "1"})


# ---- metrics --------------------------------------------------------------------------------------------------------


def metrics_registry(ctx: AppContext) -> CollectorRegistry:
    """Everything `/metrics` tells of one application; a registry of its own, not the process-wide one."""
    registry = CollectorRegistry()
    registry.register(ctx.metrics)
    registry.register(ctx.loop_lag)
    registry.register(Workers())
    registry.register(Gauges(lambda: _gauges(ctx)))
    registry.register(EndedConnections(ctx.connections.ended))
    return registry


def _gauges(ctx: AppContext) -> Iterable[tuple[str, str, str, dict[str, float]]]:
    status = ctx.status()
    yield "ledger_fold_connected", "1 while the log answers.", "", {"": float(status.connected)}
    if status.behind is not None:
        yield "ledger_fold_behind", "Offsets between the fold and the log's end.", "", {"": status.behind}
    if status.staleness_ms is not None:
        yield "ledger_fold_staleness_seconds", "How old a read may be.", "", {"": status.staleness_ms / 1000}
    text = "How long an open transaction has kept readers of a partition waiting; a long one was left open by Kafka itself."
    yield "ledger_log_held_back_seconds", text, "", {"": status.held_back_s}
    positions = {str(p): float(ctx.projector.position(p)) for p in range(ctx.partitions)}
    yield "ledger_fold_position", "Next offset of order-events to fold.", "partition", positions
    yield "ledger_orders", "Orders by the status they show.", "status", {s: float(n) for s, n in ctx.queries.counts().items()}
    yield "ledger_orders_frozen", "Orders whose fold stopped.", "", {"": ctx.projector.frozen_count}
    yield "ledger_http_requests_in_progress", "Requests without an answer yet, this one too.", "", {"": ctx.metrics.in_progress}
    yield "ledger_http_connections", "Connections that are open.", "", {"": len(ctx.connections)}
    yield "ledger_commands_waiting", "Requests that wait for an outcome.", "", {"": ctx.submissions.waiting}
    yield "ledger_commands_undecided", "Commands answered 202 and not decided yet.", "", {"": ctx.submissions.undecided}
    yield "ledger_commands_sent", "Commands sent since the start.", "", {"": ctx.submissions.sent}


async def metrics(call: Call) -> Response:
    call.allow()
    encode, media = choose_encoder(call.header(b"accept") or "")
    return Response(encode(call.app.state.registry), 200, None, media)


# ---- documents ------------------------------------------------------------------------------------------------------


async def openapi(call: Call) -> Response:
    call.allow()
    return json_response(to_json(call.app.openapi()))


async def asyncapi(call: Call) -> Response:
    call.allow()
    settings = call.ctx.settings
    return json_response(to_json(asyncapi_document(call.ctx.topics, call.ctx.partitions, settings.writers)))


async def docs_page(call: Call) -> Response:
    return get_swagger_ui_html(
        openapi_url="", title="Order Ledger", swagger_ui_parameters={"spec": call.app.openapi(), "persistAuthorization": True}
    )


async def read_problem(call: Call) -> Response:
    """JSON, or a small page for a person who follows a problem's `type`."""
    call.allow()
    slug: str = call.path_params["slug"]
    kind = PROBLEMS.get(slug)
    if kind is None:
        raise Problem("not-found", "There is no such problem type.")
    if "text/html" in (call.header(b"accept") or ""):
        title = html.escape(kind.title)
        return HTMLResponse(
            f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>\n'
            f"<h1>{title}</h1>\n<p><code>{slug}</code>, HTTP {kind.status}</p>\n<p>{html.escape(kind.meaning)}</p></html>\n"
        )
    return json_response(
        to_json({"type": f"/problems/{slug}", "title": kind.title, "status": kind.status, "meaning": kind.meaning})
    )
