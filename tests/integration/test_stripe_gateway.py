"""The door to Stripe against the sandbox over HTTP: what each answer means, what a request may hold, which message is genuine.

What a request may hold is not asked of the sandbox, which is ours, but of the parameter types that Stripe generates from its
OpenAPI description and ships with its client.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import random
import sys
import time
import typing
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
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
from typing_extensions import is_typeddict  # the client's types are made with it, whatever the version of Python

from commands.messages import RecordDispute, RecordPayment, RecordRefund
from commands.obligations import Kind, obligations
from commands.reconciler.answers import Answer, Done, No, Unknown
from commands.reconciler.payment_port import InvalidSignature, NotForUs, ProviderUnavailable
from commands.reconciler.performing import CallReport, Ports, perform
from commands.reconciler.stripe_gateway import StripeGateway
from commands.reconciler.stripe_webhook import sign
from commands.sandbox import SECRET_KEY
from commands.sandbox.cards import DISPUTED, NO_FUNDS, REFUND_PENDS, THREE_D_SECURE, VISA
from ledger import events as e
from ledger.events import Line
from ledger.order import Attempt, Order, StockEntry
from tests.support.patience import PATIENCE_S
from tests.support.sandboxed import WEBHOOK_SECRET, RunningSandbox

pytestmark = pytest.mark.usefixtures("calm")
TIMEOUT_MS = 800  # for calls that are to be given up; every other has a patient door
PATIENT_MS = int(PATIENCE_S * 1000)
Play = Callable[[StripeGateway], Coroutine[Any, Any, Any]]


def gateway(sandbox: RunningSandbox, key: str = SECRET_KEY, timeout_ms: int = PATIENT_MS, **more: Any) -> StripeGateway:
    return StripeGateway(key, webhook_secrets=(WEBHOOK_SECRET,), api_base=sandbox.url, timeout_ms=timeout_ms, **more)


def played(sandbox: RunningSandbox, play: Play, **more: Any) -> Any:
    """What `play` returns, with a gateway on a loop of its own."""

    async def run() -> Any:
        door = gateway(sandbox, **more)
        try:
            return await play(door)
        finally:
            await door.close()

    return asyncio.run(run())


def facts(answer: Answer) -> list[str]:
    assert isinstance(answer, Done), answer
    return [fact.fact for fact in answer.facts]


async def opened(door: StripeGateway, order_id: str, attempt: int = 1) -> dict[str, Any]:
    """A fresh payment as its customer sees it."""
    answer = await door.create(order_id, attempt, 2890, "EUR", f"pi:{order_id}:{attempt}")
    assert isinstance(answer, Done)
    (fact,) = answer.facts
    assert isinstance(fact, RecordPayment)
    assert (fact.fact, fact.attempt) == (e.PAYMENT_OPENED, attempt)
    view = await door.view(fact.provider_ref or "")
    return {"provider_ref": view.provider_ref, "client_secret": view.client_secret}


def test_a_payment_goes_from_open_over_authorised_to_captured(sandbox: RunningSandbox) -> None:
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
        answer = await door.capture(ref, 2890, "cap:ord_1:1")
        assert facts(answer) == [e.PAYMENT_CAPTURED]
        assert answer == await door.capture(ref, 2890, "cap:ord_1:1")
        assert await door.capture(ref, 2890, "cap:ord_1:other") == No("payment_intent_unexpected_state")
        assert await door.cancel(ref, "void:ord_1:1") == No("payment_intent_unexpected_state")

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


def test_refunds_are_numbered_found_by_their_number_and_told_from_those_of_the_dashboard(sandbox: RunningSandbox) -> None:
    async def play(door: StripeGateway) -> None:
        payment = await opened(door, "ord_3")
        ref = payment["provider_ref"]
        assert await door.refund(ref, "ord_3", 1, 2890, "ref:ord_3:1") == No("charge_not_refundable")
        await asyncio.to_thread(sandbox.pay, payment, REFUND_PENDS)
        await door.capture(ref, 2890, "cap:ord_3:1")
        assert await door.find_refund(ref, 2) == No("no_such_refund")
        made = await door.refund(ref, "ord_3", 2, 2000, "ref:ord_3:2")
        assert facts(made) == [e.REFUND_SUBMITTED]
        assert isinstance(made, Done)
        assert await door.find_refund(ref, 2) == made
        await asyncio.to_thread(sandbox.by_staff, "/v1/refunds", payment_intent=ref, amount="890")
        seen = await door.fetch(ref)
        assert isinstance(seen, Done)
        numbers = [(f.refund_no, f.amount_minor) for f in seen.facts if isinstance(f, RecordRefund)]
        assert sorted(numbers) == [(0, 890), (2, 2000)]
        assert isinstance(made.facts[0], RecordRefund)
        deadline = time.monotonic() + PATIENCE_S
        while facts(await door.fetch_refund(made.facts[0].provider_ref or "")) != [e.REFUND_SETTLED]:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert await door.refund(ref, "ord_3", 3, 1, "ref:ord_3:3") == No("charge_already_refunded")

    played(sandbox, play)


def test_disputes_come_with_the_payment_and_with_the_daily_sweep(sandbox: RunningSandbox) -> None:
    async def play(door: StripeGateway) -> None:
        since_ms = int(time.time() * 1000) - 60_000
        payment = await opened(door, "ord_4")
        ref = payment["provider_ref"]
        await asyncio.to_thread(sandbox.pay, payment, DISPUTED)
        await door.capture(ref, 2890, "cap:ord_4:1")
        seen = await door.fetch(ref)
        assert facts(seen) == [e.PAYMENT_CAPTURED, e.DISPUTE_OPENED]
        assert await door.refund(ref, "ord_4", 1, 2890, "ref:ord_4:1") == No("charge_disputed")
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
        await door.capture(ref, 2890, "cap:ord_5:1")
        for no in range(1, 131):
            assert facts(await door.refund(ref, "ord_5", no, 1, f"ref:ord_5:{no}")) == [e.REFUND_SETTLED]
        seen = await door.fetch(ref)
        assert isinstance(seen, Done)
        assert sorted(f.refund_no for f in seen.facts if isinstance(f, RecordRefund)) == list(range(1, 131))

    played(sandbox, play)


@pytest.mark.parametrize("fate", ["error", "too_many", "conflict", "reset", "timeout", "reset_after"])
def test_whatever_is_no_answer_is_unknown_and_the_same_key_tells_afterwards(sandbox: RunningSandbox, fate: str) -> None:
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
        found = sandbox.dashboard.get("/v1/payment_intents/search", params={"query": f"metadata['order']:'{order_id}'"}).json()
        assert len(found["data"]) == 1

    played(sandbox, play, timeout_ms=TIMEOUT_MS)
    played(sandbox, play_again)


def test_a_key_used_for_something_else_is_our_fault_and_no_answer(sandbox: RunningSandbox) -> None:
    async def play(door: StripeGateway) -> None:
        await door.create("ord_6", 1, 2890, "EUR", "pi:ord_6:1")
        assert await door.create("ord_6", 1, 2891, "EUR", "pi:ord_6:1") == Unknown("idempotency_error (400)")

    played(sandbox, play)


def test_a_key_is_forgotten_after_a_day_and_the_payment_is_found_all_the_same(sandbox: RunningSandbox) -> None:
    async def play(door: StripeGateway) -> None:
        await opened(door, "ord_7")
        sandbox.sandbox.clock.move(25 * 3600)
        try:
            assert facts(await door.find("ord_7", 1, int(time.time() * 1000))) == [e.PAYMENT_OPENED, e.PAYMENT_OPENED]
            answer = await door.create("ord_7", 1, 2890, "EUR", "pi:ord_7:1")
            assert isinstance(answer, Done)  # a second payment: this is why it is searched for first
            found = sandbox.dashboard.get("/v1/payment_intents/search", params={"query": "metadata['order']:'ord_7'"}).json()
            assert len(found["data"]) == 2
        finally:
            sandbox.sandbox.clock.move(0)

    played(sandbox, play)


def test_a_real_key_is_not_taken_and_a_refused_key_says_nothing_about_the_payment(sandbox: RunningSandbox) -> None:
    async def play(door: StripeGateway) -> None:
        assert await door.fetch("pi_any") == Unknown("invalid_request_error (401)")

    played(sandbox, play, key="sk_test_somebody_elses")


@asynccontextmanager
async def provider(serve: Callable[[str, str], tuple[int, dict[str, str], dict[str, Any]]]) -> AsyncIterator[StripeGateway]:
    """A door to a provider that answers (status, headers, body) by `serve(method, path)`."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = [int(x.split(b":")[1]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-length")]
                await reader.readexactly(sum(length))
                method, path = head.decode().split(" ")[:2]
                status, headers, said = serve(method, path)
                body = json.dumps(said).encode()
                lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", *(f"{k}: {v}" for k, v in headers.items())]
                writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    door = StripeGateway(SECRET_KEY, webhook_secrets=(WEBHOOK_SECRET,), api_base=url, timeout_ms=30_000)
    try:
        yield door
    finally:
        await door.close()
        server.close()


ERROR = {"error": {"type": "api_error", "message": "x"}}


@pytest.mark.parametrize(
    ("answers", "calls", "ends"),
    [
        ([(503, {}), (409, {}), (200, {})], 3, Done),
        ([(500, {}), (500, {}), (500, {}), (200, {})], 3, Unknown),
        ([(429, {"Retry-After": "1"}), (200, {})], 2, Done),
        ([(429, {"Retry-After": "3600"}), (200, {})], 1, Unknown),
        ([(500, {"Stripe-Should-Retry": "false"}), (200, {})], 1, Unknown),
        ([(400, {"Stripe-Should-Retry": "true"}), (200, {})], 2, Done),
        ([(402, {}), (200, {})], 1, No),
        ([(401, {}), (200, {})], 1, Unknown),
    ],
)
def test_one_call_is_tried_again_only_after_what_is_no_answer(answers: list[Any], calls: int, ends: type[Answer]) -> None:
    asked: list[tuple[str, str]] = []

    def serve(method: str, path: str) -> tuple[int, dict[str, str], dict[str, Any]]:
        status, headers = answers[len(asked)]
        asked.append((method, path))
        intent = {"id": "pi_1", "object": "payment_intent", "status": "canceled", "amount": 1, "currency": "eur"}
        return status, headers, intent if status == 200 else ERROR

    async def go() -> Answer:
        async with provider(serve) as door:
            return await door.cancel("pi_1", "void:1")

    answer = asyncio.run(go())
    assert isinstance(answer, ends), answer
    assert asked == [("POST", "/v1/payment_intents/pi_1/cancel")] * calls
    if answers[0][1].get("Retry-After") == "3600":
        assert isinstance(answer, Unknown)
        assert answer.after_s == 3600


@pytest.mark.parametrize("name", [7, None, "x" * 300], ids=["a number", "null", "longer than a record takes"])
def test_a_payment_that_is_found_under_no_name_is_not_found(name: object) -> None:
    def serve(method: str, path: str) -> tuple[int, dict[str, str], dict[str, Any]]:
        intent = {"id": "pi_1", "object": "payment_intent", "status": "processing", "amount": 1, "currency": "eur"}
        if path.startswith("/v1/payment_intents/search"):
            return 200, {}, {"object": "search_result", "has_more": False, "data": [intent | {"id": name}]}
        return 200, {}, intent

    async def go() -> Answer:
        async with provider(serve) as door:
            return await door.find("ord_1", 1, 0)

    assert asyncio.run(go()) == Unknown("ValidationError")


def test_a_capture_that_fails_after_its_look_was_answered_says_so() -> None:
    """The other side is there: such a failure does not let the pauses grow to minutes."""
    at = 1_700_000_000_000
    order = Order(
        order_id="ord_1",
        version=7,
        customer_id="c-1",
        currency="EUR",
        total_minor=1,
        placed_at=at,
        updated_at=at,
        expires_at=at + 1_800_000,
        lines=(Line("merch", "mug", "Mug", 1, 1),),
        adjustments=(),
        reference=None,
        contact_digest=b"",
        stock=(StockEntry("merch", "reserved", at),),
        attempts=(Attempt(1, 1, "authorised", at, provider_ref="pi_1"),),
    )
    (obligation,) = [o for o in obligations(order) if o.kind is Kind.CAPTURE]
    intent = {"id": "pi_1", "object": "payment_intent", "status": "requires_capture", "amount": 1, "currency": "eur"}

    async def go(look: int) -> CallReport:
        said = (look, {}, intent if look == 200 else ERROR)
        async with provider(lambda method, path: said if method == "GET" else (503, {}, ERROR)) as door:
            return await perform(obligation, order, Ports(door, {}), order.updated_at)

    assert asyncio.run(go(200)) == CallReport(failed="api_error (503)", looked=True)
    assert asyncio.run(go(500)) == CallReport(failed="api_error (500)", answered=False)


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
    # A class of the client that may stand for a mapping; pydantic cannot look into it, and nothing of ours is one.
    names["UntypedStripeObject"] = typing.List  # noqa: UP006
    for described in names.values():
        if is_typeddict(described):
            described.__pydantic_config__ = ConfigDict(extra="forbid")
    adapter = TypeAdapter(kind, config=None)
    # The options of a request (keys, headers) are its base class; one of their types is there for type checkers only.
    adapter.rebuild(_types_namespace={**vars(typing), **names, "StripeContext": Any})
    return adapter


def test_every_request_has_parameters_that_stripe_describes(sandbox: RunningSandbox) -> None:
    async def play(door: StripeGateway) -> None:
        payment = await opened(door, "ord_8")
        ref = payment["provider_ref"]
        await asyncio.to_thread(sandbox.pay, payment, DISPUTED)
        await door.find("ord_8", 1, 0)
        await door.capture(ref, 2890, "cap:ord_8:1")
        await door.fetch(ref)
        await door.cancel(ref, "void:ord_8:1")
        await door.refund(ref, "ord_8", 1, 1, "ref:ord_8:1")
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


# ---- messages -------------------------------------------------------------------------------------------------------


def message(ref: str, **changes: Any) -> bytes:
    event = {
        "id": "evt_1",
        "object": "event",
        "type": "payment_intent.amount_capturable_updated",
        "livemode": False,
        "data": {"object": {"id": ref, "object": "payment_intent"}},
    }
    return json.dumps(event | changes).encode()


def test_a_genuine_message_is_followed_by_a_look(sandbox: RunningSandbox) -> None:
    async def play(door: StripeGateway) -> None:
        ref = (await opened(door, "ord_9"))["provider_ref"]
        body, now = message(ref), 1_900_000_000
        sighting = await door.read_webhook(body, sign(body, WEBHOOK_SECRET, now), now + 299)
        assert (sighting.order_id, [f.fact for f in sighting.facts]) == ("ord_9", [e.PAYMENT_OPENED])
        old_secret = sign(body, "whsec_old", now) + "," + sign(body, WEBHOOK_SECRET, now).split(",")[1]
        assert (await door.read_webhook(body, old_secret, now)).order_id == "ord_9"
        other = message(ref, type="customer.created")
        assert (await door.read_webhook(other, sign(other, WEBHOOK_SECRET, now), now)).facts == ()
        nobody = message("pi_of_nobody")
        assert (await door.read_webhook(nobody, sign(nobody, WEBHOOK_SECRET, now), now)).order_id == ""

    played(sandbox, play)


def test_a_thousand_forged_messages_are_all_refused_before_anything_is_asked(sandbox: RunningSandbox) -> None:
    choice = random.Random(17)
    now = 1_900_000_000
    good = message("pi_1")
    signature = sign(good, WEBHOOK_SECRET, now)

    def forged(number: int) -> tuple[bytes, str, float]:
        """(body, signature, the time it is read)."""
        match number % 8:
            case 0:  # one byte of the body
                at = choice.randrange(len(good))
                return good[:at] + bytes([good[at] ^ choice.randint(1, 255)]) + good[at + 1 :], signature, now
            case 1:  # one digit of the signature
                at = signature.index("v1=") + 3 + choice.randrange(64)
                digit = choice.choice([d for d in "0123456789abcdef" if d != signature[at]])
                return good, signature[:at] + digit + signature[at + 1 :], now
            case 2:  # another time than the signed one
                return good, signature.replace(str(now), str(now + choice.choice([-1, 1]) * choice.randint(1, 10_000))), now
            case 3:  # too old, or from the future
                return good, signature, now + choice.choice([-1, 1]) * choice.randint(301, 10**6)
            case 4:  # another secret
                return good, sign(good, f"whsec_{choice.random()}", now), now
            case 5:  # a message of the other mode, rightly signed
                body = message("pi_1", livemode=True)
                return body, sign(body, WEBHOOK_SECRET, now), now
            case 6:  # of another account, rightly signed
                body = message("pi_1", account=f"acct_{choice.randint(1, 10**9)}")
                return body, sign(body, WEBHOOK_SECRET, now), now
        broken = [
            "",
            "t=",
            f"t={now}",
            "v1=" + signature.split("v1=")[1],
            "t=x,v1=y",
            signature.replace("v1=", "v0="),
            "é=1",
            ",",
        ]
        return good, choice.choice(broken), now

    async def play(door: StripeGateway) -> None:
        for number in range(1_000):
            body, header, at = forged(number)
            with pytest.raises(NotForUs if number % 8 in (5, 6) else InvalidSignature):
                await door.read_webhook(body, header, at)

    before = len(sandbox.calls("payments"))
    played(sandbox, play, account="acct_ours")
    assert len(sandbox.calls("payments")) == before


def test_a_test_message_is_not_followed_with_a_live_key() -> None:
    async def play() -> None:
        door = StripeGateway("sk_live_canary", webhook_secrets=(WEBHOOK_SECRET,), api_base="http://127.0.0.1:1")
        body, now = message("pi_1"), 1_900_000_000
        with pytest.raises(NotForUs):
            await door.read_webhook(body, sign(body, WEBHOOK_SECRET, now), now)
        await door.close()

    asyncio.run(play())


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
            shown.append(repr(await door.capture(payment["provider_ref"], 1, f"cap:{fate}")))
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
