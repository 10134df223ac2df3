"""The events of all orders (`readFeed`): pages of JSON, or a stream of server-sent events that continues with the ledger."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from fastapi import APIRouter
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.responses import Response, StreamingResponse

from api.call import Call
from api.context import AppContext
from api.contract.feed_operations import READ_FEED
from api.contract.queries import FeedQuery, OwnFeedQuery
from api.contract.responses import FeedPageOut
from api.cursors import read_place, signed_place
from api.edge import json_response
from api.problems import Problem
from api.representations import feed_row, to_json
from api.routes.events import COMMENT_S, JSON, SSE, STREAM_EVENTS, STREAM_S, preferred
from api.visibility import READERS, sight
from ledger.turns import Steps
from projections.all_events import EventFilter
from projections.queries import InvalidCursor

LEAST_PAUSE_S = 1.0  # of a stream whose caller has nothing left: there may be hundreds of them


def add_routes(router: APIRouter) -> None:
    """Register the route."""
    router.add_api_route("/events", read_feed, methods=["GET"], **READ_FEED)


async def read_feed(call: Call) -> Response:
    """A page, or a stream with `Accept: text/event-stream`. A gateway sees only events of its customer, whatever the cursor."""
    customer = call.customer(call.allow(*READERS))
    wanted = preferred(call.header(b"accept") or "*/*")
    if wanted is None:
        raise Problem("not-acceptable", f"The events are available as {JSON} and as {SSE}.")
    query = call.query(OwnFeedQuery if sight(call).own_orders_only else FeedQuery)
    events = EventFilter(query.types, query.customer if isinstance(query, FeedQuery) else customer)
    await call.caught_up()
    ctx = call.ctx
    after = (wanted == SSE and call.header(b"last-event-id")) or query.after  # empty: browsers send that before the first event
    if after:
        place = read_place(ctx, events, after)
    else:
        place = ctx.all_events.end(events) if query.start == "end" else ctx.all_events.beginning(events)
    if wanted == SSE:
        headers = {"X-Accel-Buffering": "no"}  # a proxy must not buffer what should arrive immediately
        return StreamingResponse(_stream(call, events, place), 200, headers, SSE)
    try:
        return json_response(await call.in_turns(_page(ctx, events, place, query.limit)))
    except InvalidCursor:  # the databases were switched meanwhile to those of another log
        raise Problem("invalid-cursor") from None


def _page(ctx: AppContext, events: EventFilter, place: bytes, limit: int) -> Steps[bytes]:
    """The body of a page."""
    page = yield from ctx.all_events.page(events, place, limit)
    rows = []
    for past in page.events:
        rows.append(feed_row(past))
        yield
    return to_json(FeedPageOut(rows, signed_place(ctx, page.cursor), page.at_end))


async def _stream(call: Call, events: EventFilter, place: bytes) -> AsyncIterator[bytes]:
    """Events behind `place`, as they are folded. Ends after half an hour, at a stop, and when its token expires.

    Its work is charged like that of a page. While nothing is left to the caller, it reads nothing.
    """
    ctx, token = call.ctx, call.exchange.token
    assert token is not None
    waiters, end_at = ctx.projector.waiters, time.monotonic() + STREAM_S
    known, said_at = place, time.monotonic()  # to the client
    yield KEEPALIVE_COMMENT  # tells the client immediately that the stream is open
    while not ctx.stopping and ctx.accepts(token) and (left_s := end_at - time.monotonic()) > 0:
        if wait_s := ctx.limits.wait_s(token.principal, call.exchange.customer):
            await waiters.pause(min(max(wait_s, LEAST_PAUSE_S), left_s, max(0.0, said_at + COMMENT_S - time.monotonic())))
            if time.monotonic() < said_at + COMMENT_S:
                continue
            text = b""
        else:
            # Nothing is awaited between this and waiting for news, so none is missed.
            try:
                text, place, at_end = await call.in_turns(_streamed(ctx, events, place), wait_turn=True)
            except InvalidCursor:  # the databases were switched to those of another log
                return
            if not text and at_end and await waiters.feed_news(events.customer_id, min(COMMENT_S, left_s)):
                continue
        if not text:
            # What the client does not want moves only its position, so that a resumed stream does not go through it again.
            text = KEEPALIVE_COMMENT if place == known else b"id: %b\n\n" % signed_place(ctx, place).encode()
        known, said_at = place, time.monotonic()
        yield text


def _streamed(ctx: AppContext, events: EventFilter, place: bytes) -> Steps[tuple[bytes, bytes, bool]]:
    """(the next events as they are streamed, the place behind them, whether there are no more now)."""
    page = yield from ctx.all_events.page(events, place, STREAM_EVENTS, cursors=True)
    parts = []
    for past, cursor in zip(page.events, page.cursors, strict=True):
        data = to_json(feed_row(past)).decode()
        parts.append(format_sse_event(data_str=data, event=past.event.type, id=signed_place(ctx, cursor)))
        yield
    return b"".join(parts), page.cursor, page.at_end
