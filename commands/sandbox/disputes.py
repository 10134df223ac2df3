"""Disputes: the bank's side, opened and decided."""

from __future__ import annotations

from commands.sandbox.objects import DAY_S, Body, Db, Objects, ProviderRequest, StripeProblem, about, new_id, unexpected

DISPUTE_DAYS = 7


class Disputes:
    """Requests about disputes."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def open(self, db: Db, request: ProviderRequest, ref: str) -> Body:
        intent = about(request, self._objects.intent(db, ref))
        if intent["status"] != "succeeded":
            raise unexpected(intent, "dispute")
        return self.opened(db, request, intent, str(request.form.get("reason", "fraudulent")))

    def opened(self, db: Db, request: ProviderRequest, intent: Body, reason: str) -> Body:
        charge = self._objects.get(db, intent["latest_charge"], "charge") | {"disputed": True}
        dispute: Body = {
            "id": new_id("du"),
            "object": "dispute",
            "amount": charge["amount_captured"] - charge["amount_refunded"],
            "charge": charge["id"],
            "created": self._objects.now_s(),
            "currency": intent["currency"],
            "evidence_details": {"due_by": self._objects.now_s() + DISPUTE_DAYS * DAY_S, "has_evidence": False},
            "livemode": False,
            "metadata": {},
            "payment_intent": intent["id"],
            "reason": reason,
            "status": "needs_response",
        }
        self._objects.put(db, charge)
        self._objects.put(db, dispute)
        request.effects.append(("disputed", intent["id"], dispute["amount"]))
        self._objects.announce(db, "charge.dispute.created", dispute)
        return dispute

    def close(self, db: Db, request: ProviderRequest, ref: str) -> Body:
        """The bank decides: `outcome` won, lost or warning_closed."""
        dispute = self._objects.get(db, ref, "dispute")
        intent = about(request, self._objects.intent(db, dispute["payment_intent"]))
        outcome = request.form.get("outcome")
        if outcome not in ("won", "lost", "warning_closed") or dispute["status"] != "needs_response":
            raise StripeProblem(400, "parameter_invalid", "outcome of an open dispute: won, lost or warning_closed.")
        dispute["status"] = outcome
        self._objects.put(db, dispute)
        if outcome == "lost":
            request.effects.append(("lost", intent["id"], dispute["amount"]))
        self._objects.announce(db, "charge.dispute.closed", dispute)
        return dispute
