"""The two doors to a stock service against the sandbox's: one contract, over HTTP and over gRPC."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from commands.messages import RecordStock
from commands.reconciler.answers import Answer, Done, Unknown
from commands.reconciler.stock_answers import answer_of, decode
from commands.reconciler.stock_grpc import GrpcStock
from commands.reconciler.stock_http import HttpStock
from commands.reconciler.stock_port import StockService
from ledger import events as e
from ledger.events import Line, StockItem
from ledger.ports import free_port
from tests.support.patience import PATIENCE_S
from tests.support.sandboxed import RunningSandbox, running_sandbox

pytestmark = pytest.mark.usefixtures("calm")
TIMEOUT_MS = 500  # for calls that must time out; all others have a patient door
PATIENT_MS = int(PATIENCE_S * 1000)
Play = Callable[[StockService], Coroutine[Any, Any, Any]]
PROTO = Path(__file__).resolve().parents[2] / "commands" / "stock_proto"


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSandbox]:
    with running_sandbox(tmp_path_factory.mktemp("sandbox"), grpc=True) as running:
        yield running


@pytest.fixture(params=["http", "grpc"])
def play(request: pytest.FixtureRequest, sandbox: RunningSandbox) -> Callable[[Play], Any]:
    """Runs calls with a door to the merchandise service, on a loop of its own."""

    def door(timeout_ms: int) -> StockService:
        if request.param == "http":
            return HttpStock("merch", f"{sandbox.url}/stock/merch", timeout_ms)
        assert sandbox.sandbox.grpc is not None
        return GrpcStock("merch", f"127.0.0.1:{sandbox.sandbox.grpc.ports['merch']}", timeout_ms)

    def run(calls: Play, timeout_ms: int = PATIENT_MS) -> Any:
        async def main() -> Any:
            stock = door(timeout_ms)
            try:
                return await calls(stock)
            finally:
                await stock.close()

        return asyncio.run(main())

    return run


_numbers = iter(range(10**9))


def fresh(sandbox: RunningSandbox, units: int, price: int = 900) -> tuple[str, Line]:
    """(an order id, a line of two units of an item that nobody else has)."""
    number = next(_numbers)
    sandbox.sandbox.rooms.put("merch", f"item-{number}", units, price)
    return f"ord_{number}", Line("merch", f"item-{number}", "Item", 2, price)


def fact(answer: Answer) -> RecordStock:
    assert isinstance(answer, Done), answer
    (reported,) = answer.facts
    assert isinstance(reported, RecordStock)
    assert reported.service == "merch"
    return reported


def test_a_reservation_takes_the_units_once_and_a_release_brings_them_back_once(
    sandbox: RunningSandbox, play: Callable[[Play], Any]
) -> None:
    order_id, line = fresh(sandbox, 10)

    async def go(stock: StockService) -> None:
        first = fact(await stock.reserve(order_id, "EUR", [line], f"res:{order_id}:merch"))
        assert (first.fact, bool(first.reservation_ref)) == (e.STOCK_RESERVED, True)
        assert fact(await stock.reserve(order_id, "EUR", [line], f"res:{order_id}:merch")) == first
        assert sandbox.units("merch", line.sku) == 8
        for _ in range(2):
            assert fact(await stock.release(order_id, f"rel:{order_id}:merch:1")).fact == e.STOCK_RELEASED
        assert sandbox.units("merch", line.sku) == 10

    play(go)
    assert sandbox.effects(order_id) == [("reserved", 2), ("released", 2)]


@pytest.mark.parametrize(
    ("units", "price", "sku", "reason", "available"),
    [(1, 900, None, "out_of_stock", 1), (5, 901, None, "price_changed", 5), (5, 900, "nothing", "unknown_item", 0)],
)
def test_an_item_that_cannot_be_reserved_is_rejected_with_its_reason_and_takes_nothing(
    sandbox: RunningSandbox,
    play: Callable[[Play], Any],
    units: int,
    price: int,
    sku: str | None,
    reason: str,
    available: int,
) -> None:
    order_id, good = fresh(sandbox, 10)
    _, line = fresh(sandbox, units, price)
    line = Line("merch", sku or line.sku, "Item", 2, 900)
    rejected = fact(play(lambda stock: stock.reserve(order_id, "EUR", [good, line], "k")))
    assert (rejected.fact, rejected.reason) == (e.STOCK_REJECTED, reason)
    assert rejected.items == (e.StockItem(line.sku, available),)
    assert sandbox.units("merch", good.sku) == 10
    assert sandbox.effects(order_id) == []


def test_calls_to_a_service_on_this_machine_use_no_proxy(
    sandbox: RunningSandbox, play: Callable[[Play], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    order_id, line = fresh(sandbox, 10)
    answer = play(lambda stock: stock.reserve(order_id, "EUR", [line], f"res:{order_id}:merch"))
    assert fact(answer).fact == e.STOCK_RESERVED


def test_a_release_of_nothing_succeeds_and_bars_a_late_reserve(sandbox: RunningSandbox, play: Callable[[Play], Any]) -> None:
    order_id, line = fresh(sandbox, 10)

    async def go(stock: StockService) -> None:
        assert fact(await stock.release(order_id, "rel")).fact == e.STOCK_RELEASED
        assert fact(await stock.reserve(order_id, "EUR", [line], "res")).fact == e.STOCK_RELEASED

    play(go)
    assert sandbox.units("merch", line.sku) == 10


def test_a_part_comes_back_once_and_never_more_than_is_held(sandbox: RunningSandbox, play: Callable[[Play], Any]) -> None:
    order_id, line = fresh(sandbox, 10)

    async def go(stock: StockService) -> None:
        await stock.reserve(order_id, "EUR", [line], "res")
        part = [e.Units("merch", line.sku, 1)]
        for _ in range(2):
            released = fact(await stock.release_part(order_id, part, 1, f"rel:{order_id}:merch:part:1"))
            assert (released.fact, released.part) == (e.STOCK_RELEASED, 1)
        assert sandbox.units("merch", line.sku) == 9
        await stock.release_part(order_id, [e.Units("merch", line.sku, 5)], 2, f"rel:{order_id}:merch:part:2")
        assert sandbox.units("merch", line.sku) == 10
        assert fact(await stock.release(order_id, "rel")).part is None
        assert sandbox.units("merch", line.sku) == 10
        assert await stock.knows_parts() is True

    play(go)
    assert sandbox.effects(order_id) == [("reserved", 2), ("released", 1), ("released", 1)]


@pytest.mark.parametrize("fate", ["error", "timeout", "reset_after"])
def test_a_part_whose_answer_is_lost_is_released_once(sandbox: RunningSandbox, play: Callable[[Play], Any], fate: str) -> None:
    order_id, line = fresh(sandbox, 10)

    def release(stock: StockService) -> Coroutine[Any, Any, Any]:
        return stock.release_part(order_id, [e.Units("merch", line.sku, 1)], 1, f"part:{order_id}")

    play(lambda stock: stock.reserve(order_id, "EUR", [line], "res"))
    sandbox.chaos(ports={"merch": {fate: 1.0}}, hold_timeout_ms=30_000)
    assert isinstance(play(release, TIMEOUT_MS), Unknown)
    sandbox.chaos()
    assert fact(play(release)).part == 1
    assert sandbox.units("merch", line.sku) == 9


@pytest.mark.parametrize("fate", ["error", "too_many", "conflict", "reset", "timeout", "reset_after"])
def test_a_missing_answer_is_unknown_and_the_same_call_shows_the_result_later(
    sandbox: RunningSandbox, play: Callable[[Play], Any], fate: str
) -> None:
    order_id, line = fresh(sandbox, 10)

    def reserve(stock: StockService) -> Coroutine[Any, Any, Any]:
        return stock.reserve(order_id, "EUR", [line], "k")

    sandbox.chaos(ports={"merch": {fate: 1.0}}, hold_timeout_ms=30_000)
    began = time.monotonic()
    assert isinstance(play(reserve, TIMEOUT_MS), Unknown)
    assert time.monotonic() - began < 25
    sandbox.chaos()
    assert fact(play(reserve)).fact == e.STOCK_RESERVED
    assert sandbox.units("merch", line.sku) == 8


def test_a_slow_answer_within_the_time_is_an_answer(sandbox: RunningSandbox, play: Callable[[Play], Any]) -> None:
    order_id, line = fresh(sandbox, 10)
    sandbox.chaos(ports={"merch": {"slow": 1.0, "slow_ms": 100}})
    assert fact(play(lambda stock: stock.reserve(order_id, "EUR", [line], "k"))).fact == e.STOCK_RESERVED


def test_many_orders_together_oversell_nothing(sandbox: RunningSandbox, play: Callable[[Play], Any]) -> None:
    _, line = fresh(sandbox, 101)

    async def go(stock: StockService) -> list[str]:
        async def reserve(number: int) -> str:
            return fact(await stock.reserve(f"{line.sku}-{number}", "EUR", [line], f"k{number}")).fact

        return await asyncio.gather(*(reserve(number) for number in range(200)))

    sandbox.chaos()
    facts = play(go)
    assert (facts.count(e.STOCK_RESERVED), facts.count(e.STOCK_REJECTED)) == (50, 150)
    assert sandbox.units("merch", line.sku) == 1


@pytest.mark.parametrize("door", [HttpStock, GrpcStock])
def test_the_answer_of_a_missing_service_is_unknown(door: Any) -> None:
    async def go() -> Answer:
        port = free_port()
        stock = door("merch", f"http://127.0.0.1:{port}" if door is HttpStock else f"127.0.0.1:{port}", TIMEOUT_MS)
        try:
            return await stock.release("ord_1", "k")
        finally:
            await stock.close()

    assert isinstance(asyncio.run(go()), Unknown)


def answered(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


HOSTILE = {
    "nothing": b"",
    "no http": b"SSH-2.0-OpenSSH_9.6\r\n",
    "no json": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    "another shape": b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"status": true}'[:-1],
    "unknown status": b'HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{"status":"maybe"}',
    "rejected without a reason": b'HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n{"status":"rejected"}',
    "a long reference": b'HTTP/1.1 200 OK\r\nContent-Length: 240\r\n\r\n{"status":"reserved","reservation_ref":"'
    + b"x" * 198
    + b'"}',
    "not UTF-8": answered(b'{"status":"reserved","reservation_ref":"\xff"}'),
    "deep": answered(b'{"a":' + b"[" * 50_000),
    "half an answer": b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"status":"reser',
    "elsewhere": b"HTTP/1.1 302 Found\r\nLocation: http://example.org/\r\nContent-Length: 0\r\n\r\n",
    "too much": b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000,
    "not found": b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
}


def test_a_larger_available_than_a_record_holds_becomes_the_largest_it_holds() -> None:
    said = decode(b'{"status":"rejected","reason":"out_of_stock","items":[{"sku":"mug","available":99999999999999999999}]}')
    answer = answer_of("merch", said, released_only=False)
    assert isinstance(answer, Done)
    (fact,) = answer.facts
    assert isinstance(fact, RecordStock)
    assert fact.items == (StockItem("mug", 2**31 - 1),)


@pytest.mark.parametrize("said", HOSTILE)
def test_an_answer_that_makes_no_sense_says_nothing_about_the_order(said: str) -> None:
    async def go() -> Answer:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(HOSTILE[said])
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        stock = HttpStock("merch", f"http://127.0.0.1:{port}", TIMEOUT_MS)
        try:
            return await stock.reserve("ord_1", "EUR", [Line("merch", "mug", "Mug", 1, 900)], "k")
        finally:
            await stock.close()
            server.close()

    assert isinstance(asyncio.run(go()), Unknown)


@pytest.mark.parametrize("verb", ["reserve", "release"])
def test_bytes_that_are_not_protobuf_say_nothing_about_the_order(verb: str) -> None:
    async def reply(request: bytes, context: object) -> bytes:
        return b"\xff"

    async def go() -> Answer:
        server = grpc.aio.server()
        handlers = {name: grpc.unary_unary_rpc_method_handler(reply) for name in ("Reserve", "Release")}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("orderledger.stock.v1.Stock", handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        stock = GrpcStock("merch", f"127.0.0.1:{port}", PATIENT_MS)
        try:
            if verb == "release":
                return await stock.release("ord_1", "k")
            return await stock.reserve("ord_1", "EUR", [Line("merch", "mug", "Mug", 1, 900)], "k")
        finally:
            await stock.close()
            await server.stop(None)

    assert asyncio.run(go()) == Unknown("answer does not follow the contract")


def test_an_answer_that_drips_is_given_up_in_time() -> None:
    async def go() -> tuple[Answer, float]:
        stopping = asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while not stopping.is_set():
                writer.write(b" ")
                await asyncio.sleep(0.05)
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        stock = HttpStock("merch", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", TIMEOUT_MS)
        began = time.monotonic()
        try:
            return await stock.release("ord_1", "k"), time.monotonic() - began
        finally:
            stopping.set()
            await stock.close()
            server.close()
            await asyncio.sleep(0.1)

    answer, took_s = asyncio.run(go())
    assert answer == Unknown("time-out")
    assert took_s < 25  # until the last drip it would be 50


def test_the_generated_code_is_what_protoc_generates_from_the_contract(tmp_path: Path) -> None:
    arguments = [f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", f"--grpc_python_out={tmp_path}"]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO.parents[1]}", *arguments, str(PROTO / "stock.proto")]
    subprocess.run(command, check=True, timeout=PATIENCE_S)
    generated = sorted((tmp_path / "commands" / "stock_proto").iterdir())
    assert len(generated) == 3
    for file in generated:
        hint = (
            "run: python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. commands/stock_proto/stock.proto"
        )
        assert file.read_text("utf-8") == (PROTO / file.name).read_text("utf-8"), hint
