"""The HTTP side of the payment provider: Stripe's paths, form bodies and headers, and pages for people.

/v1/...                                  called by the ledger with the secret key, and by Stripe.js with the publishable one
/sandbox/payments/{id}/authenticate      the 3-D Secure page: outcome=success or failure
/sandbox/payments/{id}/expire            the authorisation lapses
/sandbox/payments/{id}/dispute           the bank opens a dispute; /sandbox/disputes/{id}/close: outcome=won, lost, warning_closed
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from commands.sandbox import PUBLISHABLE_KEY, SECRET_KEY
from commands.sandbox.objects import Body, Db, ProviderRequest, StripeProblem
from commands.sandbox.provider import Provider

MAX_BODY = 64 * 1024
MAX_DEPTH = 4

Work = Callable[[Db, ProviderRequest], Body]


def payment_routes(provider: Provider) -> list[BaseRoute]:
    """Everything under `/v1`, and the pages for the customer's and the bank's side."""

    def route(path: str, methods: list[str], verb: str, work: Callable[[str, bool], Work], public: bool = False) -> Route:
        async def endpoint(http: HttpRequest) -> Response:
            return await _answer(provider, http, verb, work, public)

        return Route(path, endpoint, methods=methods)

    intents, refunds, disputes, objects = provider.intents, provider.refunds, provider.disputes, provider.objects
    return [
        route("/v1/payment_intents", ["POST"], "create", lambda ref, pub: intents.create),
        route("/v1/payment_intents/search", ["GET"], "search", lambda ref, pub: intents.search),
        route(
            "/v1/payment_intents/{ref}", ["GET"], "retrieve", lambda ref, pub: lambda d, q: intents.retrieve(d, q, ref, pub), True
        ),
        route(
            "/v1/payment_intents/{ref}/confirm",
            ["POST"],
            "confirm",
            lambda ref, pub: lambda d, q: intents.confirm(d, q, ref, pub),
            True,
        ),
        route("/v1/payment_intents/{ref}/capture", ["POST"], "capture", lambda ref, pub: lambda d, q: intents.capture(d, q, ref)),
        route("/v1/payment_intents/{ref}/cancel", ["POST"], "cancel", lambda ref, pub: lambda d, q: intents.cancel(d, q, ref)),
        route("/v1/refunds", ["POST"], "refund", lambda ref, pub: refunds.create),
        route("/v1/refunds", ["GET"], "list_refunds", lambda ref, pub: lambda d, q: objects.list_of(d, q, "refund")),
        route("/v1/refunds/{ref}", ["GET"], "read_refund", lambda ref, pub: lambda d, q: objects.read(d, q, ref, "refund")),
        route("/v1/disputes", ["GET"], "list_disputes", lambda ref, pub: lambda d, q: objects.list_of(d, q, "dispute")),
        route("/v1/disputes/{ref}", ["GET"], "read_dispute", lambda ref, pub: lambda d, q: objects.read(d, q, ref, "dispute")),
        route(
            "/sandbox/payments/{ref}/authenticate",
            ["POST"],
            "authenticate",
            lambda ref, pub: lambda d, q: intents.authenticate(d, q, ref),
            True,
        ),
        route("/sandbox/payments/{ref}/expire", ["POST"], "expire", lambda ref, pub: lambda d, q: intents.expire(d, q, ref)),
        route("/sandbox/payments/{ref}/dispute", ["POST"], "dispute", lambda ref, pub: lambda d, q: disputes.open(d, q, ref)),
        route(
            "/sandbox/disputes/{ref}/close",
            ["POST"],
            "close_dispute",
            lambda ref, pub: lambda d, q: disputes.close(d, q, ref),
        ),
    ]


async def _answer(provider: Provider, http: HttpRequest, verb: str, work: Callable[[str, bool], Work], public: bool) -> Response:
    try:
        raw = await _body(http) if http.method == "POST" else http.url.query.encode()
        form = nested(parse_qsl(raw.decode(), keep_blank_values=True))
        is_public = _who(http, form, public)
    except StripeProblem as problem:
        return JSONResponse({"error": problem.error}, problem.status)
    key = http.headers.get("idempotency-key", "") if http.method == "POST" else ""
    request = ProviderRequest(verb, http.url.path, form, key, str(http.scope.get("fate", "none")))
    status, answer, replayed = provider.carry_out(request, work(http.path_params.get("ref", ""), is_public))
    headers = {"Request-Id": f"req_{secrets.token_hex(7)}"}
    if key:
        headers["Idempotency-Key"] = key
    if replayed:
        headers["Idempotent-Replayed"] = "true"
    return JSONResponse(answer, status, headers)


async def _body(http: HttpRequest) -> bytes:
    body = b""
    async for chunk in http.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise StripeProblem(413, "request_too_large", "The request is too large.")
    return body


def _who(http: HttpRequest, form: Body, public: bool) -> bool:
    """Whether the caller has only the publishable key. Raises for any key other than the two of the sandbox."""
    kind, _, credentials = http.headers.get("authorization", "").partition(" ")
    key = credentials if kind == "Bearer" else str(form.pop("key", ""))
    if secrets.compare_digest(key.encode(), SECRET_KEY.encode()):
        return False
    if public and secrets.compare_digest(key.encode(), PUBLISHABLE_KEY.encode()):
        return True
    raise StripeProblem(401, "api_key_invalid", "This is the sandbox: it accepts only its own key.")


def nested(pairs: Iterable[tuple[str, str]]) -> Body:
    """A form with `a[b]=c` and `a[]=c` as nested mappings and lists. Raises `StripeProblem` if it is not one."""
    form: Body = {}
    for name, value in pairs:
        first, *inner = name.replace("]", "").split("[")
        if len(inner) > MAX_DEPTH:
            raise StripeProblem(400, "parameter_invalid", "A parameter is nested too deeply.")
        _set(form, [first, *inner], value)
    return form


def _set(into: Any, names: list[str], value: str) -> None:
    name, *inner = names
    if not isinstance(into, dict):
        raise StripeProblem(400, "parameter_invalid", "A parameter has two shapes.")
    if inner == [""]:
        into.setdefault(name, []).append(value)
    elif inner:
        _set(into.setdefault(name, {}), inner, value)
    else:
        into[name] = value
