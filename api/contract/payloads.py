"""What clients send and get, as pydantic models with examples. Requests are validated with them, strictly.

The response models describe: they fill the OpenAPI document, and tests hold every answer against them. Answers themselves are
built by `representations`, which costs a tenth.

Money is integer minor units of the order's currency; times are RFC 3339 in UTC with milliseconds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue
from pydantic_core import PydanticCustomError

from api.contract.card_numbers import no_card_number
from commands.mailboxes import mailbox
from ledger.money import MAX_TOTAL_MINOR, MAX_UNIT_PRICE_MINOR

ORDER_ID = "ord_2cumvh5jpkvhcxsfqqzwnmx5ei"
COMMAND_ID = "cmd_wq6v6d3cbq5plkmwqcxkcqv4aa"
AT = "2030-01-31T12:00:00.000Z"

Service = Literal["product", "merch"]
CancelReason = Literal["customer_request", "fraud", "other"]
Status = Literal["pending", "paid", "processing", "shipped", "delivered", "cancelled"]
Minor = Annotated[int, Field(ge=-MAX_TOTAL_MINOR, le=MAX_TOTAL_MINOR)]
# Of every text that a client may send, whatever it is for: a test walks all requests.
NO_CARD = AfterValidator(no_card_number)
Country = Annotated[str, Field(pattern=r"^[A-Za-z]{2}$", description="ISO 3166-1 alpha-2"), NO_CARD]
Timestamp = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$", examples=[AT])]


class Request(BaseModel):
    """A request body: no unknown members, no conversions, no card number in any text."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class LineBody(Request):
    """One article; (service, sku) is unique in an order."""

    service: Service
    sku: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$"), NO_CARD]
    name: Annotated[str, Field(min_length=1, max_length=120), NO_CARD]
    quantity: Annotated[int, Field(ge=1, le=999)]
    unit_price_minor: Annotated[int, Field(ge=0, le=MAX_UNIT_PRICE_MINOR)]


class AdjustmentBody(Request):
    """Shipping, tax or fee (0 or more), or a discount (0 or less)."""

    kind: Literal["shipping", "tax", "fee", "discount"]
    label: Annotated[str, Field(min_length=1, max_length=60), NO_CARD]
    amount_minor: Minor


def _is_mailbox(text: str) -> str:
    """As typed, if mail can be sent to it."""
    try:
        mailbox(text)
    except ValueError:
        raise PydanticCustomError("not_an_email_address", "is no e-mail address") from None
    return text


class AddressBody(Request):
    line1: Annotated[str, Field(min_length=1, max_length=120), NO_CARD]
    line2: Annotated[str | None, Field(max_length=120), NO_CARD] = None
    city: Annotated[str, Field(min_length=1, max_length=80), NO_CARD]
    region: Annotated[str | None, Field(max_length=80), NO_CARD] = None
    postcode: Annotated[str, Field(max_length=16, description="may be empty where there are none"), NO_CARD]
    country: Country


class ContactBody(Request):
    """Who the order is for: the only personal data. It is never part of a command, an event or a refusal, and can be erased."""

    name: Annotated[str, Field(min_length=1, max_length=120), NO_CARD]
    email: Annotated[str, Field(max_length=254, json_schema_extra={"format": "email"}), AfterValidator(_is_mailbox), NO_CARD]
    phone: Annotated[
        str | None,
        Field(max_length=32, description="with a leading +, or as it is dialled in the shipping address's country"),
        NO_CARD,
    ] = None
    shipping_address: AddressBody
    billing_address: AddressBody | None = None
    delivery_note: Annotated[str | None, Field(max_length=500), NO_CARD] = None


_ADDRESS: dict[str, JsonValue] = {"line1": "1 Mill Lane", "city": "Leeds", "postcode": "LS1 1AA", "country": "GB"}
_CONTACT: dict[str, JsonValue] = {"name": "Ada Example", "email": "ada@example.org", "shipping_address": _ADDRESS}
_LINE: dict[str, JsonValue] = {
    "service": "product",
    "sku": "espresso-1kg",
    "name": "Espresso 1 kg",
    "quantity": 1,
    "unit_price_minor": 2490,
}
_SHIPPING: dict[str, JsonValue] = {"kind": "shipping", "label": "Parcel", "amount_minor": 400}


class PlaceOrderBody(Request):
    """A new order. `total_minor` must be the sum of quantity times unit price over all lines, plus all adjustments."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "currency": "EUR",
                    "lines": [_LINE],
                    "adjustments": [_SHIPPING],
                    "total_minor": 2890,
                    "reference": "cart-1017",
                    "contact": _CONTACT,
                }
            ]
        },
    )

    currency: Annotated[str, Field(pattern=r"^[A-Za-z]{3}$", description="ISO 4217, one of the shop's currencies"), NO_CARD]
    lines: Annotated[list[LineBody], Field(min_length=1, max_length=100)]
    adjustments: Annotated[list[AdjustmentBody], Field(max_length=20)] = []
    total_minor: Annotated[int, Field(ge=0, le=MAX_TOTAL_MINOR)]
    reference: Annotated[str | None, Field(max_length=64, description="cart number or the like; nothing personal"), NO_CARD] = (
        None
    )
    payment_window_seconds: Annotated[
        int | None,
        Field(description="time to pay, for bank transfers, pre-orders and the like; absent: the shop's usual one"),
    ] = None
    contact: ContactBody


class SetStatusBody(Request):
    """The status an order is to have. `carrier` and `tracking` go with `shipped`, `reason` with `cancelled`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"status": "shipped", "carrier": "DHL", "tracking": "00340434161094015902"}]},
    )

    status: Status
    carrier: Annotated[str | None, Field(max_length=40), NO_CARD] = None
    tracking: Annotated[str | None, Field(max_length=64), NO_CARD] = None
    reason: CancelReason | None = None


class CancelOrderBody(Request):
    """Why the order is cancelled; without a reason `customer_request` for a customer, `other` for staff."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "customer_request"}, {}]})

    reason: CancelReason | None = None


class PayOrderBody(Request):
    """`initiate` opens a payment of the amount that the customer saw; `confirm` says that the customer is done."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"total_minor": 2890, "currency": "EUR"}, {"action": "confirm"}]},
    )

    action: Literal["initiate", "confirm"] = "initiate"
    total_minor: Annotated[int | None, Field(ge=0, le=MAX_TOTAL_MINOR)] = None
    currency: Annotated[str | None, Field(pattern=r"^[A-Z]{3}$"), NO_CARD] = None


class ResolveAttentionBody(Request):
    """What a person did about a flag of the order: `code` and `obligation_key` are those of the flag.

    `retry`: try again. `settled_elsewhere`: the money went back in another way; without an amount, all that was still owed.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"code": "refund_failed", "obligation_key": f"att:{ORDER_ID}:refund:3", "action": "retry"},
                {
                    "code": "refund_failed",
                    "obligation_key": f"att:{ORDER_ID}:refund:3",
                    "action": "settled_elsewhere",
                    "amount_minor": 2890,
                    "ticket": "SHOP-17",
                },
            ]
        }
    )

    code: Annotated[str, Field(pattern=r"^[a-z_]{1,64}$"), NO_CARD]
    obligation_key: Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,255}$"), NO_CARD]
    action: Literal["retry", "settled_elsewhere"]
    amount_minor: Annotated[int | None, Field(ge=0, le=MAX_TOTAL_MINOR)] = None
    ticket: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9#_-]{0,64}$"), NO_CARD] = None


class EraseBody(Request):
    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"force": True}]})

    force: Annotated[bool, Field(description="erase although orders are neither delivered nor cancelled")] = False


# ---- responses ------------------------------------------------------------------------------------------------------


class Response(BaseModel):
    """A response: described here, built elsewhere."""

    model_config = ConfigDict(extra="forbid", strict=True)


class AxesOut(Response):
    """The four independent states that `status` is a function of."""

    order: Literal["open", "cancelled"]
    payment: Literal[
        "not_required",
        "unpaid",
        "requested",
        "open",
        "pending",
        "declined",
        "authorised",
        "partly_captured",
        "captured",
        "voided",
        "refunding",
        "refunded",
        "refund_failed",
    ]
    stock: Literal["pending", "reserved", "rejected", "released"]
    fulfilment: Literal["none", "processing", "shipped", "delivered"]


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
    carrier: str | None
    tracking: str | None
    shipped_at: Timestamp | None
    delivered_at: Timestamp | None


_SUMMARY: dict[str, JsonValue] = {
    "order_id": ORDER_ID,
    "version": 1,
    "status": "pending",
    "axes": {"order": "open", "payment": "unpaid", "stock": "pending", "fulfilment": "none"},
    "cancel_reason": None,
    "attention": [],
    "frozen": None,
    "customer_id": "c-1",
    "currency": "EUR",
    "total_minor": 2890,
    "captured_minor": 0,
    "refunded_minor": 0,
    "reference": "cart-1017",
    "placed_at": AT,
    "updated_at": AT,
    "expires_at": "2030-01-31T12:30:00.000Z",
    "payment": {"attempt": 0, "state": "unpaid"},
    "shipment": {"carrier": None, "tracking": None, "shipped_at": None, "delivered_at": None},
}


class OrderSummaryOut(Response):
    """An order in a list: without lines, adjustments and contact."""

    model_config = ConfigDict(json_schema_extra={"examples": [_SUMMARY]})

    order_id: str
    version: Annotated[int, Field(description="number of the order's events; the ETag")]
    status: Status
    axes: AxesOut
    cancel_reason: str | None
    attention: list[AttentionOut]
    frozen: FrozenOut | None
    customer_id: str
    currency: str
    total_minor: int
    captured_minor: int
    refunded_minor: Annotated[int, Field(description="includes what staff settled elsewhere")]
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
    kind: Annotated[str, Field(description="shipping, tax, fee or discount")]
    label: str
    amount_minor: int


class OrderAddressOut(Response):
    line1: str
    line2: str | None = None
    city: str
    region: str | None = None
    postcode: str
    country: str


class OrderContactOut(Response):
    """Members that were not sent are left out."""

    name: str
    email: str
    phone: str | None = None
    shipping_address: OrderAddressOut
    billing_address: OrderAddressOut | None = None
    delivery_note: str | None = None


class OrderOut(OrderSummaryOut):
    """One order as of `version`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [_SUMMARY | {"lines": [_LINE], "adjustments": [_SHIPPING], "contact": _CONTACT}]},
    )

    lines: list[OrderLineOut]
    adjustments: list[OrderAdjustmentOut]
    contact: Annotated[
        OrderContactOut | None, Field(description="as now, also of an old version; null when erased, and for readers")
    ]


class OrderPageOut(Response):
    """Newest first. `next_cursor` is null on the last page; a page may be short and still not be the last."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"data": [_SUMMARY], "next_cursor": None}]})

    data: list[OrderSummaryOut]
    next_cursor: str | None


_EVENT: dict[str, JsonValue] = {
    "version": 2,
    "type": "OrderCancelled",
    "occurred_at": AT,
    "actor": "gateway:web",
    "status": "cancelled",
    "detail": {"reason": "customer_request", "by": "customer"},
    "partition": 3,
    "offset": 1017,
}


class EventOut(Response):
    """One event of an order and its place in the log. `detail` depends on `type`."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EVENT]})

    version: int
    type: str
    occurred_at: Timestamp
    actor: str
    status: Annotated[str, Field(description="the order's status after this event")]
    detail: dict[str, Any]
    partition: int
    offset: int


class EventPageOut(Response):
    """Oldest first. Fewer than `limit` rows: there are no more now. Go on with `after` = the last row's version."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"data": [_EVENT]}]})

    data: list[EventOut]


class ProblemErrorOut(Response):
    """One thing wrong: a JSON pointer into the body, or `/<name>` of the query parameter, header or path part `in` says."""

    model_config = ConfigDict(extra="forbid", strict=True)

    pointer: str
    code: str
    where: Annotated[Literal["query", "header", "path"] | None, Field(alias="in")] = None


class CurrentOut(Response):
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
    current: Annotated[CurrentOut | None, Field(description="the order the refusal was about, as it was then")] = None
    frozen: FrozenOut | None = None
    provider_code: Annotated[str | None, Field(description="the payment provider's own word for its no")] = None


class PaymentOut(Response):
    """One attempt to pay. `client_secret` is for the customer's browser, and there only while the customer can still act."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "attempt": 1,
                    "state": "open",
                    "provider": "stripe",
                    "provider_ref": "pi_3PKb2eLk",
                    "client_secret": "pi_3PKb2eLk_secret_hidden",
                    "amount_minor": 2890,
                    "currency": "EUR",
                    "expires_at": "2030-01-31T12:30:00.000Z",
                }
            ]
        }
    )

    attempt: int
    state: Literal["requested", "open", "pending", "declined", "authorised", "captured", "voided"]
    provider: str
    provider_ref: str | None
    client_secret: str | None
    amount_minor: int
    currency: str
    expires_at: Timestamp


class WebhookOut(Response):
    """Nothing: all that the message told of is durable."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}]})


class CommandOut(Response):
    """What became of a command. `version` is the one it made, or found when there was nothing to change."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"command_id": COMMAND_ID, "state": "accepted", "order_id": ORDER_ID, "version": 1, "problem": None},
                {"command_id": COMMAND_ID, "state": "pending", "order_id": ORDER_ID, "version": None, "problem": None},
            ]
        },
    )

    command_id: str
    state: Literal["pending", "accepted", "refused"]
    order_id: str
    version: int | None
    problem: ProblemOut | None


class DailyOut(Response):
    """What happened on one UTC day in one currency. Counts are orders."""

    day: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]
    currency: str
    placed: int
    placed_minor: int
    cancelled: int
    shipped: int
    delivered: int
    captured_minor: int
    refunded_minor: int


_DAY: dict[str, JsonValue] = {
    "day": "2030-01-31",
    "currency": "EUR",
    "placed": 2,
    "placed_minor": 5780,
    "cancelled": 1,
    "shipped": 0,
    "delivered": 0,
}


class DailyReportOut(Response):
    """Days on which something happened, oldest first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"data": [_DAY | {"captured_minor": 0, "refunded_minor": 0}]}]})

    data: list[DailyOut]


class ErasureOut(Response):
    model_config = ConfigDict(json_schema_extra={"examples": [{"contacts_deleted": 3}]})

    contacts_deleted: Annotated[int, Field(description="contacts that were there; their tombstones are durable")]


class ErasureStateOut(Response):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "state": "running",
                    "contacts_deleted": 40_000,
                    "requested_at": "2030-01-31T12:00:00.000Z",
                    "done_at": None,
                }
            ]
        }
    )

    state: Literal["running", "done"]
    contacts_deleted: Annotated[int, Field(description="contacts whose tombstones are durable; while it runs, seconds old")]
    requested_at: Timestamp
    done_at: Timestamp | None


class HealthOut(Response):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"status": "ready", "checks": {"fold": "ok", "log": "ok", "caught_up": "ok"}},
                {
                    "status": "ready",
                    "checks": {"fold": "waiting", "log": "away", "caught_up": "behind by ?"},
                    "reason": "log-away",
                    "stale": True,
                    "staleness_ms": 61_000,
                },
            ]
        },
    )

    status: Literal["live", "ready", "not_ready"]
    checks: dict[str, str]
    reason: (
        Literal["log-away", "connecting", "behind", "no-read-models", "making-read-models", "fold-stopped", "stopping"] | None
    ) = None
    stale: bool = False
    staleness_ms: int | None = None


class ProblemTypeOut(Response):
    """A row of the table of problems."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "/problems/total-mismatch",
                    "title": "Total mismatch",
                    "status": 422,
                    "meaning": "The total is not what lines and adjustments, or the order, come to.",
                }
            ]
        }
    )

    type: str
    title: str
    status: int
    meaning: str


class RegistryErrorOut(Response):
    """An error in the schema registry's own shape."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"error_code": 40403, "message": "Schema not found"}]})

    error_code: int
    message: str


class RegistrySchemaOut(Response):
    schema_text: Annotated[str, Field(alias="schema", description="the Avro schema, minified JSON in a string")]


class RegistryVersionOut(RegistrySchemaOut):
    subject: str
    version: int
    id: int


class RegistrySubjectVersionOut(Response):
    subject: str
    version: int
