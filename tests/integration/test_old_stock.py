"""Stock services that were made before parts of an order could be released."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from commands.reconciler.answers import Answer, No
from commands.reconciler.stock_grpc import GrpcStock
from commands.reconciler.stock_http import HttpStock
from commands.reconciler.stock_port import NO_PARTS
from commands.stock_proto import stock_pb2 as pb
from commands.stock_proto.stock_pb2_grpc import StockServicer, add_StockServicer_to_server
from ledger import events as e
from ledger.ports import free_port
from tests.support.patience import PATIENCE_S

TIMEOUT_MS = 500  # for a call that is to be given up
PATIENT_MS = int(PATIENCE_S * 1000)


class OldStock(StockServicer):
    """A service that was made before parts."""

    async def Release(self, request: Any, context: Any) -> Any:
        return pb.ReleaseReply()


def test_a_service_that_knows_no_parts_says_so_over_grpc() -> None:
    async def go() -> tuple[Answer, bool | None]:
        server = grpc.aio.server()
        add_StockServicer_to_server(OldStock(), server)  # type: ignore[no-untyped-call]
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        stock = GrpcStock("merch", f"127.0.0.1:{port}", PATIENT_MS)
        try:
            return await stock.release_part("ord_1", [e.Units("merch", "mug", 1)], 1, "k"), await stock.knows_parts()
        finally:
            await stock.close()
            await server.stop(None)

    assert asyncio.run(go()) == (No(NO_PARTS), False)


def test_a_service_that_knows_no_parts_says_so_over_http() -> None:
    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def go() -> tuple[Answer, bool | None]:
        server = await asyncio.start_server(old, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        stock = HttpStock("merch", f"http://127.0.0.1:{port}", PATIENT_MS)
        try:
            return await stock.release_part("ord_1", [e.Units("merch", "mug", 1)], 1, "k"), await stock.knows_parts()
        finally:
            await stock.close()
            server.close()
            await server.wait_closed()

    assert asyncio.run(go()) == (No(NO_PARTS), False)


@pytest.mark.parametrize("door", [HttpStock, GrpcStock])
def test_a_service_that_does_not_answer_may_know_parts_or_not(door: Any) -> None:
    async def go() -> bool | None:
        port = free_port()
        stock = door("merch", f"http://127.0.0.1:{port}" if door is HttpStock else f"127.0.0.1:{port}", TIMEOUT_MS)
        try:
            known: bool | None = await stock.knows_parts()
            return known
        finally:
            await stock.close()

    assert asyncio.run(go()) is None
