"""Payment intents: created, confirmed with a test card, authenticated, captured, cancelled."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from commands.sandbox.cards import BY_METHOD, CARDS, TestCard
from commands.sandbox.disputes import Disputes
from commands.sandbox.objects import (
    DAY_S,
    Body,
    Db,
    Objects,
    ProviderRequest,
    StripeProblem,
    about,
    amount_in,
    body_of,
    new_id,
    only,
    unexpected,
    values_of,
)

CAPTURE_DAYS = 7


# Stripe documentation, "Supported currencies": special cases, three-decimal currencies
_MULTIPLES = {"isk": 100, "ugx": 100} | dict.fromkeys(("bhd", "jod", "kwd", "omr", "tnd"), 10)


class Intents:
    """Requests about payment intents. A card that is disputed opens its dispute at the capture."""

    def __init__(self, objects: Objects, disputes: Disputes) -> None:
        self._objects, self._disputes = objects, disputes

    def create(self, db: Db, request: ProviderRequest) -> Body:
        form = request.form
        if "payment_method_types" in form:
            raise StripeProblem(400, "payment_method_types_no_longer_supported", "Use allowed_payment_method_types.", kept=False)
        only(form, "amount", "currency", "capture_method", "allowed_payment_method_types", "metadata", "expand")
        amount = amount_in(form, "amount")
        if len(form.get("currency", "")) != 3 or form["currency"] != form["currency"].lower():
            raise StripeProblem(400, "parameter_invalid", "currency must be a three-letter ISO code in lowercase.", kept=False)
        if amount % _MULTIPLES.get(form["currency"], 1):
            raise StripeProblem(400, "amount_invalid", "This currency takes no such amount.", kept=False)
        ref = new_id("pi")
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
            "created": self._objects.now_s(),
            "currency": form["currency"],
            "last_payment_error": None,
            "latest_charge": None,
            "livemode": False,
            "metadata": form.get("metadata", {}),
            "next_action": None,
            "payment_method": None,
            "payment_method_types": list(values_of(form.get("allowed_payment_method_types", ["card"]))),
            "status": "requires_payment_method",
        }
        self._objects.put(db, intent)
        self._objects.announce(db, "payment_intent.created", intent)
        return about(request, intent)

    def retrieve(self, db: Db, request: ProviderRequest, ref: str, public: bool) -> Body:
        only(request.form, "expand", *(["client_secret"] if public else []))
        intent = about(request, self._objects.intent(db, ref))
        _check_secret(request, intent, public)
        return self._objects.expanded(db, request, intent)

    def search(self, db: Db, request: ProviderRequest) -> Body:
        """Supports `metadata['name']:'value'` and `created>n`, joined by AND."""
        only(request.form, "query", "limit", "page", "expand")
        wanted, created = query_in(str(request.form.get("query", "")))
        rows = db.execute(
            "select body from objects where kind = 'payment_intent' and created > ? order by created desc", (created,)
        )
        matches = [b for b in map(body_of, rows) if wanted.items() <= b["metadata"].items()]
        limit = int(request.form.get("limit", 10))
        page = {"object": "search_result", "url": request.path, "has_more": len(matches) > limit, "next_page": None}
        return {**page, "data": matches[:limit]}

    def confirm(self, db: Db, request: ProviderRequest, ref: str, public: bool) -> Body:
        """Stripe.js confirms the payment of a customer, with the publishable key and the payment's secret."""
        intent = about(request, self._objects.intent(db, ref))
        _check_secret(request, intent, public)
        if intent["status"] not in ("requires_payment_method", "requires_confirmation", "requires_action"):
            raise unexpected(intent, "confirm")
        card = card_in(request.form)
        intent["payment_method"] = f"pm_card_{card.name}"
        if card.authenticate:
            action: Body = {"type": "use_stripe_sdk", "use_stripe_sdk": {"type": "three_d_secure_redirect"}}
            intent |= {"status": "requires_action", "next_action": action, "last_payment_error": None}
            self._objects.put(db, intent)
            self._objects.announce(db, "payment_intent.requires_action", intent)
            return intent
        return self._charge(db, request, intent, card)

    def authenticate(self, db: Db, request: ProviderRequest, ref: str) -> Body:
        """The customer finishes 3-D Secure. `outcome`: success or failure."""
        intent = about(request, self._objects.intent(db, ref))
        if intent["status"] != "requires_action":
            raise unexpected(intent, "authenticate")
        if request.form.get("outcome", "success") == "success":
            return self._charge(db, request, intent, CARDS[BY_METHOD[intent["payment_method"]]])
        # the type is Stripe's, although the card is at fault
        code = "payment_intent_authentication_failure"
        error = {"type": "invalid_request_error", "code": code, "message": "Authentication failed."}
        intent |= {"status": "requires_payment_method", "next_action": None, "payment_method": None, "last_payment_error": error}
        self._objects.put(db, intent)
        self._objects.announce(db, "payment_intent.payment_failed", intent)
        return intent

    def _charge(self, db: Db, request: ProviderRequest, intent: Body, card: TestCard) -> Body:
        charge = {
            "id": new_id("ch"),
            "object": "charge",
            "amount": intent["amount"],
            "amount_captured": 0,
            "amount_refunded": 0,
            "captured": False,
            "created": self._objects.now_s(),
            "currency": intent["currency"],
            "disputed": False,
            "failure_code": card.code if card.decline_code else None,
            "livemode": False,
            "metadata": intent["metadata"],
            "paid": card.decline_code is None,
            "payment_intent": intent["id"],
            "payment_method_details": {
                "type": "card",
                "card": {"brand": "visa", "capture_before": self._objects.now_s() + CAPTURE_DAYS * DAY_S},
            },
            "refunded": False,
            "status": "failed" if card.decline_code else "succeeded",
        }
        self._objects.put(db, charge)
        intent |= {"latest_charge": charge["id"], "next_action": None}
        if card.decline_code:
            error = {"type": "card_error", "code": card.code, "decline_code": card.decline_code, "charge": charge["id"]}
            error["message"] = "Your card was declined."
            intent |= {"status": "requires_payment_method", "payment_method": None, "last_payment_error": error}
            self._objects.put(db, intent)
            self._objects.announce(db, "payment_intent.payment_failed", intent)
            problem = StripeProblem(402, card.code, error["message"], "card_error")
            problem.error |= error | {"payment_intent": intent}
            raise problem
        intent |= {"last_payment_error": None}
        request.effects.append(("authorised", intent["id"], intent["amount"]))
        if intent["capture_method"] == "manual":
            intent |= {"status": "requires_capture", "amount_capturable": intent["amount"]}
            self._objects.put(db, intent)
            self._objects.announce(db, "payment_intent.amount_capturable_updated", intent)
            return intent
        return self._captured(db, request, intent, intent["amount"])

    def capture(self, db: Db, request: ProviderRequest, ref: str) -> Body:
        only(request.form, "amount_to_capture", "expand")
        intent = about(request, self._objects.intent(db, ref))
        if intent["status"] != "requires_capture":
            raise unexpected(intent, "capture")
        amount = amount_in(request.form, "amount_to_capture") if "amount_to_capture" in request.form else intent["amount"]
        if amount > intent["amount_capturable"]:
            raise StripeProblem(400, "amount_too_large", "Amount to capture is more than the amount that can be captured.")
        return self._captured(db, request, intent, amount)

    def _captured(self, db: Db, request: ProviderRequest, intent: Body, amount: int) -> Body:
        intent |= {"status": "succeeded", "amount_received": amount, "amount_capturable": 0}
        charge = self._objects.get(db, intent["latest_charge"], "charge") | {"captured": True, "amount_captured": amount}
        self._objects.put(db, charge)
        self._objects.put(db, intent)
        request.effects.append(("captured", intent["id"], amount))
        self._objects.announce(db, "payment_intent.succeeded", intent)
        if CARDS[BY_METHOD[intent["payment_method"]]].disputed:
            self._disputes.opened(db, request, intent, "fraudulent")
        return intent

    def cancel(self, db: Db, request: ProviderRequest, ref: str, reason: str | None = None) -> Body:
        only(request.form, "cancellation_reason", "expand")
        intent = about(request, self._objects.intent(db, ref))
        if intent["status"] in ("canceled", "succeeded"):
            raise unexpected(intent, "cancel")
        if intent["status"] == "requires_capture":
            request.effects.append(("voided", ref, intent["amount_capturable"]))
        intent |= {
            "status": "canceled",
            "amount_capturable": 0,
            "canceled_at": self._objects.now_s(),
            "cancellation_reason": reason or request.form.get("cancellation_reason"),
            "next_action": None,
        }
        self._objects.put(db, intent)
        self._objects.announce(db, "payment_intent.canceled", intent)
        return intent

    def expire(self, db: Db, request: ProviderRequest, ref: str) -> Body:
        """The authorisation lapses."""
        intent = self._objects.intent(db, ref)
        if intent["status"] != "requires_capture":
            raise unexpected(intent, "expire")
        return self.cancel(db, request, ref, "expired")


def _check_secret(request: ProviderRequest, intent: Body, public: bool) -> None:
    secret = str(request.form.get("client_secret", ""))
    if public and not secrets.compare_digest(secret.encode(), intent["client_secret"].encode()):
        raise StripeProblem(400, "payment_intent_invalid_parameter", "The client_secret provided does not match.", kept=False)


def card_in(form: Mapping[str, Any]) -> TestCard:
    """The test card that a form names. Raises `StripeProblem`."""
    data = form.get("payment_method_data")
    entry = data.get("card") if isinstance(data, dict) else None
    number = str(entry.get("number", "")) if isinstance(entry, dict) else BY_METHOD.get(str(form.get("payment_method", "")), "")
    card = CARDS.get(number.replace(" ", ""))
    if card is None:
        raise StripeProblem(402, "incorrect_number", "The sandbox accepts only Stripe's test cards.", "card_error", kept=False)
    return card


def query_in(text: str) -> tuple[dict[str, str], int]:
    """(metadata wanted, created after) of a search query. Raises `StripeProblem`."""
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
