"""Refunds: complete immediately, or change state later, depending on the test card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commands.sandbox.cards import BY_METHOD, CARDS
from commands.sandbox.objects import Body, Db, Objects, ProviderRequest, StripeProblem, about, amount_in, new_id, only

REFUND_TURNS_S = 1  # when the refunds of such test cards change state


class Refunds:
    """Requests about refunds."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def create(self, db: Db, request: ProviderRequest) -> Body:
        only(request.form, "payment_intent", "amount", "metadata", "reason", "expand")
        intent = about(request, self._objects.intent(db, str(request.form.get("payment_intent", ""))))
        charge = self._objects.get(db, intent["latest_charge"], "charge") if intent["latest_charge"] else None
        if charge is None or not charge["captured"]:
            raise StripeProblem(400, "charge_not_refundable", "This payment has no captured charge to refund.")
        if any(d["status"] == "needs_response" for d in self._objects.of(db, intent["id"], "dispute")):
            raise StripeProblem(400, "charge_disputed", "The charge is disputed and cannot be refunded.")
        left = charge["amount_captured"] - charge["amount_refunded"]
        if left <= 0:
            raise StripeProblem(400, "charge_already_refunded", f"Charge {charge['id']} has already been refunded.")
        amount = amount_in(request.form, "amount") if "amount" in request.form else left
        if amount > left:
            raise StripeProblem(400, "amount_too_large", "Refund amount is greater than the unrefunded amount on the charge.")
        how = CARDS[BY_METHOD[intent["payment_method"]]].refund
        refund: Body = {
            "id": new_id("re"),
            "object": "refund",
            "amount": amount,
            "charge": charge["id"],
            "created": self._objects.now_s(),
            "currency": intent["currency"],
            "failure_reason": None,
            "metadata": request.form.get("metadata", {}),
            "payment_intent": intent["id"],
            "reason": request.form.get("reason"),
            "status": "pending" if how == "pends" else "succeeded",
        }
        self._objects.put(db, refund)
        self._objects.put(db, charge | {"amount_refunded": charge["amount_refunded"] + amount, "refunded": amount == left})
        if how == "pends":
            self._turn_later(db, refund, "succeeded")
        else:
            request.effects.append(("refunded", intent["id"], amount))
            if how == "fails_later":
                self._turn_later(db, refund, "failed")
        self._objects.announce(db, "refund.created", refund)
        self._objects.announce(db, "charge.refunded", self._objects.get(db, charge["id"], "charge"))
        return refund

    def _turn_later(self, db: Db, refund: Body, status: str) -> None:
        db.execute(
            "insert into turns (id, at_s, status) values (?, ?, ?)",
            (refund["id"], self._objects.now_s() + REFUND_TURNS_S, status),
        )

    def turn(self, db: Db, request: ProviderRequest, row: Mapping[str, Any]) -> Body:
        db.execute("delete from turns where id = ?", (row["id"],))
        refund = self._objects.get(db, row["id"], "refund")
        intent = about(request, self._objects.intent(db, refund["payment_intent"]))
        was, refund["status"] = refund["status"], row["status"]
        if row["status"] == "failed":
            refund["failure_reason"] = "unknown"
            charge = self._objects.get(db, refund["charge"], "charge")
            left = charge["amount_refunded"] - refund["amount"]
            self._objects.put(db, charge | {"amount_refunded": left, "refunded": False})
            if was == "succeeded":
                request.effects.append(("refund_failed", intent["id"], refund["amount"]))
        else:
            request.effects.append(("refunded", intent["id"], refund["amount"]))
        self._objects.put(db, refund)
        self._objects.announce(db, "refund.failed" if row["status"] == "failed" else "refund.updated", refund)
        return refund
