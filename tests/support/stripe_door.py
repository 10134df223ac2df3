"""The door to Stripe, opened on the sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from commands.messages import RecordPayment
from commands.reconciler.answers import Answer, Done
from commands.reconciler.stripe_gateway import StripeGateway
from commands.sandbox import SECRET_KEY
from ledger import events as e
from tests.support.patience import PATIENCE_S
from tests.support.sandboxed import WEBHOOK_SECRET, RunningSandbox

TIMEOUT_MS = 800  # for calls that must time out; all others have a patient door
PATIENT_MS = int(PATIENCE_S * 1000)
T = TypeVar("T")


def gateway(sandbox: RunningSandbox, key: str = SECRET_KEY, timeout_ms: int = PATIENT_MS, **more: Any) -> StripeGateway:
    return StripeGateway(key, webhook_secrets=(WEBHOOK_SECRET,), api_base=sandbox.url, timeout_ms=timeout_ms, **more)


def played(sandbox: RunningSandbox, play: Callable[[StripeGateway], Coroutine[Any, Any, T]], **more: Any) -> T:
    """The result of `play`, called with a gateway on a loop of its own."""

    async def run() -> T:
        door = gateway(sandbox, **more)
        try:
            return await play(door)
        finally:
            await door.close()

    return asyncio.run(run())


def facts(answer: Answer) -> list[str]:
    assert isinstance(answer, Done), answer
    return [fact.fact for fact in answer.facts]


async def opened(
    door: StripeGateway, order_id: str, attempt: int = 1, amount_minor: int = 2890, currency: str = "EUR"
) -> dict[str, Any]:
    """A fresh payment as its customer sees it."""
    answer = await door.create(order_id, attempt, amount_minor, currency, f"pi:{order_id}:{attempt}")
    assert isinstance(answer, Done)
    (fact,) = answer.facts
    assert isinstance(fact, RecordPayment)
    assert (fact.fact, fact.attempt) == (e.PAYMENT_OPENED, attempt)
    view = await door.view(fact.provider_ref or "")
    return {"provider_ref": view.provider_ref, "client_secret": view.client_secret}
