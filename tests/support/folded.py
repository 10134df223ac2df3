"""One order of `order-events`, by an independent reading of the contract: for `checker`. It imports nothing of the product.

`take` folds one event after the other and says what is wrong with it: units that are not there, amounts that are not what units
cost, parcels and parts out of order, money that was not to go back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

from tests.support.folded_line import OfLine
from tests.support.line_costs import Charge, Item, line_costs, shared, total_of

Where = tuple[str, str]  # service and sku of a line
MAX_METADATA = 20
# How far the order is after it: the last parcel is an event of the order, any other one of its own.
_AFTER = {
    "ParcelShipped": ("processing",),
    "OrderShipped": ("shipped",),
    "ParcelDelivered": ("processing", "shipped"),
    "OrderDelivered": ("delivered",),
}
_STOCK = {"StockReserved": "reserved", "StockRejected": "rejected", "StockReleased": "released"}


@dataclass
class Refund:
    """One object at the provider: its reference names it; our number only does while one of the two has no reference."""

    no: int
    ref: str | None
    state: str = ""
    minor: int = 0


@dataclass
class Folded:
    """`total_minor` is what it costs now, `asked_back_minor` what was asked back of that. `mark`: up to which sum money is to go
    back while it is open. `ahead_minor`: so much went back for what is cancelled and was not paid; `shipping_back_minor`: and so
    much for the shipping."""

    order_id: str
    customer_id: str
    currency: str
    total_minor: int
    placed_minor: int = 0
    version: int = 0
    occurred_at: int = 0
    cancelled: bool = False
    fulfilment: str = ""
    captured_minor: int = 0
    refunded_minor: int = 0
    elsewhere_minor: int = 0
    by_hand: bool = False
    old: bool = False  # of an older service
    mark: int = 0
    asked_back_minor: int = 0
    ahead_minor: int = 0
    shipping_back_minor: int = 0
    status: str = "pending"
    shipping: set[str] = field(default_factory=set)  # cancelled, refunded
    lines: dict[Where, OfLine] = field(default_factory=dict)
    stock: dict[str, str] = field(default_factory=dict)
    captured: dict[int, int] = field(default_factory=dict)
    refunds: list[Refund] = field(default_factory=list)
    disputes: dict[str, tuple[str, int]] = field(default_factory=dict)
    parcels: list[bool] = field(default_factory=list)  # whether each was delivered
    parts: list[tuple[str, bool]] = field(default_factory=list)  # service, whether it was given back
    metadata: list[dict[str, str]] = field(default_factory=list)
    types: list[str] = field(default_factory=list)

    @classmethod
    def placed(cls, event: dict[str, Any]) -> Self:
        """The order before its first event is taken; one of an older service as it was there."""
        old = event.get("imported")
        content = old["placed"] if old else event["placed"]
        items = [Item(x["service"], x["sku"], x["quantity"], x["unit_price_minor"]) for x in content["lines"]]
        charges = [
            Charge(x["kind"], x["amount_minor"], (x["service"], x["sku"]) if x.get("service") else None)
            for x in content["adjustments"]
        ]
        total = total_of(items, charges)
        order = cls(event["order_id"], event["customer_id"], event["currency"], total, total)
        for item, cost in zip(items, line_costs(tuple(items), tuple(charges)), strict=True):
            order.lines[item.service, item.sku] = OfLine(item.quantity, cost)
        order.stock = dict.fromkeys((item.service for item in items), "owed")
        order.metadata = content.get("metadata") or []
        if old:
            order._begin_as(old)
        return order

    def _begin_as(self, old: dict[str, Any]) -> None:
        """The older service keeps its money, its stock and its promises."""
        self.old = True
        self.stock = {}
        self.captured_minor = self.captured[0] = old["captured_minor"]
        self.refunded_minor = self.elsewhere_minor = old["refunded_minor"]
        self.cancelled = old["status"] == "cancelled"
        self.fulfilment = old["status"] if old["status"] in ("processing", "shipped", "delivered") else ""
        if self.fulfilment in ("shipped", "delivered"):
            self.parcels = [self.fulfilment == "delivered"]
            for line in self.lines.values():
                line.shipped = line.quantity

    # ---- what follows from it

    @property
    def lost_minor(self) -> int:
        return sum(minor for outcome, minor in self.disputes.values() if outcome == "lost")

    @property
    def returned_minor(self) -> int:
        """What went back, or is on its way."""
        return self.refunded_minor + sum(r.minor for r in self.refunds if r.state == "RefundSubmitted")

    @property
    def due_back_minor(self) -> int:
        """What is to go back in all. Money that a bank took cannot."""
        kept = self.captured_minor - self.lost_minor
        return kept if self.cancelled else min(self.mark, kept)

    @property
    def room_minor(self) -> int:
        """What can be asked back."""
        owed = max(0, self.due_back_minor - self.returned_minor)
        return self.captured_minor - self.lost_minor - self.returned_minor - owed

    @property
    def shipping_minor(self) -> int:
        return self.placed_minor - sum(line.cost for line in self.lines.values())

    def held(self) -> dict[Where, int]:
        """Units that the stock services keep for it while it is open: sent ones too, until they come back."""
        units = {where: line.quantity - line.cancelled - line.restocked for where, line in self.lines.items()}
        return {where: quantity for where, quantity in units.items() if quantity}

    def _overpaid(self) -> int:
        return max(0, min(self.captured_minor, self.placed_minor) - self.total_minor)

    def _to_return(self, minor: int) -> None:
        """So much more is to go back: on top of what was to go back before, and of what went back unasked."""
        if minor > 0:
            self.mark = max(self.mark, self.returned_minor) + minor

    def _costs_less(self, minor: int) -> None:
        """By so much less than was paid and went back; what went back ahead of a payment is taken from it first."""
        minor -= self.ahead_minor
        self.ahead_minor = max(0, -minor)
        self._to_return(minor)

    def _status(self) -> str:
        if self.cancelled:
            return "cancelled"
        if self.fulfilment:
            return self.fulfilment
        wanted = {service for (service, _), line in self.lines.items() if line.cancelled < line.quantity}
        in_stock = self.old or all(self.stock[service] == "reserved" for service in wanted)
        return "paid" if in_stock and self.captured_minor >= self.total_minor and not self.ahead_minor else "pending"

    # ---- one event after the other

    def take(self, event: dict[str, Any]) -> list[str]:
        """What is wrong with `event`; nothing if it keeps every promise."""
        kind = event["type"]
        self.types.append(kind)
        wrong = list(self._take(kind, event))
        self.version, self.occurred_at = event["version"], event["occurred_at"]
        self.status = self._status()
        return wrong

    def _take(self, kind: str, event: dict[str, Any]) -> Iterator[str]:
        match kind:
            case "OrderCancelled":
                self.cancelled = True
                if self.parcels:
                    yield "cancelled, and a parcel is on its way"
            case "FulfilmentStarted":
                self.fulfilment = "processing"
            case "LinesCancelled":
                yield from self._cut(event["cut"])
            case "RefundRequested":
                yield from self._refund_requested(event["refund_request"])
            case "ParcelShipped" | "OrderShipped":
                yield from self._shipped(kind, event["shipment"])
            case "ParcelDelivered" | "OrderDelivered":
                yield from self._delivered(kind, event["shipment"])
            case "StockReleased" if event["stock"].get("part") is not None:
                yield from self._part_released(event["stock"])
            case "StockReserved" | "StockRejected" | "StockReleased":
                self.stock[event["stock"]["service"]] = _STOCK[kind]
            case "PaymentCaptured":
                self._captured(event["payment"])
            case "RefundSubmitted" | "RefundSettled" | "RefundFailed":
                yield from self._refund(kind, event["refund"])
            case "DisputeOpened" | "DisputeClosed":
                self._dispute(event["dispute"])
            case "AttentionResolved" if event["attention"]["action"] == "settled_elsewhere":
                self.elsewhere_minor += event["attention"]["amount_minor"] or 0
                self._sum_up()
            case "MetadataChanged":
                self.metadata = event["metadata"]["entries"]
                names = [entry["name"] for entry in self.metadata]
                if names != sorted(set(names)) or len(names) > MAX_METADATA:
                    yield f"metadata with the names {names}"

    def _units(self, lines: Iterable[dict[str, Any]]) -> tuple[Counter[Where], list[str]]:
        """Units by line, and what of them the order does not have."""
        wanted = Counter[Where]()
        for units in lines:
            wanted[units["service"], units["sku"]] += units["quantity"]
        unknown = [where for where in wanted if where not in self.lines]
        return Counter({w: n for w, n in wanted.items() if w in self.lines}), [f"no line {where}" for where in unknown]

    def _cut(self, cut: dict[str, Any]) -> Iterator[str]:
        wanted, wrong = self._units(cut["lines"])
        yield from wrong
        if self.cancelled or self.fulfilment in ("shipped", "delivered"):
            yield f"lines cancelled of an order that is {self.status}"
        falls = before = 0  # by so much; and so much of it went back before, for units that were refunded
        overpaid = self._overpaid()
        for where, units in wanted.items():
            line = self.lines[where]
            if units > line.to_ship:
                yield f"{units} of {where} cancelled, of {line.to_ship}"
            falls += line.costs(line.cancelled, units)
            before += line.cut(units)
        if cut["shipping"] and "cancelled" not in self.shipping:
            falls += self.shipping_minor
            before += self.shipping_back_minor
            self.shipping.add("cancelled")
        if all(line.cancelled >= line.quantity for line in self.lines.values()):
            yield "nothing is left, and the order is not cancelled"
        if falls != cut["amount_minor"]:
            yield f"the total falls by {cut['amount_minor']}, the units cost {falls}"
        self.total_minor -= falls
        self.asked_back_minor -= before
        self._costs_less(self._overpaid() - overpaid - before)
        self._give_back(cut["lines"])
        self._fulfil()

    def _refund_requested(self, request: dict[str, Any]) -> Iterator[str]:
        wanted, wrong = self._units(request["lines"])
        yield from wrong
        if self.cancelled or any(outcome == "open" for outcome, _ in self.disputes.values()):
            yield f"a refund is asked for of an order that is {self.status}, or in dispute"
        if not 0 < request["amount_minor"] <= self.room_minor:
            yield f"{request['amount_minor']} asked back, of {self.room_minor}"
        self._give(wanted, request["shipping"], request["amount_minor"])
        for where, units in wanted.items():
            line = self.lines[where]
            if units > line.to_refund:
                yield f"{units} of {where} refunded, of {line.to_refund}"
            if request["restock"] and units > line.shipped - line.restocked:
                yield f"{units} of {where} back in stock, of {line.shipped - line.restocked} that left"
            line.refunded += units
            line.restocked += units if request["restock"] else 0
        if request["shipping"]:
            self.shipping.add("refunded")
        if request["restock"]:
            self._give_back(request["lines"])
        self._to_return(request["amount_minor"])
        self.asked_back_minor += request["amount_minor"]

    def _give(self, wanted: Counter[Where], shipping: bool, minor: int) -> None:
        """So much goes back for these units and the shipping; what it lacks of what they cost, each of them lacks in part."""
        costs = [line.costs(line.cancelled + line.refunded, wanted[where]) for where, line in self.lines.items()]
        costs.append(self.shipping_minor if shipping and not self.shipping else 0)
        lacks = shared(max(0, sum(costs) - minor), costs)
        *for_lines, for_shipping = (cost - lack for cost, lack in zip(costs, lacks, strict=True))
        for line, part in zip(self.lines.values(), for_lines, strict=True):
            line.back_minor += part
        self.shipping_back_minor += for_shipping

    def _give_back(self, lines: Iterable[dict[str, Any]]) -> None:
        self.parts += [(service, False) for service in dict.fromkeys(units["service"] for units in lines)]

    def _part_released(self, stock: dict[str, Any]) -> Iterator[str]:
        no = stock["part"]
        known = self.parts[no - 1] if 1 <= no <= len(self.parts) else None
        if known != (stock["service"], False):
            yield f"part {no} of {stock['service']} given back, which is not owed"
        else:
            self.parts[no - 1] = (stock["service"], True)

    def _shipped(self, kind: str, shipment: dict[str, Any]) -> Iterator[str]:
        wanted, wrong = self._units(shipment["lines"])
        yield from wrong
        if self.status not in ("paid", "processing"):
            yield f"shipped, and it is {self.status}"
        for where, units in wanted.items():
            if units > self.lines[where].to_ship:
                yield f"{units} of {where} shipped, of {self.lines[where].to_ship}"
            self.lines[where].shipped += units
        self.parcels.append(False)
        if shipment["parcel"] != len(self.parcels):
            yield f"parcel {shipment['parcel']} is the {len(self.parcels)}th"
        self._fulfil()
        if self.fulfilment not in _AFTER[kind]:
            yield f"{kind}, and it is {self.fulfilment} then"

    def _delivered(self, kind: str, shipment: dict[str, Any]) -> Iterator[str]:
        no = shipment["parcel"]
        if no is None:
            self.parcels = [True] * len(self.parcels)
        elif not 1 <= no <= len(self.parcels) or self.parcels[no - 1]:
            yield f"parcel {no} delivered, of {self.parcels}"
        else:
            self.parcels[no - 1] = True
        self._fulfil()
        if self.fulfilment not in _AFTER[kind]:
            yield f"{kind}, and it is {self.fulfilment} then"

    def _fulfil(self) -> None:
        if self.parcels:
            left = any(line.to_ship > 0 for line in self.lines.values())
            self.fulfilment = "processing" if left else "delivered" if all(self.parcels) else "shipped"

    def _captured(self, payment: dict[str, Any]) -> None:
        overpaid, no = self._overpaid(), payment["attempt"]
        self.captured[no] = max(self.captured.get(no, 0), payment["amount_minor"])
        self.captured_minor = sum(self.captured.values())
        self._costs_less(self._overpaid() - overpaid)

    def _refund(self, kind: str, facts: dict[str, Any]) -> Iterator[str]:
        """What the ledger refunds itself has a number, and is no more than what is to go back."""
        refund = self._refund_of(facts["refund_no"], facts["provider_ref"])
        refund.state, refund.ref = kind, facts["provider_ref"] or refund.ref
        refund.minor = refund.minor if facts["amount_minor"] is None else facts["amount_minor"]
        self._sum_up()
        self.by_hand = self.by_hand or not refund.no
        as_asked = not (self.by_hand or self.lost_minor or self.elsewhere_minor)
        if as_asked and kind != "RefundFailed" and self.returned_minor > self.due_back_minor:
            yield f"{self.returned_minor} went back, of {self.due_back_minor}"

    def _refund_of(self, no: int, ref: str | None) -> Refund:
        known = [r for r in self.refunds if ref and r.ref == ref]
        known += [r for r in self.refunds if no and r.no == no and not (ref and r.ref)]
        if not known:
            self.refunds.append(Refund(no, ref))
        return known[0] if known else self.refunds[-1]

    def _sum_up(self) -> None:
        self.refunded_minor = self.elsewhere_minor + sum(r.minor for r in self.refunds if r.state == "RefundSettled")

    def _dispute(self, dispute: dict[str, Any]) -> None:
        known = self.disputes.get(dispute["provider_ref"], ("", 0))
        outcome, amount = dispute["outcome"], dispute["amount_minor"]
        if outcome is None:
            self.disputes[dispute["provider_ref"]] = ("open", amount or 0)
        elif known[0]:
            self.disputes[dispute["provider_ref"]] = (outcome, known[1])
