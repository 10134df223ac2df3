"""What the shop's desk does in the demo beyond statuses: parcels, a cancelled unit, a goodwill refund, a look-up by number."""

from __future__ import annotations

from typing import Any

from api.cli.demo.calls import Calls
from api.cli.demo.inputs import PlacedOrder
from ledger.http_client import HttpAnswer

GOODWILL_MINOR = 100


async def ask(calls: Calls, order: PlacedOrder, path: str, key: str, value: dict[str, Any]) -> HttpAnswer:
    """The answer to a command of the desk about the order."""
    return await calls.final("POST", f"/orders/{order.order_id}{path}", calls.headers("admin", key=key), value)


async def send_parcels(calls: Calls, order: PlacedOrder) -> list[str]:
    """Ship a parcel from each service, and report each delivered. Returns what was not as promised."""
    problems = []
    services = list(dict.fromkeys(line["service"] for line in order.body["lines"]))
    for number, service in enumerate(services, 1):
        lines = [_units(line) for line in order.body["lines"] if line["service"] == service]
        wanted = "shipped" if number == len(services) else "processing"
        answer = await ask(
            calls, order, "/shipments", f"parcel-{service}", {"lines": lines, "tracking": f"{number}-{order.number}"}
        )
        if _status(answer) != (200, wanted):
            problems.append(f"{order.order_id}: parcel {number}: {answer.status} {answer.text}")
    for number in range(1, len(services) + 1):
        wanted = "delivered" if number == len(services) else "shipped"
        answer = await ask(calls, order, f"/shipments/{number}/delivered", f"arrived-{number}", {})
        if _status(answer) != (200, wanted):
            problems.append(f"{order.order_id}: delivery {number}: {answer.status} {answer.text}")
    return problems


async def cancel_a_unit(calls: Calls, order: PlacedOrder) -> list[str]:
    """Cancel one unit, if it is not the only one; what it cost is refunded. Returns what was not as promised."""
    if sum(line["quantity"] for line in order.body["lines"]) < 2:
        return []
    value = {"lines": [_units(order.body["lines"][0]) | {"quantity": 1}], "reason": "out_of_stock"}
    answer = await ask(calls, order, "/lines/cancel", "cut", value)
    if answer.status != 200 or answer.json()["total_minor"] >= order.total_minor:
        return [f"{order.order_id}: cancelled unit: {answer.status} {answer.text}"]
    order.total_minor = answer.json()["total_minor"]
    return await _refunded(calls, order, order.body["total_minor"] - order.total_minor)


async def give_goodwill(calls: Calls, order: PlacedOrder) -> list[str]:
    """Refund a small amount of an order that continues. Returns what was not as promised."""
    answer = await ask(calls, order, "/refunds", "goodwill", {"amount_minor": GOODWILL_MINOR, "reason": "goodwill"})
    if answer.status != 200:
        return [f"{order.order_id}: goodwill refund: {answer.status} {answer.text}"]
    return await _refunded(calls, order, GOODWILL_MINOR)


async def _refunded(calls: Calls, order: PlacedOrder, amount_minor: int) -> list[str]:
    shown = await calls.until(order, lambda o: bool(o.get("refunded_minor") == amount_minor))
    actual = (shown.get("refunded_minor"), shown.get("axes", {}).get("payment"))
    return [] if actual == (amount_minor, "captured") else [f"{order.order_id}: refunded {actual}, not {amount_minor}"]


async def find_by_number(calls: Calls, order: PlacedOrder) -> list[str]:
    """Look the order up by its number, as people type it. Returns what was not as promised."""
    typed = order.shown_number.replace("-", " ").lower()
    page = await calls.page(number=typed)
    order_ids = [row["order_id"] for row in page.get("data", [])]
    return [] if order_ids == [order.order_id] else [f"{order.order_id}: number {typed!r} finds {order_ids}"]


def _units(line: dict[str, Any]) -> dict[str, Any]:
    return {name: line[name] for name in ("service", "sku", "quantity")}


def _status(answer: HttpAnswer) -> tuple[int, Any]:
    return answer.status, answer.json().get("status")
