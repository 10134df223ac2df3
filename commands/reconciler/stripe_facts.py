"""Facts about an order from Stripe's objects. Pure.

Only the fields that are used are declared; others are ignored. A payment has its order and attempt in its metadata, a refund made
by the ledger its number. The facts are the current state, in causal order; those that an order already knows are dropped later,
using `decide`.

    requires_payment_method, requires_confirmation   PaymentOpened, or PaymentDeclined after a refused card
    requires_action, processing                      PaymentPending (customer_action, provider)
    requires_capture                                 PaymentAuthorised
    succeeded                                        PaymentCaptured, then refunds and disputes
    canceled                                         PaymentVoided
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from commands.messages import RecordDispute, RecordPayment, RecordRefund
from commands.reconciler.answers import Fact, Hint
from commands.reconciler.stripe_amounts import from_stripe
from ledger import events, transitions
from ledger.bounds import ID_PATTERN, MAX_TIME_MS, MAX_WORD, AmountMinor, Reference
from ledger.order import DISPUTE_LOST, DISPUTE_WITHDRAWN, DISPUTE_WON

S = TypeVar("S")
Name = Annotated[str, Meta(min_length=1, max_length=255)]  # a reference in a fact or in a request


class Named(Struct, frozen=True):
    """An expanded object: Stripe may expand a reference even if the request did not ask for that."""

    id: Name


Expandable = Named | Reference | None
Metadata = dict[str, Any] | None


StripeAmount = AmountMinor  # in Stripe's units: `stripe_amounts`


class PaymentError(Struct, frozen=True):
    """Why the last attempt to charge failed."""

    type: str | None = None
    code: str | None = None
    decline_code: str | None = None
    charge: Expandable = None

    @property
    def is_decline(self) -> bool:
        """Whether the card was refused. Other errors are faults of Stripe or of a request, and say nothing about the card.

        A failed 3-D Secure is one of the card too, although its type is `invalid_request_error`.
        """
        return self.type == "card_error" or self.code == "payment_intent_authentication_failure"


class Card(Struct, frozen=True):
    """`capture_before` is in seconds since the epoch."""

    capture_before: Any = None


class PaymentMethodDetails(Struct, frozen=True):
    """How a charge was paid."""

    card: Card | None = None


class Charge(Struct, frozen=True):
    """A charge of an intent."""

    id: Reference
    disputed: bool | None = None
    payment_method_details: PaymentMethodDetails | None = None


class Intent(Struct, frozen=True):
    """A PaymentIntent. `latest_charge` is the charge itself if the request expanded it."""

    id: Name
    status: str | None
    amount: StripeAmount
    currency: str
    livemode: bool = False
    amount_capturable: StripeAmount | None = None
    amount_received: StripeAmount | None = None
    metadata: Metadata = None
    last_payment_error: PaymentError | None = None
    latest_charge: Charge | str | None = None
    cancellation_reason: str | None = None
    client_secret: str | None = None

    @property
    def amount_minor(self) -> int:
        """The amount in the order's minor units."""
        return from_stripe(self.amount, self.currency)

    @property
    def order_id(self) -> str:
        """Empty if the payment does not belong to this ledger."""
        return _order_id(self.metadata) if self.attempt else ""

    @property
    def attempt(self) -> int:
        return _number(self.metadata, "attempt")

    @property
    def charge(self) -> Charge | None:
        return self.latest_charge if isinstance(self.latest_charge, Charge) else None

    def __repr__(self) -> str:
        return f"Intent({self.id!r}, {self.status!r})"


class StripeRefund(Struct, frozen=True):
    """A refund, as Stripe has it."""

    id: Name
    status: str | None
    amount: StripeAmount
    currency: str = ""
    created: int | None = None
    failure_reason: str | None = None
    metadata: Metadata = None


class Evidence(Struct, frozen=True):
    """The deadline for evidence."""

    due_by: Any = None


class StripeDispute(Struct, frozen=True):
    """A dispute, as Stripe has it."""

    id: Name
    status: str | None
    amount: StripeAmount
    currency: str = ""
    reason: str | None = None
    evidence_details: Evidence | None = None


class _OfPayment(Struct, frozen=True):
    payment_intent: Expandable = None


for _kind in (Intent, StripeRefund, StripeDispute, _OfPayment):
    msgspec.json.Decoder(_kind)  # built here, because several threads may read their first object simultaneously (see `codec`)


def read(value: Any, kind: type[S]) -> S:
    """A Stripe object as `kind`. Raises `msgspec.ValidationError` if it is not one."""
    return msgspec.convert(value, kind)


def payment_in(value: Any) -> str | None:
    """The payment that a refund or dispute belongs to, even if it is invalid otherwise; None if it names none."""
    try:
        return name_of(read(value, _OfPayment).payment_intent)
    except msgspec.ValidationError:
        return None


STATE_OF = {
    events.PAYMENT_OPENED: transitions.OPEN,
    events.PAYMENT_PENDING: transitions.PENDING,
    events.PAYMENT_DECLINED: transitions.DECLINED,
    events.PAYMENT_AUTHORISED: transitions.AUTHORISED,
    events.PAYMENT_CAPTURED: transitions.CAPTURED,
    events.PAYMENT_VOIDED: transitions.VOIDED,
}


def state_of(intent: Intent) -> str:
    """The state of an attempt whose payment is `intent`."""
    return STATE_OF[payment_fact(intent).fact]


def facts_of(intent: Intent, refunds: Iterable[StripeRefund] = (), disputes: Iterable[StripeDispute] = ()) -> tuple[Fact, ...]:
    """All facts about one payment, refunds oldest first. Empty if it does not belong to this ledger."""
    if not intent.order_id:
        return ()
    facts: list[Fact] = [payment_fact(intent)]
    facts += [refund_fact(r) for r in sorted(refunds, key=lambda r: (r.created or 0, r.id))]
    for dispute in disputes:
        facts += dispute_facts(dispute)
    return tuple(facts)


def payment_fact(intent: Intent) -> RecordPayment:
    """The state of the payment. An unknown status counts as waiting for the provider."""
    no, ref = intent.attempt, intent.id
    match intent.status:
        case "requires_payment_method" | "requires_confirmation" if (error := intent.last_payment_error) and error.is_decline:
            code = _word(error.decline_code or error.code or "declined")
            return RecordPayment(events.PAYMENT_DECLINED, no, provider_ref=ref, code=code, charge_ref=name_of(error.charge))
        case "requires_payment_method" | "requires_confirmation":
            return RecordPayment(events.PAYMENT_OPENED, no, provider_ref=ref)
        case "requires_action":
            return RecordPayment(events.PAYMENT_PENDING, no, provider_ref=ref, waiting_for="customer_action")
        case "requires_capture":
            return RecordPayment(
                events.PAYMENT_AUTHORISED,
                no,
                amount_minor=from_stripe(intent.amount_capturable or 0, intent.currency),
                provider_ref=ref,
                capture_before=_capture_before_ms(intent.charge),
            )
        case "succeeded":
            return RecordPayment(
                events.PAYMENT_CAPTURED,
                no,
                amount_minor=from_stripe(intent.amount_received or 0, intent.currency),
                provider_ref=ref,
            )
        case "canceled":
            return RecordPayment(
                events.PAYMENT_VOIDED, no, provider_ref=ref, code=_word(intent.cancellation_reason or "canceled")
            )
    return RecordPayment(events.PAYMENT_PENDING, no, provider_ref=ref, waiting_for="provider")


def refund_fact(refund: StripeRefund) -> RecordRefund:
    """The state of the refund. One without a number was made in the provider's dashboard."""
    no, amount_minor = _number(refund.metadata, "refund_no"), from_stripe(refund.amount, refund.currency)
    match refund.status:
        case "succeeded":
            return RecordRefund(events.REFUND_SETTLED, no, refund.id, amount_minor)
        case "failed" | "canceled":
            return RecordRefund(events.REFUND_FAILED, no, refund.id, amount_minor, _word(refund.failure_reason or refund.status))
    return RecordRefund(events.REFUND_SUBMITTED, no, refund.id, amount_minor)


class _HintCharge(Struct, frozen=True, tag_field="object", tag="charge"):
    status: str
    amount: StripeAmount
    currency: str
    captured: bool
    amount_captured: StripeAmount
    amount_refunded: StripeAmount
    disputed: bool
    payment_intent: Name
    metadata: Metadata


class _HintIntent(Intent, frozen=True, tag_field="object", tag="payment_intent"):
    pass


class _HintRefund(StripeRefund, frozen=True, tag_field="object", tag="refund"):
    pass


_decode_object = msgspec.json.Decoder(_HintCharge | _HintIntent | _HintRefund).decode


def hint_in(message_object: msgspec.Raw) -> Hint | None:
    """What the object of a message says about an order; None if only a fetch would tell everything.

    A charge shows the state of its payment as long as nothing was refunded; a refund shows its own state.
    """
    try:
        about = _decode_object(message_object)
    except (msgspec.DecodeError, ValueError, RecursionError):  # a dispute, or an unknown shape
        return None
    order_id, no = _order_id(about.metadata), _number(about.metadata, "attempt")
    match about:
        case _HintIntent() if about.order_id:
            return Hint(order_id, (payment_fact(about),))
        case _HintRefund() if order_id and _number(about.metadata, "refund_no"):
            return Hint(order_id, (refund_fact(about),))
        case _HintCharge() if order_id and no and about.status == "succeeded" and not (about.amount_refunded or about.disputed):
            ref = about.payment_intent
            captured = RecordPayment(
                events.PAYMENT_CAPTURED, no, amount_minor=from_stripe(about.amount_captured, about.currency), provider_ref=ref
            )
            authorised = RecordPayment(
                events.PAYMENT_AUTHORISED, no, amount_minor=from_stripe(about.amount, about.currency), provider_ref=ref
            )
            return Hint(order_id, (captured if about.captured else authorised,))
    return None


# An inquiry that ended (`warning_closed`) or was settled before it became a dispute moved no money.
_OUTCOMES = {
    "won": DISPUTE_WON,
    "lost": DISPUTE_LOST,
    "warning_closed": DISPUTE_WITHDRAWN,
    "prevented": DISPUTE_WITHDRAWN,
}


def dispute_facts(dispute: StripeDispute) -> list[Fact]:
    """The opening of a dispute, and its outcome if it is closed."""
    due_by = dispute.evidence_details.due_by if dispute.evidence_details else None
    outcome = _OUTCOMES.get(dispute.status or "")
    opened = RecordDispute(
        events.DISPUTE_OPENED,
        dispute.id,
        amount_minor=from_stripe(dispute.amount, dispute.currency),
        reason=_word(dispute.reason) if dispute.reason else None,
        due_by=_ms(due_by),
        outcome=outcome,
    )
    return [opened] if outcome is None else [opened, RecordDispute(events.DISPUTE_CLOSED, dispute.id, outcome=outcome)]


def _capture_before_ms(charge: Charge | None) -> int | None:
    details = charge.payment_method_details if charge else None
    return _ms(details.card.capture_before if details and details.card else None)


def _ms(seconds: Any) -> int | None:
    """A Stripe time in ms; None if it is invalid: no deadline is better than an impossible one."""
    if not isinstance(seconds, int) or not 0 <= seconds <= MAX_TIME_MS // 1000:
        return None
    return seconds * 1000


def _word(text: str) -> str:
    """A Stripe code, cut to the length that an event allows."""
    return text[:MAX_WORD]


def name_of(thing: Expandable) -> str | None:
    """The reference, expanded or not; None if it is empty."""
    return thing.id if isinstance(thing, Named) else thing or None


def _order_id(metadata: Metadata) -> str:
    """The order in the metadata; empty if it does not belong to this ledger."""
    order_id = (metadata or {}).get("order")
    return order_id if isinstance(order_id, str) and ID_PATTERN.fullmatch(order_id) else ""


def _number(metadata: Metadata, name: str) -> int:
    """A number in the metadata; 0 if there is none."""
    text = (metadata or {}).get(name)
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 9 else 0
