"""A request or an observed fact: the command record of `order-commands`. Pure.

Field names and meaning are those of `avro/order-commands-value.v1.avsc`. A payload exists for each operation that needs one
(`PAYLOAD_OF`); StartFulfilment, ConfirmDelivery and ExpireOrder carry none.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated

from msgspec import Meta, Struct

from ledger import events
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
    DurationMs,
    Id,
    MetadataKey,
    MetadataText,
    OptionalId,
    Reference,
    Text,
    TimeMs,
    Word,
)
from ledger.schemas.codec import Codec
from ledger.schemas.versions import COMMANDS, versions_of
from ledger.transitions import Operation


class PlaceOrder(Struct, frozen=True):
    """`payment_window_ms`: from the request, or the setting at that time. Recorded: a new setting changes no existing order."""

    currency: Currency
    total_minor: AmountMinor
    lines: Annotated[tuple[events.Line, ...], Meta(max_length=MAX_LINES)]
    adjustments: Annotated[tuple[events.Adjustment, ...], Meta(max_length=MAX_ADJUSTMENTS)]
    contact_digest: Digest32
    payment_window_ms: DurationMs
    reference: Text | None = None
    metadata: events.Metadata = ()


class ImportOrder(Struct, frozen=True, omit_defaults=True):
    """An order of an older service. `number` None: it gets a new one. The payment window of `place` says nothing."""

    place: PlaceOrder
    old_id: Reference
    placed_at: TimeMs
    status: Word
    captured_minor: AmountMinor
    refunded_minor: AmountMinor
    number: Word | None = None
    shipped_at: TimeMs | None = None
    delivered_at: TimeMs | None = None
    carrier: Text | None = None
    tracking: Text | None = None
    cancel_reason: Word | None = None


class CancelOrder(Struct, frozen=True):
    """Cancel the order, and why."""

    reason: Word


class CancelLines(Struct, frozen=True):
    """Cancel these units. `shipping`: also what the order pays for shipping."""

    lines: events.UnitsOfLines
    reason: Word
    shipping: bool = False


class RequestPayment(Struct, frozen=True):
    """Start a payment of the amount that the customer saw."""

    amount_minor: AmountMinor
    currency: Currency


class RequestRefund(Struct, frozen=True):
    """Refund money of an open order. `amount_minor` None: the price of the units, and of the shipping."""

    reason: Word
    lines: events.UnitsOfLines = ()
    amount_minor: AmountMinor | None = None
    shipping: bool = False
    restock: bool = False


class RecordPayment(Struct, frozen=True, omit_defaults=True):
    """A payment fact: `fact` is the type of the event, the other fields are as in `events.Payment`."""

    fact: Word
    attempt: Count
    amount_minor: AmountMinor | None = None
    provider_ref: Reference | None = None
    waiting_for: Word | None = None
    code: Word | None = None
    charge_ref: Reference | None = None
    capture_before: TimeMs | None = None


class RecordRefund(Struct, frozen=True, omit_defaults=True):
    """A fact about a refund."""

    fact: Word
    refund_no: Count
    provider_ref: Reference | None = None
    amount_minor: AmountMinor | None = None
    code: Word | None = None


class RecordDispute(Struct, frozen=True, omit_defaults=True):
    """`outcome` of a DisputeOpened: how the dispute has ended since. None: it is open now, perhaps again."""

    fact: Word
    provider_ref: Reference
    amount_minor: AmountMinor | None = None
    reason: Word | None = None
    due_by: TimeMs | None = None
    outcome: Word | None = None


class RecordStock(Struct, frozen=True, omit_defaults=True):
    """A fact about the stock of one service."""

    fact: Word
    service: Id
    reservation_ref: Reference | None = None
    reason: Word | None = None
    items: Annotated[tuple[events.StockItem, ...], Meta(max_length=MAX_ITEMS)] = ()
    part: Count | None = None


class ShipOrder(Struct, frozen=True, omit_defaults=True):
    """A parcel was shipped. `lines` empty: with all that remains."""

    carrier: Text | None = None
    tracking: Text | None = None
    lines: events.UnitsOfLines = ()


class DeliverParcel(Struct, frozen=True):
    """The parcel with this number was delivered."""

    parcel: Count


class RaiseAttention(Struct, frozen=True):
    """Staff must investigate."""

    code: Word
    obligation_key: Reference


class ResolveAttention(Struct, frozen=True, omit_defaults=True):
    """How staff resolved a flag."""

    code: Word
    obligation_key: Reference
    action: Word
    amount_minor: AmountMinor | None = None
    ticket: Word | None = None


class EntryChange(Struct, frozen=True, omit_defaults=True):
    """Set an entry of the metadata. `text` None removes it."""

    name: MetadataKey
    text: MetadataText | None = None


class ChangeMetadata(Struct, frozen=True):
    """Change these entries."""

    entries: Annotated[tuple[EntryChange, ...], Meta(max_length=2 * MAX_METADATA)]


class CommandHead(Struct, frozen=True, kw_only=True):
    """Identity and sender of a command: enough to refuse it or to report its state."""

    command_id: Id
    order_id: Id
    fingerprint: Digest16
    actor: Reference
    customer_id: OptionalId


class OrderCommand(Struct, frozen=True, kw_only=True):
    """One request or observed fact about one order. `customer_id` is empty if the sender acts for no customer.

    `actor` is `role:name` of a principal (`gateway:web`, `admin:desk`) or the name of a part of the system (`reconciler`,
    `stripe`). `fingerprint` is the 16-byte keyed hash of the request as sent.
    """

    command_id: Id
    order_id: Id
    fingerprint: Digest16
    operation: Word
    actor: Reference
    customer_id: OptionalId = ""
    expected_version: Count | None = None

    place: PlaceOrder | None = None
    import_order: ImportOrder | None = None
    cancel: CancelOrder | None = None
    cancel_lines: CancelLines | None = None
    request_payment: RequestPayment | None = None
    request_refund: RequestRefund | None = None
    record_payment: RecordPayment | None = None
    record_refund: RecordRefund | None = None
    record_dispute: RecordDispute | None = None
    record_stock: RecordStock | None = None
    ship: ShipOrder | None = None
    deliver: DeliverParcel | None = None
    raise_attention: RaiseAttention | None = None
    resolve_attention: ResolveAttention | None = None
    change_metadata: ChangeMetadata | None = None

    @property
    def content(self) -> PlaceOrder | None:
        """What a new order contains; None for a command about an existing one."""
        return self.place if self.import_order is None else self.import_order.place


PAYLOAD_OF: dict[Operation, str | None] = {
    Operation.PLACE_ORDER: "place",
    Operation.IMPORT_ORDER: "import_order",
    Operation.CANCEL_ORDER: "cancel",
    Operation.CANCEL_LINES: "cancel_lines",
    Operation.EXPIRE_ORDER: None,
    Operation.REQUEST_PAYMENT: "request_payment",
    Operation.REQUEST_REFUND: "request_refund",
    Operation.START_FULFILMENT: None,
    Operation.SHIP_ORDER: "ship",
    Operation.SHIP_PARCEL: "ship",
    Operation.CONFIRM_DELIVERY: None,
    Operation.CONFIRM_PARCEL: "deliver",
    Operation.CHANGE_METADATA: "change_metadata",
    Operation.RECORD_PAYMENT: "record_payment",
    Operation.RECORD_REFUND: "record_refund",
    Operation.RECORD_DISPUTE: "record_dispute",
    Operation.RECORD_STOCK: "record_stock",
    Operation.RAISE_ATTENTION: "raise_attention",
    Operation.RESOLVE_ATTENTION: "resolve_attention",
}


def is_customer(command: OrderCommand) -> bool:
    """Whether a gateway sent it for its customer."""
    return command.actor.startswith("gateway:")


def who(command: OrderCommand) -> str:
    """Who acts, in the word that events have for it: `customer`, `admin`, or the name of a process."""
    return "customer" if is_customer(command) else "admin" if command.actor.startswith("admin:") else command.actor


@cache
def command_codec() -> Codec[OrderCommand]:
    """The codec of `order-commands`."""
    return Codec(OrderCommand, versions_of(COMMANDS), word="operation")


command_codec()  # built here, while a single thread imports this: see `Codec`
