"""Descriptions of what a shop's desk does with an order: parcels, cancelled lines, refunds, metadata. See `operations`."""

from __future__ import annotations

from api.contract import desk_responses, examples, requests, responses
from api.contract.describing import in_path, operation, success
from api.contract.operations import COMMAND, COMMAND_HEADERS, ON_ORDER, ORDER_HEADERS, ORDER_ID, ORDER_PATH, PENDING, READ
from api.contract.patterns import NUMBER
from ledger.bounds import MAX_NOTES

_NUMBER = in_path("number", "The shipment, counted from 1 in the order.", "1", NUMBER)
_STAFF = (ORDER_ID, *COMMAND_HEADERS, "IfMatch")

CANCEL_LINES = operation(
    "cancelLines",
    "orders",
    "Cancel units of lines",
    "The order continues without them: its total falls by what they cost, with their share of the order's taxes, fees and "
    "discounts; shipping stays unless `shipping` is true. What was paid for them is refunded, and their stock is released. "
    "Cancelling the last units cancels the order. Customers can do this until processing starts, staff until the units are "
    "shipped.",
    {200: success("The order without these units.", responses.OrderOut, ORDER_HEADERS), 202: PENDING},
    f"customer-required {ON_ORDER} {COMMAND} too-late-to-cancel order-cancelled order-imported duplicate-line "
    "unknown-line quantity-exceeded amount-not-payable order-full",
    path=f"{ORDER_PATH}/lines/cancel",
    parameters=(ORDER_ID, "CustomerId", *COMMAND_HEADERS, "IfMatch"),
    body=requests.CancelLinesBody,
)
REQUEST_REFUND = operation(
    "requestRefund",
    "orders",
    "Refund money of an order that continues",
    "Staff only. Give an amount, or units whose price is refunded, or both; `shipping` adds what shipping costs. What the amount "
    "lacks of the price is refunded if these units, or the shipping, are cancelled later. The refund is made after the answer "
    "(`axes.payment`, `readRefunds`). A cancelled order is refunded without a request.",
    {200: success("The order, which owes the refund.", responses.OrderOut, ORDER_HEADERS), 202: PENDING},
    f"{ON_ORDER} {COMMAND} order-cancelled duplicate-line unknown-line quantity-exceeded not-shipped dispute-open order-imported "
    "nothing-to-refund refund-exceeds-payment amount-not-payable",
    path=f"{ORDER_PATH}/refunds",
    parameters=_STAFF,
    body=requests.RequestRefundBody,
)
READ_REFUNDS = operation(
    "readRefunds",
    "orders",
    "Read the refunds of an order",
    "Oldest first, with those that were made at the payment provider (number 0).",
    {200: success("The refunds.", responses.RefundListOut, "LedgerPosition Staleness")},
    f"customer-required order-not-found order-frozen {READ}",
    path=f"{ORDER_PATH}/refunds",
    parameters=(ORDER_ID, "CustomerId", "LedgerPosition", "Prefer"),
)
READ_OUTLOOK = operation(
    "readOutlook",
    "orders",
    "Read what an order owes, and what can be done with it",
    "Staff only. `actions` are the requests that the ledger would accept of the caller's role now; send them with `If-Match` and "
    "the `version` of the answer.",
    {200: success("The outlook.", desk_responses.OutlookOut, "ETag LedgerPosition Staleness")},
    f"order-not-found order-frozen {READ}",
    path=f"{ORDER_PATH}/outlook",
    parameters=(ORDER_ID, "LedgerPosition", "Prefer"),
)
CREATE_SHIPMENT = operation(
    "createShipment",
    "orders",
    "Ship a parcel",
    "Staff only. The order is `processing` as long as units remain, and `shipped` with the last ones. To ship all that remains, "
    "set the status to `shipped`.",
    {200: success("The order with the shipment.", responses.OrderOut, ORDER_HEADERS), 202: PENDING},
    f"{ON_ORDER} {COMMAND} not-paid stock-not-reserved dispute-open already-shipped order-cancelled duplicate-line unknown-line "
    "quantity-exceeded order-full",
    path=f"{ORDER_PATH}/shipments",
    parameters=_STAFF,
    body=requests.CreateShipmentBody,
)
CONFIRM_SHIPMENT = operation(
    "confirmShipment",
    "orders",
    "Report that a shipment was delivered",
    "Staff only. The order is `delivered` when all its shipments are and nothing remains to ship.",
    {200: success("The order.", responses.OrderOut, ORDER_HEADERS), 202: PENDING},
    f"{ON_ORDER} {COMMAND} not-found not-shipped order-cancelled shipment-not-found",
    path=f"{ORDER_PATH}/shipments/1/delivered",
    parameters=(ORDER_ID, _NUMBER, *COMMAND_HEADERS, "IfMatch"),
    body=requests.EmptyBody,
    body_required=False,
)
CHANGE_METADATA = operation(
    "changeMetadata",
    "orders",
    "Change the metadata of an order",
    "Staff only. Sets the entries in the body and removes those that are null; other entries stay. For ids of the shop, not for "
    "personal data: metadata stays in the log.",
    {200: success("The order with the entries.", responses.OrderOut, ORDER_HEADERS), 202: PENDING},
    f"{ON_ORDER} {COMMAND} too-much-metadata order-full",
    path=f"{ORDER_PATH}/metadata",
    parameters=_STAFF,
    body=requests.ChangeMetadataBody,
)
IMPORT_ORDER = operation(
    "importOrder",
    "orders",
    "Record an order of an older service",
    "Staff only. The order keeps its times, its status and, if you send one, its number; the ledger owes nothing for it. "
    "`old_id` is the key: a repetition gets the first answer. Do not import two orders with one number at the same time: both "
    "could keep it. `order-ledger import-orders` sends a whole file.",
    {201: success("The order.", responses.OrderOut, f"Location {ORDER_HEADERS}"), 202: PENDING},
    f"{COMMAND} duplicate-line unknown-line total-mismatch number-in-use",
    path="/imports",
    parameters=("Prefer",),
    body=requests.ImportOrderBody,
)
ADD_NOTE = operation(
    "addNote",
    "orders",
    "Add a note to an order",
    "Staff only. Notes are personal data: they are stored beside the contact, never in the log of orders, and erased with it. "
    f"A retry with the same key adds none. An order has at most {MAX_NOTES} (`limit-exceeded`).",
    {201: success("The note is durable.", responses.NoteOut, "Replayed")},
    f"{ON_ORDER} {COMMAND}",
    path=f"{ORDER_PATH}/notes",
    parameters=(ORDER_ID, *COMMAND_HEADERS),
    body=requests.AddNoteBody,
)
READ_NOTES = operation(
    "readNotes",
    "orders",
    "Read the notes about an order",
    "Staff only; oldest first. The audit records it like the reading of a contact.",
    {200: success("The notes.", responses.NoteListOut, "LedgerPosition Staleness")},
    f"order-not-found order-frozen {READ}",
    path=f"{ORDER_PATH}/notes",
    parameters=(ORDER_ID, "LedgerPosition", "Prefer"),
)
DELETE_NOTE = operation(
    "deleteNote",
    "orders",
    "Delete a note",
    "Staff only. Permanent on every node within seconds; a retry of its `addNote` is `idempotency-key-reused`.",
    {204: {"description": "The note is gone."}},
    f"order-not-found order-frozen not-found {READ}",
    path=f"{ORDER_PATH}/notes/{examples.NOTE['note_id']}",
    parameters=(ORDER_ID, in_path("note_id", "The note.", examples.NOTE["note_id"]), "LedgerPosition", "Prefer"),
)
