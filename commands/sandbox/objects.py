"""The objects of the payment provider, stored as rows, and shared code to read and refuse requests.

Objects carry Stripe's field names; errors are Stripe's error objects (`StripeProblem`).
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

DAY_S = 86_400
MAX_AMOUNT = 99_999_999

TABLES = """
create table if not exists objects (
    id text primary key, kind text not null, created integer not null, payment_intent text not null, body text not null
);
create index if not exists objects_of_payment on objects (payment_intent, kind);
create index if not exists objects_by_time on objects (kind, created);
create table if not exists keys (
    key text primary key, at_s integer not null, request text not null, status integer not null, answer text not null
);
create table if not exists turns (id text primary key, at_s integer not null, status text not null);
create table if not exists messages (id text primary key, at_s integer not null, body text not null);
"""

Body = dict[str, Any]
Db = sqlite3.Connection


class StripeProblem(Exception):
    """A refused request. `kept`: the answer is stored under its idempotency key."""

    def __init__(self, status: int, code: str, message: str, kind: str = "invalid_request_error", kept: bool = True) -> None:
        super().__init__(message)
        self.status, self.kept = status, kept
        self.error: Body = {"type": kind, "code": code, "message": message}


class ProviderRequest:
    """One request. `form` has nested values; all leaves are strings."""

    def __init__(self, verb: str, path: str, form: Mapping[str, Any], key: str = "", fate: str = "none") -> None:
        self.verb, self.path, self.form, self.key, self.fate = verb, path, form, key, fate
        self.order_id = ""
        self.effects: list[tuple[str, str, int]] = []  # kind, reference, amount


class Objects:
    """Payment intents, charges, refunds and disputes, and the messages about them. `now_s` is the clock, in seconds."""

    def __init__(self, now_s: Callable[[], int]) -> None:
        self.now_s = now_s

    def put(self, db: Db, body: Body) -> None:
        ref = body.get("payment_intent", body["id"])  # the payment itself, or what belongs to it
        db.execute(
            "insert into objects (id, kind, created, payment_intent, body) values (?, ?, ?, ?, ?)"
            " on conflict (id) do update set body = excluded.body",
            (body["id"], body["object"], body["created"], ref, json.dumps(body)),
        )

    def get(self, db: Db, ref: str, kind: str) -> Body:
        row = db.execute("select body from objects where id = ? and kind = ?", (ref, kind)).fetchone()
        if row is None:
            raise StripeProblem(404, "resource_missing", f"No such {kind}: '{ref[:64]}'", kept=False)
        return body_of(row)

    def intent(self, db: Db, ref: str) -> Body:
        return self.get(db, ref, "payment_intent")

    def of(self, db: Db, ref: str, kind: str) -> list[Body]:
        return [body_of(r) for r in db.execute("select body from objects where payment_intent = ? and kind = ?", (ref, kind))]

    def expanded(self, db: Db, request: ProviderRequest, intent: Body) -> Body:
        if intent["latest_charge"] and "latest_charge" in values_of(request.form.get("expand", [])):
            return intent | {"latest_charge": self.get(db, intent["latest_charge"], "charge")}
        return intent

    def announce(self, db: Db, kind: str, about: Body) -> None:
        event = {
            "id": new_id("evt"),
            "object": "event",
            "created": self.now_s(),
            "data": {"object": about},
            "livemode": False,
            "pending_webhooks": 1,
            "type": kind,
        }
        db.execute("insert into messages (id, at_s, body) values (?, ?, ?)", (event["id"], event["created"], json.dumps(event)))

    def read(self, db: Db, request: ProviderRequest, ref: str, kind: str) -> Body:
        only(request.form, "expand")
        body = self.get(db, ref, kind)
        about(request, self.intent(db, body["payment_intent"]))
        return body

    def list_of(self, db: Db, request: ProviderRequest, kind: str) -> Body:
        """Newest first, as Stripe's lists; `payment_intent`, `created[gte]`, `limit`, `starting_after`."""
        only(request.form, "payment_intent", "created", "limit", "starting_after", "expand")
        created = request.form.get("created", {})
        since = int(created.get("gte", 0)) if isinstance(created, dict) else int(created)
        where, arguments = "kind = ? and created >= ?", [kind, since]
        if (ref := request.form.get("payment_intent")) is not None:
            about(request, self.intent(db, ref))
            where, arguments = f"{where} and payment_intent = ?", [*arguments, ref]
        rows = db.execute(f"select body from objects where {where} order by created desc, rowid desc", arguments)  # noqa: S608
        bodies = list(map(body_of, rows))
        if (after := request.form.get("starting_after")) is not None:
            bodies = bodies[[b["id"] for b in bodies].index(after) + 1 :]
        limit = int(request.form.get("limit", 10))
        return {"object": "list", "url": request.path, "has_more": len(bodies) > limit, "data": bodies[:limit]}


def about(request: ProviderRequest, intent: Body) -> Body:
    """`intent`; notes its order in the request."""
    request.order_id = intent["metadata"].get("order", "")
    return intent


def unexpected(intent: Body, verb: str) -> StripeProblem:
    """The refusal of a request that the intent's status does not allow."""
    text = f"This PaymentIntent could not be used to {verb}: its status is {intent['status']}."
    return StripeProblem(400, "payment_intent_unexpected_state", text)


def body_of(row: Any) -> Body:
    """The object in a row."""
    body: Body = json.loads(row["body"])
    return body


def new_id(prefix: str) -> str:
    """A new id with Stripe's prefix."""
    return f"{prefix}_{secrets.token_hex(12)}"


def only(form: Mapping[str, Any], *names: str) -> None:
    """Refuse every parameter but these. Raises `StripeProblem`."""
    for name in form:
        if name not in names:
            raise StripeProblem(400, "parameter_unknown", f"Received unknown parameter: {name[:64]}", kept=False)


def amount_in(form: Mapping[str, Any], name: str) -> int:
    """A positive amount in minor units. Raises `StripeProblem`."""
    text = str(form.get(name, ""))
    if not (text.isascii() and text.isdigit()) or not 0 < int(text) <= MAX_AMOUNT:
        raise StripeProblem(400, "parameter_invalid_integer", f"{name} must be a positive integer of minor units.", kept=False)
    return int(text)


def values_of(value: Any) -> list[str]:
    """A list of a form: `a[]=x`, or `a[0]=x`, which arrives as a mapping."""
    return [str(v) for v in (value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value])]
