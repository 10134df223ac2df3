"""What clients get: each answer is one of these structs. The bytes and the OpenAPI document both come from them.

Money is integer minor units of the order's currency; times are RFC 3339 in UTC with milliseconds. A member with a default is
left out while it has that value.
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
    """A response body, or a part of one."""

    EXAMPLES: ClassVar[tuple[examples.Json, ...]] = ()


class AxesOut(Response):
    """The four independent states that `status` is a function of."""

    order: Lifecycle
    payment: PaymentAxis
    stock: StockAxis
    fulfilment: Fulfilment


class AttentionOut(Response):
    """Somebody must look: why, at which obligation, since when."""

    code: str
    obligation_key: str
    since: Timestamp


class FrozenOut(Response):
    """The event at `offset` of the partition could not be folded; what follows of this order waits for staff."""

    reason: str
    partition: int
    offset: int


class PaymentSummaryOut(Response):
    """The last payment attempt, from 1; 0 while there is none."""

    attempt: int
    state: str


class ShipmentOut(Response):
    """What is known of the parcel."""

    carrier: str | None
    tracking: str | None
    shipped_at: Timestamp | None
    delivered_at: Timestamp | None


class OrderSummaryOut(Response):
    """An order in a list: without lines, adjustments and contact."""

    EXAMPLES = (examples.SUMMARY,)

    order_id: str
    version: Annotated[int, Meta(description="number of the order's events; the ETag")]
    status: Status
    axes: AxesOut
    cancel_reason: str | None
    attention: list[AttentionOut]
    frozen: FrozenOut | None
    customer_id: str
    currency: str
    total_minor: int
    captured_minor: int
    refunded_minor: Annotated[int, Meta(description="includes what staff settled elsewhere")]
    reference: str | None
    placed_at: Timestamp
    updated_at: Timestamp
    expires_at: Timestamp
    payment: PaymentSummaryOut
    shipment: ShipmentOut


class OrderLineOut(Response):
    """As it was ordered: what a request may hold now may have been another thing then. The same goes for the next three."""

    service: Service
    sku: str
    name: str
    quantity: int
    unit_price_minor: int


class OrderAdjustmentOut(Response):
    """An amount beside the lines."""

    kind: Annotated[str, Meta(description="shipping, tax, fee or discount")]
    label: str
    amount_minor: int


class OrderAddressOut(Response, kw_only=True):
    """Members that were not sent are left out."""

    line1: str
    line2: str | None = None
    city: str
    region: str | None = None
    postcode: str
    country: str


class OrderContactOut(Response, kw_only=True):
    """Members that were not sent are left out."""

    name: str
    email: str
    phone: str | None = None
    shipping_address: OrderAddressOut
    billing_address: OrderAddressOut | None = None
    delivery_note: str | None = None


class OrderOut(OrderSummaryOut):
    """One order as of `version`."""

    EXAMPLES = (examples.ORDER,)

    lines: list[OrderLineOut]
    adjustments: list[OrderAdjustmentOut]
    contact: Annotated[
        OrderContactOut | None, Meta(description="as now, also of an old version; null when erased, and for readers")
    ]


class OrderPageOut(Response):
    """Newest first. `next_cursor` is null on the last page; a page may be short and still not be the last."""

    EXAMPLES = ({"data": [examples.SUMMARY], "next_cursor": None},)

    data: list[OrderSummaryOut]
    next_cursor: str | None


class EventOut(Response):
    """One event of an order and its place in the log. `detail` depends on `type`."""

    EXAMPLES = (examples.EVENT,)

    version: int
    type: str
    occurred_at: Timestamp
    actor: str
    status: Annotated[str, Meta(description="the order's status after this event")]
    detail: dict[str, Any]
    partition: int
    offset: int


class EventPageOut(Response):
    """Oldest first. Fewer than `limit` rows: there are no more now. Go on with `after` = the last row's version."""

    EXAMPLES = ({"data": [examples.EVENT]},)

    data: list[EventOut]


class ProblemErrorOut(Response):
    """One thing wrong: a JSON pointer into the body, or `/<name>` of the query parameter, header or path part `in` says."""

    pointer: str
    code: str
    where: Literal["query", "header", "path"] | None = field(name="in", default=None)


class CurrentOut(Response):
    """An order as it was when a command was refused."""

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
    current: Annotated[CurrentOut | None, Meta(description="the order the refusal was about, as it was then")] = None
    frozen: FrozenOut | None = None
    provider_code: Annotated[str | None, Meta(description="the payment provider's own word for its no")] = None


class PaymentOut(Response):
    """One attempt to pay. `client_secret` is for the customer's browser, and there only while the customer can still act."""

    EXAMPLES = (examples.PAYMENT,)

    attempt: int
    state: AttemptState
    provider: str
    provider_ref: str | None
    client_secret: str | None
    amount_minor: int
    currency: str
    expires_at: Timestamp


class WebhookOut(Response):
    """Nothing: all that the message told of is durable."""

    EXAMPLES = ({},)


class CommandOut(Response):
    """What became of a command. `version` is the one it made, or found when there was nothing to change."""

    EXAMPLES = (examples.ACCEPTED, examples.UNDECIDED)

    command_id: str
    state: Literal["pending", "accepted", "refused"]
    order_id: str
    version: int | None
    problem: ProblemOut | None


class DailyOut(Response):
    """What happened on one UTC day in one currency. Counts are orders."""

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
    """Days on which something happened, oldest first."""

    EXAMPLES = ({"data": [examples.DAY]},)

    data: list[DailyOut]


class ErasureOut(Response):
    """An erasure that is done."""

    EXAMPLES = ({"contacts_deleted": 3},)

    contacts_deleted: Annotated[int, Meta(description="contacts that were there; their tombstones are durable")]


class ErasureStateOut(Response):
    """How far an erasure is."""

    EXAMPLES = (examples.ERASURE,)

    state: Literal["running", "done"]
    contacts_deleted: Annotated[int, Meta(description="contacts whose tombstones are durable; while it runs, seconds old")]
    requested_at: Timestamp
    done_at: Timestamp | None


NotReady = Literal["connecting", "behind", "no-read-models", "making-read-models", "fold-stopped", "stopping"]


class HealthOut(Response):
    """How this node is. `reason` is a word that never changes."""

    EXAMPLES = (examples.READY, examples.READY_WITHOUT_LOG)

    status: Literal["live", "ready", "not_ready"]
    checks: dict[str, str]
    reason: NotReady | Literal["log-away"] | None = None
    stale: bool = False
    staleness_ms: int | None = None


class ProblemTypeOut(Response):
    """A row of the table of problems."""

    EXAMPLES = (examples.PROBLEM_TYPE,)

    type: str
    title: str
    status: int
    meaning: str


class RegistryErrorOut(Response):
    """An error in the schema registry's own shape."""

    EXAMPLES = (examples.REGISTRY_ERROR,)

    error_code: int
    message: str


class RegistrySchemaOut(Response):
    """A schema of the registry."""

    schema_text: Annotated[str, Meta(description="the Avro schema, minified JSON in a string")] = field(name="schema")


class RegistryVersionOut(RegistrySchemaOut):
    """One version of a subject."""

    subject: str
    version: int
    id: int


class RegistrySubjectVersionOut(Response):
    """A subject and version that have a schema."""

    subject: str
    version: int
