"""Request bodies, as pydantic models with strict validation.

Money is integer minor units of the order's currency; times are RFC 3339 in UTC with milliseconds.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue
from pydantic_core import PydanticCustomError

from api.contract.card_numbers import no_card_number
from api.contract.examples import CONTACT, LINE, ORDER_ID, SHIPPING, UNITS
from commands.mailboxes import mailbox
from ledger.bounds import DOTTED_ID, ID, LANGUAGE_TAG, MAX_LANGUAGE_TAG, MAX_LINES, MAX_METADATA
from ledger.events import EVENT_TYPES
from ledger.money import MAX_TOTAL_MINOR, MAX_UNIT_PRICE_MINOR

Service = Literal["product", "merch"]
CancelReason = Literal["customer_request", "fraud", "other"]
Status = Literal["pending", "paid", "processing", "shipped", "delivered", "cancelled"]
Minor = Annotated[int, Field(ge=-MAX_TOTAL_MINOR, le=MAX_TOTAL_MINOR)]
# For every text that a client may send: a test checks all requests.
NO_CARD = AfterValidator(no_card_number)
MetadataName = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$"), NO_CARD]
MAX_FEED_CURSOR = 24_576  # characters, for 1,000 partitions and any positions; all headers may have 32 KiB (`api.connections`)
NO_OTHERS: dict[str, JsonValue] = {"additionalProperties": False}  # pydantic says only what names with the pattern hold
MetadataText = Annotated[str, Field(max_length=200), NO_CARD]
Country = Annotated[str, Field(pattern=r"^[A-Za-z]{2}$", description="ISO 3166-1 alpha-2"), NO_CARD]


class RequestBody(BaseModel):
    """A request body: no unknown members, no conversions, no card number in any text."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class LineBody(RequestBody):
    """One article; (service, sku) is unique in an order."""

    service: Service
    sku: Annotated[str, Field(pattern=f"^{DOTTED_ID}$"), NO_CARD]
    name: Annotated[str, Field(min_length=1, max_length=120), NO_CARD]
    quantity: Annotated[int, Field(ge=1, le=999)]
    unit_price_minor: Annotated[int, Field(ge=0, le=MAX_UNIT_PRICE_MINOR)]


class AdjustmentBody(RequestBody):
    """Shipping, tax or fee (0 or more), or a discount (0 or less). `service` and `sku`: of this line, else of the order."""

    kind: Literal["shipping", "tax", "fee", "discount"]
    label: Annotated[str, Field(min_length=1, max_length=60), NO_CARD]
    amount_minor: Minor
    service: Service | None = None
    sku: Annotated[str | None, Field(pattern=f"^{DOTTED_ID}$"), NO_CARD] = None


class UnitsBody(RequestBody):
    """Some units of a line."""

    service: Service
    sku: Annotated[str, Field(pattern=f"^{DOTTED_ID}$"), NO_CARD]
    quantity: Annotated[int, Field(ge=1, le=999)]


def _is_mailbox(text: str) -> str:
    """The text unchanged, if it is a valid e-mail address."""
    try:
        mailbox(text)
    except ValueError:
        raise PydanticCustomError("not_an_email_address", "is not an e-mail address") from None
    return text


class AddressBody(RequestBody):
    """A postal address. `country` is ISO 3166-1 alpha-2."""

    line1: Annotated[str, Field(min_length=1, max_length=120), NO_CARD]
    line2: Annotated[str | None, Field(max_length=120), NO_CARD] = None
    city: Annotated[str, Field(min_length=1, max_length=80), NO_CARD]
    region: Annotated[str | None, Field(max_length=80), NO_CARD] = None
    postcode: Annotated[str, Field(max_length=16, description="may be empty in countries without postcodes"), NO_CARD]
    country: Country


class ContactBody(RequestBody):
    """The contact of the order: the only personal data. It is never part of a command, event or refusal, and can be erased."""

    name: Annotated[str, Field(min_length=1, max_length=120), NO_CARD]
    email: Annotated[str, Field(max_length=254, json_schema_extra={"format": "email"}), AfterValidator(_is_mailbox), NO_CARD]
    phone: Annotated[
        str | None,
        Field(max_length=32, description="with a leading +, or as dialled in the country of the shipping address"),
        NO_CARD,
    ] = None
    shipping_address: AddressBody
    billing_address: AddressBody | None = None
    delivery_note: Annotated[str | None, Field(max_length=500), NO_CARD] = None
    locale: Annotated[
        str | None,
        Field(
            pattern=f"^(?:{LANGUAGE_TAG})$",
            max_length=MAX_LANGUAGE_TAG,
            description="language of messages to the customer, a BCP 47 tag such as de-AT; default: that of the shop",
        ),
        NO_CARD,
    ] = None


class PlaceOrderBody(RequestBody):
    """A new order. `total_minor` must be the sum of quantity times unit price of all lines, plus all adjustments."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "currency": "EUR",
                    "lines": [LINE],
                    "adjustments": [SHIPPING],
                    "total_minor": 2890,
                    "reference": "cart-1017",
                    "contact": CONTACT,
                }
            ]
        },
    )

    currency: Annotated[str, Field(pattern=r"^[A-Za-z]{3}$", description="ISO 4217, one of the currencies of the shop"), NO_CARD]
    lines: Annotated[list[LineBody], Field(min_length=1, max_length=100)]
    adjustments: Annotated[list[AdjustmentBody], Field(max_length=20)] = []
    total_minor: Annotated[int, Field(ge=0, le=MAX_TOTAL_MINOR)]
    reference: Annotated[str | None, Field(max_length=64, description="cart number or similar; no personal data"), NO_CARD] = None
    payment_window_seconds: Annotated[
        int | None,
        Field(description="time to pay, for example for bank transfers and pre-orders; default: that of the shop"),
    ] = None
    metadata: Annotated[
        dict[MetadataName, MetadataText],
        Field(
            max_length=MAX_METADATA,
            description="ids of the shop; no personal data, because they stay in the log",
            json_schema_extra=NO_OTHERS,
        ),
    ] = {}
    contact: ContactBody


class ImportOrderBody(RequestBody):
    """An order of an older service, as it was there. `number`: default is a new one. `contact` may be missing.

    `status` is paid, processing, shipped, delivered or cancelled. `captured_minor` is what the customer paid: the whole total, or
    for a cancelled order what was refunded.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "old_id": "order-4711",
                    "number": "SHOP-4711",
                    "customer_id": "c-1",
                    "placed_at": "2024-11-30T10:15:00Z",
                    "status": "delivered",
                    "currency": "EUR",
                    "lines": [LINE],
                    "adjustments": [SHIPPING],
                    "total_minor": 2890,
                    "captured_minor": 2890,
                    "refunded_minor": 0,
                    "shipped_at": "2024-12-01T09:00:00Z",
                    "delivered_at": "2024-12-03T16:20:00Z",
                    "contact": CONTACT,
                }
            ]
        },
    )

    old_id: Annotated[str, Field(pattern=r"^[!-~]{1,255}$", description="unique in the older service"), NO_CARD]
    number: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9._/#-]{1,32}$"), NO_CARD] = None
    customer_id: Annotated[str, Field(pattern=f"^{ID}$"), NO_CARD]
    placed_at: Annotated[str, Field(json_schema_extra={"format": "date-time"}), NO_CARD]
    status: Status
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$"), NO_CARD]
    lines: Annotated[list[LineBody], Field(min_length=1, max_length=MAX_LINES)]
    adjustments: Annotated[list[AdjustmentBody], Field(max_length=20)] = []
    total_minor: Annotated[int, Field(ge=0, le=MAX_TOTAL_MINOR)]
    captured_minor: Annotated[int, Field(ge=0, le=MAX_TOTAL_MINOR)]
    refunded_minor: Annotated[int, Field(ge=0, le=MAX_TOTAL_MINOR)] = 0
    shipped_at: Annotated[str | None, Field(json_schema_extra={"format": "date-time"}), NO_CARD] = None
    delivered_at: Annotated[str | None, Field(json_schema_extra={"format": "date-time"}), NO_CARD] = None
    carrier: Annotated[str | None, Field(max_length=40), NO_CARD] = None
    tracking: Annotated[str | None, Field(max_length=64), NO_CARD] = None
    cancel_reason: CancelReason | None = None
    reference: Annotated[str | None, Field(max_length=64), NO_CARD] = None
    metadata: Annotated[dict[MetadataName, MetadataText], Field(max_length=MAX_METADATA, json_schema_extra=NO_OTHERS)] = {}
    contact: ContactBody | None = None


class SetStatusBody(RequestBody):
    """The new status of an order. `carrier` and `tracking` are for `shipped`, `reason` is for `cancelled`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"status": "shipped", "carrier": "DHL", "tracking": "00340434161094015902"}]},
    )

    status: Status
    carrier: Annotated[str | None, Field(max_length=40), NO_CARD] = None
    tracking: Annotated[str | None, Field(max_length=64), NO_CARD] = None
    reason: CancelReason | None = None


class CancelOrderBody(RequestBody):
    """Why the order is cancelled. Default: `customer_request` for a customer, `other` for staff."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "customer_request"}, {}]})

    reason: CancelReason | None = None


class CancelLinesBody(RequestBody):
    """The units to cancel. `shipping`: also what the order pays for shipping."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"lines": [UNITS], "reason": "out_of_stock"}]})

    lines: Annotated[list[UnitsBody], Field(min_length=1, max_length=MAX_LINES)]
    reason: Literal["customer_request", "out_of_stock", "fraud", "other"] | None = None
    shipping: bool = False


class RequestRefundBody(RequestBody):
    """`amount_minor`: default is the price of `lines` and, with `shipping`, of the shipping. `restock`: the units came back."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"amount_minor": 500, "reason": "goodwill"},
                {"lines": [UNITS], "shipping": True, "reason": "returned", "restock": True},
            ]
        },
    )

    lines: Annotated[list[UnitsBody], Field(max_length=MAX_LINES)] = []
    amount_minor: Annotated[int | None, Field(ge=1, le=MAX_TOTAL_MINOR)] = None
    shipping: bool = False
    reason: Literal["damaged", "late", "goodwill", "returned", "other"]
    restock: bool = False


class CreateShipmentBody(RequestBody):
    """A parcel and what is in it."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"lines": [UNITS], "carrier": "DHL", "tracking": "00340434161094015902"}]},
    )

    lines: Annotated[list[UnitsBody], Field(min_length=1, max_length=MAX_LINES)]
    carrier: Annotated[str | None, Field(max_length=40), NO_CARD] = None
    tracking: Annotated[str | None, Field(max_length=64), NO_CARD] = None


class ChangeMetadataBody(RequestBody):
    """Entries to set; null removes one."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"metadata": {"campaign": "winter-30", "till": None}}]})

    metadata: Annotated[
        dict[MetadataName, MetadataText | None],
        Field(min_length=1, max_length=2 * MAX_METADATA, json_schema_extra=NO_OTHERS),
    ]


class AddNoteBody(RequestBody):
    """A note of the desk. It is personal data: stored beside the contact, and erased with it."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text": "The customer called: leave the parcel with the neighbour."}]}
    )

    text: Annotated[str, Field(min_length=1, max_length=1000), NO_CARD]


class EmptyBody(RequestBody):
    """Nothing: an empty object, or no body."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}]})


class PayOrderBody(RequestBody):
    """`initiate` opens a payment of the amount that the customer saw; `confirm` reports that the customer is done."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"total_minor": 2890, "currency": "EUR"}, {"action": "confirm"}]},
    )

    action: Literal["initiate", "confirm"] = "initiate"
    total_minor: Annotated[int | None, Field(ge=0, le=MAX_TOTAL_MINOR)] = None
    currency: Annotated[str | None, Field(pattern=r"^[A-Z]{3}$"), NO_CARD] = None


class ResolveAttentionBody(RequestBody):
    """How staff resolved a flag of the order: `code` and `obligation_key` are those of the flag.

    `retry`: try again. `settled_elsewhere`: the money was refunded in another way; without an amount, everything still owed.
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


def _is_event_type(text: str) -> str:
    if text not in EVENT_TYPES:
        raise PydanticCustomError("not_an_event_type", "is not a type of events")
    return text


class SetWebhookEndpointBody(RequestBody):
    """Where events are delivered. `types` and `customer_id` restrict them; without them, all are."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"url": "https://erp.example.org/hooks/orders", "types": ["OrderPlaced", "OrderCancelled"]}]
        }
    )

    url: Annotated[str, Field(min_length=1, max_length=2048), NO_CARD]
    types: Annotated[
        list[Annotated[str, Field(pattern=r"^[A-Za-z]{1,64}$"), AfterValidator(_is_event_type), NO_CARD]] | None,
        Field(min_length=1, max_length=100),
    ] = None
    customer_id: Annotated[str | None, Field(pattern=f"^{ID}$"), NO_CARD] = None
    description: Annotated[str, Field(max_length=200), NO_CARD] = ""
    enabled: bool = True


class ReplayBody(RequestBody):
    """From which place on events are delivered again: one of the two."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"from": "2030-01-31T12:00:00Z"}]})

    from_time: Annotated[str | None, Field(alias="from", max_length=40, description="a time, RFC 3339"), NO_CARD] = None
    after: Annotated[
        str | None, Field(max_length=MAX_FEED_CURSOR, description="a cursor of the feed without filters"), NO_CARD
    ] = None


class EraseBody(RequestBody):
    """Options of an erasure."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"force": True}]})

    force: Annotated[bool, Field(description="erase even if there are orders that are neither delivered nor cancelled")] = False
