"""Orders to post, alike in shape and different in content: a shop's articles, many customers, one to three lines.

Bodies differ because the log is compressed: a thousand copies of one body would flatter it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

from tests.benchmarks.jobs import KEY

BODIES = 512
_WORDS = ("espresso", "crema", "filter", "arabica", "robusta", "decaf", "grinder", "kettle", "mug", "saucer", "shirt", "tote")
_NAMES = ("Ada", "Alan", "Barbara", "Donald", "Edsger", "Frances", "Grace", "Karen", "Leslie", "Margaret", "Radia", "Tony")
_CITIES = (("Leeds", "LS1 1AA", "GB"), ("Gent", "9000", "BE"), ("Porto", "4000-001", "PT"), ("Graz", "8010", "AT"))


def _article(rng: random.Random) -> dict[str, Any]:
    name = f"{rng.choice(_WORDS)} {rng.choice(_WORDS)}"
    return {
        "service": rng.choice(("product", "product", "merch")),
        "sku": f"{name.replace(' ', '-')}-{rng.randrange(1000)}",
        "name": f"{name.capitalize()} No. {rng.randrange(100)}",
        "unit_price_minor": rng.randrange(200, 20_000),
    }


def bodies(count: int = BODIES, seed: int = 1) -> list[dict[str, Any]]:
    """Valid bodies of `POST /orders`; the same arguments give the same bodies."""
    rng = random.Random(seed)
    articles = [_article(rng) for _ in range(300)]
    orders = []
    for number in range(count):
        chosen = rng.sample(articles, rng.choice((1, 2, 2, 3)))
        lines = [article | {"quantity": rng.choice((1, 1, 1, 2, 3))} for article in chosen]
        shipping = rng.choice((390, 490, 790))
        city, postcode, country = rng.choice(_CITIES)
        person = rng.choice(_NAMES)
        orders.append(
            {
                "currency": rng.choice(("EUR", "EUR", "GBP")),
                "lines": lines,
                "adjustments": [{"kind": "shipping", "label": "Parcel", "amount_minor": shipping}],
                "total_minor": shipping + sum(line["quantity"] * line["unit_price_minor"] for line in lines),
                "reference": f"cart-{rng.randrange(10**6)}",
                "contact": {
                    "name": f"{person} Example",
                    "email": f"{person.lower()}.{number}@example.org",
                    "shipping_address": {
                        "line1": f"{rng.randrange(1, 200)} Mill Lane",
                        "city": city,
                        "postcode": postcode,
                        "country": country,
                    },
                },
            }
        )
    return orders


def customer_of(number: int) -> str:
    return f"c-{number * 7919 % 100_003}"


def posts(token: str) -> list[str]:
    """Requests that place an order each, with a gap for the idempotency key."""
    requests = []
    for number, body in enumerate(bodies()):
        text = json.dumps(body, separators=(",", ":"))
        assert text.isascii()
        requests.append(
            "POST /orders HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n"
            f"Authorization: Bearer {token}\r\nCustomer-Id: {customer_of(number)}\r\nIdempotency-Key: {KEY}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n{text}"
        )
    return requests


def get(token: str, customer: str, path: str) -> str:
    """A request that reads `path` as `customer`."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n"
        f"Authorization: Bearer {token}\r\nCustomer-Id: {customer}\r\n\r\n"
    )


def gets(token: str, orders: Sequence[tuple[int, str]]) -> list[str]:
    """Requests that read each of `orders`, (index of the post, order id), as the customer who placed it."""
    return [get(token, customer_of(index), f"/orders/{order_id}") for index, order_id in orders]


def names(orders: Sequence[tuple[int, str]]) -> list[str]:
    """The text that the answer to each of `gets` must contain."""
    return [f'"order_id":"{order_id}"' for _, order_id in orders]
