"""Stripe's signed messages: verifies one and finds the payment it is about. Pure; the time is a parameter.

The header is `t=<seconds>,v1=<hex>,...`; v1 is HMAC-SHA-256 of `<t>.<body>` under the endpoint's secret (Stripe, "Verify webhook
signatures manually"). stripe-python's own check accepts messages from the future, and decodes before it compares.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from commands.reconciler.payment_port import InvalidSignature, NotForUs
from commands.reconciler.stripe_facts import Expandable, name_of

TOLERANCE_S = 300  # between the two clocks, in both directions
MAX_SIGNATURES = 8  # one per secret and scheme while secrets are rotated


class EventObject(Struct, frozen=True):
    """`payment_intent` of a charge, refund or dispute; `id` is that of the payment if `object` is `payment_intent`."""

    id: str | None = None
    object: str | None = None
    payment_intent: Expandable = None


class EventData(Struct, frozen=True):
    """`object` as it was sent."""

    object: msgspec.Raw


class StripeEvent(Struct, frozen=True):
    """`account` is set only with Connect, where one endpoint serves several accounts."""

    id: str
    type: str
    livemode: bool
    data: EventData
    account: str | None = None

    @property
    def payment_ref(self) -> str | None:
        """The payment it is about; None for an ignored type or an unknown shape."""
        if not self.type.startswith(FOLLOWED) or self.type in AFTER_OWN_CALLS:
            return None
        try:
            about = _decode_object(self.data.object)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return None
        return (about.id or None) if about.object == "payment_intent" else name_of(about.payment_intent)


# Each of these types says that a payment may have changed; the payment itself shows how.
FOLLOWED = ("payment_intent.", "charge.", "refund.")

# Types that only follow a call of the ledger itself, whose answer says the same: not worth a fetch.
AFTER_OWN_CALLS = ("payment_intent.created",)

_decode = msgspec.json.Decoder(StripeEvent).decode
_decode_object = msgspec.json.Decoder(EventObject).decode


def read_event(
    body: bytes, signature: str, secrets: Sequence[str], now_s: float, livemode: bool, account: str | None
) -> StripeEvent:
    """The message in `body`. Raises `InvalidSignature` if it is forged, old or early, `NotForUs` if it is genuine but useless.

    Useless messages would be no more useful if they were sent again.
    """
    _check_signature(body, signature, secrets, now_s)
    try:
        event = _decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise NotForUs("signed message is not an event") from None
    if event.livemode is not livemode:
        raise NotForUs("message is for the other mode, live or test")
    if account is not None and event.account not in (None, account):
        raise NotForUs("message is for another account")
    return event


def _check_signature(body: bytes, header: str, secrets: Sequence[str], now_s: float) -> None:
    times, signatures = [], []
    for part in header.split(",")[: 2 * MAX_SIGNATURES]:
        name, _, value = part.strip().partition("=")
        if name == "t":
            times.append(value)
        elif name == "v1":
            signatures.append(value.encode())
    if len(times) != 1 or not (times[0].isascii() and times[0].isdigit() and len(times[0]) <= 12):
        raise InvalidSignature("signature has no timestamp")
    signed = times[0].encode() + b"." + body
    genuine = False
    for secret in secrets:  # always all of them: the time it takes must reveal nothing
        wanted = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest().encode()
        for signature in signatures[:MAX_SIGNATURES]:
            genuine |= hmac.compare_digest(wanted, signature)
    if not genuine:
        raise InvalidSignature("signature does not match")
    if abs(now_s - int(times[0])) > TOLERANCE_S:
        raise InvalidSignature("timestamp is outside the tolerance")


def sign(body: bytes, secret: str, at_s: int) -> str:
    """The signature header for `body` at `at_s`: for the sandbox and for tests."""
    return f"t={at_s},v1={hmac.new(secret.encode(), b'%d.' % at_s + body, hashlib.sha256).hexdigest()}"
