"""Administration of outgoing webhooks (`listWebhookEndpoints` to `readWebhookDeliveries`), for admins."""

from __future__ import annotations

import re
import secrets
from typing import Literal

from fastapi import APIRouter
from msgspec.structs import replace
from starlette.responses import Response

from api.call import Call
from api.contract import webhook_operations as docs
from api.contract.patterns import ENDPOINT_NAME
from api.contract.queries import DeliveriesQuery, QueryParameters
from api.contract.requests import EmptyBody, ReplayBody, SetWebhookEndpointBody
from api.contract.webhook_responses import (
    WebhookEndpointListOut,
    WebhookEndpointOut,
    WebhookHealthOut,
    WebhookSecretOut,
    WebhookTryOut,
    WebhookTryPageOut,
)
from api.cursors import read_place
from api.edge import json_response
from api.problems import FieldError, Problem
from api.representations import to_json
from commands.webhooks.addresses import address_in, is_odd_number, is_public
from commands.webhooks.endpoints import (
    GONE,
    MAX_ENDPOINTS,
    Endpoint,
    EndpointsView,
    encode,
    endpoint_key,
    health_key,
    off_key,
)
from commands.webhooks.signing import digest_of, secret_of, shown
from commands.webhooks.tries import Tried
from ledger.audit import DONE, WEBHOOK_CHANGE, WEBHOOK_KEY_READ
from ledger.http_client import is_loopback
from ledger.rfc3339 import format_ms, parse_ms
from projections.all_events import EventFilter

_NAME = re.compile(ENDPOINT_NAME)
PATH = "/webhook-endpoints/{name}"


def add_routes(router: APIRouter) -> None:
    """Register the routes."""
    router.add_api_route("/webhook-endpoints", list_endpoints, methods=["GET"], **docs.LIST_ENDPOINTS)
    router.add_api_route(PATH, read_endpoint, methods=["GET"], **docs.READ_ENDPOINT)
    router.add_api_route(PATH, put_endpoint, methods=["PUT"], **docs.PUT_ENDPOINT)
    router.add_api_route(PATH, delete_endpoint, methods=["DELETE"], **docs.DELETE_ENDPOINT)
    router.add_api_route(f"{PATH}/secret", read_secret, methods=["GET"], **docs.READ_SECRET)
    router.add_api_route(f"{PATH}/secret", rotate_secret, methods=["POST"], **docs.ROTATE_SECRET)
    router.add_api_route(f"{PATH}/replay", replay, methods=["POST"], **docs.REPLAY)
    router.add_api_route(f"{PATH}/deliveries", read_tries, methods=["GET"], **docs.READ_TRIES)


async def list_endpoints(call: Call) -> Response:
    """`listWebhookEndpoints`."""
    call.allow("admin")
    call.query(QueryParameters)
    view = await call.ctx.webhook_endpoints.view()
    return json_response(to_json(WebhookEndpointListOut([endpoint_shown(view, name) for name in sorted(view.endpoints)])))


async def read_endpoint(call: Call) -> Response:
    """`readWebhookEndpoint`."""
    name, view, _ = await _endpoint(call)
    call.query(QueryParameters)
    return json_response(to_json(endpoint_shown(view, name)))


async def put_endpoint(call: Call) -> Response:
    """`putWebhookEndpoint`."""
    call.allow("admin")
    name = _name(call)
    _, body = await call.body_as(SetWebhookEndpointBody)
    refuse_url(body.url, call.ctx.settings.plain_webhooks_allowed, call.ctx.settings.webhooks_allow_private)
    ctx = call.ctx
    view, now = await ctx.webhook_endpoints.view(), call.ctx.clock.machine_ms()
    known = view.endpoints.get(name)
    if known is None and len(view.endpoints) >= MAX_ENDPOINTS:
        raise Problem("limit-exceeded", f"There are at most {MAX_ENDPOINTS} webhook endpoints.")
    types = None if body.types is None else tuple(sorted(set(body.types)))
    if known is None:
        salt = secrets.token_hex(16)
        endpoint = Endpoint(
            url=body.url,
            types=types,
            customer_id=body.customer_id,
            description=body.description,
            created_at=now,
            is_enabled=body.enabled,
            enabled_at=now,
            salt=salt,
            digest=digest_of(secret_of(ctx.hash_key, name, salt)),
            start=await ctx.webhook_endpoints.positions(ctx.partitions),
            started_at=now,
            log_id=await ctx.webhook_endpoints.log_id(),
        )
    else:
        is_enabled_again = body.enabled and not view.is_active(name)
        endpoint = replace(
            known,
            url=body.url,
            types=types,
            customer_id=body.customer_id,
            description=body.description,
            is_enabled=body.enabled,
            enabled_at=now if is_enabled_again else known.enabled_at,
        )
    if endpoint != known:
        view = await ctx.webhook_endpoints.write([(endpoint_key(name), encode(endpoint))])
        ctx.audit.note(call.by, WEBHOOK_CHANGE, DONE, why=name)
    return json_response(to_json(endpoint_shown(view, name)), 201 if known is None else 200)


async def delete_endpoint(call: Call) -> Response:
    """`deleteWebhookEndpoint`."""
    name, view, _ = await _endpoint(call)
    call.query(QueryParameters)
    keys = [endpoint_key(name), *([off_key(name)] if name in view.offs else [])]
    keys += [health_key(name, node) for node in view.healths.get(name, {})]  # also of nodes that are no more
    await call.ctx.webhook_endpoints.write([(key, None) for key in keys])
    call.ctx.audit.note(call.by, WEBHOOK_CHANGE, DONE, why=name)
    return Response(None, 204)


async def read_secret(call: Call) -> Response:
    """`readWebhookSecret`."""
    name, _, endpoint = await _endpoint(call)
    call.query(QueryParameters)
    call.ctx.audit.note(call.by, WEBHOOK_KEY_READ, DONE, why=name)
    return _secret(call, name, endpoint)


async def rotate_secret(call: Call) -> Response:
    """`rotateWebhookSecret`."""
    name, _, known = await _endpoint(call)
    await call.body_as(EmptyBody)
    salt = secrets.token_hex(16)
    digest = digest_of(secret_of(call.ctx.hash_key, name, salt))
    endpoint = replace(known, salt=salt, digest=digest, previous_salt=known.salt, rotated_at=call.ctx.clock.machine_ms())
    await call.ctx.webhook_endpoints.write([(endpoint_key(name), encode(endpoint))])
    call.ctx.audit.note(call.by, WEBHOOK_CHANGE, DONE, why=name)
    return _secret(call, name, endpoint)


def _secret(call: Call, name: str, endpoint: Endpoint) -> Response:
    return json_response(to_json(WebhookSecretOut(shown(secret_of(call.ctx.hash_key, name, endpoint.salt)))))


async def replay(call: Call) -> Response:
    """`replayWebhooks`."""
    name, _, known = await _endpoint(call)
    _, body = await call.body_as(ReplayBody)
    ctx = call.ctx
    if (body.after is None) == (body.from_time is None):
        raise Problem("invalid-field", "Send `after` or `from`.", errors=[FieldError("/after", "excludes-from")])
    if body.after is not None:
        read = ctx.all_events.read_cursor(EventFilter(), read_place(ctx, EventFilter(), body.after))
        start = dict.fromkeys(range(ctx.partitions), 0) | {p: min([one.position, *one.held]) for p, one in read.items()}
    else:
        at_ms = parse_ms(body.from_time or "")
        if at_ms is None:
            raise Problem("invalid-field", "from must be an RFC 3339 time.", errors=[FieldError("/from", "not-a-time")])
        start = await ctx.webhook_endpoints.positions(ctx.partitions, at_ms)
    started_at = max(ctx.clock.machine_ms(), known.started_at + 1)
    endpoint = replace(known, start=start, started_at=started_at, log_id=await ctx.webhook_endpoints.log_id())
    view = await ctx.webhook_endpoints.write([(endpoint_key(name), encode(endpoint))])
    ctx.audit.note(call.by, WEBHOOK_CHANGE, DONE, why=name)
    return json_response(to_json(endpoint_shown(view, name)))


async def read_tries(call: Call) -> Response:
    """`readWebhookDeliveries`."""
    name, _, _ = await _endpoint(call)
    query = call.query(DeliveriesQuery)
    tries, next_before = await call.ctx.webhook_endpoints.tries(name, query.before, query.limit)
    return json_response(to_json(WebhookTryPageOut([try_shown(tried) for _, tried in tries], next_before)))


def _name(call: Call) -> str:
    name: str = call.path_params["name"]
    if not _NAME.fullmatch(name):
        raise Problem("not-found")
    return name


async def _endpoint(call: Call) -> tuple[str, EndpointsView, Endpoint]:
    """(name, all endpoints, the one of the path), for an admin. Raises `not-found`."""
    call.allow("admin")
    name = _name(call)
    view = await call.ctx.webhook_endpoints.view()
    if (endpoint := view.endpoints.get(name)) is None:
        raise Problem("not-found")
    return name, view, endpoint


def refuse_url(url: str, plain_allowed: bool, private_allowed: bool) -> None:
    """Raises `invalid-field` for a URL to which nothing may be delivered; names are resolved only when a message is sent."""
    match = _URL.fullmatch(url)
    if match is None or (match["scheme"] == "http" and not plain_allowed):
        schemes = "http:// or https://" if plain_allowed else "https://"
        text = f"url must begin with {schemes} and a host, and have no user, password or fragment."
        raise Problem("invalid-field", text, errors=[FieldError("/url", "not-a-webhook-url")])
    address = address_in(match["host"])
    is_bracketed = match["host"].startswith("[")
    is_invalid = is_odd_number(match["host"]) or (is_bracketed and (address is None or address.version != 6))
    if is_invalid or not 0 < int(match["port"] or 1) < 65_536:
        text = "url must have a valid port and a name, an IPv4 address of four parts or, in brackets, an IPv6 address."
        raise Problem("invalid-field", text, errors=[FieldError("/url", "not-a-webhook-url")])
    if not private_allowed and (is_loopback(match["host"]) or (address is not None and not is_public(address))):
        raise Problem("invalid-field", "url has an address that is not public.", errors=[FieldError("/url", "private-address")])


_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9.-]{1,253}|\[[0-9a-fA-F:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?(?:[/?][!\"$-~]*)?"
)


# ---- as they are shown

State = Literal["active", "disabled", "disabled_failing", "disabled_gone"]


def endpoint_shown(view: EndpointsView, name: str) -> WebhookEndpointOut:
    """An endpoint, without its secret. Raises `Problem` `not-found` if it was deleted meanwhile."""
    if (endpoint := view.endpoints.get(name)) is None:
        raise Problem("not-found")
    health = view.health(name)
    return WebhookEndpointOut(
        name=name,
        url=endpoint.url,
        types=None if endpoint.types is None else list(endpoint.types),
        customer_id=endpoint.customer_id,
        description=endpoint.description,
        state=_state(view, name),
        created_at=format_ms(endpoint.created_at),
        started_at=format_ms(endpoint.started_at),
        health=WebhookHealthOut(
            failing_since=_time(health.failing_since),
            succeeded_at=_time(health.succeeded_at),
            failed_at=_time(health.failed_at),
            error=health.error or None,
            delivered=health.delivered,
            failed=health.failed,
            abandoned=health.abandoned,
            waiting=health.waiting,
        ),
    )


def _state(view: EndpointsView, name: str) -> State:
    if not view.endpoints[name].is_enabled:
        return "disabled"
    if (off := view.off(name)) is not None:
        return "disabled_gone" if off.reason == GONE else "disabled_failing"
    return "active"


def try_shown(tried: Tried) -> WebhookTryOut:
    """One try."""
    return WebhookTryOut(
        message_id=tried.message_id,
        type=tried.type,
        order_id=tried.order_id,
        at=format_ms(tried.at),
        took_ms=tried.took_ms,
        attempt=tried.attempt,
        result=tried.result,
        status=tried.status,
        detail=tried.detail,
        is_abandoned=tried.is_abandoned,
    )


def _time(at_ms: int) -> str | None:
    return format_ms(at_ms) if at_ms else None
