"""The door to a stock service over gRPC. The service implements `stock_proto/stock.proto`."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc

from commands.reconciler.answers import Answer, No, Unknown
from commands.reconciler.stock_answers import Item, StockAnswer, answer_of
from commands.reconciler.stock_port import NO_PARTS
from commands.reconciler.tries import with_tries
from commands.stock_proto import stock_pb2 as pb
from commands.stock_proto.stock_pb2_grpc import StockStub
from ledger import tracing
from ledger.events import Line, Units
from ledger.http_client import is_loopback

MAX_ANSWER_BYTES = 64 * 1024
_TLS = "https://"
_STATUS = {pb.ReserveReply.RESERVED: "reserved", pb.ReserveReply.REJECTED: "rejected", pb.ReserveReply.RELEASED: "released"}
_REASON = {
    pb.ReserveReply.OUT_OF_STOCK: "out_of_stock",
    pb.ReserveReply.UNKNOWN_ITEM: "unknown_item",
    pb.ReserveReply.PRICE_CHANGED: "price_changed",
}


class GrpcStock:
    """One service. `target` is host:port, prefixed with https:// for TLS. A call with its retries takes at most `timeout_ms`.

    Create it on the event loop that uses it.
    """

    def __init__(self, name: str, target: str, timeout_ms: int = 10_000) -> None:
        logging.getLogger("grpc._common").setLevel(logging.CRITICAL)  # it logs a traceback for an invalid reply; see `_call`
        self.name = name
        self._timeout_s = timeout_ms / 1000
        options = [
            ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
            ("grpc.enable_retries", 0),  # `with_tries` and the reconciler retry
            ("grpc.min_reconnect_backoff_ms", 500),
            ("grpc.max_reconnect_backoff_ms", 5_000),
        ]
        if is_loopback(_host_of(target)):
            options.append(("grpc.enable_http_proxy", 0))
        if target.startswith(_TLS):
            credentials = grpc.ssl_channel_credentials()
            self._channel = grpc.aio.secure_channel(target.removeprefix(_TLS), credentials, options=options)
        else:
            self._channel = grpc.aio.insecure_channel(target, options=options)
        self._stub = StockStub(self._channel)  # type: ignore[no-untyped-call]  # made by protoc

    async def reserve(self, order_id: str, currency: str, lines: Sequence[Line], key: str) -> Answer:
        wanted = [pb.Line(sku=x.sku, name=x.name, quantity=x.quantity, unit_price_minor=x.unit_price_minor) for x in lines]
        request = pb.ReserveRequest(order_id=order_id, key=key, currency=currency, lines=wanted)
        reply = await self._call(lambda: self._stub.Reserve(request, timeout=self._timeout_s, metadata=_metadata()))
        if isinstance(reply, Unknown):
            return reply
        said = StockAnswer(
            _STATUS.get(reply.status, ""),
            reply.reservation_ref or None,
            _REASON.get(reply.reason),
            tuple(Item(i.sku, i.available) for i in reply.items),
        )
        return answer_of(self.name, said, released_only=False)

    async def release(self, order_id: str, key: str) -> Answer:
        request = pb.ReleaseRequest(order_id=order_id, key=key)
        reply = await self._call(lambda: self._stub.Release(request, timeout=self._timeout_s, metadata=_metadata()))
        return reply if isinstance(reply, Unknown) else answer_of(self.name, StockAnswer("released"), released_only=True)

    async def release_part(self, order_id: str, lines: Sequence[Units], part: int, key: str) -> Answer:
        units = [pb.Units(sku=x.sku, quantity=x.quantity) for x in lines]
        request = pb.ReleasePartRequest(order_id=order_id, key=key, units=units)
        reply = await self._call(lambda: self._stub.ReleasePart(request, timeout=self._timeout_s, metadata=_metadata()))
        if isinstance(reply, Unknown):
            return No(NO_PARTS) if reply.why == grpc.StatusCode.UNIMPLEMENTED.name else reply
        return answer_of(self.name, StockAnswer("released"), released_only=True, part=part)

    async def knows_parts(self) -> bool | None:
        request = pb.CapabilitiesRequest()
        reply = await self._call(lambda: self._stub.Capabilities(request, timeout=self._timeout_s))
        if isinstance(reply, Unknown):
            return False if reply.why == grpc.StatusCode.UNIMPLEMENTED.name else None
        return bool(reply.release_parts)

    async def close(self) -> None:
        await self._channel.close()

    async def _call(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """The reply; `Unknown` for an invalid reply and for any status other than OK, which says nothing about the order."""

        async def once() -> Any:
            try:
                return await call()
            except grpc.aio.AioRpcError as exc:
                return exc

        try:
            reply = await with_tries(once, _again_after, self._timeout_s)
        except TimeoutError:
            return Unknown("time-out")
        if reply is None:  # gRPC's result for bytes that cannot be decoded
            return Unknown("answer does not follow the contract")
        return Unknown(reply.code().name) if isinstance(reply, grpc.aio.AioRpcError) else reply


def _metadata() -> list[tuple[str, str]] | None:
    """The trace around the call."""
    return [(name, value.decode()) for name, value in tracing.headers()] or None


# Temporary failures: gRPC's codes for 5xx, 429, 409, a time-out and a broken connection.
_NOT_NOW = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)


def _again_after(reply: Any) -> float | None:
    return 0.0 if isinstance(reply, grpc.aio.AioRpcError) and reply.code() in _NOT_NOW else None


def _host_of(target: str) -> str:
    """`host`, `host:port`, `[::1]:port`, with or without gRPC's `dns:///` or https:// in front."""
    address = target.removeprefix(_TLS).rpartition("/")[2]
    address = address.removeprefix("dns:").removeprefix("ipv4:").removeprefix("ipv6:")
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.rpartition(":")[0] if address.count(":") == 1 else address
