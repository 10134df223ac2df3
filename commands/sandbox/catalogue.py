"""The catalogues that the demo orders from: coffee from `product`, merchandise from `merch`.

The sandbox has plenty of every article, but none of `SOLD_OUT`. Prices are in minor units and the same in every currency of the
demo. The ledger itself has no catalogue and accepts any article.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple


class Article(NamedTuple):
    """Name and price of one SKU. `service`: its catalogue and stock."""

    service: str
    sku: str
    name: str
    unit_price_minor: int


COFFEE = (
    Article("product", "espresso-250g", "Espresso Napoli, 250 g", 790),
    Article("product", "espresso-1kg", "Espresso Napoli, 1 kg", 2490),
    Article("product", "crema-500g", "Crema Intenso, 500 g", 1390),
    Article("product", "ethiopia-250g", "Ethiopia Yirgacheffe, 250 g", 1150),
    Article("product", "kenya-250g", "Kenya AA Kirinyaga, 250 g", 1290),
    Article("product", "colombia-250g", "Colombia Huila, 250 g", 990),
    Article("product", "guatemala-500g", "Guatemala Antigua, 500 g", 1790),
    Article("product", "sumatra-250g", "Sumatra Mandheling, 250 g", 1090),
    Article("product", "decaf-250g", "Decaf Swiss Water, 250 g", 1050),
    Article("product", "filter-500g", "House filter blend, 500 g", 1190),
    Article("product", "cold-brew-6", "Cold brew, six bottles", 1680),
    Article("product", "tasting-box", "Tasting box, five origins", 3490),
)
MERCHANDISE = (
    Article("merch", "mug-white", "Mug, white", 1200),
    Article("merch", "mug-black", "Mug, black", 1200),
    Article("merch", "travel-cup", "Travel cup, 350 ml", 2400),
    Article("merch", "shirt-s", "T-shirt, S", 2500),
    Article("merch", "shirt-m", "T-shirt, M", 2500),
    Article("merch", "shirt-l", "T-shirt, L", 2500),
    Article("merch", "tote-bag", "Tote bag", 1500),
    Article("merch", "apron", "Barista apron", 3900),
    Article("merch", "hand-grinder", "Hand grinder", 8900),
    Article("merch", "dripper-v60", "Pour-over dripper", 2200),
    Article("merch", "paper-filters", "Paper filters, 100", 650),
    Article("merch", "poster", "Poster “First crack”", 1800),
)
SOLD_OUT = Article("merch", "first-edition", "Poster “Opening day”, signed", 4900)
CURRENCIES = ("EUR", "USD", "GBP")


def order_body(cart: int, sold_out: bool = False, currencies: Sequence[str] = CURRENCIES) -> dict[str, Any]:
    """Body of `POST /orders` for one cart, always the same for a number. Every third cart has articles of both services."""
    choice = random.Random(cart)
    articles = choice.sample(COFFEE, choice.randint(1, 3))
    if cart % 3 == 0:
        articles += choice.sample(MERCHANDISE, choice.randint(1, 2))
    if sold_out:
        articles.append(SOLD_OUT)
    lines: list[dict[str, Any]] = [{**article._asdict(), "quantity": choice.randint(1, 4)} for article in articles]
    goods_minor = sum(line["quantity"] * line["unit_price_minor"] for line in lines)
    shipping_minor = 0 if goods_minor >= 5000 else 490
    adjustments: list[dict[str, Any]] = [{"kind": "shipping", "label": "Parcel", "amount_minor": shipping_minor}]
    if cart % 5 == 0:
        adjustments.append({"kind": "discount", "label": "Regular customer", "amount_minor": -(goods_minor // 10)})
    return {
        "currency": choice.choice(currencies),
        "lines": lines,
        "adjustments": adjustments,
        "total_minor": goods_minor + sum(adjustment["amount_minor"] for adjustment in adjustments),
        "reference": f"cart-{cart}",
        "contact": {
            "name": f"Customer of cart {cart}",
            "email": f"cart-{cart}@example.org",
            "shipping_address": {"line1": f"{cart % 90 + 1} Mill Lane", "city": "Leeds", "postcode": "LS1 1AA", "country": "GB"},
        },
    }
