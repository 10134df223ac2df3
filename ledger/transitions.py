"""The legal transitions, as data. `decide`, `evolve`, `verify`, the exhaustive test and the documents use these tables.

There are two kinds of input. A *request* may be refused: `REQUESTS` has its result for each displayed status. An *observed fact*
(payment, refund, dispute, stock) is never refused because of state: `ATTEMPT_FACTS`, `REFUND_FACTS` and `STOCK_FACTS` have the
next state of its object, or say that it adds nothing (`ALREADY_KNOWN`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal, get_args

from ledger import events


class Status(StrEnum):
    """The displayed status: a function of the axes (`order.display`)."""

    PENDING = "pending"
    PAID = "paid"
    PROCESSING = "processing"
    SHIPPED = "shipped"
    DELIVERED = "delivered"
    CANCELLED = "cancelled"


class Code(StrEnum):
    """Why a command changed nothing; recorded in `order-refusals`."""

    ORDER_NOT_FOUND = "order_not_found"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    VERSION_CONFLICT = "version_conflict"
    ORDER_CANCELLED = "order_cancelled"
    ORDER_EXPIRED = "order_expired"
    ALREADY_PAID = "already_paid"
    PAYMENT_OPEN = "payment_open"
    NOTHING_TO_PAY = "nothing_to_pay"
    TOO_MANY_ATTEMPTS = "too_many_attempts"
    AMOUNT_DIFFERS = "amount_differs"
    PAYMENT_WINDOW_NOT_ALLOWED = "payment_window_not_allowed"
    TOO_LATE_TO_CANCEL = "too_late_to_cancel"
    NOT_PAID = "not_paid"
    STOCK_NOT_RESERVED = "stock_not_reserved"
    DISPUTE_OPEN = "dispute_open"
    NOT_SHIPPED = "not_shipped"
    ALREADY_SHIPPED = "already_shipped"
    NO_SUCH_ATTENTION = "no_such_attention"
    UNKNOWN_LINE = "unknown_line"
    QUANTITY_EXCEEDED = "quantity_exceeded"
    UNKNOWN_PARCEL = "unknown_parcel"
    NOTHING_TO_REFUND = "nothing_to_refund"
    REFUND_EXCEEDS_PAYMENT = "refund_exceeds_payment"
    AMOUNT_NOT_PAYABLE = "amount_not_payable"
    TOO_MUCH_METADATA = "too_much_metadata"
    NUMBER_IN_USE = "number_in_use"
    ORDER_IMPORTED = "order_imported"
    NOT_DUE = "not_due"
    ALREADY_KNOWN = "already_known"
    UNKNOWN_ATTEMPT = "unknown_attempt"
    NOTHING_TO_CHANGE = "nothing_to_change"
    ORDER_FULL = "order_full"
    ORDER_FROZEN = "order_frozen"
    COULD_NOT_DECIDE = "could_not_decide"
    UNDECODABLE = "undecodable"


class Operation(StrEnum):
    """What a command requests or reports. The first block are requests, the second observed facts and attention."""

    PLACE_ORDER = "PlaceOrder"
    IMPORT_ORDER = "ImportOrder"
    CANCEL_ORDER = "CancelOrder"
    CANCEL_LINES = "CancelLines"
    EXPIRE_ORDER = "ExpireOrder"
    REQUEST_PAYMENT = "RequestPayment"
    REQUEST_REFUND = "RequestRefund"
    START_FULFILMENT = "StartFulfilment"
    SHIP_ORDER = "ShipOrder"
    SHIP_PARCEL = "ShipParcel"
    CONFIRM_DELIVERY = "ConfirmDelivery"
    CONFIRM_PARCEL = "ConfirmParcel"
    CHANGE_METADATA = "ChangeMetadata"

    RECORD_PAYMENT = "RecordPayment"
    RECORD_REFUND = "RecordRefund"
    RECORD_DISPUTE = "RecordDispute"
    RECORD_STOCK = "RecordStock"
    RAISE_ATTENTION = "RaiseAttention"
    RESOLVE_ATTENTION = "ResolveAttention"


_S, _C, _O = Status, Code, Operation

# request x displayed status -> the resulting event (with further guards in `commands.decide`), or the refusal.
REQUESTS: dict[Operation, dict[Status, str | Code]] = {
    _O.CANCEL_ORDER: {
        _S.PENDING: events.ORDER_CANCELLED,
        _S.PAID: events.ORDER_CANCELLED,
        _S.PROCESSING: events.ORDER_CANCELLED,  # staff only
        _S.SHIPPED: _C.TOO_LATE_TO_CANCEL,
        _S.DELIVERED: _C.TOO_LATE_TO_CANCEL,
        _S.CANCELLED: _C.NOTHING_TO_CHANGE,
    },
    _O.CANCEL_LINES: {
        _S.PENDING: events.LINES_CANCELLED,  # or ORDER_CANCELLED, if nothing is left of the order
        _S.PAID: events.LINES_CANCELLED,
        _S.PROCESSING: events.LINES_CANCELLED,  # staff only
        _S.SHIPPED: _C.TOO_LATE_TO_CANCEL,
        _S.DELIVERED: _C.TOO_LATE_TO_CANCEL,
        _S.CANCELLED: _C.ORDER_CANCELLED,
    },
    _O.EXPIRE_ORDER: {
        _S.PENDING: events.ORDER_CANCELLED,  # once due, and not while a capture is owed
        _S.PAID: _C.NOT_DUE,
        _S.PROCESSING: _C.NOT_DUE,
        _S.SHIPPED: _C.NOT_DUE,
        _S.DELIVERED: _C.NOT_DUE,
        _S.CANCELLED: _C.NOTHING_TO_CHANGE,
    },
    _O.REQUEST_PAYMENT: {
        _S.PENDING: events.PAYMENT_REQUESTED,  # if nothing is open or paid
        _S.PAID: _C.ALREADY_PAID,
        _S.PROCESSING: _C.ALREADY_PAID,
        _S.SHIPPED: _C.ALREADY_PAID,
        _S.DELIVERED: _C.ALREADY_PAID,
        _S.CANCELLED: _C.ORDER_CANCELLED,
    },
    _O.REQUEST_REFUND: dict.fromkeys(_S, events.REFUND_REQUESTED)
    | {
        _S.CANCELLED: _C.ORDER_CANCELLED,  # everything is refunded without a request
    },
    _O.START_FULFILMENT: {
        _S.PENDING: _C.NOT_PAID,  # or stock_not_reserved, depending on what is missing
        _S.PAID: events.FULFILMENT_STARTED,
        _S.PROCESSING: _C.NOTHING_TO_CHANGE,
        _S.SHIPPED: _C.ALREADY_SHIPPED,
        _S.DELIVERED: _C.ALREADY_SHIPPED,
        _S.CANCELLED: _C.ORDER_CANCELLED,
    },
    _O.SHIP_ORDER: {
        _S.PENDING: _C.NOT_PAID,
        _S.PAID: events.ORDER_SHIPPED,
        _S.PROCESSING: events.ORDER_SHIPPED,
        _S.SHIPPED: _C.NOTHING_TO_CHANGE,
        _S.DELIVERED: _C.ALREADY_SHIPPED,
        _S.CANCELLED: _C.ORDER_CANCELLED,
    },
    _O.SHIP_PARCEL: {
        _S.PENDING: _C.NOT_PAID,
        _S.PAID: events.PARCEL_SHIPPED,  # or ORDER_SHIPPED, if nothing is left to ship
        _S.PROCESSING: events.PARCEL_SHIPPED,
        _S.SHIPPED: _C.ALREADY_SHIPPED,
        _S.DELIVERED: _C.ALREADY_SHIPPED,
        _S.CANCELLED: _C.ORDER_CANCELLED,
    },
    _O.CONFIRM_PARCEL: {
        _S.PENDING: _C.NOT_SHIPPED,
        _S.PAID: _C.NOT_SHIPPED,
        _S.PROCESSING: events.PARCEL_DELIVERED,
        _S.SHIPPED: events.PARCEL_DELIVERED,  # or ORDER_DELIVERED, if it was the last one
        _S.DELIVERED: _C.NOTHING_TO_CHANGE,
        _S.CANCELLED: _C.ORDER_CANCELLED,
    },
    _O.CHANGE_METADATA: dict.fromkeys(_S, events.METADATA_CHANGED),
    _O.CONFIRM_DELIVERY: {
        _S.PENDING: _C.NOT_SHIPPED,
        _S.PAID: _C.NOT_SHIPPED,
        _S.PROCESSING: _C.NOT_SHIPPED,
        _S.SHIPPED: events.ORDER_DELIVERED,
        _S.DELIVERED: _C.NOTHING_TO_CHANGE,
        _S.CANCELLED: _C.ORDER_CANCELLED,
    },
}

# An event of the table -> the one written instead, if the request leaves nothing more to do of its kind.
COMPLETES: dict[str, str] = {
    events.LINES_CANCELLED: events.ORDER_CANCELLED,
    events.PARCEL_SHIPPED: events.ORDER_SHIPPED,
    events.PARCEL_DELIVERED: events.ORDER_DELIVERED,
}

KNOWN: Final = Code.ALREADY_KNOWN

AttemptState = Literal["requested", "open", "pending", "declined", "authorised", "captured", "voided"]
REQUESTED: Final = "requested"
OPEN: Final = "open"
PENDING: Final = "pending"
DECLINED: Final = "declined"
AUTHORISED: Final = "authorised"
CAPTURED: Final = "captured"
VOIDED: Final = "voided"
ATTEMPT_STATES: tuple[AttemptState, ...] = get_args(AttemptState)


def _from_any(state: AttemptState) -> dict[AttemptState, AttemptState | Code]:
    return dict.fromkeys(ATTEMPT_STATES, state)


# state of a payment attempt x fact -> its next state, or that the fact adds nothing. A fact equal to the state is known too
# (`decide` compares the fields). A stale read may move an attempt back once; the next read corrects it.
ATTEMPT_FACTS: dict[str, dict[AttemptState, AttemptState | Code]] = {
    events.PAYMENT_OPENED: {
        REQUESTED: OPEN,
        OPEN: OPEN,  # from here on only if it adds the provider's reference: a webhook can overtake the ledger's own call
        PENDING: PENDING,
        DECLINED: DECLINED,
        AUTHORISED: AUTHORISED,
        CAPTURED: CAPTURED,
        VOIDED: OPEN,  # it was voided before its intent was known: now there is one to void
    },
    events.PAYMENT_PENDING: _from_any(PENDING) | {CAPTURED: KNOWN},
    events.PAYMENT_DECLINED: _from_any(DECLINED) | {CAPTURED: KNOWN},
    events.PAYMENT_AUTHORISED: _from_any(AUTHORISED) | {CAPTURED: KNOWN},
    events.PAYMENT_CAPTURED: _from_any(CAPTURED),  # if more than known
    events.PAYMENT_VOIDED: _from_any(VOIDED) | {CAPTURED: KNOWN, VOIDED: KNOWN},
}

RefundState = Literal["", "submitted", "settled", "failed"]  # "" = not known yet
SUBMITTED: Final = "submitted"
SETTLED: Final = "settled"
FAILED: Final = "failed"
REFUND_STATES: tuple[RefundState, ...] = get_args(RefundState)

REFUND_FACTS: dict[str, dict[RefundState, RefundState | Code]] = {
    events.REFUND_SUBMITTED: {"": SUBMITTED, SUBMITTED: KNOWN, SETTLED: KNOWN, FAILED: KNOWN},
    events.REFUND_SETTLED: {"": SETTLED, SUBMITTED: SETTLED, SETTLED: KNOWN, FAILED: SETTLED},
    events.REFUND_FAILED: {"": FAILED, SUBMITTED: FAILED, SETTLED: FAILED, FAILED: KNOWN},  # providers do fail a settled one
}

StockState = Literal["owed", "reserved", "rejected", "released"]
OWED: Final = "owed"
RESERVED: Final = "reserved"
REJECTED: Final = "rejected"
RELEASED: Final = "released"
STOCK_STATES: tuple[StockState, ...] = get_args(StockState)

STOCK_FACTS: dict[str, dict[StockState, StockState | Code]] = {
    events.STOCK_RESERVED: {OWED: RESERVED, RESERVED: KNOWN, REJECTED: KNOWN, RELEASED: RESERVED},  # a late one is released
    events.STOCK_REJECTED: {OWED: REJECTED, RESERVED: KNOWN, REJECTED: KNOWN, RELEASED: KNOWN},
    events.STOCK_RELEASED: {OWED: RELEASED, RESERVED: RELEASED, REJECTED: KNOWN, RELEASED: KNOWN},
}

MAX_EVENTS = 1000
MAX_ATTEMPTS = 10
MAX_PAYMENT_WINDOW_S = 24 * 60 * 60 - 1  # below a day, and so below the shortest authorisation of a provider
REFUND_TRIES = 3
