"""Objects as Stripe sends them, and such objects with other types than Stripe promises."""

from __future__ import annotations

import copy
import random
from typing import Any

SECRET, NOW = "whsec_test", 1_900_000_000
CHARGE = {
    "id": "ch_1",
    "object": "charge",
    "status": "succeeded",
    "amount": 2200,
    "captured": True,
    "amount_captured": 2200,
    "amount_refunded": 0,
    "disputed": False,
    "payment_intent": "pi_1",
    "metadata": {"order": "ord_1", "attempt": "1"},
    "payment_method_details": {"card": {"capture_before": NOW}},
}
INTENT = {
    "id": "pi_1",
    "object": "payment_intent",
    "status": "requires_capture",
    "amount": 2200,
    "currency": "eur",
    "livemode": False,
    "amount_capturable": 2200,
    "amount_received": 0,
    "metadata": {"order": "ord_1", "attempt": "1"},
    "last_payment_error": {"type": "card_error", "code": "card_declined", "decline_code": "do_not_honor", "charge": "ch_1"},
    "latest_charge": CHARGE,
    "cancellation_reason": None,
    "client_secret": "pi_1_secret",
}
REFUND = {
    "id": "re_1",
    "object": "refund",
    "status": "succeeded",
    "amount": 2200,
    "created": NOW,
    "payment_intent": "pi_1",
    "failure_reason": None,
    "metadata": {"order": "ord_1", "refund_no": "1"},
}
DISPUTE = {
    "id": "dp_1",
    "object": "dispute",
    "status": "needs_response",
    "amount": 2200,
    "reason": "fraudulent",
    "payment_intent": "pi_1",
    "evidence_details": {"due_by": NOW},
}
VALUES: list[Any] = [
    *(None, True, 0, -1, 2**31, 2**53, 2**63, 10**30, 1.5, 1e300, "", "x" * 1000, "\u202e", "processing", "a_new_one", "won"),
    *([], [1], {}, {"id": "pi_1"}, {"id": None}, {"order": 7, "attempt": "1"}, {"order": "a/b", "attempt": "1"}),
]


def mutated(thing: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    thing = copy.deepcopy(thing)
    for _ in range(chance.randint(1, 3)):
        holder = thing
        while True:
            name = chance.choice(list(holder) or ["id"])
            if isinstance(holder.get(name), dict) and chance.random() < 0.6:
                holder = holder[name]
            else:
                break
        if chance.random() < 0.3:
            holder.pop(name, None)
        else:
            holder[name] = copy.deepcopy(chance.choice(VALUES))
    return thing
