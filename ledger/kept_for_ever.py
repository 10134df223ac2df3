"""What no erasure reaches: the texts in `order-events` that come from outside. Pure data.

A test compares the rows with the schemas: a new field must be listed here, or in `OWN`. `order-ledger privacy` shows them.
"""

from __future__ import annotations

from typing import NamedTuple


class Text(NamedTuple):
    """A field of an event, by its path. `writer`: where its content comes from; `wrong`: what must not be put there."""

    field: str
    writer: str
    meant: str
    wrong: str


TEXTS = (
    Text("customer_id", "gateway", "the shop's pseudonym of a customer", "a name, an address, a number that others know them by"),
    Text("placed.reference", "gateway", "number of the cart", "a name, an address, what the customer wrote"),
    Text("placed.lines.sku", "gateway", "number of the article", "for whom or what an article is engraved"),
    Text("placed.lines.name", "gateway", "name of the article", "the text of an engraving, a dedication, a name"),
    Text("placed.adjustments.label", "gateway", "what is added or deducted", "the owner of a voucher, the text of a gift card"),
    Text("placed.metadata.name", "gateway, staff", "name of an id of the shop", "a name of a person"),
    Text(
        "placed.metadata.text",
        "gateway, staff",
        "an id of the shop: campaign, till",
        "anything a customer wrote or is",
    ),
    Text("metadata.entries.name", "gateway, staff", "as above", "as above"),
    Text("metadata.entries.text", "gateway, staff", "as above", "as above"),
    Text("placed.adjustments.sku", "gateway", "number of the article", "as above"),
    Text("cut.lines.sku", "gateway, staff", "number of the article", "as above"),
    Text("refund_request.lines.sku", "staff", "number of the article", "as above"),
    *(
        Text(f"imported.{name}", writer, meant, wrong)
        for name, writer, meant, wrong in (
            ("placed.reference", "who imports", "as of a placed order", "as above"),
            ("placed.lines.sku", "who imports", "as of a placed order", "as above"),
            ("placed.lines.name", "who imports", "as of a placed order", "as above"),
            ("placed.adjustments.label", "who imports", "as of a placed order", "as above"),
            ("placed.adjustments.sku", "who imports", "as of a placed order", "as above"),
            ("placed.metadata.name", "who imports", "as of a placed order", "as above"),
            ("placed.metadata.text", "who imports", "as of a placed order", "as above"),
            ("placed.number", "who imports", "the number of the older service", "a name"),
            ("old_id", "who imports", "the id of the older service", "a name, an address"),
            ("carrier", "who imports", "name of the carrier", "as above"),
            ("tracking", "who imports", "the carrier's tracking number", "as above"),
        )
    ),
    Text("actor", "who issues tokens", "role and name of a token", "the name of a person: name programs and desks"),
    Text("shipment.carrier", "staff", "name of the carrier", "the name of a driver or a neighbour"),
    Text("shipment.tracking", "staff", "the carrier's tracking number", "a name, an address, a telephone number"),
    Text("shipment.lines.sku", "staff", "number of the article", "as above"),
    Text("attention.ticket", "staff", "number of a ticket", "a name"),
    Text("payment.provider_ref", "payment provider", "its payment id", ""),
    Text("payment.charge_ref", "payment provider", "its charge id", ""),
    Text("payment.code", "payment provider", "its error code", ""),
    Text("refund.provider_ref", "payment provider", "its refund id", ""),
    Text("refund.code", "payment provider", "its error code", ""),
    Text("dispute.provider_ref", "payment provider", "its dispute id", ""),
    Text("dispute.reason", "payment provider", "its reason code", ""),
    Text("stock.reservation_ref", "stock service", "its reservation id", "whom it is for"),
    Text("stock.items.sku", "stock service", "number of the article", ""),
)

# Created by the program: ids, hashes, words from lists in the code.
OWN = frozenset(
    {
        "order_id",
        "command_id",
        "command_log",
        "fingerprint",
        "prev_hash",
        "placed.contact_digest",
        "placed.number",
        "imported.placed.contact_digest",
        "imported.placed.lines.service",
        "imported.placed.adjustments.kind",
        "imported.placed.adjustments.service",
        "imported.status",
        "imported.cancel_reason",
        "type",
        "status",
        "payment_state",
        "currency",
        "placed.lines.service",
        "placed.adjustments.kind",
        "placed.adjustments.service",
        "cut.by",
        "cut.reason",
        "cut.lines.service",
        "refund_request.reason",
        "refund_request.lines.service",
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

# What else an erasure leaves for some time, or does not reach.
ELSEWHERE = (
    ("order-commands, 30 days; order-refusals, 60 days", "the same fields, also those of refused requests"),
    (
        "order-contacts in Kafka",
        "an erased contact until its segment is compacted, about a day later; then its key (order and keyed hash) and, for an "
        "erasure on request, the customer's pseudonym",
    ),
    ("databases of every node, messages in OUTBOX_DIR", "nothing, seconds after the node has received it"),
    ("log lines, metrics, exports, archives", "nothing: they never contain contacts"),
    ("mail servers, the text message service, the carrier", "what they received: they must erase it"),
    (
        "backups of `order-ledger backup`",
        "the contact, encrypted, until the next one with --all-contacts; a restore of any backup that has the erasure leaves the "
        "contact out",
    ),
    ("other backups, mirrors of topics, snapshots of disks", "what they contained: you must erase it"),
)
