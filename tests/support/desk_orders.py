"""Orders as a desk meets them: paid, flagged, with names from everywhere."""

from __future__ import annotations

from typing import Any

from commands.idempotency import fresh_command_id
from commands.messages import OrderCommand, RaiseAttention
from ledger.transitions import Operation
from tests.support.patience import PATIENCE_S
from tests.support.paying_shop import Shop

LONG = "Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetz"
PEOPLE = {
    "arabic": ("نور الهدى عبد الرحمن", "شارع الملك فيصل ١٢", "عمّان", "JO"),
    "hebrew": ("אברהם בן־דוד", "רחוב הרצל 7", "תל אביב", "IL"),
    "german": (
        f"Dr. Wolfeschlegelsteinhausen-{LONG}",
        "Donaudampfschifffahrtsgesellschaftskapitänsgasse 128",
        "Llanfairpwll",
        "DE",
    ),
}


def contact_of(person: str) -> dict[str, Any]:
    """The contact of somebody."""
    name, line1, city, country = PEOPLE[person]
    return {
        "name": name,
        "email": f"{person}@example.org",
        "delivery_note": f"{name}: {LONG}",
        "shipping_address": {"line1": line1, "city": city, "postcode": "11118", "country": country},
    }


def paid(shop: Shop, **changes: Any) -> dict[str, Any]:
    """A new order that is paid and whose stock is reserved."""
    order = shop.place(**changes)
    assert shop.sandbox.pay(shop.open_payment(order)) == "requires_capture"
    return shop.until_status(order, "paid")


def flagged(shop: Shop, code: str = "stuck", **changes: Any) -> dict[str, Any]:
    """A new order with an open flag."""
    order = shop.place(**changes)
    command = OrderCommand(
        command_id=fresh_command_id(),
        order_id=order["order_id"],
        fingerprint=bytes(16),
        operation=Operation.RAISE_ATTENTION.value,
        actor="reconciler",
        raise_attention=RaiseAttention(code, f"att:{order['order_id']}:{code}"),
    )
    shop.ledger.run(shop.ledger.context.submissions.submit(command, PATIENCE_S))
    return shop.until(order, lambda now: bool(now["attention"]))


def in_other_scripts(shop: Shop) -> dict[str, dict[str, Any]]:
    """An order of each of `PEOPLE`, with a long article."""
    lines = [
        {"service": "product", "sku": "espresso-1kg", "name": f"{LONG} 1 kg", "quantity": 2, "unit_price_minor": 1200},
        {"service": "merch", "sku": "mug", "name": "كوب الصباح", "quantity": 1, "unit_price_minor": 900},
    ]
    return {person: shop.place(lines=lines, contact=contact_of(person), reference=f"{person}-{LONG}"[:64]) for person in PEOPLE}
