"""Answers about outgoing webhooks, and the message that an endpoint receives. See `responses`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from api.contract import examples
from api.contract.responses import FeedEventOut, Response, Timestamp

_HEALTH: dict[str, Any] = {
    "failing_since": None,
    "succeeded_at": examples.AT,
    "failed_at": None,
    "error": None,
    "delivered": 1017,
    "failed": 0,
    "abandoned": 0,
    "waiting": 0,
}
ENDPOINT: dict[str, Any] = {
    "name": "erp",
    "url": "https://erp.example.org/hooks/orders",
    "types": ["OrderPlaced", "OrderCancelled"],
    "customer_id": None,
    "description": "the warehouse",
    "state": "active",
    "created_at": examples.AT,
    "started_at": examples.AT,
    "health": _HEALTH,
}
_TRY: dict[str, Any] = {
    "message_id": f"{examples.ORDER_ID}/2",
    "type": "OrderCancelled",
    "order_id": examples.ORDER_ID,
    "at": examples.AT,
    "took_ms": 41,
    "attempt": 1,
    "result": "delivered",
    "status": 204,
    "detail": "",
    "is_abandoned": False,
}


class WebhookHealthOut(Response):
    """How deliveries go. Counts are those of the running processes."""

    failing_since: Annotated[Timestamp | None, Meta(description="the first failure since the last success; null after a success")]
    succeeded_at: Annotated[Timestamp | None, Meta(description="the last success")]
    failed_at: Annotated[Timestamp | None, Meta(description="the last failure")]
    error: Annotated[str | None, Meta(description="the result of the last failure, as in the delivery log")]
    delivered: Annotated[int, Meta(description="events delivered")]
    failed: Annotated[int, Meta(description="tries that failed")]
    abandoned: Annotated[int, Meta(description="events that were not delivered within three days")]
    waiting: Annotated[
        int, Meta(description="events that failed and wait for the next try, each with the later ones of its order")
    ]


class WebhookEndpointOut(Response):
    """Where events are delivered."""

    EXAMPLES = (ENDPOINT,)

    name: str
    url: str
    types: Annotated[list[str] | None, Meta(description="only events of these types; null: of all")]
    customer_id: Annotated[str | None, Meta(description="only events of this customer's orders; null: of all")]
    description: str
    state: Annotated[
        Literal["active", "disabled", "disabled_failing", "disabled_gone"],
        Meta(description="`disabled` by an admin; after a week of failures; because the receiver answered 410"),
    ]
    created_at: Timestamp
    started_at: Annotated[Timestamp, Meta(description="when deliveries were begun at their current start: creation, or a replay")]
    health: WebhookHealthOut


class WebhookEndpointListOut(Response):
    """All endpoints, by name."""

    EXAMPLES = ({"data": [ENDPOINT]},)

    data: list[WebhookEndpointOut]


class WebhookSecretOut(Response):
    """The secret with which messages are signed, as libraries of Standard Webhooks take it."""

    EXAMPLES = ({"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},)

    secret: str


class WebhookTryOut(Response):
    """One try to deliver an event."""

    message_id: Annotated[str, Meta(description="`webhook-id`: order and version of the event, the same for every try")]
    type: str
    order_id: str
    at: Timestamp
    took_ms: int
    attempt: Annotated[int, Meta(description="counted from 1")]
    result: Annotated[
        str,
        Meta(
            description="`delivered`, `refused` (see `status`), `gone` (410), `timed_out`, `no_answer`, `private_address`, "
            "`unreadable` (the event, by this program)"
        ),
    ]
    status: Annotated[int, Meta(description="status of the answer; 0: none")]
    detail: Annotated[str, Meta(description="more about a missing answer")]
    is_abandoned: Annotated[bool, Meta(description="whether this was the last try")]


class WebhookTryPageOut(Response):
    """Newest first. `before` of the next, older page is `next_before`; null: there are no older ones."""

    EXAMPLES = ({"data": [_TRY], "next_before": 1017},)

    data: list[WebhookTryOut]
    next_before: int | None


class WebhookMessageOut(Response):
    """The body of a message to an endpoint."""

    EXAMPLES = ({"type": "OrderCancelled", "timestamp": examples.AT, "data": examples.FEED_EVENT},)

    type: str
    timestamp: Annotated[Timestamp, Meta(description="when it happened")]
    data: FeedEventOut
