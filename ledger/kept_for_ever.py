"""What no erasure reaches: the texts in `order-events` that others than this program write. Pure data.

A test holds the rows against the schemas: a new field is somebody's here, or the program's own. `order-ledger privacy` shows
them.
"""

from __future__ import annotations

from typing import NamedTuple


class Text(NamedTuple):
    """A field of an event, by its path. `writer`: who says what is in it; `wrong`: what must not be put there."""

    field: str
    writer: str
    meant: str
    wrong: str


TEXTS = (
    Text("customer_id", "gateway", "the shop's pseudonym of a customer", "a name, an address, a number that others know them by"),
    Text("placed.reference", "gateway", "number of the cart", "a name, an address, what the customer wrote"),
    Text("placed.lines.sku", "gateway", "number of the article", "what an article is made or engraved for"),
    Text("placed.lines.name", "gateway", "name of the article", "the text of an engraving, a dedication, a name"),
    Text("placed.adjustments.label", "gateway", "what is added or taken off", "whose voucher it is, the words of a gift card"),
    Text("actor", "who issues tokens", "role and name of a token", "the name of a person: name programs and desks"),
    Text("shipment.carrier", "staff", "name of the carrier", "the name of a driver or a neighbour"),
    Text("shipment.tracking", "staff", "the carrier's number of the parcel", "a name, an address, a telephone number"),
    Text("shipment.lines.sku", "staff", "number of the article", "as above"),
    Text("attention.ticket", "staff", "number of a ticket", "a name"),
    Text("payment.provider_ref", "payment provider", "its id of the payment", ""),
    Text("payment.charge_ref", "payment provider", "its id of the charge", ""),
    Text("payment.code", "payment provider", "its word for a no", ""),
    Text("refund.provider_ref", "payment provider", "its id of the refund", ""),
    Text("refund.code", "payment provider", "its word for a no", ""),
    Text("dispute.provider_ref", "payment provider", "its id of the dispute", ""),
    Text("dispute.reason", "payment provider", "its word for the reason", ""),
    Text("stock.reservation_ref", "stock service", "its id of the reservation", "whom it is for"),
    Text("stock.items.sku", "stock service", "number of the article", ""),
)

# Of the program's own making: ids, hashes, words out of lists that the code has.
OWN = frozenset(
    {
        "order_id",
        "command_id",
        "command_log",
        "fingerprint",
        "prev_hash",
        "placed.contact_digest",
        "type",
        "status",
        "payment_state",
        "currency",
        "placed.lines.service",
        "placed.adjustments.kind",
        "cancel.by",
        "cancel.reason",
        "payment.waiting_for",
        "dispute.outcome",
        "stock.service",
        "stock.reason",
        "shipment.lines.service",
        "attention.code",
        "attention.obligation_key",
        "attention.action",
    }
)

# What else an erasure leaves for a time, or does not reach.
ELSEWHERE = (
    ("order-commands, 30 days; order-refusals, 60 days", "the same fields, of refused requests too"),
    (
        "order-contacts in Kafka",
        "an erased contact until its segment is compacted, about a day later; then its key (order and keyed hash) and, of who "
        "asked to be erased, the customer's pseudonym",
    ),
    ("databases of every node, messages in OUTBOX_DIR", "nothing, seconds after the node has heard of it"),
    ("log lines, metrics, exports, archives", "nothing of a contact at any time"),
    ("mail servers, the text message service, the carrier", "what they were given: theirs to erase"),
    ("backups, mirrors of topics, snapshots of disks", "what they had: yours to erase"),
)
