"""The door to Stripe: the payment port over stripe-python (PaymentIntents with manual capture). The only importer of `stripe`.

retries      not those of the library: `tries` within the time of the call, then the reconciler, which reads first; always
             under the same key
definite no  400, 402 and 404; any other failure means that the result is unknown: also 401 and 403, which an operator can
             fix. Two exceptions are in `_is_definite`
secrets      exceptions and DEBUG logs of the library contain bodies: none of them is chained or passed on
time         a method of the port, with all its requests and their retries, takes at most `timeout_ms`
messages     a message whose content this node's fold already shows causes no fetch; the others share one per payment
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Container, Coroutine, Mapping
from contextvars import ContextVar
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import quote

import msgspec
import stripe
import structlog
from msgspec.structs import replace

from commands.messages import RecordPayment
from commands.reconciler.answers import Answer, Done, Fact, Hint, No, Unknown
from commands.reconciler.payment_port import KEY_REUSED, PaymentView, ProviderUnavailable, Repeated, Sighting, nothing_known
from commands.reconciler.shared_reads import SharedReads
from commands.reconciler.stripe_amounts import NotPayable, to_stripe
from commands.reconciler.stripe_facts import (
    Intent,
    Named,
    StripeDispute,
    StripeRefund,
    facts_of,
    hint_in,
    payment_in,
    read,
    refund_fact,
    state_of,
)
from commands.reconciler.stripe_webhook import read_event
from commands.reconciler.tries import TRIES, is_not_now, may_repeat, with_tries
from ledger.events import PAYMENT_OPENED
from ledger.faults import in_short
from ledger.http_client import HttpAnswer, HttpClient, NoAnswer, retry_after_s

log = structlog.get_logger(__name__)

NAME = "stripe"
API_BASE = "https://api.stripe.com"
PAGE = 100  # the maximum page size of a list
MAX_CONNECTIONS = 32 * TRIES  # as many calls as the reconciler makes in parallel per port, each with all its tries
SEARCH_SLACK_S = 3600  # between this clock and the provider's
MOST_UNREAD = 5  # payments in a row that the daily sweep cannot read before it ends
_DEFINITE = frozenset({400, 402, 404})
_NOT_DEFINITE = frozenset({"rate_limit", "lock_timeout", "idempotency_key_in_use"})  # sometimes sent with a 400

T = TypeVar("T")
P = ParamSpec("P")


class Refused(Exception):
    """A definite no inside this module. `code` is Stripe's."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


_ends_at: ContextVar[float] = ContextVar("deadline of the current method of the port, in loop time")


class _Transport(stripe.HTTPClient):
    """Sends the library's requests with the project's own client, each with its retries."""

    name = "order-ledger"

    def __init__(self, base_url: str, timeout_s: float) -> None:
        super().__init__()
        self._timeout_s = timeout_s
        self._client = HttpClient(base_url, connections=MAX_CONNECTIONS, tls_ca_file=stripe.ca_bundle_path)

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: str | None = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """Raises `NoAnswer`, `TimeoutError`."""
        body = None if post_data is None else post_data.encode()

        async def once() -> HttpAnswer | NoAnswer:
            try:
                return await self._client.request(method, url, body=body, headers=headers)
            except NoAnswer as exc:
                return exc

        now = asyncio.get_running_loop().time()
        left_s = _ends_at.get(now + self._timeout_s) - now
        said = await with_tries(once, _again_after, left_s, TRIES if may_repeat(method, headers) else 1)
        if isinstance(said, NoAnswer):
            raise said
        return said.body, said.status, said.headers

    async def request_stream_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: str | None = None
    ) -> tuple[AsyncIterable[bytes], int, Mapping[str, str]]:
        raise NotImplementedError("streaming requests are not used")

    async def close_async(self) -> None:
        await self._client.close()


def _again_after(said: HttpAnswer | NoAnswer) -> float | None:
    """For `with_tries`. The provider may state whether a retry makes sense."""
    if isinstance(said, NoAnswer):
        return 0.0 if said.broken else None
    advice = said.headers.get("Stripe-Should-Retry")
    if advice == "false" or (advice != "true" and not is_not_now(said.status)):
        return None
    return retry_after_s(said.headers, time.time())


def _is_definite(exc: stripe.StripeError, method: str) -> bool:
    """Whether this failure of a method of the port means that nothing was done, nor will be under the same key."""
    status = exc.http_status or 0
    if isinstance(exc, stripe.IdempotencyError):
        # A refund was searched for before, so there is none with this number. For anything else it is a bug here.
        return method == "refund" and status == 400 and exc.code not in _NOT_DEFINITE
    if status >= 500 and (exc.headers or {}).get("Idempotent-Replayed") == "true":
        # Kept as the answer for this key. A payment that exists nevertheless cannot be paid, because nobody has its secret.
        return method == "create"
    return status in _DEFINITE and _code(exc) not in _NOT_DEFINITE


def _answered(
    method: Callable[Concatenate[StripeGateway, P], Awaitable[Answer]],
) -> Callable[Concatenate[StripeGateway, P], Coroutine[Any, Any, Answer]]:
    """Decorates a method of the port: failures become answers."""

    @wraps(method)
    async def answered(self: StripeGateway, /, *args: P.args, **kwargs: P.kwargs) -> Answer:
        try:
            return await self.guarded(lambda: method(self, *args, **kwargs), method.__name__)
        except Refused as exc:
            return No(exc.code)
        except ProviderUnavailable as exc:
            return Unknown(str(exc), exc.after_s)

    return answered


class StripeGateway:
    """One Stripe account. Use and close it on one event loop.

    `webhook_secrets` are those of the endpoint, two during rotation; `account` is checked in messages that name one.
    `api_base` is for the sandbox.
    """

    name = NAME

    def __init__(
        self,
        secret_key: str,
        *,
        webhook_secrets: tuple[str, ...] = (),
        account: str | None = None,
        api_base: str | None = None,
        timeout_ms: int = 10_000,
    ) -> None:
        _quiet()
        self._live = secret_key.startswith(("sk_live_", "rk_live_"))
        self._webhook_secrets, self._account = webhook_secrets, account
        self._timeout_s = timeout_ms / 1000
        self._transport = _Transport(api_base or API_BASE, self._timeout_s)
        self._reads = SharedReads(self._sight)
        self._client = stripe.StripeClient(
            secret_key,
            http_client=self._transport,
            max_network_retries=0,
            base_addresses={"api": api_base} if api_base else {},
        )

    # ---- payments

    @_answered
    async def create(self, order_id: str, attempt: int, amount_minor: int, currency: str, key: str) -> Answer:
        intent = await self._intent(
            "post",
            "",
            amount=to_stripe(amount_minor, currency),
            currency=currency.lower(),
            capture_method="manual",
            # API versions from 2026-09-30 on refuse `payment_method_types`
            allowed_payment_method_types=["card"],
            metadata={"order": order_id, "attempt": str(attempt)},
            idempotency_key=key,
        )
        return Done(facts_of(intent))

    @_answered
    async def find(self, order_id: str, attempt: int, since_ms: int) -> Answer:
        since_s = since_ms // 1000 - SEARCH_SLACK_S
        query = f"metadata['order']:'{order_id}' AND metadata['attempt']:'{attempt}' AND created>{since_s}"
        page = await self._client.v1.payment_intents.search_async({"query": query, "limit": 1})
        for intent in page.data:
            ref = read(intent.to_dict(), Named).id
            return Done((RecordPayment(PAYMENT_OPENED, attempt, provider_ref=ref), *(await self._read(ref)).facts))
        return No("no_such_payment")

    @_answered
    async def fetch(self, provider_ref: str) -> Answer:
        return Done((await self._read(provider_ref)).facts)

    @_answered
    async def capture(self, provider_ref: str, amount_minor: int, currency: str, key: str) -> Answer:
        path = f"/{quote(provider_ref)}/capture"
        amount = to_stripe(amount_minor, currency)
        return Done(facts_of(await self._intent("post", path, amount_to_capture=amount, idempotency_key=key)))

    @_answered
    async def cancel(self, provider_ref: str, key: str) -> Answer:
        return Done(facts_of(await self._intent("post", f"/{quote(provider_ref)}/cancel", idempotency_key=key)))

    # ---- refunds

    @_answered
    async def refund(
        self, provider_ref: str, order_id: str, refund_no: int, amount_minor: int, currency: str, key: str
    ) -> Answer:
        created = await self._client.v1.refunds.create_async(
            {
                "payment_intent": provider_ref,
                "amount": to_stripe(amount_minor, currency),
                "metadata": {"order": order_id, "refund_no": str(refund_no)},
            },
            {"idempotency_key": key},
        )
        return Done((refund_fact(read(created.to_dict(), StripeRefund)),))

    @_answered
    async def find_refund(self, provider_ref: str, refund_no: int) -> Answer:
        for refund in await self._refunds(provider_ref):
            if (fact := refund_fact(refund)).refund_no == refund_no:
                return Done((fact,))
        return No("no_such_refund")

    @_answered
    async def fetch_refund(self, refund_ref: str) -> Answer:
        refund = await self._client.v1.refunds.retrieve_async(refund_ref)
        return Done((refund_fact(read(refund.to_dict(), StripeRefund)),))

    # ---- called by HTTP requests rather than by obligations

    async def view(self, provider_ref: str) -> PaymentView:
        intent = await self._ask(lambda: self._intent("get", f"/{quote(provider_ref)}"))
        return PaymentView(NAME, intent.id, state_of(intent), intent.amount_minor, intent.currency.upper(), intent.client_secret)

    async def sighting(self, provider_ref: str, pause_s: float = 0.0) -> Sighting:
        return await self._reads.read(provider_ref, pause_s)

    async def _sight(self, provider_ref: str) -> Sighting:
        return await self._ask(lambda: self._read(provider_ref))

    async def read_webhook(
        self,
        body: bytes,
        signature: str,
        now_s: float,
        known: Callable[[Hint], Awaitable[bool]] = nothing_known,
        followed: Container[str] = (),
    ) -> Sighting:
        event = read_event(body, signature, self._webhook_secrets, now_s, self._live, self._account)
        if event.id in followed:
            raise Repeated("message was already processed")
        if (ref := event.payment_ref) is None:
            return Sighting("", (), message_id=event.id)
        if (hint := hint_in(event.data.object)) is not None and await known(hint):
            return Sighting(hint.order_id, (), ref, event.id)
        try:
            return replace(await self.sighting(ref), message_id=event.id)
        except KeyError:
            return Sighting("", (), ref, event.id)

    async def recent(self, since_ms: int) -> AsyncIterator[Sighting]:
        v1, since_s = self._client.v1, since_ms // 1000
        refunds = await self._ask(lambda: self._payments_in(v1.refunds.list_async({"limit": PAGE, "created": {"gte": since_s}})))
        disputes = await self._ask(
            lambda: self._payments_in(v1.disputes.list_async({"limit": PAGE, "created": {"gte": since_s}}))
        )
        unread = 0
        for ref in dict.fromkeys((*refunds, *disputes)):
            try:
                sighting = await self.sighting(ref)
            except KeyError:
                sighting = Sighting("", (), ref)
            except ProviderUnavailable as exc:
                log.warning("payment could not be read", provider_ref=ref, why=str(exc))
                unread += 1
                if unread == MOST_UNREAD:
                    raise
                continue
            unread = 0
            yield sighting

    async def close(self) -> None:
        await self._reads.close()
        await self._transport.close_async()

    # ---- calls

    async def _read(self, ref: str) -> Sighting:
        """The payment, with refunds and disputes if money moved: up to three calls."""
        intent = await self._intent("get", f"/{quote(ref)}", expand=["latest_charge"])
        refunds: list[StripeRefund] = []
        disputes: list[StripeDispute] = []
        if intent.amount_received:
            refunds = await self._refunds(ref)
            if intent.charge is None or intent.charge.disputed:
                disputes = await self._disputes(ref)
        facts: tuple[Fact, ...] = facts_of(intent, refunds, disputes)
        return Sighting(intent.order_id, facts, intent.id)

    async def _refunds(self, ref: str) -> list[StripeRefund]:
        return await self._all(self._client.v1.refunds.list_async({"payment_intent": ref, "limit": PAGE}), StripeRefund)

    async def _disputes(self, ref: str) -> list[StripeDispute]:
        return await self._all(self._client.v1.disputes.list_async({"payment_intent": ref, "limit": PAGE}), StripeDispute)

    async def _intent(self, method: str, path: str, **params: Any) -> Intent:
        """The answer of a request below /v1/payment_intents. Most calls are these, so they bypass the library's objects.

        The library creates one for every part of an answer, which would cost as much as the request.
        """
        said = await self._client.raw_request_async(method, f"/v1/payment_intents{path}", **params)
        return read(said.data, Intent)

    async def _all(self, first: Awaitable[Any], kind: type[T]) -> list[T]:
        page = await first
        return [read(thing.to_dict(), kind) async for thing in page.auto_paging_iter()]

    async def _payments_in(self, first: Awaitable[Any]) -> list[str]:
        """References of the payments that the refunds or disputes of a list belong to."""
        return [ref async for thing in (await first).auto_paging_iter() if (ref := payment_in(thing.to_dict()))]

    async def _ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """Raises `ProviderUnavailable`; `KeyError` if the object does not exist."""
        try:
            return await self.guarded(call)
        except Refused as exc:
            code = exc.code
        if code == "resource_missing":
            raise KeyError(code)
        raise ProviderUnavailable(f"the provider refused: {code}")

    async def guarded(self, call: Callable[[], Awaitable[T]], method: str = "") -> T:
        """Raises `Refused` or `ProviderUnavailable`, which contain nothing of the answer except its code."""
        status, after_s, definite = None, 0.0, False
        ends = _ends_at.set(asyncio.get_running_loop().time() + self._timeout_s)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await call()
        except stripe.StripeError as exc:
            status, code = exc.http_status, _code(exc)
            definite = _is_definite(exc, method)
            after_s = retry_after_s(exc.headers or {}, time.time())
        except TimeoutError:
            code = "time-out"
        except NoAnswer as exc:
            code = str(exc)
        except NotPayable:  # nothing was asked
            code, definite = "amount_not_supported", True
        except (msgspec.ValidationError, ValueError) as exc:  # an invalid answer
            code = type(exc).__name__
        except Exception as exc:  # an unexpected answer, in the library or here: it affects only this call
            log.error("a call to the provider raised", why=in_short(exc))
            code = type(exc).__name__
        finally:
            _ends_at.reset(ends)
        if definite:
            raise Refused(code)
        raise ProviderUnavailable(f"{code} ({status})" if status else code, after_s)


def _code(exc: stripe.StripeError) -> str:
    if isinstance(exc, stripe.IdempotencyError):
        return KEY_REUSED
    error = exc.error
    decline = getattr(error, "decline_code", None) if error is not None else None
    return str(decline or exc.code or getattr(error, "type", None) or type(exc).__name__)[:64]


def _quiet() -> None:
    """Silence the library, which logs paths at INFO and bodies at DEBUG, and sends telemetry."""
    stripe.enable_telemetry = False
    stripe.log = None
    logging.getLogger("stripe").setLevel(logging.CRITICAL)
