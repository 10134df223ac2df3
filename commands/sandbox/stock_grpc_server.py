"""The sandbox's stock services over gRPC: the same stock and the same faults as over HTTP, one loopback port per service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import grpc

from commands.sandbox.chaos import Chaos, Fate
from commands.sandbox.stock import StockRooms, Units, WantedLine
from commands.stock_proto import stock_pb2 as pb
from commands.stock_proto.stock_pb2_grpc import StockServicer, add_StockServicer_to_server

_CODES = {
    Fate.ERROR: grpc.StatusCode.INTERNAL,
    Fate.TOO_MANY: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Fate.CONFLICT: grpc.StatusCode.ABORTED,
    Fate.RESET: grpc.StatusCode.UNAVAILABLE,
    Fate.RESET_AFTER: grpc.StatusCode.UNAVAILABLE,
    Fate.TIMEOUT: grpc.StatusCode.UNAVAILABLE,
}
_NEVER_ARRIVE = (Fate.ERROR, Fate.TOO_MANY, Fate.CONFLICT, Fate.RESET)
_STATUS = {"reserved": pb.ReserveReply.RESERVED, "rejected": pb.ReserveReply.REJECTED, "released": pb.ReserveReply.RELEASED}
_REASON = {
    "out_of_stock": pb.ReserveReply.OUT_OF_STOCK,
    "unknown_item": pb.ReserveReply.UNKNOWN_ITEM,
    "price_changed": pb.ReserveReply.PRICE_CHANGED,
}
OnRefused = Callable[[str, str, Fate], None]


class _Servicer(StockServicer):
    def __init__(self, service: str, rooms: StockRooms, chaos: Chaos, on_refused: OnRefused) -> None:
        self._service, self._rooms, self._chaos, self._on_refused = service, rooms, chaos, on_refused

    async def Reserve(self, request: Any, context: Any) -> Any:
        lines = [WantedLine(x.sku, x.quantity, x.unit_price_minor, x.name) for x in request.lines]

        def work(fate: str) -> Any:
            said = self._rooms.reserve(self._service, request.order_id, lines, request.key, fate)
            return pb.ReserveReply(
                status=_STATUS[said["status"]],
                reservation_ref=said.get("reservation_ref", ""),
                reason=_REASON.get(said.get("reason", ""), pb.ReserveReply.REASON_UNSPECIFIED),
                items=[pb.Item(**item) for item in said.get("items", ())],
            )

        return await self._with_fate("reserve", context, work)

    async def Release(self, request: Any, context: Any) -> Any:
        def work(fate: str) -> Any:
            self._rooms.release(self._service, request.order_id, request.key, fate)
            return pb.ReleaseReply()

        return await self._with_fate("release", context, work)

    async def ReleasePart(self, request: Any, context: Any) -> Any:
        units = [Units(x.sku, x.quantity) for x in request.units]

        def work(fate: str) -> Any:
            self._rooms.release_part(self._service, request.order_id, units, request.key, fate)
            return pb.ReleaseReply()

        return await self._with_fate("release_part", context, work)

    async def Capabilities(self, request: Any, context: Any) -> Any:
        return pb.CapabilitiesReply(release_parts=True)

    async def _with_fate(self, verb: str, context: Any, work: Callable[[str], Any]) -> Any:
        fate = self._chaos.draw(self._service)
        if fate in _NEVER_ARRIVE:
            self._on_refused(self._service, verb, fate)
            await context.abort(_CODES[fate], f"chaos: {fate}")
        reply = work(fate)
        if fate is Fate.SLOW:
            await asyncio.sleep(self._chaos.of(self._service).slow_ms / 1000)
        elif fate is Fate.TIMEOUT:
            await asyncio.sleep(self._chaos.config.hold_timeout_ms / 1000)
        if fate in _CODES:
            await context.abort(_CODES[fate], f"chaos: {fate}")
        return reply


class StockGrpc:
    """The gRPC servers of all services. `ports` are the actual ports, once started."""

    def __init__(self, rooms: StockRooms, chaos: Chaos, ports: Mapping[str, int], on_refused: OnRefused) -> None:
        self._rooms, self._chaos, self._on_refused = rooms, chaos, on_refused
        self.ports = dict(ports)
        self._servers: list[grpc.aio.Server] = []

    async def start(self) -> None:
        """Start the servers. Port 0 picks a free one."""
        for service, port in self.ports.items():
            server = grpc.aio.server()
            add_StockServicer_to_server(_Servicer(service, self._rooms, self._chaos, self._on_refused), server)  # type: ignore[no-untyped-call]
            self.ports[service] = server.add_insecure_port(f"127.0.0.1:{port}")
            await server.start()
            self._servers.append(server)

    async def stop(self) -> None:
        await asyncio.gather(*(server.stop(grace=0.5) for server in self._servers))
