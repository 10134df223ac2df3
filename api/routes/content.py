"""The content of a new order, from the body of a request: lines, adjustments, metadata, contact."""

from __future__ import annotations

from api.contract.requests import AddressBody, ContactBody, ImportOrderBody, PlaceOrderBody
from api.problems import FieldError, Problem
from commands.flaws import Flaw
from commands.messages import PlaceOrder
from commands.phone_numbers import dialled
from ledger.contacts import Address, OrderContact
from ledger.events import Adjustment, Entry, Line


def content_of(body: PlaceOrderBody | ImportOrderBody, contact_digest: bytes, window_ms: int) -> PlaceOrder:
    """What the body orders."""
    return PlaceOrder(
        currency=body.currency,
        total_minor=body.total_minor,
        lines=tuple([Line(x.service, x.sku, x.name, x.quantity, x.unit_price_minor) for x in body.lines]),
        adjustments=tuple([Adjustment(x.kind, x.label, x.amount_minor, x.service, x.sku) for x in body.adjustments]),
        contact_digest=contact_digest,
        payment_window_ms=window_ms,
        reference=body.reference,
        metadata=tuple([Entry(name, text) for name, text in sorted(body.metadata.items())]),
    )


# How each flaw of an order is answered: slug, pointer, code of the field error.
_FLAWS = {
    "wrong_sign": ("invalid-field", "/adjustments/{index}/amount_minor", "wrong-sign"),
    "half_a_line": ("invalid-field", "/adjustments/{index}/sku", "half-a-line"),
    "no_such_line": ("unknown-line", "/adjustments/{index}/sku", "unknown-line"),
    "shipping_of_a_line": ("invalid-field", "/adjustments/{index}/kind", "shipping-of-a-line"),
    "line_below_zero": ("invalid-field", "/lines/{index}/unit_price_minor", "below-zero"),
    "duplicate_line": ("duplicate-line", "/lines/{index}/sku", "duplicate-line"),
    "total_mismatch": ("total-mismatch", "/total_minor", "total-mismatch"),
}


def problem_of_flaw(flaw: Flaw) -> Problem:
    """The answer to a flaw of the content."""
    slug, pointer, code = _FLAWS[flaw.kind]
    return Problem(slug, flaw.sentence, errors=[FieldError(pointer.format(index=flaw.at), code)])


def contact_of(body: ContactBody, customer: str, email_digest: bytes) -> OrderContact:
    """Raises `Problem` for a phone number that is not valid, not even in the country of the shipping address."""
    if body.phone is not None:
        try:
            dialled(body.phone, body.shipping_address.country)
        except ValueError:
            error = FieldError("/contact/phone", "not-a-phone-number")
            raise Problem("invalid-field", "The phone number is not valid.", errors=[error]) from None
    return OrderContact(
        customer_id=customer,
        name=body.name,
        email=body.email,
        shipping_address=_address(body.shipping_address),
        phone=body.phone,
        billing_address=None if body.billing_address is None else _address(body.billing_address),
        delivery_note=body.delivery_note,
        locale=body.locale,
        email_digest=email_digest,
    )


def _address(body: AddressBody) -> Address:
    return Address(body.line1, body.city, body.postcode, body.country, body.line2, body.region)
