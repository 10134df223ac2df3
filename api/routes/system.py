"""Routes about the system: health, metrics, API documents, problem types."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Callable, Iterable

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from starlette.responses import HTMLResponse, Response

from api.call import Call
from api.context import AppContext
from api.contract import operations as docs
from api.contract.asyncapi import asyncapi_document
from api.contract.responses import HealthOut, NotReady, ProblemTypeOut
from api.edge import json_response
from api.metrics import ChunkTimes, Counts, Gauges, Stores, Workers
from api.problems import PROBLEMS, Problem
from api.representations import to_json
from projections.feed import FoldStatus


def add_routes(router: APIRouter) -> None:
    """Register the routes."""
    router.add_api_route("/live", live, methods=["GET"], **docs.LIVE)
    router.add_api_route("/ready", ready, methods=["GET"], **docs.READY)
    router.add_api_route("/metrics", metrics, methods=["GET"], **docs.METRICS)
    router.add_api_route("/openapi.json", openapi, methods=["GET"], **docs.OPENAPI)
    router.add_api_route("/asyncapi.json", asyncapi, methods=["GET"], **docs.ASYNCAPI)
    router.add_api_route("/problems/{slug}", read_problem, methods=["GET"], **docs.READ_PROBLEM)


# ---- health ---------------------------------------------------------------------------------------------------------


AWAY, NOT_FOLLOWED = "away", "not followed yet"


async def live(call: Call) -> Response:
    """The event loop answers: nothing else would be cured by a restart."""
    return json_response(to_json(HealthOut("live", {})))


async def ready(call: Call) -> Response:
    """Whether this node should get requests.

    It should if it folds and has once reached the end of the log, or if the log is unreachable and it can answer reads from its
    databases. In the latter case all nodes are affected alike; `stale` is true, and reads are marked.
    """
    ctx, status = call.ctx, call.ctx.status()
    checks = {
        "fold": "ok" if status.folding else "stopped" if status.begun else "waiting",
        "caught_up": "ok" if status.caught_up else f"behind by {'?' if status.behind is None else status.behind}",
        "log": _log_check(status),
    }
    reason = _not_ready(ctx, status)
    if reason:
        body = HealthOut("not_ready", checks, reason)
    elif checks["log"] in (AWAY, NOT_FOLLOWED):
        body = HealthOut("ready", checks, "log-unavailable", True, status.staleness_ms)
    else:
        body = HealthOut("ready", checks)
    return json_response(to_json(body), 503 if reason else 200, {"Retry-After": "1"} if reason else {})


def _log_check(status: FoldStatus) -> str:
    if not status.connected:
        if status.connecting:
            return "connecting"
        return NOT_FOLLOWED if _answers_a_start(status) else AWAY
    places = ", ".join(f"{tp.topic}/{tp.partition}" for tp in sorted(status.leaderless))
    return f"no leader: {places}" if places else "ok"


def _answers_a_start(status: FoldStatus) -> bool:
    """Whether the log has answered a start that still compares it with the databases, or folds all of it into new ones."""
    return status.answered and not status.begun


def _not_ready(ctx: AppContext, status: FoldStatus) -> NotReady | None:
    """Why this node should get no requests, as a stable word; None if it should."""
    if ctx.stopping:
        return "stopping"
    if status.begun and not status.folding:
        return "fold-stopped"
    if not ctx.partitions:
        return "making-read-models" if ctx.making else "no-read-models"
    if status.caught_up:
        return None
    if status.connected:
        return "behind"
    return "connecting" if status.connecting else None


# ---- metrics --------------------------------------------------------------------------------------------------------


def metrics_registry(ctx: AppContext) -> CollectorRegistry:
    """All metrics of one application, in a registry of its own instead of the process-wide one."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(ctx.metrics)
    registry.register(ctx.loop_lag)
    registry.register(Workers())
    registry.register(Stores())
    registry.register(ChunkTimes(lambda: ctx.projector.chunk_s))
    registry.register(Gauges(lambda: _gauges(ctx)))
    ended, reloads = ctx.connections.ended, ctx.tokens.reloads
    registry.register(Counts("ledger_http_connections_ended", "Connections closed by the server.", "why", ended))
    text = "Durable audit records, by action."
    registry.register(Counts("ledger_audit_records", text, "action", ctx.audit.written))
    text = "Audit records that could be neither written nor spooled."
    registry.register(Counts("ledger_audit_lost", text, "action", ctx.audit.lost))
    registry.register(Counts("ledger_token_reloads", "Changes of the tokens file, by outcome.", "outcome", reloads))
    if ctx.oidc is not None:
        checks, fetches = ctx.oidc.checks, ctx.oidc.issuer.fetches
        registry.register(Counts("ledger_oidc_checks", "Signed tokens checked, by outcome.", "outcome", checks))
        registry.register(Counts("ledger_oidc_fetches", "Fetches of the issuer's keys, by outcome.", "outcome", fetches))
        registry.register(Gauges(ctx.oidc.gauges))
    return registry


def _gauges(ctx: AppContext) -> Iterable[tuple[str, str, str, dict[str, float]]]:
    status = ctx.status()
    text = "Partitions of the ledger's topics that no broker leads."
    yield "ledger_log_partitions_without_leader", text, "", {"": len(status.leaderless)}
    answers = status.connected or _answers_a_start(status)
    yield "ledger_fold_connected", "1 while the log answers, else 0.", "", {"": float(answers)}
    if status.behind is not None:
        yield "ledger_fold_behind", "Offsets between the fold and the end of the log.", "", {"": status.behind}
    if status.staleness_ms is not None:
        yield "ledger_fold_staleness_seconds", "How old a read may be.", "", {"": status.staleness_ms / 1000}
    text = "How long an open transaction has blocked readers of a partition; if long, Kafka left it open."
    yield "ledger_log_held_back_seconds", text, "", {"": status.held_back_s}
    positions = {str(p): float(ctx.projector.position(p)) for p in range(ctx.partitions)}
    yield "ledger_fold_position", "Next offset of order-events to fold.", "partition", positions
    text = "How far Kafka's clock is ahead of this machine's, as of the last command that this node sent to the partition."
    yield "ledger_clock_skew_seconds", text, "partition", {str(p): ms / 1000 for p, ms in ctx.clock.skews_ms().items()}
    text = "The same as measured by a `commands` process with the same STATE_DIR."
    yield "ledger_commands_clock_skew_seconds", text, "partition", ctx.commands_skews_s()
    yield "ledger_orders", "Orders by status.", "status", {s: float(n) for s, n in ctx.queries.counts().items()}
    yield "ledger_orders_frozen", "Orders whose fold stopped.", "", {"": ctx.projector.frozen_count}
    yield "ledger_http_requests_in_progress", "Requests in progress, including this one.", "", {"": ctx.metrics.in_progress}
    yield "ledger_http_connections", "Open connections.", "", {"": len(ctx.connections)}
    yield "ledger_audit_waiting", "Audit records not durable yet.", "", {"": ctx.audit.waiting}
    text = "1 while the tokens file is invalid and the previous tokens are used."
    yield "ledger_tokens_stale", text, "", {"": float(ctx.tokens.is_stale)}
    text = "Time until the first token of a role expires; negative afterwards."
    yield "ledger_token_expires_in_seconds", text, "role", ctx.tokens.expiries_s()
    yield "ledger_commands_waiting", "Requests waiting for an outcome.", "", {"": ctx.submissions.waiting}
    yield "ledger_commands_undecided", "Commands answered with 202 and not decided yet.", "", {"": ctx.submissions.undecided}
    yield "ledger_commands_sent", "Commands sent since the start.", "", {"": ctx.submissions.sent}
    text = "What a `commands` process with the same STATE_DIR did since its start."
    yield "ledger_commands_work", text, "kind", {kind: float(count) for kind, count in ctx.commands_counts().items()}


async def metrics(call: Call) -> Response:
    """All metrics, for Prometheus."""
    call.allow()
    encode, media = choose_encoder(call.header(b"accept") or "")
    return Response(encode(call.app.state.registry), 200, None, media)


# ---- documents ------------------------------------------------------------------------------------------------------


async def openapi(call: Call) -> Response:
    """The OpenAPI document."""
    call.allow()
    return json_response(await cached(call, "openapi", lambda: to_json(call.app.openapi())))


async def cached(call: Call, name: str, make: Callable[[], bytes]) -> bytes:
    """A constant document, kept after its first use. Building it takes up to a tenth of a second, in a thread."""
    kept: dict[str, bytes] = call.app.state.documents
    if name not in kept:
        kept[name] = await asyncio.to_thread(make)
    return kept[name]


async def asyncapi(call: Call) -> Response:
    """The AsyncAPI document of the topics."""
    call.allow()
    call.ctx.refuse_unreadable()  # it contains the number of partitions
    settings = call.ctx.settings
    return json_response(to_json(asyncapi_document(call.ctx.topics, call.ctx.partitions, settings.writers)))


async def read_problem(call: Call) -> Response:
    """JSON, or a small HTML page for a person who opens the `type` of a problem."""
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
    return json_response(to_json(ProblemTypeOut(f"/problems/{slug}", kind.title, kind.status, kind.meaning)))
