"""Webhooks of the payment provider: checks signature and age, fetches the object, sends facts as commands, then answers 200.

A message is only a hint that something happened; the facts are fetched from the provider. So a forged, repeated, lost or
reordered message causes at most a needless fetch. Nothing is fetched if this node's fold already shows it. After an act of the
ledger itself, the route first waits a moment for that act to be folded, because its own answer is on the way.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import structlog
from fastapi import APIRouter
from starlette.responses import Response

from api.bodies import read_raw
from api.call import Call
from api.context import AppContext
from api.contract import operations as docs
from api.edge import json_response
from api.problems import Problem
from api.routes.payments import provider
from commands.idempotency import fresh_command_id
from commands.messages import OrderCommand, RecordPayment
from commands.reconciler.answers import Hint, command_of
from commands.reconciler.payment_port import InvalidSignature, NotForUs, ProviderUnavailable, Repeated, Sighting
from commands.reconciler.performing import all_known, report_of
from ledger import events, tracing
from ledger.clock import now_ms
from ledger.order import Order, attempt_no

MAX_WEBHOOK_BYTES = 256 * 1024
OWN_ACT_S = 1.0
# Captures, voids and refunds are nearly always acts of the ledger: their messages arrive together with the answers.
_OWN_ACTS = frozenset({events.PAYMENT_CAPTURED, events.PAYMENT_VOIDED, events.REFUND_SUBMITTED, events.REFUND_SETTLED})

log = structlog.get_logger(__name__)


def add_routes(router: APIRouter) -> None:
    """Register the routes."""
    router.add_api_route("/webhooks/stripe", receive_message, methods=["POST"], **docs.WEBHOOK)


async def receive_message(call: Call) -> Response:
    """`receiveStripeWebhook`. No content of the message is logged, because it contains the client secret."""
    ctx = call.ctx
    body = await read_raw(call.receive, call.exchange.headers, MAX_WEBHOOK_BYTES)
    payments = provider(ctx)
    try:
        sighting = await payments.read_webhook(
            body,
            call.header(b"stripe-signature") or "",
            time.time(),
            lambda hint: _is_known(ctx, hint, payments.name),
            ctx.followed,
        )
    except InvalidSignature as exc:
        ctx.metrics.webhooks["invalid"] += 1
        log.warning("webhook refused", why=str(exc))
        raise Problem("invalid-signature") from None
    except NotForUs as exc:
        ctx.metrics.webhooks["not_for_us"] += 1
        log.warning("webhook ignored", why=str(exc))
        return json_response(b"{}", 200, {})
    except Repeated:
        ctx.metrics.webhooks["repeated"] += 1
        return json_response(b"{}", 200, {})
    except ProviderUnavailable as exc:
        ctx.metrics.webhooks["unavailable"] += 1
        log.warning("webhook not processed, the provider will send it again", why=str(exc))
        raise Problem("provider-unavailable") from None
    partition = ctx.partition_of(sighting.order_id)
    commands = _news(sighting, ctx.queries.order(partition, sighting.order_id), payments.name)
    if commands and not ctx.status().connected:
        raise Problem("ledger-unavailable")  # the provider will send it again
    # The provider knows nothing of traces: what it reports belongs to that of the order.
    with tracing.span("payment reported", "internal", ctx.projector.traces.of(sighting.order_id), own_context(call)) as span:
        span.note(ledger__order_id=sighting.order_id, ledger__facts=len(commands))
        records = [ctx.submissions.record_of(command, tracing.headers()) for command in commands]
        await ctx.submissions.send_all(records)
    ctx.followed.add(sighting.message_id)
    ctx.metrics.webhooks[_kind(sighting, bool(commands))] += 1
    return json_response(b"{}", 200, {})


async def _is_known(ctx: AppContext, hint: Hint, actor: str) -> bool:
    """Whether this node's fold already shows all facts of a message. Waits `OWN_ACT_S` for the ledger's own acts."""
    partition = ctx.partition_of(hint.order_id)
    own_acts = all(fact.fact in _OWN_ACTS for fact in hint.facts)
    deadline = time.monotonic() + (OWN_ACT_S if own_acts else 0.0)
    while True:
        order = ctx.queries.order(partition, hint.order_id)
        if order is not None and all_known(hint.facts, order, actor, now_ms()):
            return True
        left_s = deadline - time.monotonic()
        if order is None or left_s <= 0 or ctx.stopping or not await ctx.projector.waiters.news(hint.order_id, left_s):
            return False


def _news(sighting: Sighting, order: Order | None, actor: str) -> Sequence[OrderCommand]:
    """One command per fact that is new to `order`; per fact if this node has not folded the order or a fact's attempt.

    The processor distinguishes news from known facts in any case.
    """
    if order is None or any(isinstance(f, RecordPayment) and attempt_no(order, f.attempt) is None for f in sighting.facts):
        return [command_of(fact, sighting.order_id, fresh_command_id(), actor) for fact in sighting.facts]
    return report_of(sighting.facts, order, actor, now_ms())


def own_context(call: Call) -> Sequence[bytes]:
    """The span of the request, to be linked."""
    context = call.exchange.traceparent
    return () if context is None else (context,)


def _kind(sighting: Sighting, news: bool) -> str:
    """The kind of a message, for the metric."""
    if news:
        return "news"
    if sighting.order_id:
        return "known"
    return "no_order_of_ours" if sighting.provider_ref else "not_followed"
