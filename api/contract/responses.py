"""Answers: each is one of these structs, which define both the bytes and the OpenAPI document.

Money is integer minor units of the order's currency; times are RFC 3339 in UTC with milliseconds. A member with its default value
is omitted.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, Struct, field

from api.contract import examples
from ledger.order import Fulfilment, Lifecycle, PaymentAxis, StockAxis
from ledger.transitions import AttemptState

Status = Literal["pending", "paid", "processing", "shipped", "delivered", "cancelled"]
Service = Literal["product", "merch"]
Timestamp = Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$", examples=[examples.AT])]
Day = Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\d$")]


class Response(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A response body, or part of one."""

    EXAMPLES: ClassVar[tuple[examples.Json, ...]] = ()


class AxesOut(Response):
    """The four independent states from which `status` is derived."""

    order: Lifecycle
    payment: PaymentAxis
    stock: StockAxis
    fulfilment: Fulfilment


class AttentionOut(Response):
    """An open flag for staff: reason, obligation, time."""

    code: str
    obligation_key: str
    since: Timestamp


class FrozenOut(Response):
    """The event at `offset` of the partition could not be folded; later events of the order wait for staff."""

    reason: str
    partition: int
    offset: int


class PaymentSummaryOut(Response):
    """The last payment attempt, counted from 1; 0 if there is none."""

    attempt: int
    state: str


class ShipmentLineOut(Response):
    """Some units of a line."""

    service: Service
    sku: str
    quantity: int


class ShipmentOut(Response):
    """A parcel and what is in it. `number` counts from 1 in the order."""

    number: int
    lines: list[ShipmentLineOut]
    carrier: str | None
    tracking: str | None
    shipped_at: Timestamp
    delivered_at: Timestamp | None


class OrderSummaryOut(Response):
    """An order in a list: without lines, adjustments and contact."""

    EXAMPLES = (examples.SUMMARY,)

    order_id: str
    number: Annotated[str, Meta(description="for people; unique, with a check character")]
    version: Annotated[int, Meta(description="number of events of the order; the ETag")]
    status: Status
    axes: AxesOut
    cancel_reason: str | None
    attention: list[AttentionOut]
    frozen: FrozenOut | None
    customer_id: str
    currency: str
    total_minor: Annotated[int, Meta(description="without what was cancelled")]
    captured_minor: int
    refunded_minor: Annotated[int, Meta(description="includes amounts that staff settled elsewhere")]
    reference: str | None
    placed_at: Timestamp
    updated_at: Timestamp
    expires_at: Timestamp
    payment: PaymentSummaryOut
    shipped_at: Annotated[Timestamp | None, Meta(description="null as long as units remain to be shipped")]
    delivered_at: Timestamp | None


class OrderLineOut(Response):
    """A line as ordered: the limits of requests may have been different then. The same applies to the next three classes."""

    service: Service
    sku: str
    name: str
    quantity: Annotated[int, Meta(description="as ordered")]
    unit_price_minor: int
    cancelled_quantity: int = 0
    shipped_quantity: int = 0
    refunded_quantity: Annotated[int, Meta(description="without cancelled units")] = 0


class OrderAdjustmentOut(Response):
    """An adjustment of the total."""

    kind: Annotated[str, Meta(description="shipping, tax, fee or discount")]
    label: str
    amount_minor: int
    service: Annotated[str | None, Meta(description="of the line that it belongs to; absent if it is of the order")] = None
    sku: str | None = None


class OrderAddressOut(Response, kw_only=True):
    """Members that were not sent are omitted."""

    line1: str
    line2: str | None = None
    city: str
    region: str | None = None
    postcode: str
    country: str


class OrderContactOut(Response, kw_only=True):
    """Members that were not sent are omitted."""

    name: str
    email: str
    phone: str | None = None
    shipping_address: OrderAddressOut
    billing_address: OrderAddressOut | None = None
    delivery_note: str | None = None
    locale: str | None = None


class OrderOut(OrderSummaryOut):
    """One order as of `version`."""

    EXAMPLES = (examples.ORDER,)

    lines: list[OrderLineOut]
    adjustments: list[OrderAdjustmentOut]
    shipments: list[ShipmentOut]
    metadata: dict[str, str]
    contact: Annotated[
        OrderContactOut | None, Meta(description="the current one, also for an old version; null if erased, and for readers")
    ]


class OrderPageOut(Response):
    """Newest first. `next_cursor` is null on the last page; a short page is not necessarily the last one."""

    EXAMPLES = ({"data": [examples.SUMMARY], "next_cursor": None},)

    data: list[OrderSummaryOut]
    next_cursor: str | None


class EventOut(Response):
    """One event of an order and its position in the log. `detail` depends on `type`."""

    EXAMPLES = (examples.EVENT,)

    version: int
    type: str
    occurred_at: Timestamp
    actor: str
    status: Annotated[str, Meta(description="status of the order after this event")]
    detail: dict[str, Any]
    partition: int
    offset: int


class EventPageOut(Response):
    """Oldest first. Fewer than `limit` rows: there are no more yet. Continue with `after` = version of the last row."""

    EXAMPLES = ({"data": [examples.EVENT]},)

    data: list[EventOut]


class FeedEventOut(EventOut):
    """One event of the feed: an event as in the history of its order, and what a reader without that order needs."""

    EXAMPLES = (examples.FEED_EVENT,)

    event_id: Annotated[str, Meta(description="order and version: the same for every reader, and in `ce_id` of the topic")]
    order_id: str
    customer_id: str
    payment_state: Annotated[str, Meta(description="state of the payment after this event")]
    currency: str
    total_minor: Annotated[int, Meta(description="after this event, without what was cancelled")]
    captured_minor: int
    refunded_minor: int


class FeedPageOut(Response):
    """Events of all orders; those of one order in their order. Continue with `after` = `next_cursor`, for ever."""

    EXAMPLES = ({"data": [examples.FEED_EVENT], "next_cursor": examples.CURSOR, "at_end": True},)

    data: list[FeedEventOut]
    next_cursor: Annotated[str, Meta(description="where to continue; it never expires")]
    at_end: Annotated[bool, Meta(description="whether this node has no more events now; a short page alone does not say that")]


class ProblemErrorOut(Response):
    """One fault: a JSON pointer into the body, or `/<name>` of a parameter or header, where `in` is query, header or path."""

    pointer: str
    code: str
    where: Literal["query", "header", "path"] | None = field(name="in", default=None)


class CurrentOut(Response):
    """The order at the time a command was refused."""

    version: int
    status: Status


class ProblemOut(Response):
    """RFC 9457. `code` is the last part of `type`; both never change."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    errors: list[ProblemErrorOut] | None = None
    order_id: str | None = None
    command_id: str | None = None
    current: Annotated[CurrentOut | None, Meta(description="the order at the time of the refusal")] = None
    frozen: FrozenOut | None = None
    provider_code: Annotated[str | None, Meta(description="the reason code of the payment provider")] = None


class PaymentOut(Response):
    """One payment attempt. `client_secret` is for the customer's browser, and set only while the customer can act."""

    EXAMPLES = (examples.PAYMENT,)

    attempt: int
    state: AttemptState
    provider: str
    provider_ref: str | None
    client_secret: str | None
    amount_minor: int
    currency: str
    expires_at: Timestamp


class RefundOut(Response):
    """A refund. `number` 0: it was made at the payment provider, not by the ledger."""

    number: int
    state: Literal["submitted", "settled", "failed"]
    amount_minor: int
    provider_ref: str | None
    code: str | None
    updated_at: Timestamp


class RefundListOut(Response):
    """The refunds of an order, oldest first."""

    EXAMPLES = ({"owed_minor": 0, "refunded_minor": 500, "refundable_minor": 2390, "data": [examples.REFUND]},)

    owed_minor: Annotated[int, Meta(description="still to be refunded, without what is being refunded")]
    refunded_minor: Annotated[int, Meta(description="includes amounts that staff settled elsewhere")]
    refundable_minor: Annotated[int, Meta(description="what can still be requested")]
    data: list[RefundOut]


class NoteOut(Response):
    """A note of the desk about an order."""

    EXAMPLES = (examples.NOTE,)

    note_id: str
    text: str
    by: str
    at: Timestamp


class NoteListOut(Response):
    """The notes about an order, oldest first."""

    EXAMPLES = ({"data": [examples.NOTE]},)

    data: list[NoteOut]


class WebhookOut(Response):
    """Empty: all facts behind the message are durable."""

    EXAMPLES = ({},)


class CommandOut(Response):
    """The state of a command. `version` is the one that it produced, or the current one if there was nothing to change."""

    EXAMPLES = (examples.ACCEPTED, examples.UNDECIDED)

    command_id: str
    state: Literal["pending", "accepted", "refused"]
    order_id: str
    version: int | None
    problem: ProblemOut | None


class DailyOut(Response):
    """Totals of one UTC day in one currency. Counts are orders."""

    day: Day
    currency: str
    placed: int
    placed_minor: int
    cancelled: int
    shipped: int
    delivered: int
    captured_minor: int
    refunded_minor: int


class DailyReportOut(Response):
    """Days with events, oldest first."""

    EXAMPLES = ({"data": [examples.DAY]},)

    data: list[DailyOut]


class ErasureOut(Response):
    """A finished erasure."""

    EXAMPLES = ({"contacts_deleted": 3},)

    contacts_deleted: Annotated[int, Meta(description="number of deleted contacts; their tombstones are durable")]


class ErasureStateOut(Response):
    """The progress of an erasure."""

    EXAMPLES = (examples.ERASURE,)

    state: Literal["running", "done"]
    contacts_deleted: Annotated[
        int, Meta(description="number of contacts with durable tombstones; up to seconds old while it runs")
    ]
    requested_at: Timestamp
    done_at: Timestamp | None


NotReady = Literal["connecting", "behind", "no-read-models", "making-read-models", "fold-stopped", "stopping"]


class HealthOut(Response):
    """The health of this node. `reason` is a stable word."""

    EXAMPLES = (examples.READY, examples.READY_WITHOUT_LOG)

    status: Literal["live", "ready", "not_ready"]
    checks: dict[str, str]
    reason: NotReady | Literal["log-unavailable"] | None = None
    stale: bool = False
    staleness_ms: int | None = None


class ProblemTypeOut(Response):
    """A problem type."""

    EXAMPLES = (examples.PROBLEM_TYPE,)

    type: str
    title: str
    status: int
    meaning: str
