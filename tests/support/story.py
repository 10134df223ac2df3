"""Words for examples of the rules: `given(*commands).when(command).then("OrderPlaced")`, or `.refused("not_paid")`."""

from __future__ import annotations

from typing import Any

from commands.decide import decide
from commands.decisions import Decision, Refusal
from commands.messages import (
    CancelLines,
    CancelOrder,
    ChangeMetadata,
    DeliverParcel,
    EntryChange,
    OrderCommand,
    PlaceOrder,
    RaiseAttention,
    RecordDispute,
    RecordPayment,
    RecordRefund,
    RecordStock,
    RequestPayment,
    RequestRefund,
    ResolveAttention,
    ShipOrder,
)
from ledger import events as e
from ledger.events import Adjustment, Line
from ledger.evolve import evolve
from ledger.order import Order

NOON = 1_700_000_000_000
MINUTE = 60_000
LINES = (Line("product", "TEA-1", "Green tea", 2, 450), Line("merch", "MUG-1", "Mug", 1, 900))
SHIPPING = (Adjustment("shipping", "Post", 400),)


class Story:
    """Commands in order, each decided against the result of those before."""

    def __init__(self) -> None:
        self.order: Order | None = None
        self.events: list[e.OrderEvent] = []

    def given(self, *commands: OrderCommand, at: int = NOON) -> Story:
        """`commands` were accepted at `at`."""
        for command in commands:
            event = decide(command, self.order, at)
            assert isinstance(event, e.OrderEvent), f"the story cannot begin like this: {command.operation} ends in {event}"
            self.order = evolve(self.order, event)
            self.events.append(event)
        return self

    def when(self, command: OrderCommand, at: int = NOON) -> Then:
        return Then(self.order, decide(command, self.order, at))


def order_of(story: Story) -> Order:
    """Its order, which has been placed."""
    assert story.order is not None
    return story.order


class Then:
    def __init__(self, order: Order | None, decision: Decision) -> None:
        self.order, self.decision = order, decision

    def then(self, kind: str, **detail: Any) -> Order:
        """An event of this type, whose detail has these fields."""
        assert isinstance(self.decision, e.OrderEvent), f"refused: {self.decision}"
        assert self.decision.type == kind
        assert {name: getattr(self.decision.detail, name) for name in detail} == detail
        return evolve(self.order, self.decision)

    def refused(self, code: str) -> None:
        assert isinstance(self.decision, Refusal), f"accepted: {self.decision}"
        assert self.decision.code == code


def command(
    operation: str, actor: str, *, customer_id: str = "", expected_version: int | None = None, **payload: Any
) -> OrderCommand:
    return OrderCommand(
        command_id="cmd_1",
        order_id="ord_1",
        fingerprint=bytes(16),
        operation=operation,
        actor=actor,
        customer_id=customer_id,
        expected_version=expected_version,
        **payload,
    )


def customer(operation: str, *, customer_id: str = "ada", **more: Any) -> OrderCommand:
    return command(operation, "gateway:web", customer_id=customer_id, **more)


def staff(operation: str, **more: Any) -> OrderCommand:
    return command(operation, "admin:desk", **more)


def place(
    lines: tuple[Line, ...] = LINES,
    total_minor: int = 2200,
    adjustments: tuple[Adjustment, ...] = SHIPPING,
    window_ms: int = 30 * MINUTE,
) -> OrderCommand:
    return customer("PlaceOrder", place=PlaceOrder("EUR", total_minor, lines, adjustments, bytes(32), window_ms, "cart-7"))


def request_payment(amount: int = 2200, currency: str = "EUR") -> OrderCommand:
    return customer("RequestPayment", request_payment=RequestPayment(amount, currency))


def payment(fact: str, attempt: int = 1, **fields: Any) -> OrderCommand:
    return command("RecordPayment", "stripe", record_payment=RecordPayment(fact, attempt, **fields))


def refund(fact: str, no: int = 1, ref: str | None = "re_1", amount: int | None = 2200, **fields: Any) -> OrderCommand:
    return command("RecordRefund", "stripe", record_refund=RecordRefund(fact, no, ref, amount, **fields))


def dispute(fact: str, **fields: Any) -> OrderCommand:
    return command("RecordDispute", "stripe", record_dispute=RecordDispute(fact, "dp_1", **fields))


def stock(fact: str, service: str, **fields: Any) -> OrderCommand:
    return command("RecordStock", f"{service}-service", record_stock=RecordStock(fact, service, **fields))


def cancel(reason: str = "customer_request", **more: Any) -> OrderCommand:
    return customer("CancelOrder", cancel=CancelOrder(reason), **more)


def units(**quantities: int) -> tuple[e.Units, ...]:
    """`units(TEA=1, MUG=1)`: some units of the lines of the shop's order."""
    lines = {line.sku.partition("-")[0]: line for line in LINES}
    return tuple(e.Units(lines[name].service, lines[name].sku, n) for name, n in quantities.items())


def cancel_lines(shipping: bool = False, by: str = "staff", **quantities: int) -> OrderCommand:
    payload = CancelLines(units(**quantities), "other", shipping)
    return staff("CancelLines", cancel_lines=payload) if by == "staff" else customer("CancelLines", cancel_lines=payload)


def request_refund(
    amount: int | None = None, shipping: bool = False, restock: bool = False, reason: str = "damaged", **quantities: int
) -> OrderCommand:
    return staff("RequestRefund", request_refund=RequestRefund(reason, units(**quantities), amount, shipping, restock))


def ship_parcel(carrier: str | None = None, tracking: str | None = None, **quantities: int) -> OrderCommand:
    return staff("ShipParcel", ship=ShipOrder(carrier, tracking, units(**quantities)))


def delivered(parcel: int) -> OrderCommand:
    return staff("ConfirmParcel", deliver=DeliverParcel(parcel))


def change_metadata(**entries: str | None) -> OrderCommand:
    changes = tuple(EntryChange(name, text) for name, text in entries.items())
    return staff("ChangeMetadata", change_metadata=ChangeMetadata(changes))


def raise_attention() -> OrderCommand:
    return command("RaiseAttention", "reconciler", raise_attention=RaiseAttention("refund_failed", "att:ord_1:refund:3"))


def resolve(action: str, amount: int | None = None) -> OrderCommand:
    return staff(
        "ResolveAttention", resolve_attention=ResolveAttention("refund_failed", "att:ord_1:refund:3", action, amount, "T-9")
    )


EXPIRE = command("ExpireOrder", "reconciler")
START, SHIP, DELIVER = staff("StartFulfilment"), staff("ShipOrder", ship=ShipOrder("DHL", "JD01")), staff("ConfirmDelivery")
OPENED = payment("PaymentOpened", provider_ref="pi_1")
AUTHORISED = payment("PaymentAuthorised", provider_ref="pi_1", amount_minor=2200, capture_before=NOON + 60 * MINUTE)
CAPTURED = payment("PaymentCaptured", provider_ref="pi_1", amount_minor=2200)
VOIDED = payment("PaymentVoided", code="expired")
RESERVED = (stock("StockReserved", "product", reservation_ref="r1"), stock("StockReserved", "merch", reservation_ref="r2"))
PAID = (place(), request_payment(), OPENED, AUTHORISED, *RESERVED, CAPTURED)


def given(*commands: OrderCommand) -> Story:
    return Story().given(*commands)
