"""The event of the ledger and its twelve details, as Python values. Pure.

Field names and meaning are those of `avro/order-events-value.v1.avsc`; tests compare the two.
`type` is a plain string, so that readers handle a type they do not know yet deliberately, not by accident.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from ledger.bounds import (
    MAX_ADJUSTMENTS,
    MAX_ITEMS,
    MAX_LINES,
    MAX_METADATA,
    AmountMinor,
    Count,
    Currency,
    Digest16,
    Digest32,
    Id,
    MetadataKey,
    MetadataText,
    Offset,
    Quantity,
    Reference,
    Text,
    TimeMs,
    Word,
)

NO_HASH = bytes(32)

ORDER_PLACED = "OrderPlaced"
ORDER_IMPORTED = "OrderImported"
ORDER_CANCELLED = "OrderCancelled"
LINES_CANCELLED = "LinesCancelled"
PAYMENT_REQUESTED = "PaymentRequested"
PAYMENT_OPENED = "PaymentOpened"
PAYMENT_PENDING = "PaymentPending"
PAYMENT_DECLINED = "PaymentDeclined"
PAYMENT_AUTHORISED = "PaymentAuthorised"
PAYMENT_CAPTURED = "PaymentCaptured"
PAYMENT_VOIDED = "PaymentVoided"
REFUND_REQUESTED = "RefundRequested"
REFUND_SUBMITTED = "RefundSubmitted"
REFUND_SETTLED = "RefundSettled"
REFUND_FAILED = "RefundFailed"
DISPUTE_OPENED = "DisputeOpened"
DISPUTE_CLOSED = "DisputeClosed"
STOCK_RESERVED = "StockReserved"
STOCK_REJECTED = "StockRejected"
STOCK_RELEASED = "StockReleased"
FULFILMENT_STARTED = "FulfilmentStarted"
PARCEL_SHIPPED = "ParcelShipped"
ORDER_SHIPPED = "OrderShipped"
PARCEL_DELIVERED = "ParcelDelivered"
ORDER_DELIVERED = "OrderDelivered"
ATTENTION_RAISED = "AttentionRaised"
ATTENTION_RESOLVED = "AttentionResolved"
METADATA_CHANGED = "MetadataChanged"


class Line(Struct, frozen=True):
    """One article of an order; (service, sku) is unique in it."""

    service: Id
    sku: Id
    name: Text
    quantity: Quantity
    unit_price_minor: AmountMinor


class Adjustment(Struct, frozen=True, omit_defaults=True):
    """Shipping, tax or fee (>= 0), or a discount (<= 0): of the line (`service`, `sku`), or of the order if both are None."""

    kind: Word
    label: Text
    amount_minor: AmountMinor
    service: Id | None = None
    sku: Id | None = None


class Units(Struct, frozen=True):
    """Some units of a line."""

    service: Id
    sku: Id
    quantity: Quantity


class Entry(Struct, frozen=True):
    """An entry of an order's metadata; names are unique and sorted."""

    name: MetadataKey
    text: MetadataText


Metadata = Annotated[tuple[Entry, ...], Meta(max_length=MAX_METADATA)]
UnitsOfLines = Annotated[tuple[Units, ...], Meta(max_length=MAX_LINES)]


class Placed(Struct, frozen=True):
    """The content of the order, when its time to pay ends, and its number for people (`ledger.order_numbers`)."""

    lines: Annotated[tuple[Line, ...], Meta(min_length=1, max_length=MAX_LINES)]
    adjustments: Annotated[tuple[Adjustment, ...], Meta(max_length=MAX_ADJUSTMENTS)]
    contact_digest: Digest32
    expires_at: TimeMs
    reference: Text | None = None
    metadata: Metadata = ()
    number: Word = ""


class Imported(Struct, frozen=True, omit_defaults=True):
    """An order of an older service, with the times and the state that it had there. The ledger owes nothing for it."""

    placed: Placed
    old_id: Reference
    placed_at: TimeMs
    status: Word
    captured_minor: AmountMinor
    refunded_minor: AmountMinor
    shipped_at: TimeMs | None = None
    delivered_at: TimeMs | None = None
    carrier: Text | None = None
    tracking: Text | None = None
    cancel_reason: Word | None = None


class Cancel(Struct, frozen=True):
    """Why the order was cancelled, and by whom."""

    reason: Word
    by: Reference


class Cut(Struct, frozen=True):
    """Units that were cancelled while the order continues. `amount_minor`: by how much the total falls.

    `shipping`: the adjustments of kind shipping are cancelled as well.
    """

    lines: UnitsOfLines
    amount_minor: AmountMinor
    reason: Word
    by: Reference
    shipping: bool = False


class RefundRequest(Struct, frozen=True):
    """Money to give back. `lines`: for which units; `shipping`: also for the shipping; `restock`: the units are back."""

    amount_minor: AmountMinor
    reason: Word
    lines: UnitsOfLines = ()
    shipping: bool = False
    restock: bool = False


class MetadataChange(Struct, frozen=True):
    """The metadata of the order, after the change."""

    entries: Metadata


class Payment(Struct, frozen=True, omit_defaults=True):
    """A fact about one payment attempt."""

    attempt: Count
    amount_minor: AmountMinor | None = None
    provider_ref: Reference | None = None
    waiting_for: Word | None = None
    code: Word | None = None
    charge_ref: Reference | None = None
    capture_before: TimeMs | None = None


class Refund(Struct, frozen=True, omit_defaults=True):
    """`refund_no` 0 is a refund made at the provider, not by the ledger; then only `provider_ref` identifies it."""

    refund_no: Count
    provider_ref: Reference | None = None
    amount_minor: AmountMinor | None = None
    code: Word | None = None


class Dispute(Struct, frozen=True, omit_defaults=True):
    """A fact about a disputed payment."""

    provider_ref: Reference
    amount_minor: AmountMinor | None = None
    reason: Word | None = None
    due_by: TimeMs | None = None
    outcome: Word | None = None


class StockItem(Struct, frozen=True):
    """An article and its available units."""

    sku: Id
    available: Count


class Stock(Struct, frozen=True, omit_defaults=True):
    """The answer of a stock service: reserved, rejected or released. `part`: only this part of the order was released."""

    service: Id
    reservation_ref: Reference | None = None
    reason: Word | None = None
    items: Annotated[tuple[StockItem, ...], Meta(max_length=MAX_ITEMS)] = ()
    part: Count | None = None


class Shipment(Struct, frozen=True, omit_defaults=True):
    """A parcel and what is in it. `parcel` counts from 1; None: the order as a whole (FulfilmentStarted, OrderDelivered)."""

    carrier: Text | None = None
    tracking: Text | None = None
    lines: UnitsOfLines = ()
    parcel: Count | None = None


class Attention(Struct, frozen=True, omit_defaults=True):
    """A flag for a person, or what a person did about it."""

    code: Word
    obligation_key: Reference
    action: Word | None = None
    amount_minor: AmountMinor | None = None
    ticket: Word | None = None


Detail = (
    Placed | Imported | Cancel | Cut | Payment | RefundRequest | Refund | Dispute | Stock | Shipment | Attention | MetadataChange
)

# The detail that each type carries. Also the list of types that this version of the code knows.
DETAIL_OF: dict[str, str] = {
    ORDER_PLACED: "placed",
    ORDER_IMPORTED: "imported",
    ORDER_CANCELLED: "cancel",
    LINES_CANCELLED: "cut",
    PAYMENT_REQUESTED: "payment",
    PAYMENT_OPENED: "payment",
    PAYMENT_PENDING: "payment",
    PAYMENT_DECLINED: "payment",
    PAYMENT_AUTHORISED: "payment",
    PAYMENT_CAPTURED: "payment",
    PAYMENT_VOIDED: "payment",
    REFUND_REQUESTED: "refund_request",
    REFUND_SUBMITTED: "refund",
    REFUND_SETTLED: "refund",
    REFUND_FAILED: "refund",
    DISPUTE_OPENED: "dispute",
    DISPUTE_CLOSED: "dispute",
    STOCK_RESERVED: "stock",
    STOCK_REJECTED: "stock",
    STOCK_RELEASED: "stock",
    FULFILMENT_STARTED: "shipment",
    PARCEL_SHIPPED: "shipment",
    ORDER_SHIPPED: "shipment",
    PARCEL_DELIVERED: "shipment",
    ORDER_DELIVERED: "shipment",
    ATTENTION_RAISED: "attention",
    ATTENTION_RESOLVED: "attention",
    METADATA_CHANGED: "metadata",
}

EVENT_TYPES = tuple(DETAIL_OF)


class OrderEvent(Struct, frozen=True, kw_only=True):
    """One immutable change of one order, as stored in the log.

    The first block says what happened, to which order, and when. The second repeats the state after the event, so that SQL needs
    no fold. The third is bookkeeping: request, command record, writer, predecessor.
    Times are ms since the epoch, money is minor units of `currency`.
    """

    order_id: Id
    version: Count
    type: Word
    occurred_at: TimeMs
    customer_id: Id
    currency: Currency
    total_minor: AmountMinor
    actor: Reference
    command_id: Id
    fingerprint: Digest16

    status: Word = ""
    payment_state: Word = ""
    captured_minor: AmountMinor = 0
    refunded_minor: AmountMinor = 0

    command_log: Digest16 = bytes(16)
    command_offset: Offset = 0
    batch_first: Offset = 0
    writer_epoch: Count = 0
    prev_hash: Digest32 = NO_HASH

    placed: Placed | None = None
    imported: Imported | None = None
    cancel: Cancel | None = None
    cut: Cut | None = None
    payment: Payment | None = None
    refund_request: RefundRequest | None = None
    refund: Refund | None = None
    dispute: Dispute | None = None
    stock: Stock | None = None
    shipment: Shipment | None = None
    attention: Attention | None = None
    metadata: MetadataChange | None = None

    @property
    def content(self) -> Placed | None:
        """What was ordered, in the first event of an order; None in every other one."""
        return self.placed if self.imported is None else self.imported.placed

    @property
    def detail(self) -> Detail | None:
        """The one detail that is set."""
        name = DETAIL_OF.get(self.type)
        return None if name is None else getattr(self, name)


class OrderRefusal(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A command that was refused or could not be decoded, as stored in `order-refusals`.

    `order_version` is the version of the order at that time; None if there was no order. `original` contains the bytes of a
    command that could not be decoded; then no other field of the command is known.
    """

    code: str
    detail: str
    occurred_at: int
    command_log: bytes
    command_offset: int
    batch_first: int
    writer_epoch: int
    order_id: str | None = None
    command_id: str | None = None
    fingerprint: bytes | None = None
    actor: str | None = None
    customer_id: str | None = None
    order_version: int | None = None
    original: bytes | None = None
