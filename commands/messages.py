"""What someone wants, or saw happen: the command as it stands in `order-commands`. Pure.

Field names and meaning are those of `avro/order-commands-value.v1.avsc`. A payload exists for each operation that needs one
(`PAYLOAD_OF`); StartFulfilment, ConfirmDelivery and ExpireOrder carry none.
"""

from __future__ import annotations

from functools import cache

from msgspec import Struct

from ledger import events as e
from ledger.codec import Codec
from ledger.schemas import COMMANDS, versions_of
from ledger.transitions import Operation


class PlaceOrder(Struct, frozen=True):
    """`payment_window_ms`: asked for, or the setting of that time. Recorded with the order: a new setting changes no old one."""

    currency: str
    total_minor: int
    lines: tuple[e.Line, ...]
    adjustments: tuple[e.Adjustment, ...]
    contact_digest: bytes
    payment_window_ms: int
    reference: str | None = None


class CancelOrder(Struct, frozen=True):
    reason: str


class RequestPayment(Struct, frozen=True):
    amount_minor: int
    currency: str


class RecordPayment(Struct, frozen=True, omit_defaults=True):
    """A payment fact: `fact` is the event's type, the rest as in `events.Payment`."""

    fact: str
    attempt: int
    amount_minor: int | None = None
    provider_ref: str | None = None
    waiting_for: str | None = None
    code: str | None = None
    charge_ref: str | None = None
    capture_before: int | None = None


class RecordRefund(Struct, frozen=True, omit_defaults=True):
    fact: str
    refund_no: int
    provider_ref: str | None = None
    amount_minor: int | None = None
    code: str | None = None


class RecordDispute(Struct, frozen=True, omit_defaults=True):
    fact: str
    provider_ref: str
    amount_minor: int | None = None
    reason: str | None = None
    due_by: int | None = None
    outcome: str | None = None


class RecordStock(Struct, frozen=True, omit_defaults=True):
    fact: str
    service: str
    reservation_ref: str | None = None
    reason: str | None = None
    items: tuple[e.StockItem, ...] = ()


class ShipOrder(Struct, frozen=True, omit_defaults=True):
    carrier: str | None = None
    tracking: str | None = None


class RaiseAttention(Struct, frozen=True):
    code: str
    obligation_key: str


class ResolveAttention(Struct, frozen=True, omit_defaults=True):
    code: str
    obligation_key: str
    action: str
    amount_minor: int | None = None
    ticket: str | None = None


class OrderCommand(Struct, frozen=True, kw_only=True):
    """One request or observed fact about one order. `customer_id` is empty when the sender acts for no customer.

    `actor` is `role:name` of a principal (`gateway:web`, `admin:desk`) or the name of a part of the system (`reconciler`,
    `stripe`). `fingerprint` is the 16-byte keyed hash of the request as sent.
    """

    command_id: str
    order_id: str
    fingerprint: bytes
    operation: str
    actor: str
    customer_id: str = ""
    expected_version: int | None = None

    place: PlaceOrder | None = None
    cancel: CancelOrder | None = None
    request_payment: RequestPayment | None = None
    record_payment: RecordPayment | None = None
    record_refund: RecordRefund | None = None
    record_dispute: RecordDispute | None = None
    record_stock: RecordStock | None = None
    ship: ShipOrder | None = None
    raise_attention: RaiseAttention | None = None
    resolve_attention: ResolveAttention | None = None


PAYLOAD_OF: dict[Operation, str | None] = {
    Operation.PLACE_ORDER: "place",
    Operation.CANCEL_ORDER: "cancel",
    Operation.EXPIRE_ORDER: None,
    Operation.REQUEST_PAYMENT: "request_payment",
    Operation.START_FULFILMENT: None,
    Operation.SHIP_ORDER: "ship",
    Operation.CONFIRM_DELIVERY: None,
    Operation.RECORD_PAYMENT: "record_payment",
    Operation.RECORD_REFUND: "record_refund",
    Operation.RECORD_DISPUTE: "record_dispute",
    Operation.RECORD_STOCK: "record_stock",
    Operation.RAISE_ATTENTION: "raise_attention",
    Operation.RESOLVE_ATTENTION: "resolve_attention",
}


@cache
def command_codec() -> Codec[OrderCommand]:
    return Codec(OrderCommand, versions_of(COMMANDS))


command_codec()  # made while one thread alone imports this: see `Codec`
