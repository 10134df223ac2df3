"""The events of one order (`readEvents`): a page of JSON, or a stream of server-sent events that continues with the order."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from fastapi import APIRouter
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.responses import Response, StreamingResponse

from api.call import Call
from api.context import AppContext
from api.contract import operations as docs
from api.contract.patterns import MAX_VERSION
from api.contract.queries import EventsQuery
from api.contract.responses import EventPageOut
from api.edge import json_response
from api.problems import Problem, invalid_header
from api.representations import event_row, to_json
from api.visibility import order_of_path
from ledger.turns import Steps

STREAM_EVENTS = 200  # sent between two checks whether to stop
COMMENT_S = 15.0
STREAM_S = 30 * 60.0
JSON, SSE = "application/json", "text/event-stream"


def add_routes(router: APIRouter) -> None:
    """Register the routes."""
    router.add_api_route("/orders/{order_id}/events", read_events, methods=["GET"], **docs.READ_EVENTS)


async def read_events(call: Call) -> Response:
    """JSON with `?after=&limit=`, or a stream with `Accept: text/event-stream`, resumed by `Last-Event-ID`."""
    partition, order = await order_of_path(call)
    wanted = preferred(call.header(b"accept") or "*/*")
    if wanted is None:
        raise Problem("not-acceptable", f"The events are available as {JSON} and as {SSE}.")
    query = call.query(EventsQuery)
    after = query.after
    ctx = call.ctx
    headers = {"Ledger-Position": ctx.position(partition)}
    if wanted == SSE:
        last = call.header(b"last-event-id")
        if last:  # empty means none: browsers send that before the first event
            if not (last.isascii() and last.isdecimal() and len(last) <= 10 and int(last) <= MAX_VERSION):
                raise invalid_header("Last-Event-ID", "Last-Event-ID must be the version of the last event received.")
            after = int(last)
        headers["X-Accel-Buffering"] = "no"  # a proxy must not buffer what should arrive immediately
        return StreamingResponse(stream(call, partition, order.order_id, after), 200, headers, SSE)
    body = await call.in_turns(_page(ctx, partition, order.order_id, after, query.limit))
    return json_response(body, 200, headers)


def _page(ctx: AppContext, partition: int, order_id: str, after: int, limit: int) -> Steps[bytes]:
    """The body of a page."""
    rows = []
    for past in (yield from ctx.queries.history(partition, order_id, after, limit)):
        rows.append(event_row(past))
        yield
    return to_json(EventPageOut(rows))


def preferred(accept: str) -> str | None:
    """The representation that `Accept` (RFC 9110) prefers, JSON if both are equal; None if neither is acceptable."""
    quality = {JSON: (-1, 0.0), SSE: (-1, 0.0)}  # (specificity of the matching range, its q)
    for item in accept.lower().split(","):
        media, *parameters = (part.strip(" \t") for part in item.split(";"))
        q = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        try:
            value = float(q)
        except ValueError:
            continue
        for name in quality:
            specific = 2 if media == name else 1 if media == name.split("/")[0] + "/*" else 0 if media == "*/*" else -1
            if specific > quality[name][0] or (specific >= 0 and specific == quality[name][0] and value > quality[name][1]):
                quality[name] = (specific, value)
    best = max((JSON, SSE), key=lambda name: quality[name][1])
    return best if quality[best][1] > 0 else None


async def stream(call: Call, partition: int, order_id: str, after: int) -> AsyncIterator[bytes]:
    """Events with a version above `after`, as they are folded. Ends after half an hour, at a stop, and when its token expires."""
    ctx, token = call.ctx, call.exchange.token
    assert token is not None
    end_at = time.monotonic() + STREAM_S
    yield KEEPALIVE_COMMENT  # tells the client immediately that the stream is open
    while not ctx.stopping and ctx.accepts(token):
        # One event may wake a thousand streams. Nothing is awaited between this and waiting for news, so none is missed.
        text, last = await call.in_turns(_streamed(ctx, partition, order_id, after), wait_turn=True)
        if last > after:
            after = last
            yield text
            continue
        left_s = end_at - time.monotonic()
        if left_s <= 0:
            return
        if not await ctx.projector.waiters.news(order_id, min(COMMENT_S, left_s)):
            yield KEEPALIVE_COMMENT


def _streamed(ctx: AppContext, partition: int, order_id: str, after: int) -> Steps[tuple[bytes, int]]:
    """(the next events as they are streamed, the version of the last of them, or `after`)."""
    parts = []
    for past in (yield from ctx.queries.history(partition, order_id, after, STREAM_EVENTS)):
        after = past.event.version
        data = to_json(event_row(past)).decode()
        parts.append(format_sse_event(data_str=data, event=past.event.type, id=str(after)))
        yield
    return b"".join(parts), after
