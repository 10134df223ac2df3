"""Every request of the door to Stripe, judged by Stripe's own stripe-mock: path, parameters and types, disputes included."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

import pytest

from commands.reconciler import stripe_gateway
from commands.reconciler.answers import Done, No
from commands.reconciler.stripe_gateway import StripeGateway
from tests.support.patience import PATIENCE_S
from tests.support.stripe_mock import running_stripe_mock

pytestmark = [pytest.mark.stripe_mock, pytest.mark.timeout(1_800)]  # the first one builds it

KEY = "sk_test_123"
ORDER = "ord_2cumvh5jpkvhcxsfqqzwnmx5ei"
# What the door asks, as (method, path with ids left out): all of it.
REQUESTS = {
    ("post", "/v1/payment_intents"),
    ("get", "/v1/payment_intents/search"),
    ("get", "/v1/payment_intents/{id}"),
    ("post", "/v1/payment_intents/{id}/capture"),
    ("post", "/v1/payment_intents/{id}/cancel"),
    ("post", "/v1/refunds"),
    ("get", "/v1/refunds"),
    ("get", "/v1/refunds/{id}"),
    ("get", "/v1/disputes"),
}
Judged = list[tuple[str, str, int, str]]


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_stripe_mock(tmp_path_factory.mktemp("stripe-mock")) as url:
        yield url


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Judged:
    """(method, path, status, body of an error) of every request that is sent."""
    seen: Judged = []
    send = stripe_gateway._Transport.request_async

    async def noted(
        self: Any, method: str, url: str, headers: Mapping[str, str], post_data: str | None = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        body, status, answered = await send(self, method, url, headers, post_data)
        path = re.sub(r"/(pi|re)_\w+", "/{id}", re.sub(r"^https?://[^/]+|\?.*", "", url))
        seen.append((method, path, status, "" if status == 200 else body.decode()))
        return body, status, answered

    monkeypatch.setattr(stripe_gateway._Transport, "request_async", noted)
    return seen


def played(mock: str, play: Callable[[StripeGateway], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        door = StripeGateway(KEY, api_base=mock, timeout_ms=int(PATIENCE_S * 1000))
        try:
            await play(door)
        finally:
            await door.close()

    asyncio.run(run())


@pytest.mark.parametrize(("currency", "amount_minor"), [("EUR", 2890), ("JPY", 2890), ("ISK", 2890), ("KWD", 28_900)])
def test_stripe_takes_every_request_of_the_door(mock: str, judged: Judged, currency: str, amount_minor: int) -> None:
    async def play(door: StripeGateway) -> None:
        ref = "pi_1PKb2eLkdIwHu7ix"  # whatever was created, the answers are samples of another payment
        assert isinstance(await door.create(ORDER, 1, amount_minor, currency, f"pi:{ORDER}:1"), Done)
        assert isinstance(await door.find(ORDER, 1, 1_900_000_000_000), Done | No)
        assert isinstance(await door.fetch(ref), Done)
        assert isinstance(await door.capture(ref, amount_minor, currency, f"cap:{ORDER}:1"), Done)
        assert isinstance(await door.cancel(ref, f"void:{ORDER}:1"), Done)
        assert isinstance(await door.refund(ref, ORDER, 1, amount_minor, currency, f"ref:{ORDER}:1"), Done)
        assert isinstance(await door.find_refund(ref, 1), Done | No)
        assert isinstance(await door.fetch_refund("re_1PKb2eLkdIwHu7ix"), Done)
        assert (await door.view(ref)).currency
        [_ async for _ in door.recent(1_900_000_000_000)]
        await door._disputes(ref)

    played(mock, play)
    assert [request for request in judged if request[2] != 200] == []
    assert {request[:2] for request in judged} == REQUESTS


def test_stripe_refuses_what_it_does_not_know(mock: str, judged: Judged) -> None:
    async def play(door: StripeGateway) -> None:
        for params in (
            {"amount": 28.9, "currency": "eur"},
            {"amount": 2890},
            {"amount": 2890, "currency": "eur", "made_up": "1"},
        ):
            with pytest.raises(stripe_gateway.ProviderUnavailable):
                await door._ask(lambda params=params: door._intent("post", "", **params))  # type: ignore[misc]

    played(mock, play)
    assert [request[2] for request in judged] == [400, 400, 400]
