"""The door to Stripe against the sandbox over HTTP: what each answer means, and what a request may hold.

What a request may hold does not come from the sandbox, which is the product's, but from the parameter types that Stripe
generates from its OpenAPI description and ships with its client.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
import time
import typing
from typing import Any

import pytest
from pydantic import ConfigDict, TypeAdapter
from stripe.params import (
    DisputeListParams,
    PaymentIntentCancelParams,
    PaymentIntentCaptureParams,
    PaymentIntentCreateParams,
    PaymentIntentRetrieveParams,
    PaymentIntentSearchParams,
    RefundCreateParams,
    RefundListParams,
    RefundRetrieveParams,
)
from typing_extensions import is_typeddict  # the client's types use it, whatever the version of Python

from commands.messages import RecordDispute, RecordPayment, RecordRefund
from commands.reconciler.answers import Done, No, Unknown
from commands.reconciler.payment_port import KEY_REUSED, ProviderUnavailable
from commands.reconciler.stripe_gateway import StripeGateway
from commands.sandbox import SECRET_KEY
from commands.sandbox.cards import DISPUTED, NO_FUNDS, REFUND_PENDS, THREE_D_SECURE, VISA
from ledger import events as e
from tests.support.patience import PATIENCE_S
from tests.support.sandboxed import WEBHOOK_SECRET, RunningSandbox
from tests.support.stripe_door import TIMEOUT_MS, facts, opened, played

pytestmark = pytest.mark.usefixtures("calm")


def test_a_payment_goes_from_open_to_authorised_to_captured(sandbox: RunningSandbox) -> None:
    async def play(door: StripeGateway) -> None:
        payment = await opened(door, "ord_1")
        ref = payment["provider_ref"]
        assert facts(await door.fetch(ref)) == [e.PAYMENT_OPENED]
        await asyncio.to_thread(sandbox.pay, payment, NO_FUNDS)
        answer = await door.fetch(ref)
        assert facts(answer) == [e.PAYMENT_DECLINED]
        assert isinstance(answer, Done)
        assert answer.facts[0].code == "insufficient_funds"  # type: ignore[union-attr]
        await asyncio.to_thread(sandbox.pay, payment, THREE_D_SECURE)
        assert facts(await door.fetch(ref)) == [e.PAYMENT_PENDING]
        await asyncio.to_thread(sandbox.authenticate, payment)
        answer = await door.fetch(ref)
        assert facts(answer) == [e.PAYMENT_AUTHORISED]
        assert isinstance(answer, Done)
        authorised = answer.facts[0]
        assert isinstance(authorised, RecordPayment)
        assert authorised.amount_minor == 2890
        assert 6 * 86_400_000 < (authorised.capture_before or 0) - time.time() * 1000 < 8 * 86_400_000
        assert (await door.view(ref)).state == "authorised"
        answer = await door.capture(ref, 2890, "EUR", "cap:ord_1:1")
        assert facts(answer) == [e.PAYMENT_CAPTURED]
        assert answer == await door.capture(ref, 2890, "EUR", "cap:ord_1:1")
        assert await door.capture(ref, 2890, "EUR", "cap:ord_1:other") == No("payment_intent_unexpected_state")
        assert await door.cancel(ref, "void:ord_1:1") == No("payment_intent_unexpected_state")

    played(sandbox, play)


@pytest.mark.parametrize(
    ("currency", "amount_minor", "at_stripe"),
    [("ISK", 2890, 289_000), ("JPY", 2890, 2890), ("MGA", 2800, 28), ("KWD", 28_900, 28_900)],
)
def test_an_amount_is_the_same_sum_at_stripe_and_here_in_every_currency(
    sandbox: RunningSandbox, currency: str, amount_minor: int, at_stripe: int
) -> None:
    order_id = f"ord_{currency.lower()}"

    async def play(door: StripeGateway) -> None:
        payment = await opened(door, order_id, 1, amount_minor, currency)
        ref = payment["provider_ref"]
        assert (await door.view(ref)).amount_minor == amount_minor
        assert (await door._intent("get", f"/{ref}")).amount == at_stripe
        await asyncio.to_thread(sandbox.pay, payment, VISA)
        captured = await door.capture(ref, amount_minor, currency, f"cap:{order_id}:1")
        assert isinstance(captured, Done)
        assert isinstance(captured.facts[-1], RecordPayment)
        assert captured.facts[-1].amount_minor == amount_minor
        refunded = await door.refund(ref, order_id, 1, amount_minor, currency, f"ref:{order_id}:1")
        assert isinstance(refunded, Done)
        assert isinstance(refunded.facts[0], RecordRefund)
        assert refunded.facts[0].amount_minor == amount_minor
        seen = await door.fetch(ref)
        assert isinstance(seen, Done)
        assert [f.amount_minor for f in seen.facts if isinstance(f, RecordPayment | RecordRefund)] == [amount_minor] * 2

    played(sandbox, play)


def test_a_3d_secure_that_fails_is_a_decline_and_another_card_may_follow(sandbox: RunningSandbox) -> None:
    async def play(door: StripeGateway) -> None:
        payment = await opened(door, "ord_3ds")
        await asyncio.to_thread(sandbox.pay, payment, THREE_D_SECURE)
        await asyncio.to_thread(sandbox.authenticate, payment, "failure")
        answer = await door.fetch(payment["provider_ref"])
        assert isinstance(answer, Done)
        assert [(f.fact, f.code) for f in answer.facts if isinstance(f, RecordPayment)] == [
            (e.PAYMENT_DECLINED, "payment_intent_authentication_failure")
        ]
        await asyncio.to_thread(sandbox.pay, payment, VISA)
        assert facts(await door.fetch(payment["provider_ref"])) == [e.PAYMENT_AUTHORISED]

    played(sandbox, play)


def test_an_amount_that_stripe_cannot_take_is_a_definite_no(sandbox: RunningSandbox) -> None:
    async def play(door: StripeGateway) -> None:
        assert await door.create("ord_mga2", 1, 2890, "MGA", "pi:ord_mga2:1") == No("amount_not_supported")

    played(sandbox, play)


def test_a_cancelled_payment_is_voided_and_can_be_found_by_its_order(sandbox: RunningSandbox) -> None:
    async def play(door: StripeGateway) -> None:
        payment = await opened(door, "ord_2", 3)
        assert facts(await door.cancel(payment["provider_ref"], "void:ord_2:3")) == [e.PAYMENT_VOIDED]
        placed_at = int(time.time() * 1000)
        assert facts(await door.find("ord_2", 3, placed_at)) == [e.PAYMENT_OPENED, e.PAYMENT_VOIDED]
        assert await door.find("ord_2", 4, placed_at) == No("no_such_payment")
        assert await door.fetch("pi_of_nobody") == No("resource_missing")
        with pytest.raises(KeyError):
            await door.view("pi_of_nobody")

    played(sandbox, play)


def test_refunds_are_numbered_found_by_their_number_and_distinguished_from_those_of_the_dashboard(
    sandbox: RunningSandbox,
) -> None:
    async def play(door: StripeGateway) -> None:
        payment = await opened(door, "ord_3")
        ref = payment["provider_ref"]
        assert await door.refund(ref, "ord_3", 1, 2890, "EUR", "ref:ord_3:1") == No("charge_not_refundable")
        await asyncio.to_thread(sandbox.pay, payment, REFUND_PENDS)
        await door.capture(ref, 2890, "EUR", "cap:ord_3:1")
        assert await door.find_refund(ref, 2) == No("no_such_refund")
        refund = await door.refund(ref, "ord_3", 2, 2000, "EUR", "ref:ord_3:2")
        assert facts(refund) == [e.REFUND_SUBMITTED]
        assert isinstance(refund, Done)
        assert await door.find_refund(ref, 2) == refund
        await asyncio.to_thread(sandbox.by_staff, "/v1/refunds", payment_intent=ref, amount="890")
        seen = await door.fetch(ref)
        assert isinstance(seen, Done)
        numbers = [(f.refund_no, f.amount_minor) for f in seen.facts if isinstance(f, RecordRefund)]
        assert sorted(numbers) == [(0, 890), (2, 2000)]
        assert isinstance(refund.facts[0], RecordRefund)
        deadline = time.monotonic() + PATIENCE_S
        while facts(await door.fetch_refund(refund.facts[0].provider_ref or "")) != [e.REFUND_SETTLED]:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert await door.refund(ref, "ord_3", 3, 1, "EUR", "ref:ord_3:3") == No("charge_already_refunded")

    played(sandbox, play)


def test_disputes_come_with_the_payment_and_with_the_daily_sweep(sandbox: RunningSandbox) -> None:
    async def play(door: StripeGateway) -> None:
        since_ms = int(time.time() * 1000) - 60_000
        payment = await opened(door, "ord_4")
        ref = payment["provider_ref"]
        await asyncio.to_thread(sandbox.pay, payment, DISPUTED)
        await door.capture(ref, 2890, "EUR", "cap:ord_4:1")
        seen = await door.fetch(ref)
        assert facts(seen) == [e.PAYMENT_CAPTURED, e.DISPUTE_OPENED]
        assert await door.refund(ref, "ord_4", 1, 2890, "EUR", "ref:ord_4:1") == No("charge_disputed")
        assert isinstance(seen, Done)
        dispute = seen.facts[1]
        assert isinstance(dispute, RecordDispute)
        await asyncio.to_thread(sandbox.by_staff, f"/sandbox/disputes/{dispute.provider_ref}/close", outcome="lost")
        sightings = {s.order_id: s async for s in door.recent(since_ms)}
        assert [f.fact for f in sightings["ord_4"].facts] == [e.PAYMENT_CAPTURED, e.DISPUTE_OPENED, e.DISPUTE_CLOSED]

    played(sandbox, play)


def test_more_refunds_than_a_page_holds_are_all_listed(sandbox: RunningSandbox) -> None:
    async def play(door: StripeGateway) -> None:
        payment = await opened(door, "ord_5")
        ref = payment["provider_ref"]
        await asyncio.to_thread(sandbox.pay, payment)
        await door.capture(ref, 2890, "EUR", "cap:ord_5:1")
        for no in range(1, 131):
            assert facts(await door.refund(ref, "ord_5", no, 1, "EUR", f"ref:ord_5:{no}")) == [e.REFUND_SETTLED]
        seen = await door.fetch(ref)
        assert isinstance(seen, Done)
        assert sorted(f.refund_no for f in seen.facts if isinstance(f, RecordRefund)) == list(range(1, 131))

    played(sandbox, play)


@pytest.mark.parametrize("fate", ["error", "too_many", "conflict", "reset", "timeout", "reset_after"])
def test_a_missing_answer_is_unknown_and_the_same_key_shows_the_result_later(sandbox: RunningSandbox, fate: str) -> None:
    order_id = f"ord_{fate}"

    async def play(door: StripeGateway) -> None:
        sandbox.chaos(ports={"payments": {fate: 1.0}}, hold_timeout_ms=30_000)
        began = time.monotonic()
        answer = await door.create(order_id, 1, 2890, "EUR", f"pi:{order_id}:1")
        assert isinstance(answer, Unknown), answer
        assert time.monotonic() - began < 25
        with pytest.raises(ProviderUnavailable):
            await door.view("pi_any")
        sandbox.chaos()

    async def play_again(door: StripeGateway) -> None:
        again = await door.create(order_id, 1, 2890, "EUR", f"pi:{order_id}:1")
        assert facts(again) == [e.PAYMENT_OPENED]
        search = sandbox.dashboard.get("/v1/payment_intents/search", params={"query": f"metadata['order']:'{order_id}'"}).json()
        assert len(search["data"]) == 1

    played(sandbox, play, timeout_ms=TIMEOUT_MS)
    played(sandbox, play_again)


def test_a_key_used_for_something_else_is_a_fault_of_the_ledger_and_no_answer(sandbox: RunningSandbox) -> None:
    async def play(door: StripeGateway) -> None:
        await door.create("ord_6", 1, 2890, "EUR", "pi:ord_6:1")
        assert await door.create("ord_6", 1, 2891, "EUR", "pi:ord_6:1") == Unknown("idempotency_error (400)")

    played(sandbox, play)


def test_a_refund_whose_key_was_used_for_another_amount_is_definitely_not_made(sandbox: RunningSandbox) -> None:
    async def play(door: StripeGateway) -> None:
        payment = await opened(door, "ord_9")
        ref = payment["provider_ref"]
        await asyncio.to_thread(sandbox.pay, payment)
        await door.capture(ref, 2890, "EUR", "cap:ord_9:1")
        await asyncio.to_thread(sandbox.by_staff, "/v1/refunds", payment_intent=ref, amount="1000")
        assert await door.refund(ref, "ord_9", 1, 2890, "EUR", "ref:ord_9:1") == No("amount_too_large")
        assert await door.refund(ref, "ord_9", 1, 1890, "EUR", "ref:ord_9:1") == No(KEY_REUSED)
        assert facts(await door.refund(ref, "ord_9", 2, 1890, "EUR", "ref:ord_9:2")) == [e.REFUND_SETTLED]

    played(sandbox, play)


def test_a_key_is_forgotten_after_a_day_and_the_payment_is_still_found(sandbox: RunningSandbox) -> None:
    async def play(door: StripeGateway) -> None:
        await opened(door, "ord_7")
        sandbox.sandbox.clock.move(25 * 3600)
        try:
            assert facts(await door.find("ord_7", 1, int(time.time() * 1000))) == [e.PAYMENT_OPENED, e.PAYMENT_OPENED]
            answer = await door.create("ord_7", 1, 2890, "EUR", "pi:ord_7:1")
            assert isinstance(answer, Done)  # a second payment, which is why the ledger searches first
            search = sandbox.dashboard.get("/v1/payment_intents/search", params={"query": "metadata['order']:'ord_7'"}).json()
            assert len(search["data"]) == 2
        finally:
            sandbox.sandbox.clock.move(0)

    played(sandbox, play)


def test_a_real_key_is_not_accepted_and_a_refused_key_says_nothing_about_the_payment(sandbox: RunningSandbox) -> None:
    async def play(door: StripeGateway) -> None:
        assert await door.fetch("pi_any") == Unknown("invalid_request_error (401)")

    played(sandbox, play, key="sk_test_somebody_elses")


# ---- requests, against Stripe's own description ---------------------------------------------------------------------

PARAMETERS = {
    "create": PaymentIntentCreateParams,
    "retrieve": PaymentIntentRetrieveParams,
    "search": PaymentIntentSearchParams,
    "capture": PaymentIntentCaptureParams,
    "cancel": PaymentIntentCancelParams,
    "refund": RefundCreateParams,
    "list_refunds": RefundListParams,
    "read_refund": RefundRetrieveParams,
    "list_disputes": DisputeListParams,
}


def closed(kind: Any) -> TypeAdapter[Any]:
    """Validates a request of this kind; a parameter that Stripe does not know, at whatever depth, is an error."""
    names = vars(sys.modules[kind.__module__])
    # A class of the client that may replace a mapping; pydantic cannot see into it, and the product uses none.
    names["UntypedStripeObject"] = typing.List  # noqa: UP006
    for described in names.values():
        if is_typeddict(described):
            described.__pydantic_config__ = ConfigDict(extra="forbid")
    adapter = TypeAdapter(kind, config=None)
    # The options of a request (keys, headers) are its base class; one of their types exists for type checkers only.
    adapter.rebuild(_types_namespace={**vars(typing), **names, "StripeContext": Any})
    return adapter


def test_every_request_has_parameters_that_stripe_describes(sandbox: RunningSandbox) -> None:
    async def play(door: StripeGateway) -> None:
        payment = await opened(door, "ord_8")
        ref = payment["provider_ref"]
        await asyncio.to_thread(sandbox.pay, payment, DISPUTED)
        await door.find("ord_8", 1, 0)
        await door.capture(ref, 2890, "EUR", "cap:ord_8:1")
        await door.fetch(ref)
        await door.cancel(ref, "void:ord_8:1")
        await door.refund(ref, "ord_8", 1, 1, "EUR", "ref:ord_8:1")
        await door.find_refund(ref, 1)
        await door.fetch_refund("re_any")
        assert [s.order_id async for s in door.recent(0)]

    played(sandbox, play)
    seen = set()
    for call in sandbox.calls("payments"):
        if (kind := PARAMETERS.get(call["verb"])) is None:
            continue
        request = json.loads(call["request"])
        if isinstance(request.get("expand"), dict):
            request["expand"] = list(request["expand"].values())
        if isinstance(request.get("allowed_payment_method_types"), dict):
            request["allowed_payment_method_types"] = list(request["allowed_payment_method_types"].values())
        closed(kind).validate_python(request)
        seen.add(call["verb"])
    assert seen == set(PARAMETERS)


def test_the_check_of_requests_finds_a_parameter_that_stripe_dropped() -> None:
    good = {"amount": "2890", "currency": "eur", "capture_method": "manual", "allowed_payment_method_types": ["card"]}
    closed(PaymentIntentCreateParams).validate_python(good)
    with pytest.raises(ValueError, match="payment_method_types"):
        closed(PaymentIntentCreateParams).validate_python(good | {"payment_method_types": ["card"]})
    with pytest.raises(ValueError, match="amount"):
        closed(PaymentIntentCreateParams).validate_python(good | {"amount": "28.90"})


# ---- secrets --------------------------------------------------------------------------------------------------------


def test_no_secret_is_logged_or_shown_whatever_goes_wrong(sandbox: RunningSandbox) -> None:
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)

    async def play(door: StripeGateway) -> list[str]:
        payment = await opened(door, "ord_10")
        shown = [repr(await door.view(payment["provider_ref"])), repr(door)]
        for fate in ("none", "error", "reset_after"):
            sandbox.chaos(ports={"payments": {fate: 1.0} if fate != "none" else {}})
            shown.append(repr(await door.fetch(payment["provider_ref"])))
            shown.append(repr(await door.capture(payment["provider_ref"], 1, "EUR", f"cap:{fate}")))
            try:
                await door.sighting("pi_x")
            except (ProviderUnavailable, KeyError) as exc:
                shown += [repr(exc), str(exc), repr(exc.__cause__), repr(exc.__context__)]
        return [*shown, payment["client_secret"]]

    try:
        *shown, client_secret = played(sandbox, play)
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    text = said.getvalue() + "\n".join(shown)
    for secret in (SECRET_KEY, WEBHOOK_SECRET, client_secret, VISA):
        assert secret not in text
