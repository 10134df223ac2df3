"""Outermost ASGI layer: request ids, common headers, metrics, access log, last-resort errors. Plain ASGI, for speed.

`Edge` parses the headers once, assigns a request id, adds common response headers, counts, writes the access log, and turns an
unexpected exception into a problem. `LedgerRoute` is FastAPI's route without dependency injection: the endpoint takes a `Call`
and returns a finished response; FastAPI does the routing and the description.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import secrets
import sys
import time
from collections.abc import Awaitable, Callable

import msgspec
import structlog
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.call import Call, Exchange, headers_of
from api.callers.oidc import KeysWanted
from api.context import AppContext
from api.contract.patterns import COMMAND_ID, ORDER_ID
from api.metrics import METHODS, OTHER, UNMATCHED
from api.problems import PROBLEM_JSON, Problem, problem_of
from ledger import tracing
from ledger.errors import NotNow
from ledger.faults import without_values
from ledger.rfc3339 import format_us

log = structlog.get_logger(__name__)

# Client ids that are echoed and logged: neither words nor numbers. Any other is replaced by a generated one.
_REQUEST_ID = re.compile(rb"(?=[0-9-]*[a-fA-F])([0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{32})")
_QUIET = frozenset({"/live", "/ready", "/metrics"})  # polled by machines every few seconds
_ID_FORMS = {"order_id": re.compile(ORDER_ID), "command_id": re.compile(COMMAND_ID)}
_NOSNIFF = (b"x-content-type-options", b"nosniff")
_NOT_KEPT, _KEPT = (b"cache-control", b"no-store"), (b"cache-control", b"no-cache")
_READING = ("GET", "HEAD")
CLIENT_LEFT = 499
LINES_S, MAX_LINES = 0.1, 500


class Edge:
    """The outermost middleware of the application."""

    def __init__(self, app: ASGIApp, ctx: AppContext) -> None:
        self._app, self._ctx = app, ctx
        self._lines = Lines(ctx) if logging.getLevelName(ctx.settings.log_level) <= logging.INFO else None
        # Random per process and counted per request: random bytes for each would cost more than everything else here.
        self._ids = itertools.count(1)
        self._process_id = secrets.token_hex(8).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        headers, wrong = headers_of(scope["headers"])
        request_id = headers.get(b"request-id", b"")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = b"%s-%x" % (self._process_id, next(self._ids))
        traceparent = headers.get(b"traceparent")
        if traceparent is not None and not tracing.FORM.fullmatch(traceparent):
            traceparent = None
        tracer = tracing.tracer()
        span = tracer.begin("request", "server", traceparent) if tracer is not None else None
        exchange = scope["exchange"] = Exchange(self._ctx, headers, request_id, span.traceparent if span else traceparent)
        own = [_NOSNIFF, (b"request-id", request_id)]
        if traceparent is not None:
            own.append((b"traceparent", traceparent))
        status, took_s = 0, 0.0

        async def send_with_own_headers(message: Message) -> None:
            nonlocal status, took_s
            if message["type"] == "http.response.start":
                status, took_s = message["status"], time.perf_counter() - began
                message["headers"] = [*message["headers"], _KEPT if exchange.may_be_kept else _NOT_KEPT, *own]
            await send(message)

        self._ctx.metrics.in_progress += 1
        try:
            if wrong is not None:
                await answer(wrong, scope, receive, send_with_own_headers)
            else:
                await self._app(scope, receive, send_with_own_headers)
        except ClientDisconnect:
            pass  # there is nobody to answer; counted below as 499
        except asyncio.CancelledError:
            if not self._ctx.stopping or status:
                raise
            # The process is stopping and this request is out of time: a problem instead of the server's bare 500.
            (task := asyncio.current_task()) and task.uncancel()
            await answer(Problem("ledger-unavailable", "This node is stopping."), scope, receive, send_with_own_headers)
        except Exception as exc:
            log.error("request failed", request_id=request_id.decode(), route=template_of(scope), exception=without_values(exc))
            if status:
                raise  # half an answer has been sent: the server must break the connection
            await answer(Problem("internal-error"), scope, receive, send_with_own_headers)
        finally:
            self._ctx.metrics.in_progress -= 1
            self._note(scope, exchange, status or CLIENT_LEFT, took_s or time.perf_counter() - began)
            if span is not None:
                end_span(span, scope, status or CLIENT_LEFT)

    def _note(self, scope: Scope, exchange: Exchange, status: int, took_s: float) -> None:
        template = template_of(scope)
        self._ctx.metrics.note(scope["method"], template, status, took_s)
        if self._lines is None or template in _QUIET:
            return
        line = AccessLine(
            method=scope["method"] if scope["method"] in METHODS else OTHER,
            path=logged_path(template, scope),
            status=status,
            ms=round(took_s * 1000, 1),
            request_id=exchange.request_id.decode(),
            principal=exchange.principal.actor if exchange.principal else None,
            traceparent=exchange.traceparent.decode() if exchange.traceparent else None,
            timestamp=format_us(time.time_ns() // 1000),
        )
        self._lines.write(_encode(line) + b"\n")


def end_span(span: tracing.Span, scope: Scope, status: int) -> None:
    """Polls of machines get no span: one that is not ended is not reported."""
    template, method = template_of(scope), scope["method"] if scope["method"] in METHODS else OTHER
    if template not in _QUIET:
        span.note(http__request__method=method, http__route=template, http__response__status_code=status)
        if status >= 500:
            span.fail(str(status))
        span.end(f"{method} {template}")


def template_of(scope: Scope) -> str:
    """The path template of the route; `UNMATCHED` if no route matches."""
    route = scope.get("route")
    return route.path if isinstance(route, Route) else UNMATCHED


def logged_path(template: str, scope: Scope) -> str:
    """The template, filled with an order or command id of valid form. Other parts are omitted: they may be anything."""
    if "{" in template:
        for name, form in _ID_FORMS.items():
            if (value := scope["path_params"].get(name)) is not None and form.fullmatch(value):
                return template.replace(f"{{{name}}}", value)
    return template


class LedgerRoute(APIRoute):
    """Routes to `async def endpoint(call: Call) -> Response`; a `Problem` that it raises becomes the answer.

    Every GET route also answers HEAD, without a body and without starting a stream. While this node is behind the end of the log,
    answers to reads, including 404s, state how old they may be.
    """

    needs_read_models = True

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            return super().matches({**scope, "method": "GET"})
        return super().matches(scope)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(scope, receive, send)
        try:
            if not self.serves(scope):
                raise Problem("method-not-allowed", headers={"Allow": ", ".join(allowed_methods(scope))})
            if self.needs_read_models:
                call.ctx.refuse_unreadable()
            response = await with_keys(call, self.endpoint)
        except Problem as problem:
            response = problem_response(problem, call.instance)
        except NotNow as exc:
            response = problem_response(problem_of(exc), call.instance)
        if self.needs_read_models and scope["method"] in _READING and (staleness_ms := call.ctx.status().staleness_ms):
            response.raw_headers.append((b"ledger-staleness-ms", b"%d" % staleness_ms))
        await self.respond(response, scope, receive, send)

    def serves(self, scope: Scope) -> bool:
        """Whether this route has the request's method."""
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        return not self.methods or method in self.methods

    async def respond(self, response: Response, scope: Scope, receive: Receive, send: Send) -> None:
        """Send `response`, without its body for HEAD."""
        if scope["method"] == "HEAD":
            await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
            await send({"type": "http.response.body", "body": b""})
        else:
            await response(scope, receive, send)


async def with_keys(call: Call, endpoint: Callable[[Call], Awaitable[Response]]) -> Response:
    """What `endpoint` answers; if the token's key is unknown, after the issuer's keys were fetched.

    Endpoints begin with `Call.allow`, so that none has done anything yet when it is called again.
    """
    try:
        return await endpoint(call)
    except KeysWanted:
        assert call.ctx.oidc is not None
        await call.ctx.oidc.issuer.fetch()
        call.exchange.keys_awaited = True
        return await endpoint(call)


class SystemRoute(LedgerRoute):
    """A route that does not need read models."""

    needs_read_models = False


def allowed_methods(scope: Scope) -> list[str]:
    """Methods of all routes with this path."""
    methods: set[str] = set()
    for route in scope["router"].routes:
        if isinstance(route, Route) and route.matches(scope)[0] is not Match.NONE:
            methods |= route.methods or set()
    if "GET" in methods:
        methods.add("HEAD")
    return sorted(methods)


class Answer(Response):
    """A response with a finished body, built faster than Starlette's."""

    def __init__(self, body: bytes, status: int, headers: dict[str, str], media: bytes) -> None:
        self.status_code, self.body, self.background = status, body, None
        self.raw_headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        self.raw_headers.append((b"content-type", media))
        self.raw_headers.append((b"content-length", b"%d" % len(body)))


_NONE: dict[str, str] = {}


def json_response(body: bytes, status: int = 200, headers: dict[str, str] = _NONE) -> Response:
    """An answer whose body is finished JSON."""
    return Answer(body, status, headers, b"application/json")


def problem_response(problem: Problem, instance: str) -> Response:
    """A problem as an answer to the request for `instance`."""
    return Answer(problem.as_bytes(instance), problem.status, problem.headers, PROBLEM_JSON)


async def answer(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    """Send a problem outside any route."""
    await problem_response(problem, Call(scope).instance)(scope, receive, send)


class AccessLine(msgspec.Struct, kw_only=True):
    """One line of the access log, with the members of structlog lines. structlog itself would cost a read a tenth of its time."""

    method: str
    path: str
    status: int
    ms: float
    request_id: str
    principal: str | None
    traceparent: str | None
    event: str = "request"
    logger: str = "api.access"
    service: str = "serve"
    level: str = "info"
    timestamp: str


_encode = msgspec.json.Encoder().encode


class Lines:
    """Writes the access log to standard error: lines of 0.1 s together, or immediately while stopping.

    A write releases the interpreter to other threads, which under load costs a request more than building the line.
    """

    def __init__(self, ctx: AppContext) -> None:
        self._ctx = ctx
        self._waiting: list[bytes] = []

    def write(self, line: bytes) -> None:
        self._waiting.append(line)
        if self._ctx.stopping or len(self._waiting) >= MAX_LINES:
            self.drain()
        elif len(self._waiting) == 1:
            asyncio.get_running_loop().call_later(LINES_S, self.drain)

    def drain(self) -> None:
        lines, self._waiting = self._waiting, []
        if lines:
            sys.stderr.buffer.write(b"".join(lines))
            sys.stderr.buffer.flush()
