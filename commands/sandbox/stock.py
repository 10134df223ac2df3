"""Stock services with limited stock, and their HTTP side (`stock_http` describes the contract).

PUT    /stock/{service}/reservations/{order_id}   reserve: all lines or none, item and price checked
DELETE /stock/{service}/reservations/{order_id}   release; also without a reservation, which bars a later one
POST   /stock/{service}/reservations/{order_id}/release   release a part: {"lines": [{"sku": ..., "quantity": ...}]}
GET    /stock/{service}/capabilities              {"release_parts": true}
GET    /stock/{service}/items                     the stock
PUT    /stock/{service}/items/{sku}               {"units": ..., "unit_price_minor": ...}: for tests and the demo
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from commands.sandbox.journal import Journal

TABLES = """
create table if not exists items (
    service text not null, sku text not null, units integer not null check (units >= 0), unit_price_minor integer not null,
    primary key (service, sku)
);
create table if not exists reservations (
    service text not null, order_id text not null, status text not null, ref text not null, lines text not null,
    primary key (service, order_id)
);
create table if not exists part_releases (
    service text not null, key text not null, primary key (service, key)
);
"""

Answer = dict[str, Any]


class WantedLine(Struct, frozen=True):
    """An article and its quantity."""

    sku: str
    quantity: int
    unit_price_minor: int
    name: str = ""


class ReserveBody(Struct, frozen=True):
    """The lines to reserve."""

    currency: str
    lines: tuple[WantedLine, ...]


class Units(Struct, frozen=True):
    """Some units of an article."""

    sku: str
    quantity: int


class ReleaseBody(Struct, frozen=True):
    """The units to return."""

    lines: tuple[Units, ...]


class ItemBody(Struct, frozen=True, forbid_unknown_fields=True):
    """Units and price of an article."""

    units: int
    unit_price_minor: int


_decode_lines = msgspec.json.Decoder(tuple[WantedLine, ...]).decode
_decode_release = msgspec.json.Decoder(ReleaseBody).decode
_decode_reserve, _decode_item = msgspec.json.Decoder(ReserveBody).decode, msgspec.json.Decoder(ItemBody).decode


class StockRooms:
    """The stock of all services, in the journal's database. Each call is one transaction, including its journal row."""

    def __init__(self, journal: Journal, now_ms: Callable[[], int]) -> None:
        self._journal, self._now_ms = journal, now_ms
        journal.add_tables(TABLES)

    def seed(self, service: str, items: Mapping[str, tuple[int, int]]) -> None:
        """Add (units, unit price) of each sku that is not known yet."""
        rows = [(service, sku, units, price) for sku, (units, price) in items.items()]
        with self._journal.transaction() as db:
            db.executemany("insert or ignore into items (service, sku, units, unit_price_minor) values (?, ?, ?, ?)", rows)

    def put(self, service: str, sku: str, units: int, unit_price_minor: int) -> None:
        with self._journal.transaction() as db:
            row = (service, sku, units, unit_price_minor)
            db.execute("insert or replace into items (service, sku, units, unit_price_minor) values (?, ?, ?, ?)", row)

    def items(self, service: str) -> list[dict[str, Any]]:
        return self._journal.rows("select sku, units, unit_price_minor from items where service = ? order by sku", service)

    def reserve(self, service: str, order_id: str, lines: Sequence[WantedLine], key: str, fate: str) -> Answer:
        """The answer as in the contract: reserved, rejected, or released if it was released before."""
        with self._journal.transaction() as db:
            row = db.execute(
                "select status, ref from reservations where service = ? and order_id = ?", (service, order_id)
            ).fetchone()
            answer = {"status": row["status"], "reservation_ref": row["ref"]} if row else self._take(db, service, order_id, lines)
            effects = [("reserved", line) for line in lines] if row is None and answer["status"] == "reserved" else []
            self._note(db, service, "reserve", order_id, key, fate, answer, effects, [msgspec.to_builtins(x) for x in lines])
        return answer

    def _take(self, db: sqlite3.Connection, service: str, order_id: str, lines: Sequence[WantedLine]) -> Answer:
        rows = db.execute("select sku, units, unit_price_minor from items where service = ?", (service,))
        there = {row["sku"]: row for row in rows}
        for reason, wrong in (
            ("unknown_item", [x for x in lines if x.sku not in there]),
            ("price_changed", [x for x in lines if x.sku in there and there[x.sku]["unit_price_minor"] != x.unit_price_minor]),
            ("out_of_stock", [x for x in lines if x.sku in there and there[x.sku]["units"] < x.quantity]),
        ):
            if wrong:
                items = [{"sku": x.sku, "available": there[x.sku]["units"] if x.sku in there else 0} for x in wrong]
                return {"status": "rejected", "reason": reason, "items": items}
        for line in lines:
            db.execute("update items set units = units - ? where service = ? and sku = ?", (line.quantity, service, line.sku))
        ref = f"{service}-{order_id}"
        row = (service, order_id, ref, msgspec.json.encode(lines).decode())
        db.execute("insert into reservations (service, order_id, status, ref, lines) values (?, ?, 'reserved', ?, ?)", row)
        return {"status": "reserved", "reservation_ref": ref}

    def release(self, service: str, order_id: str, key: str, fate: str) -> Answer:
        """Always `released`; returns the units of a reservation."""
        with self._journal.transaction() as db:
            held = db.execute(
                "select lines from reservations where service = ? and order_id = ? and status = 'reserved'", (service, order_id)
            ).fetchone()
            lines = _decode_lines(held["lines"]) if held else ()
            for line in lines:
                db.execute("update items set units = units + ? where service = ? and sku = ?", (line.quantity, service, line.sku))
            db.execute(
                "insert into reservations (service, order_id, status, ref, lines) values (?, ?, 'released', '', '[]')"
                " on conflict (service, order_id) do update set status = 'released'",
                (service, order_id),
            )
            answer = {"status": "released"}
            self._note(db, service, "release", order_id, key, fate, answer, [("released", line) for line in lines], None)
        return answer

    def release_part(self, service: str, order_id: str, units: Sequence[Units], key: str, fate: str) -> Answer:
        """Always `released`; returns units that the reservation still holds, once for each key."""
        with self._journal.transaction() as db:
            held = db.execute(
                "select lines from reservations where service = ? and order_id = ? and status = 'reserved'", (service, order_id)
            ).fetchone()
            first = db.execute("insert or ignore into part_releases (service, key) values (?, ?)", (service, key)).rowcount
            lines = list(_decode_lines(held["lines"])) if held and first else []
            back: list[tuple[str, WantedLine]] = []
            for unit in units:
                for i, line in enumerate(lines):
                    if line.sku == unit.sku and (quantity := min(unit.quantity, line.quantity)) > 0:
                        lines[i] = msgspec.structs.replace(line, quantity=line.quantity - quantity)
                        back.append(("released", msgspec.structs.replace(line, quantity=quantity)))
            for _, line in back:
                db.execute("update items set units = units + ? where service = ? and sku = ?", (line.quantity, service, line.sku))
            if back:
                held_now = msgspec.json.encode([line for line in lines if line.quantity]).decode()
                db.execute("update reservations set lines = ? where service = ? and order_id = ?", (held_now, service, order_id))
            answer = {"status": "released"}
            request = {"lines": msgspec.to_builtins(tuple(units))}
            self._note(db, service, "release_part", order_id, key, fate, answer, back, request)
        return answer

    def _note(  # noqa: PLR0917  # its parts
        self,
        db: sqlite3.Connection,
        service: str,
        verb: str,
        order_id: str,
        key: str,
        fate: str,
        answer: Answer,
        effects: Sequence[tuple[str, WantedLine]],
        request: Any,
    ) -> None:
        now = self._now_ms()
        call = self._journal.note_call(
            db, now, service, verb, key=key, order_id=order_id, fate=fate, request=request, response=answer
        )
        for kind, line in effects:
            self._journal.note_effect(db, call, now, service, kind, order_id, sku=line.sku, amount=line.quantity)


def stock_routes(rooms: StockRooms, services: Sequence[str]) -> list[BaseRoute]:
    """The HTTP side of `services`."""

    async def reservation(http: Request) -> Response:
        service, order_id = http.path_params["service"], http.path_params["order_id"]
        if service not in services:
            return JSONResponse({"error": "no such service"}, 404)
        key, fate = http.headers.get("idempotency-key", ""), str(http.scope.get("fate", "none"))
        if http.method == "DELETE":
            return JSONResponse(rooms.release(service, order_id, key, fate))
        try:
            body = _decode_reserve(await http.body())
        except msgspec.DecodeError as exc:
            return JSONResponse({"error": str(exc)}, 422)
        return JSONResponse(rooms.reserve(service, order_id, body.lines, key, fate))

    async def part(http: Request) -> Response:
        service, order_id = http.path_params["service"], http.path_params["order_id"]
        if service not in services:
            return JSONResponse({"error": "no such service"}, 404)
        try:
            body = _decode_release(await http.body())
        except msgspec.DecodeError as exc:
            return JSONResponse({"error": str(exc)}, 422)
        key, fate = http.headers.get("idempotency-key", ""), str(http.scope.get("fate", "none"))
        return JSONResponse(rooms.release_part(service, order_id, body.lines, key, fate))

    async def capabilities(_: Request) -> Response:
        return JSONResponse({"release_parts": True})

    async def items(http: Request) -> Response:
        return JSONResponse({"items": rooms.items(http.path_params["service"])})

    async def item(http: Request) -> Response:
        try:
            body = _decode_item(await http.body())
        except msgspec.DecodeError as exc:
            return JSONResponse({"error": str(exc)}, 422)
        if body.units < 0 or http.path_params["service"] not in services:
            return JSONResponse({"error": "units below zero, or no such service"}, 422)
        rooms.put(http.path_params["service"], http.path_params["sku"], body.units, body.unit_price_minor)
        return JSONResponse({})

    return [
        Route("/stock/{service}/reservations/{order_id}", reservation, methods=["PUT", "DELETE"]),
        Route("/stock/{service}/reservations/{order_id}/release", part, methods=["POST"]),
        Route("/stock/{service}/capabilities", capabilities, methods=["GET"]),
        Route("/stock/{service}/items", items, methods=["GET"]),
        Route("/stock/{service}/items/{sku}", item, methods=["PUT"]),
    ]
