"""A payment provider that speaks the part of Stripe's API which the ledger calls: what it keeps and what each request does.

Objects carry Stripe's field names; errors are Stripe's error objects (`StripeProblem`). One request is one transaction of the
journal's database: the objects it changes, its row and effects in the journal, the messages it leads to, and the answer kept
under its idempotency key stand there together, or none of them does.

No real money, no real card: only the numbers of `cards` are known, and only the sandbox's own key is taken.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

from commands.sandbox.cards import BY_METHOD, CARDS, TestCard
from commands.sandbox.journal import Journal

PORT = "payments"
DAY_S = 86_400
CAPTURE_DAYS = 7
REFUND_TURNS_S = 1  # "some time later" of the test cards whose refund pends or fails
DISPUTE_DAYS = 7
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
    """A refused request. `kept`: it was carried out as far as to be kept under its idempotency key."""

    def __init__(self, status: int, code: str, message: str, kind: str = "invalid_request_error", kept: bool = True) -> None:
        super().__init__(message)
        self.status, self.kept = status, kept
        self.error: Body = {"type": kind, "code": code, "message": message}


class Request:
    """One request as the rules see it: `form` as nested values, all texts."""

    def __init__(self, verb: str, path: str, form: Mapping[str, Any], key: str = "", fate: str = "none") -> None:
        self.verb, self.path, self.form, self.key, self.fate = verb, path, form, key, fate
        self.order_id = ""
        self.effects: list[tuple[str, str, int]] = []  # kind, reference, amount


class Payments:
    """The provider. `now_s` is its clock, in seconds. `on_message` is called when a signed message is to be sent."""

    def __init__(self, journal: Journal, now_s: Callable[[], int], on_message: Callable[[], None] = lambda: None) -> None:
        self._journal, self._now_s, self._on_message = journal, now_s, on_message
        journal.add_tables(TABLES)

    def carry_out(self, request: Request, work: Callable[[Db, Request], Body]) -> tuple[int, Body, bool]:
        """(status, answer, replayed) of one request, with its row in the journal."""
        with self._journal.transaction() as db:
            kept = self._kept(db, request)
            status, answer = self._carry_out(db, request, work) if kept is None else kept
            replayed = kept is not None and not _is_misuse(answer)
            call = self._journal.note_call(
                db,
                self._now_s() * 1000,
                PORT,
                request.verb + (" replayed" if replayed else ""),
                key=request.key,
                order_id=request.order_id,
                fate=request.fate,
                request=_without_secrets(request.form),
                status=status,
                response={"id": answer.get("id"), "status": answer.get("status"), "code": _code(answer)},
            )
            for kind, ref, amount in request.effects:
                self._journal.note_effect(db, call, self._now_s() * 1000, PORT, kind, request.order_id, ref=ref, amount=amount)
        self._on_message()
        return status, answer, replayed

    def _carry_out(self, db: Db, request: Request, work: Callable[[Db, Request], Body]) -> tuple[int, Body]:
        db.execute("savepoint work")
        try:
            status, answer, keep = 200, work(db, request), True
        except StripeProblem as problem:
            status, answer, keep = problem.status, {"error": problem.error}, problem.kept
            if not keep:
                db.execute("rollback to work")
        db.execute("release work")
        if keep and request.key:
            row = (request.key, self._now_s(), _digest(request), status, json.dumps(answer))
            db.execute("insert or replace into keys (key, at_s, request, status, answer) values (?, ?, ?, ?, ?)", row)
        return status, answer

    def _kept(self, db: Db, request: Request) -> tuple[int, Body] | None:
        """The first answer under this key, for a day. Another request under it is an error of its sender."""
        if not request.key:
            return None
        row = db.execute("select * from keys where key = ? and at_s > ?", (request.key, self._now_s() - DAY_S)).fetchone()
        if row is None:
            return None
        if row["request"] != _digest(request):
            text = "Keys for idempotent requests can only be used with the same parameters they were first used with."
            return 400, {"error": {"type": "idempotency_error", "message": text}}
        return row["status"], json.loads(row["answer"])

    # ---- payment intents

    def create(self, db: Db, request: Request) -> Body:
        form = request.form
        if "payment_method_types" in form:
            raise StripeProblem(400, "payment_method_types_no_longer_supported", "Use allowed_payment_method_types.", kept=False)
        _only(form, "amount", "currency", "capture_method", "allowed_payment_method_types", "metadata", "expand")
        amount = _amount(form, "amount")
        if len(form.get("currency", "")) != 3 or form["currency"] != form["currency"].lower():
            raise StripeProblem(400, "parameter_invalid", "currency must be a three-letter ISO code in lowercase.", kept=False)
        ref = _id("pi")
        intent: Body = {
            "id": ref,
            "object": "payment_intent",
            "amount": amount,
            "amount_capturable": 0,
            "amount_received": 0,
            "canceled_at": None,
            "cancellation_reason": None,
            "capture_method": form.get("capture_method", "automatic"),
            "client_secret": f"{ref}_secret_{secrets.token_urlsafe(18)}",
            "confirmation_method": "automatic",
            "created": self._now_s(),
            "currency": form["currency"],
            "last_payment_error": None,
            "latest_charge": None,
            "livemode": False,
            "metadata": form.get("metadata", {}),
            "next_action": None,
            "payment_method": None,
            "payment_method_types": list(_values(form.get("allowed_payment_method_types", ["card"]))),
            "status": "requires_payment_method",
        }
        self._put(db, intent)
        self._tell(db, "payment_intent.created", intent)
        return self._about(request, intent)

    def retrieve(self, db: Db, request: Request, ref: str, public: bool) -> Body:
        _only(request.form, "expand", *(["client_secret"] if public else []))
        intent = self._about(request, self._intent(db, ref))
        self._check_secret(request, intent, public)
        return self._expanded(db, request, intent)

    def search(self, db: Db, request: Request) -> Body:
        """Of the query language: `metadata['name']:'value'` and `created>n`, joined by AND."""
        _only(request.form, "query", "limit", "page", "expand")
        wanted, created = _query(str(request.form.get("query", "")))
        rows = db.execute(
            "select body from objects where kind = 'payment_intent' and created > ? order by created desc", (created,)
        )
        found = [b for b in map(_body, rows) if wanted.items() <= b["metadata"].items()]
        limit = int(request.form.get("limit", 10))
        page = {"object": "search_result", "url": request.path, "has_more": len(found) > limit, "next_page": None}
        return {**page, "data": found[:limit]}

    def confirm(self, db: Db, request: Request, ref: str, public: bool) -> Body:
        """What Stripe.js does when the customer pays: with the publishable key and the payment's secret."""
        intent = self._about(request, self._intent(db, ref))
        self._check_secret(request, intent, public)
        if intent["status"] not in ("requires_payment_method", "requires_confirmation", "requires_action"):
            raise self._unexpected(intent, "confirm")
        card = _card(request.form)
        intent["payment_method"] = f"pm_card_{card.name}"
        if card.authenticate:
            action: Body = {"type": "use_stripe_sdk", "use_stripe_sdk": {"type": "three_d_secure_redirect"}}
            intent |= {"status": "requires_action", "next_action": action, "last_payment_error": None}
            self._put(db, intent)
            self._tell(db, "payment_intent.requires_action", intent)
            return intent
        return self._charge(db, request, intent, card)

    def authenticate(self, db: Db, request: Request, ref: str) -> Body:
        """3-D Secure ends: the page that a customer would see. `outcome` success or failure."""
        intent = self._about(request, self._intent(db, ref))
        if intent["status"] != "requires_action":
            raise self._unexpected(intent, "authenticate")
        if request.form.get("outcome", "success") == "success":
            return self._charge(db, request, intent, CARDS[BY_METHOD[intent["payment_method"]]])
        error = {"type": "card_error", "code": "payment_intent_authentication_failure", "message": "Authentication failed."}
        intent |= {"status": "requires_payment_method", "next_action": None, "payment_method": None, "last_payment_error": error}
        self._put(db, intent)
        self._tell(db, "payment_intent.payment_failed", intent)
        return intent

    def _charge(self, db: Db, request: Request, intent: Body, card: TestCard) -> Body:
        charge = {
            "id": _id("ch"),
            "object": "charge",
            "amount": intent["amount"],
            "amount_captured": 0,
            "amount_refunded": 0,
            "captured": False,
            "created": self._now_s(),
            "currency": intent["currency"],
            "disputed": False,
            "failure_code": card.code if card.decline_code else None,
            "livemode": False,
            "metadata": intent["metadata"],
            "paid": card.decline_code is None,
            "payment_intent": intent["id"],
            "payment_method_details": {
                "type": "card",
                "card": {"brand": "visa", "capture_before": self._now_s() + CAPTURE_DAYS * DAY_S},
            },
            "refunded": False,
            "status": "failed" if card.decline_code else "succeeded",
        }
        self._put(db, charge)
        intent |= {"latest_charge": charge["id"], "next_action": None}
        if card.decline_code:
            error = {"type": "card_error", "code": card.code, "decline_code": card.decline_code, "charge": charge["id"]}
            error["message"] = "Your card was declined."
            intent |= {"status": "requires_payment_method", "payment_method": None, "last_payment_error": error}
            self._put(db, intent)
            self._tell(db, "payment_intent.payment_failed", intent)
            problem = StripeProblem(402, card.code, error["message"], "card_error")
            problem.error |= error | {"payment_intent": intent}
            raise problem
        intent |= {"last_payment_error": None}
        request.effects.append(("authorised", intent["id"], intent["amount"]))
        if intent["capture_method"] == "manual":
            intent |= {"status": "requires_capture", "amount_capturable": intent["amount"]}
            self._put(db, intent)
            self._tell(db, "payment_intent.amount_capturable_updated", intent)
            return intent
        return self._captured(db, request, intent, intent["amount"])

    def capture(self, db: Db, request: Request, ref: str) -> Body:
        _only(request.form, "amount_to_capture", "expand")
        intent = self._about(request, self._intent(db, ref))
        if intent["status"] != "requires_capture":
            raise self._unexpected(intent, "capture")
        amount = _amount(request.form, "amount_to_capture") if "amount_to_capture" in request.form else intent["amount"]
        if amount > intent["amount_capturable"]:
            raise StripeProblem(400, "amount_too_large", "Amount to capture is more than the amount that can be captured.")
        return self._captured(db, request, intent, amount)

    def _captured(self, db: Db, request: Request, intent: Body, amount: int) -> Body:
        intent |= {"status": "succeeded", "amount_received": amount, "amount_capturable": 0}
        charge = self._get(db, intent["latest_charge"], "charge") | {"captured": True, "amount_captured": amount}
        self._put(db, charge)
        self._put(db, intent)
        request.effects.append(("captured", intent["id"], amount))
        self._tell(db, "payment_intent.succeeded", intent)
        if CARDS[BY_METHOD[intent["payment_method"]]].disputed:
            self._dispute(db, request, intent, "fraudulent")
        return intent

    def cancel(self, db: Db, request: Request, ref: str, reason: str | None = None) -> Body:
        _only(request.form, "cancellation_reason", "expand")
        intent = self._about(request, self._intent(db, ref))
        if intent["status"] in ("canceled", "succeeded"):
            raise self._unexpected(intent, "cancel")
        if intent["status"] == "requires_capture":
            request.effects.append(("voided", ref, intent["amount_capturable"]))
        intent |= {
            "status": "canceled",
            "amount_capturable": 0,
            "canceled_at": self._now_s(),
            "cancellation_reason": reason or request.form.get("cancellation_reason"),
            "next_action": None,
        }
        self._put(db, intent)
        self._tell(db, "payment_intent.canceled", intent)
        return intent

    # ---- refunds

    def refund(self, db: Db, request: Request) -> Body:
        _only(request.form, "payment_intent", "amount", "metadata", "reason", "expand")
        intent = self._about(request, self._intent(db, str(request.form.get("payment_intent", ""))))
        charge = self._get(db, intent["latest_charge"], "charge") if intent["latest_charge"] else None
        if charge is None or not charge["captured"]:
            raise StripeProblem(400, "charge_not_refundable", "This payment has no captured charge to refund.")
        if any(d["status"] == "needs_response" for d in self._of(db, intent["id"], "dispute")):
            raise StripeProblem(400, "charge_disputed", "The charge is disputed and cannot be refunded.")
        left = charge["amount_captured"] - charge["amount_refunded"]
        if left <= 0:
            raise StripeProblem(400, "charge_already_refunded", f"Charge {charge['id']} has already been refunded.")
        amount = _amount(request.form, "amount") if "amount" in request.form else left
        if amount > left:
            raise StripeProblem(400, "amount_too_large", "Refund amount is greater than the unrefunded amount on the charge.")
        how = CARDS[BY_METHOD[intent["payment_method"]]].refund
        refund: Body = {
            "id": _id("re"),
            "object": "refund",
            "amount": amount,
            "charge": charge["id"],
            "created": self._now_s(),
            "currency": intent["currency"],
            "failure_reason": None,
            "metadata": request.form.get("metadata", {}),
            "payment_intent": intent["id"],
            "reason": request.form.get("reason"),
            "status": "pending" if how == "pends" else "succeeded",
        }
        self._put(db, refund)
        self._put(db, charge | {"amount_refunded": charge["amount_refunded"] + amount, "refunded": amount == left})
        if how == "pends":
            self._turn_later(db, refund, "succeeded")
        else:
            request.effects.append(("refunded", intent["id"], amount))
            if how == "fails_later":
                self._turn_later(db, refund, "failed")
        self._tell(db, "refund.created", refund)
        self._tell(db, "charge.refunded", self._get(db, charge["id"], "charge"))
        return refund

    def _turn_later(self, db: Db, refund: Body, status: str) -> None:
        db.execute(
            "insert into turns (id, at_s, status) values (?, ?, ?)", (refund["id"], self._now_s() + REFUND_TURNS_S, status)
        )

    def turn_refunds(self) -> int:
        """Let the refunds turn whose time has come; how many did. To be called now and then."""
        due = self._journal.rows("select * from turns where at_s <= ?", self._now_s())
        for row in due:
            self.carry_out(Request("turn_refund", "", {}), lambda db, request, row=row: self._turn(db, request, row))  # type: ignore[misc]
        return len(due)

    def _turn(self, db: Db, request: Request, row: Mapping[str, Any]) -> Body:
        db.execute("delete from turns where id = ?", (row["id"],))
        refund = self._get(db, row["id"], "refund")
        intent = self._about(request, self._intent(db, refund["payment_intent"]))
        was, refund["status"] = refund["status"], row["status"]
        if row["status"] == "failed":
            refund["failure_reason"] = "unknown"
            charge = self._get(db, refund["charge"], "charge")
            left = charge["amount_refunded"] - refund["amount"]
            self._put(db, charge | {"amount_refunded": left, "refunded": False})
            if was == "succeeded":
                request.effects.append(("refund_failed", intent["id"], refund["amount"]))
        else:
            request.effects.append(("refunded", intent["id"], refund["amount"]))
        self._put(db, refund)
        self._tell(db, "refund.failed" if row["status"] == "failed" else "refund.updated", refund)
        return refund

    def read(self, db: Db, request: Request, ref: str, kind: str) -> Body:
        _only(request.form, "expand")
        found = self._get(db, ref, kind)
        self._about(request, self._intent(db, found["payment_intent"]))
        return found

    def list_of(self, db: Db, request: Request, kind: str) -> Body:
        """Newest first, as Stripe's lists; `payment_intent`, `created[gte]`, `limit`, `starting_after`."""
        _only(request.form, "payment_intent", "created", "limit", "starting_after", "expand")
        created = request.form.get("created", {})
        since = int(created.get("gte", 0)) if isinstance(created, dict) else int(created)
        where, arguments = "kind = ? and created >= ?", [kind, since]
        if (ref := request.form.get("payment_intent")) is not None:
            self._about(request, self._intent(db, ref))
            where, arguments = f"{where} and payment_intent = ?", [*arguments, ref]
        rows = db.execute(f"select body from objects where {where} order by created desc, rowid desc", arguments)  # noqa: S608
        found = list(map(_body, rows))
        if (after := request.form.get("starting_after")) is not None:
            found = found[[b["id"] for b in found].index(after) + 1 :]
        limit = int(request.form.get("limit", 10))
        return {"object": "list", "url": request.path, "has_more": len(found) > limit, "data": found[:limit]}

    # ---- what happens elsewhere: the bank's side

    def open_dispute(self, db: Db, request: Request, ref: str) -> Body:
        intent = self._about(request, self._intent(db, ref))
        if intent["status"] != "succeeded":
            raise self._unexpected(intent, "dispute")
        return self._dispute(db, request, intent, str(request.form.get("reason", "fraudulent")))

    def _dispute(self, db: Db, request: Request, intent: Body, reason: str) -> Body:
        charge = self._get(db, intent["latest_charge"], "charge") | {"disputed": True}
        dispute: Body = {
            "id": _id("du"),
            "object": "dispute",
            "amount": charge["amount_captured"] - charge["amount_refunded"],
            "charge": charge["id"],
            "created": self._now_s(),
            "currency": intent["currency"],
            "evidence_details": {"due_by": self._now_s() + DISPUTE_DAYS * DAY_S, "has_evidence": False},
            "livemode": False,
            "metadata": {},
            "payment_intent": intent["id"],
            "reason": reason,
            "status": "needs_response",
        }
        self._put(db, charge)
        self._put(db, dispute)
        request.effects.append(("disputed", intent["id"], dispute["amount"]))
        self._tell(db, "charge.dispute.created", dispute)
        return dispute

    def close_dispute(self, db: Db, request: Request, ref: str) -> Body:
        """The bank decides: `outcome` won, lost or warning_closed."""
        dispute = self._get(db, ref, "dispute")
        intent = self._about(request, self._intent(db, dispute["payment_intent"]))
        outcome = request.form.get("outcome")
        if outcome not in ("won", "lost", "warning_closed") or dispute["status"] != "needs_response":
            raise StripeProblem(400, "parameter_invalid", "outcome of an open dispute: won, lost or warning_closed.")
        dispute["status"] = outcome
        self._put(db, dispute)
        if outcome == "lost":
            request.effects.append(("lost", intent["id"], dispute["amount"]))
        self._tell(db, "charge.dispute.closed", dispute)
        return dispute

    def expire(self, db: Db, request: Request, ref: str) -> Body:
        """The authorisation lapses."""
        intent = self._intent(db, ref)
        if intent["status"] != "requires_capture":
            raise self._unexpected(intent, "expire")
        return self.cancel(db, request, ref, "expired")

    # ---- rows

    def _put(self, db: Db, body: Body) -> None:
        ref = body.get("payment_intent", body["id"])  # the payment itself, or what belongs to it
        db.execute(
            "insert into objects (id, kind, created, payment_intent, body) values (?, ?, ?, ?, ?)"
            " on conflict (id) do update set body = excluded.body",
            (body["id"], body["object"], body["created"], ref, json.dumps(body)),
        )

    def _get(self, db: Db, ref: str, kind: str) -> Body:
        row = db.execute("select body from objects where id = ? and kind = ?", (ref, kind)).fetchone()
        if row is None:
            raise StripeProblem(404, "resource_missing", f"No such {kind}: '{ref[:64]}'", kept=False)
        return _body(row)

    def _intent(self, db: Db, ref: str) -> Body:
        return self._get(db, ref, "payment_intent")

    def _of(self, db: Db, ref: str, kind: str) -> list[Body]:
        return [_body(r) for r in db.execute("select body from objects where payment_intent = ? and kind = ?", (ref, kind))]

    def _expanded(self, db: Db, request: Request, intent: Body) -> Body:
        if intent["latest_charge"] and "latest_charge" in _values(request.form.get("expand", [])):
            return intent | {"latest_charge": self._get(db, intent["latest_charge"], "charge")}
        return intent

    def _about(self, request: Request, intent: Body) -> Body:
        request.order_id = intent["metadata"].get("order", "")
        return intent

    def _check_secret(self, request: Request, intent: Body, public: bool) -> None:
        given = str(request.form.get("client_secret", ""))
        if public and not secrets.compare_digest(given.encode(), intent["client_secret"].encode()):
            raise StripeProblem(400, "payment_intent_invalid_parameter", "The client_secret provided does not match.", kept=False)

    def _unexpected(self, intent: Body, verb: str) -> StripeProblem:
        text = f"This PaymentIntent could not be used to {verb}: its status is {intent['status']}."
        return StripeProblem(400, "payment_intent_unexpected_state", text)

    def _tell(self, db: Db, kind: str, about: Body) -> None:
        event = {
            "id": _id("evt"),
            "object": "event",
            "created": self._now_s(),
            "data": {"object": about},
            "livemode": False,
            "pending_webhooks": 1,
            "type": kind,
        }
        db.execute("insert into messages (id, at_s, body) values (?, ?, ?)", (event["id"], event["created"], json.dumps(event)))


def _body(row: Any) -> Body:
    body: Body = json.loads(row["body"])
    return body


def _id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"


def _digest(request: Request) -> str:
    text = json.dumps([request.verb, request.path, request.form], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _without_secrets(form: Mapping[str, Any]) -> Body:
    hidden = {"client_secret", "payment_method_data"}
    return {name: "..." if name in hidden else value for name, value in form.items()}


def _is_misuse(answer: Body) -> bool:
    return (answer.get("error") or {}).get("type") == "idempotency_error"


def _code(answer: Body) -> str | None:
    error = answer.get("error") or {}
    return error.get("code") or error.get("type")


def _only(form: Mapping[str, Any], *names: str) -> None:
    for name in form:
        if name not in names:
            raise StripeProblem(400, "parameter_unknown", f"Received unknown parameter: {name[:64]}", kept=False)


def _amount(form: Mapping[str, Any], name: str) -> int:
    text = str(form.get(name, ""))
    if not (text.isascii() and text.isdigit()) or not 0 < int(text) <= MAX_AMOUNT:
        raise StripeProblem(400, "parameter_invalid_integer", f"{name} must be a positive integer of minor units.", kept=False)
    return int(text)


def _values(given: Any) -> list[str]:
    """A list of a form: `a[]=x`, or `a[0]=x`, which arrives as a mapping."""
    return [str(v) for v in (given.values() if isinstance(given, dict) else given if isinstance(given, list) else [given])]


def _card(form: Mapping[str, Any]) -> TestCard:
    data = form.get("payment_method_data")
    given = data.get("card") if isinstance(data, dict) else None
    number = str(given.get("number", "")) if isinstance(given, dict) else BY_METHOD.get(str(form.get("payment_method", "")), "")
    card = CARDS.get(number.replace(" ", ""))
    if card is None:
        raise StripeProblem(402, "incorrect_number", "The sandbox knows Stripe's test cards only.", "card_error", kept=False)
    return card


def _query(text: str) -> tuple[dict[str, str], int]:
    wanted, created = {}, 0
    for part in text.split(" AND "):
        if part.startswith("metadata['") and "']:'" in part and part.endswith("'"):
            name, _, value = part.removeprefix("metadata['").removesuffix("'").partition("']:'")
            wanted[name] = value
        elif part.startswith("created>") and part.removeprefix("created>").lstrip("-").isdigit():
            created = int(part.removeprefix("created>"))
        else:
            raise StripeProblem(
                400, "search_query_invalid", "The sandbox reads metadata['name']:'value' and created>n.", kept=False
            )
    return wanted, created
