"""Description of the feed of all events. See `operations`."""

from __future__ import annotations

from api.contract import queries, responses
from api.contract.describing import content, headers_named, operation
from api.contract.examples import CURSOR, ORDER_ID
from api.contract.operations import READ

_STREAM = f': ping\n\nevent: OrderPlaced\ndata: {{"type":"OrderPlaced","order_id":"{ORDER_ID}"}}\nid: {CURSOR}\n\n'

READ_FEED = operation(
    "readFeed",
    "events",
    "Read or follow the events of all orders",
    "As JSON, a page; with `Accept: text/event-stream`, a stream of server-sent events (`id` = cursor, `event` = type, `data` = "
    "the event as in the page), with a comment every 15 s, closed after 30 min: resume with `Last-Event-ID`. Events of one order "
    "come in the order of their versions, others roughly by time. Cursors do not expire, and are valid on every node of this "
    "ledger: no event is missed, and none is repeated. An event that this node cannot read is shown when it can; until then "
    "later events of its order wait, and no others. A gateway sees only the events of its customer's orders.",
    {
        200: {
            "description": "The events.",
            "headers": headers_named("Staleness"),
            "content": {
                **content(responses.FeedPageOut),
                "text/event-stream": {"schema": {"type": "string"}, "examples": {"stream": {"value": _STREAM}}},
            },
        }
    },
    f"customer-required invalid-cursor not-acceptable {READ}",
    path="/events",
    parameters=("CustomerId", "LedgerPosition", "Prefer", "LastCursor"),
    query=queries.FeedQuery,
)
