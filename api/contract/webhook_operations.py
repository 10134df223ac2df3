"""Descriptions of the administration of outgoing webhooks. See `operations`."""

from __future__ import annotations

from typing import Any

from api.contract import queries, requests
from api.contract import webhook_responses as responses
from api.contract.describing import content, in_path, operation, success
from api.contract.operations import BODY
from api.contract.patterns import ENDPOINT_NAME

_NAME = in_path("name", "The endpoint: lower-case letters, digits and hyphens.", "erp", ENDPOINT_NAME)
_PATH = "/webhook-endpoints/erp"
_LOG = "ledger-unavailable not-caught-up"
_QUERY = "invalid-field unknown-field"

LIST_ENDPOINTS = operation(
    "listWebhookEndpoints",
    "webhooks",
    "List the webhook endpoints",
    "Admins only, as all operations about endpoints. At most 20.",
    {200: success("The endpoints.", responses.WebhookEndpointListOut)},
    f"{_LOG} {_QUERY}",
    path="/webhook-endpoints",
)
READ_ENDPOINT = operation(
    "readWebhookEndpoint",
    "webhooks",
    "Read a webhook endpoint, and how deliveries go",
    "Health is published by the delivering processes every few seconds.",
    {200: success("The endpoint.", responses.WebhookEndpointOut)},
    f"not-found {_LOG} {_QUERY}",
    path=_PATH,
    parameters=(_NAME,),
)
PUT_ENDPOINT = operation(
    "putWebhookEndpoint",
    "webhooks",
    "Create, change or enable a webhook endpoint",
    "Creates the endpoint, or replaces its members; its secret and position stay. A new one receives the events that follow. "
    "With `enabled`, one that was disabled is enabled again and continues where it ended. Repeating the request changes nothing.",
    {
        200: success("The endpoint as changed.", responses.WebhookEndpointOut),
        201: success("The endpoint as created.", responses.WebhookEndpointOut),
    },
    f"not-found {BODY} {_LOG}",
    path=_PATH,
    parameters=(_NAME,),
    body=requests.SetWebhookEndpointBody,
)
DELETE_ENDPOINT = operation(
    "deleteWebhookEndpoint",
    "webhooks",
    "Delete a webhook endpoint",
    "Deliveries end within seconds. What waits for a retry is not delivered.",
    {204: {"description": "It is deleted."}},
    f"not-found {_LOG} {_QUERY}",
    path=_PATH,
    parameters=(_NAME,),
)
READ_SECRET = operation(
    "readWebhookSecret",
    "webhooks",
    "Read the secret of a webhook endpoint",
    "With it, the receiver verifies `webhook-signature` (Standard Webhooks). Reading it is recorded in the audit.",
    {200: success("The secret.", responses.WebhookSecretOut)},
    f"not-found {_LOG} {_QUERY}",
    path=f"{_PATH}/secret",
    parameters=(_NAME,),
)
ROTATE_SECRET = operation(
    "rotateWebhookSecret",
    "webhooks",
    "Replace the secret of a webhook endpoint",
    "For a day messages are signed with both, the new one first.",
    {200: success("The new secret.", responses.WebhookSecretOut)},
    f"not-found {BODY} {_LOG}",
    path=f"{_PATH}/secret",
    parameters=(_NAME,),
    body=requests.EmptyBody,
    body_required=False,
)
REPLAY = operation(
    "replayWebhooks",
    "webhooks",
    "Deliver events again, from a place on",
    "Everything behind the place is delivered, with the same `webhook-id`s as before; what waits for a retry is part of that. "
    "The place is a time, or a cursor of `readFeed` without filters.",
    {200: success("The endpoint.", responses.WebhookEndpointOut)},
    f"not-found invalid-cursor {BODY} {_LOG}",
    path=f"{_PATH}/replay",
    parameters=(_NAME,),
    body=requests.ReplayBody,
)
READ_TRIES = operation(
    "readWebhookDeliveries",
    "webhooks",
    "Read the delivery log of a webhook endpoint",
    "Every try of the last 30 days, newest first. A page may be short, because a request reads at most 5,000 tries.",
    {200: success("Tries.", responses.WebhookTryPageOut)},
    f"not-found {_LOG} {_QUERY}",
    path=f"{_PATH}/deliveries",
    parameters=(_NAME,),
    query=queries.DeliveriesQuery,
)


def _header(name: str, text: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": True, "description": text, "schema": {"type": "string"}}


# The `webhooks` of the document: what an endpoint receives.
MESSAGES: dict[str, Any] = {
    "event": {
        "post": {
            "operationId": "receiveEvent",
            "tags": ["webhooks"],
            "summary": "An event of the feed",
            "description": "Signed as Standard Webhooks says: verify it with one of its libraries. Events of one order come in "
            "the order of their versions, each at least once: ignore a `webhook-id` that you know. Answer 2xx within 15 s.",
            "security": [],
            "parameters": [
                _header("webhook-id", "Order and version; the same for every try."),
                _header("webhook-timestamp", "When it was sent, in seconds since the epoch."),
                _header("webhook-signature", "`v1,` and the signature in base64; during a rotation two, separated by a space."),
            ],
            "requestBody": {"required": True, "content": content(responses.WebhookMessageOut)},
            "responses": {
                "2XX": {"description": "Received."},
                "410": {"description": "Nothing more is wanted: the endpoint is disabled."},
                "4XX": {"description": "As every other answer: delivered again later, for up to three days."},
            },
        }
    }
}
