"""A client generated from the OpenAPI document by openapi-python-client: places an order, pays it at the sandbox, waits until it
is paid. Prints the order as JSON.

Arguments: URL of the API, token of a gateway, URL of the sandbox, its publishable key.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import httpx
from order_ledger_client import AuthenticatedClient
from order_ledger_client.api.orders import place_order, read_order
from order_ledger_client.api.payments import pay_order
from order_ledger_client.models import Address, Contact, Line, LineService, Order, Payment, PayOrder, PlaceOrder

T = TypeVar("T")
url, token, sandbox, publishable_key = sys.argv[1:]
CUSTOMER, RUN = "python", str(time.time_ns())

BODY = PlaceOrder(
    currency="EUR",
    total_minor=2490,
    lines=[Line(service=LineService.PRODUCT, sku="espresso-1kg", name="Espresso 1 kg", quantity=1, unit_price_minor=2490)],
    contact=Contact(
        name="Ada Example",
        email="ada@example.org",
        shipping_address=Address(line1="1 Mill Lane", city="Leeds", postcode="LS1 1AA", country="GB"),
    ),
)


def until(kind: type[T], ask: Callable[[], Any], holds: Callable[[T], bool] = lambda answer: True) -> T:
    """The first answer of this kind that holds."""
    deadline = time.monotonic() + 100
    while not (isinstance(answer := ask(), kind) and holds(answer)):
        if time.monotonic() > deadline:
            raise SystemExit(f"no {kind.__name__}: {answer}")
        time.sleep(0.05)
    return answer


with AuthenticatedClient(base_url=url, token=token, timeout=httpx.Timeout(30)) as api:
    keyed = {"customer_id": CUSTOMER, "prefer": "wait=10"}
    order = until(Order, lambda: place_order.sync(client=api, body=BODY, idempotency_key=f"order-{RUN}", **keyed))
    total = PayOrder(total_minor=order.total_minor, currency=order.currency)
    payment = until(
        Payment,
        lambda: pay_order.sync(order.order_id, client=api, body=total, idempotency_key=f"payment-{RUN}", **keyed),
    )
    # what Stripe.js does in the customer's browser
    httpx.post(
        f"{sandbox}/v1/payment_intents/{payment.provider_ref}/confirm",
        headers={"Authorization": f"Bearer {publishable_key}"},
        data={
            "client_secret": payment.client_secret,
            "payment_method_data[type]": "card",
            "payment_method_data[card][number]": "4242424242424242",
        },
        trust_env=False,
    ).raise_for_status()
    paid = until(
        Order,
        lambda: read_order.sync(order.order_id, client=api, customer_id=CUSTOMER),
        lambda order: order.status.value == "paid",
    )
    print(json.dumps(paid.to_dict()))
