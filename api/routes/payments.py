"""Paying for an order: open a payment, report that the customer is done, read it (`payOrder`, `readPayment`).

The secret with which the customer's browser pays is read from the provider on request. It is kept in memory for at most a
minute, and nowhere else.
"""

from __future__ import annotations

import asyncio
import time

from fastapi import APIRouter
from starlette.responses import Response

from api.call import Call
from api.context import AppContext
from api.contract import operations as docs
from api.contract.queries import QueryParameters
from api.contract.requests import PayOrderBody
from api.contract.responses import PaymentOut
from api.edge import json_response
from api.problems import FieldError, Problem
from api.replies import accepted_later, headers_of_outcome, order_then, perform, refused, undecided, wait_of
from api.representations import to_json
from api.services.submissions import Pending
from api.visibility import may_see, order_of_path, sees_client_secret
from commands.idempotency import command_id_of
from commands.messages import OrderCommand, RequestPayment
from commands.reconciler.answers import Fact
from commands.reconciler.payment_port import PaymentProvider, ProviderUnavailable
from commands.reconciler.performing import report_of
from ledger.clock import now_ms
from ledger.events import PAYMENT_REQUESTED
from ledger.order import Attempt, Order, attempt_no, was_refused
from ledger.rfc3339 import format_ms
from ledger.transitions import DECLINED, OPEN, PENDING, REQUESTED, Operation

PAY = "RequestPayment"  # name of the operation in command ids; never changes
READ_PAUSE_S = 2.0  # between two checks of one payment without news
_PAYABLE = (OPEN, PENDING, DECLINED)


def add_routes(router: APIRouter) -> None:
    """Register the routes."""
    router.add_api_route("/orders/{order_id}/payment", pay, methods=["POST"], **docs.PAY)
    router.add_api_route("/orders/{order_id}/payment", read_payment, methods=["GET"], **docs.READ_PAYMENT)


async def pay(call: Call) -> Response:
    """`payOrder`."""
    principal = call.allow("gateway")
    customer = call.customer(principal)
    order_id = call.order_id()
    value, body = await call.body_as(PayOrderBody)
    payments = provider(call.ctx)
    if body.action == "confirm":
        return await _confirm(call, order_id, payments)
    key = call.idempotency_key()
    amount, currency = body.total_minor, body.currency
    if amount is None or currency is None:
        missing = [name for name in ("total_minor", "currency") if getattr(body, name) is None]
        text = "Send the total and the currency that were shown to the customer."
        raise Problem("invalid-field", text, errors=[FieldError(f"/{name}", "missing") for name in missing])
    command = OrderCommand(
        command_id=command_id_of(principal.name, customer, PAY, order_id, key),
        order_id=order_id,
        fingerprint=call.ctx.fingerprint(value),
        operation=Operation.REQUEST_PAYMENT.value,
        actor=principal.actor,
        customer_id=customer,
        expected_version=call.expected_version(),
        request_payment=RequestPayment(amount, currency),
    )
    return await _initiate(call, command, payments)


async def _initiate(call: Call, command: OrderCommand, payments: PaymentProvider) -> Response:
    ctx, order_id = call.ctx, command.order_id
    partition = ctx.partition_of(order_id)
    deadline = time.monotonic() + wait_of(call.preferences)
    result = await perform(call, command)
    if isinstance(result, Pending):
        return undecided(call, command, result)
    outcome = result.outcome
    headers = headers_of_outcome(call, partition, result.replayed)
    if outcome.code is not None:
        raise await refused(call, command.command_id, outcome, headers)
    ordered = await order_then(call, partition, outcome)
    no = len(ordered.attempts) if ordered is not None else 0
    if result.replayed:
        _remind(ctx, partition, command, no)
    order, attempt = await _opened(ctx, partition, order_id, no, deadline)
    if attempt.state == REQUESTED:
        return accepted_later(call, command, f"/orders/{order_id}/payment", outcome.version)
    if was_refused(attempt):
        members = {"order_id": order_id, "command_id": command.command_id, "provider_code": attempt.code}
        raise Problem("payment-refused", members=members, headers=headers)
    secret = await _secret(call, payments, attempt)
    headers |= {"Location": f"/orders/{order_id}/payment", "Ledger-Position": ctx.position(partition)}
    return json_response(payment_json(order, attempt, payments, secret), 201, headers)


def _remind(ctx: AppContext, partition: int, command: OrderCommand, no: int) -> None:
    """A client waits for attempt `no`, which `command` requested: if it is not open yet, trigger another try now."""
    order = ctx.queries.order(partition, command.order_id)
    attempt = attempt_no(order, no) if order is not None else None
    if attempt is not None and attempt.state == REQUESTED:
        ctx.submissions.remind(command)


async def _request_of(call: Call, partition: int, order: Order, no: int) -> OrderCommand | None:
    """The command that requested attempt `no`, with the fields by which it is recognised."""
    for event in (past.event for past in await call.in_turns(call.ctx.queries.history(partition, order.order_id))):
        if event.type == PAYMENT_REQUESTED and event.payment is not None and event.payment.attempt == no:
            return OrderCommand(
                command_id=event.command_id,
                order_id=order.order_id,
                fingerprint=event.fingerprint,
                operation=Operation.REQUEST_PAYMENT.value,
                actor=event.actor,
                customer_id=order.customer_id,
                request_payment=RequestPayment(order.total_minor, order.currency),
            )
    return None


async def _opened(ctx: AppContext, partition: int, order_id: str, no: int, deadline: float) -> tuple[Order, Attempt]:
    """The order and its attempt `no` once the provider knows it, or as they are at `deadline` (of `time.monotonic`)."""
    while True:
        order = ctx.queries.order(partition, order_id)
        attempt = attempt_no(order, no) if order is not None else None
        if order is None or attempt is None:  # decided, but this node's fold of the order stopped
            raise Problem("order-frozen", members={"order_id": order_id})
        left = deadline - time.monotonic()
        if attempt.state != REQUESTED or left <= 0 or ctx.stopping:
            return order, attempt
        await ctx.projector.waiters.news(order_id, left)


async def _confirm(call: Call, order_id: str, payments: PaymentProvider) -> Response:
    """The customer reports to be done: ask the provider, report news as commands, answer with the resulting state."""
    ctx = call.ctx
    partition = ctx.partition_of(order_id)
    order = ctx.queries.order(partition, order_id)
    if order is None:
        ctx.submissions.refuse_overload(order_id)  # it may be in the log
    if order is None or not may_see(call, order):
        raise Problem("order-not-found")
    attempt = _last(order)
    if attempt.state == REQUESTED and (asked := await _request_of(call, partition, order, attempt.no)) is not None:
        ctx.submissions.remind(asked)
        await _opened(ctx, partition, order_id, attempt.no, time.monotonic() + wait_of(call.preferences))
    elif attempt.provider_ref is not None:
        for command in report_of(await _read_facts(ctx, order, attempt, payments), order, payments.name, now_ms()):
            ctx.submissions.refuse_overload(order_id)
            outcome = await ctx.submissions.submit(command, wait_of(call.preferences))
            if isinstance(outcome, Pending):
                return undecided(call, command, outcome)
    order = ctx.queries.order(partition, order_id) or order
    attempt = attempt_no(order, attempt.no) or attempt
    headers = headers_of_outcome(call, partition, replayed=False)
    return json_response(payment_json(order, attempt, payments, await _secret(call, payments, attempt)), 200, headers)


async def read_payment(call: Call) -> Response:
    """`readPayment`: the last attempt. Includes the secret only for the customer, and only while it can be used."""
    partition, order = await order_of_path(call)
    call.query(QueryParameters)
    ctx = call.ctx
    payments = provider(ctx)
    attempt = _last(order)
    secret = await _secret(call, payments, attempt)
    headers = {"Ledger-Position": ctx.position(partition)}
    return json_response(payment_json(order, attempt, payments, secret), 200, headers)


def provider(ctx: AppContext) -> PaymentProvider:
    """The payment provider. Raises `provider-unavailable` if none is configured."""
    if ctx.payments is None:
        raise Problem("provider-unavailable", "No payment provider is configured.")
    return ctx.payments


def payment_json(order: Order, attempt: Attempt, payments: PaymentProvider, secret: str | None) -> bytes:
    """One attempt to pay, as a body."""
    return to_json(
        PaymentOut(
            attempt=attempt.no,
            state=attempt.state,
            provider=payments.name,
            provider_ref=attempt.provider_ref,
            client_secret=secret,
            amount_minor=attempt.amount_minor,
            currency=order.currency,
            expires_at=format_ms(order.expires_at),
        )
    )


def _last(order: Order) -> Attempt:
    if not order.attempts:
        raise Problem("not-found", "The order has no payment yet.")
    return order.attempts[-1]


async def _secret(call: Call, payments: PaymentProvider, attempt: Attempt) -> str | None:
    if attempt.provider_ref is None or attempt.state not in _PAYABLE or not sees_client_secret(call):
        return None
    try:
        return await call.ctx.secrets.of(payments, attempt.provider_ref)
    except (ProviderUnavailable, KeyError):
        raise Problem("provider-unavailable") from None


async def _read_facts(ctx: AppContext, order: Order, attempt: Attempt, payments: PaymentProvider) -> tuple[Fact, ...]:
    """The provider's current facts about the attempt; empty once this node's fold shows another state of it.

    The provider is asked at most once per `READ_PAUSE_S` and payment: requests in between wait for the next answer.
    """
    partition, order_id = ctx.partition_of(order.order_id), order.order_id
    reading = asyncio.ensure_future(payments.sighting(str(attempt.provider_ref), READ_PAUSE_S))
    try:
        while not reading.done():
            news = asyncio.ensure_future(ctx.projector.waiters.news(order_id, READ_PAUSE_S))
            await asyncio.wait({reading, news}, return_when=asyncio.FIRST_COMPLETED)
            news.cancel()
            now = ctx.queries.order(partition, order_id)
            if now is not None and ((latest := attempt_no(now, attempt.no)) is None or latest.state != attempt.state):
                return ()
        return (await reading).facts
    except (ProviderUnavailable, KeyError):
        raise Problem("provider-unavailable") from None
    finally:
        reading.cancel()
