"""The door to Stripe against a provider whose answers the test chooses: which calls are tried again, and what is no answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from commands.obligations import Kind, obligations
from commands.reconciler.answers import Answer, Done, No, Unknown
from commands.reconciler.payment_port import ProviderUnavailable
from commands.reconciler.performing import CallReport, Ports, perform
from commands.reconciler.stripe_gateway import StripeGateway
from commands.sandbox import SECRET_KEY
from ledger.events import Line
from ledger.order import Attempt, LineCount, Order, StockEntry
from tests.support.sandboxed import WEBHOOK_SECRET
from tests.support.stripe_objects import INTENT, REFUND


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
def test_a_call_is_tried_again_only_if_it_was_not_answered(answers: list[Any], calls: int, ends: type[Answer]) -> None:
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
def test_a_payment_without_a_name_is_not_found(name: object) -> None:
    def serve(method: str, path: str) -> tuple[int, dict[str, str], dict[str, Any]]:
        intent = {"id": "pi_1", "object": "payment_intent", "status": "processing", "amount": 1, "currency": "eur"}
        if path.startswith("/v1/payment_intents/search"):
            return 200, {}, {"object": "search_result", "has_more": False, "data": [intent | {"id": name}]}
        return 200, {}, intent

    async def go() -> Answer:
        async with provider(serve) as door:
            return await door.find("ord_1", 1, 0)

    assert asyncio.run(go()) == Unknown("ValidationError")


def test_a_capture_that_fails_after_its_read_was_answered_says_so() -> None:
    """The other side is reachable: such a failure does not let the pauses grow to minutes."""
    at = 1_700_000_000_000
    order = Order(
        order_id="ord_1",
        version=7,
        customer_id="c-1",
        currency="EUR",
        total_minor=1,
        placed_minor=1,
        placed_at=at,
        updated_at=at,
        expires_at=at + 1_800_000,
        lines=(Line("merch", "mug", "Mug", 1, 1),),
        counts=(LineCount(),),
        adjustments=(),
        reference=None,
        contact_digest=b"",
        stock=(StockEntry("merch", "reserved", at),),
        attempts=(Attempt(1, 1, "authorised", at, provider_ref="pi_1"),),
    )
    (obligation,) = [o for o in obligations(order) if o.kind is Kind.CAPTURE]
    intent = {"id": "pi_1", "object": "payment_intent", "status": "requires_capture", "amount": 1, "currency": "eur"}

    async def go(read_status: int) -> CallReport:
        said = (read_status, {}, intent if read_status == 200 else ERROR)
        async with provider(lambda method, path: said if method == "GET" else (503, {}, ERROR)) as door:
            return await perform(obligation, order, Ports(door, {}), order.updated_at)

    assert asyncio.run(go(200)) == CallReport(failed="api_error (503)", reachable=True)
    assert asyncio.run(go(500)) == CallReport(failed="api_error (500)", answered=False)


def recent(readable: str) -> tuple[list[str], list[str], bool]:
    """A sweep over a refund of each payment, of which the `+` can be read: those that were asked for, those that were shown, and
    whether it ended before the last one."""
    asked: list[str] = []
    names = [f"pi_{n}" for n in range(len(readable))]
    refunds = [REFUND | {"id": f"re_{name}", "payment_intent": name} for name in names]

    def serve(method: str, path: str) -> tuple[int, dict[str, str], dict[str, Any]]:
        kind, _, name = path.partition("?")[0].removeprefix("/v1/").partition("/")
        if kind != "payment_intents":
            return 200, {}, {"object": "list", "url": path, "has_more": False, "data": refunds if kind == "refunds" else []}
        asked.append(name)
        odd = {} if readable[names.index(name)] == "+" else {"amount": "x"}
        return 200, {}, INTENT | {"id": name} | odd

    async def go() -> tuple[list[str], bool]:
        shown: list[str] = []
        async with provider(serve) as door:
            try:
                async for sighting in door.recent(0):
                    shown.append(sighting.provider_ref)
            except ProviderUnavailable:
                return shown, True
        return shown, False

    shown, ended = asyncio.run(go())
    return asked, shown, ended


def test_a_payment_that_cannot_be_read_costs_the_daily_sweep_only_itself() -> None:
    asked, shown, ended = recent("-++")
    assert (asked, shown, ended) == (["pi_0", "pi_1", "pi_2"], ["pi_1", "pi_2"], False)


def test_five_payments_in_a_row_that_cannot_be_read_end_the_daily_sweep() -> None:
    asked, shown, ended = recent("----+----+-----++")
    assert (len(asked), shown, ended) == (15, ["pi_4", "pi_9"], True)


def test_a_refund_that_cannot_be_read_names_its_payment_still() -> None:
    refunds = [REFUND | {"amount": "x"}, REFUND | {"id": "re_2", "payment_intent": 7}, REFUND | {"id": "re_3"}]

    def serve(method: str, path: str) -> tuple[int, dict[str, str], dict[str, Any]]:
        if path.startswith("/v1/payment_intents"):
            return 200, {}, INTENT
        return 200, {}, {"object": "list", "url": path, "has_more": False, "data": refunds if "refunds" in path else []}

    async def go() -> list[str]:
        async with provider(serve) as door:
            return [sighting.provider_ref async for sighting in door.recent(0)]

    assert asyncio.run(go()) == ["pi_1"]
