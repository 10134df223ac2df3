"""Descriptions of all operations but those of the schema registry (`registry`): parameters, bodies, answers, examples. Data only.

Each constant contains the arguments of `APIRouter.add_api_route` except path and endpoint.
"""

from __future__ import annotations

from api.contract import desk_responses, examples, queries, requests, responses
from api.contract.describing import content, headers_named, health, in_path, operation, plain, success
from api.contract.patterns import NAME

COMMAND_HEADERS = ("IdempotencyKey", "Prefer")
BODY = "malformed-json body-too-large unsupported-media-type unknown-field invalid-field limit-exceeded"
COMMAND = (
    f"idempotency-key-required idempotency-key-invalid {BODY} idempotency-key-reused order-frozen could-not-decide newer-refusal "
    "too-many-requests ledger-unavailable decisions-behind not-caught-up not-upgraded"
)
ON_ORDER = "order-not-found invalid-if-match version-conflict"
READ = "not-caught-up ledger-unavailable invalid-field unknown-field"

ORDER_ID = in_path("order_id", "The order.", examples.ORDER_ID)
ORDER_HEADERS = "ETag LedgerPosition LedgerOutcome Replayed Applied"
PENDING = success("Durable, not decided yet: see `Location`.", responses.CommandOut, "Location Applied")
ORDER_PATH = f"/orders/{examples.ORDER_ID}"

PLACE_ORDER = operation(
    "placeOrder",
    "orders",
    "Place an order",
    "Answers when the order is decided and visible to every read on this node, within `Prefer: wait` (3 s). A retry with the "
    "same `Idempotency-Key` and body always gets the first answer. The contact is stored separately and can be erased.",
    {201: success("The order as placed.", responses.OrderOut, f"Location {ORDER_HEADERS}"), 202: PENDING},
    f"customer-required {COMMAND} currency-not-supported duplicate-line total-mismatch payment-window-not-allowed unknown-line",
    path="/orders",
    parameters=("CustomerId", *COMMAND_HEADERS),
    body=requests.PlaceOrderBody,
)
LIST_ORDERS = operation(
    "listOrders",
    "orders",
    "List orders, newest first",
    "A gateway sees only the orders of its customer. Follow `next_cursor` with the same filters until it is null.",
    {200: success("A page of orders.", responses.OrderPageOut, "Staleness")},
    f"customer-required invalid-cursor {READ}",
    path="/orders",
    parameters=("CustomerId", "LedgerPosition", "Prefer"),
    query=queries.AdminOrdersQuery,
)
READ_ORDER = operation(
    "readOrder",
    "orders",
    "Read an order: now, as of a version, or as of a time",
    "The contact is null for readers and if it was erased; an old version has the current contact.",
    {
        200: success("The order.", responses.OrderOut, "ETag LedgerPosition Staleness"),
        304: {"description": "`If-None-Match` has this version."},
    },
    f"customer-required order-not-found version-not-found order-frozen {READ}",
    path=ORDER_PATH,
    parameters=(ORDER_ID, "CustomerId", "LedgerPosition", "Prefer", "IfNoneMatch"),
    query=queries.OrderQuery,
)
READ_EVENTS = operation(
    "readEvents",
    "orders",
    "Read or follow the events of an order",
    "As JSON, a page, oldest first. With `Accept: text/event-stream`, a stream of server-sent events (`id` = version, "
    "`event` = type, `data` = the event as in the page), with a comment every 15 s, closed after 30 min: resume with "
    "`Last-Event-ID`.",
    {
        200: {
            "description": "The events.",
            "headers": headers_named("LedgerPosition Staleness"),
            "content": {
                **content(responses.EventPageOut),
                "text/event-stream": {
                    "schema": {"type": "string"},
                    "examples": {
                        "stream": {
                            "value": ': ping\n\nevent: OrderPlaced\ndata: {"version":1,"type":"OrderPlaced"}\nid: 1\n\n',
                        }
                    },
                },
            },
        }
    },
    f"customer-required order-not-found order-frozen not-acceptable {READ}",
    path=f"{ORDER_PATH}/events",
    parameters=(ORDER_ID, "CustomerId", "LedgerPosition", "Prefer", "LastEventId"),
    query=queries.EventsQuery,
)
SET_STATUS = operation(
    "setOrderStatus",
    "orders",
    "Set the status of an order",
    "Staff only. The current status is answered with 200 and `Ledger-Outcome: unchanged`.",
    {200: success("The order after the change.", responses.OrderOut, ORDER_HEADERS), 202: PENDING},
    f"{ON_ORDER} {COMMAND} status-not-settable not-paid stock-not-reserved dispute-open not-shipped already-shipped "
    "too-late-to-cancel order-cancelled order-imported",
    path=f"{ORDER_PATH}/status",
    parameters=(ORDER_ID, *COMMAND_HEADERS, "IfMatch"),
    body=requests.SetStatusBody,
)
CANCEL_ORDER = operation(
    "cancelOrder",
    "orders",
    "Cancel an order",
    "Customers can cancel until processing starts, staff until it is shipped. Answers when the cancellation is decided; refund "
    "and stock release follow (`axes.payment`). An order that is already cancelled: 200 with `Ledger-Outcome: unchanged`.",
    {200: success("The cancelled order.", responses.OrderOut, ORDER_HEADERS), 202: PENDING},
    f"customer-required {ON_ORDER} {COMMAND} too-late-to-cancel order-imported",
    path=f"{ORDER_PATH}/cancel",
    parameters=(ORDER_ID, "CustomerId", *COMMAND_HEADERS, "IfMatch"),
    body=requests.CancelOrderBody,
    body_required=False,
)
PAY = operation(
    "payOrder",
    "payments",
    "Open a payment, or report that the customer is done",
    "`initiate` (default) opens a payment and answers with the secret with which the customer's browser pays; it needs an "
    "`Idempotency-Key` and the total that the customer saw. A retry with the same key answers with the current state of the same "
    "attempt. If the provider has not opened it in time, the answer is 202 with the URL of the payment in `Location`. `confirm` "
    "asks the provider and answers with the resulting state; it needs no key.",
    {
        200: success("`confirm`: the current state of the payment.", responses.PaymentOut, "LedgerPosition Applied"),
        201: success("The payment is open.", responses.PaymentOut, "Location LedgerPosition Replayed Applied"),
        202: success("Not decided, or not opened yet: see `Location`.", responses.CommandOut, "Location Applied"),
    },
    f"customer-required {ON_ORDER} {COMMAND} not-found order-full payment-open already-paid nothing-to-pay order-cancelled "
    "order-expired payment-refused too-many-attempts total-mismatch provider-unavailable",
    path=f"{ORDER_PATH}/payment",
    parameters=(ORDER_ID, "CustomerId", "OptionalKey", "Prefer", "IfMatch"),
    body=requests.PayOrderBody,
)
READ_PAYMENT = operation(
    "readPayment",
    "payments",
    "Read an order's payment",
    "The last attempt. Includes the secret only for the customer, and only while it is open, pending or declined.",
    {200: success("The payment.", responses.PaymentOut, "LedgerPosition Staleness")},
    f"customer-required order-not-found order-frozen not-found provider-unavailable {READ}",
    path=f"{ORDER_PATH}/payment",
    parameters=(ORDER_ID, "CustomerId", "LedgerPosition", "Prefer"),
)
WEBHOOK = operation(
    "receiveStripeWebhook",
    "payments",
    "Receive a message of the payment provider",
    "Signed by the provider (`Stripe-Signature`); no token. Answered when all facts behind the message are fetched and durable. "
    "Messages of other types, or about unknown orders, are accepted and counted.",
    {200: success("Accepted.", responses.WebhookOut)},
    "invalid-signature body-too-large unsupported-media-type ledger-unavailable not-caught-up provider-unavailable",
    path="/webhooks/stripe",
    parameters=("StripeSignature",),
    raw_body={
        "description": "An event signed by the provider. Anything else that it signed is accepted and ignored.",
        "examples": [{"id": "evt_1", "object": "event", "type": "payment_intent.succeeded", "livemode": True, "data": {}}],
    },
    security=[],
)
RESOLVE_ATTENTION = operation(
    "resolveAttention",
    "orders",
    "Resolve a flag",
    "Staff only. `attention` of the order lists the flags. `retry` repeats what failed; `settled_elsewhere` counts as refunded.",
    {200: success("The order without the flag.", responses.OrderOut, ORDER_HEADERS), 202: PENDING},
    f"{ON_ORDER} {COMMAND} no-such-attention",
    path=f"{ORDER_PATH}/attention",
    parameters=(ORDER_ID, *COMMAND_HEADERS, "IfMatch"),
    body=requests.ResolveAttentionBody,
)
READ_COMMAND = operation(
    "readCommand",
    "commands",
    "Read the state of a command",
    "For the principal and customer that sent it. `at` is the position of the command, as in the `Location` of the 202: with it, "
    "a command that is not decided yet is `pending`; without it, such a command is unknown.",
    {200: success("Pending, accepted or refused.", responses.CommandOut, "Staleness")},
    f"customer-required command-unknown {READ}",
    path=f"/commands/{examples.COMMAND_ID}",
    parameters=(in_path("command_id", "The command.", examples.COMMAND_ID), "CustomerId", "LedgerPosition", "Prefer"),
    query=queries.CommandQuery,
)
ERASE_CUSTOMER = operation(
    "eraseCustomer",
    "customers",
    "Erase a customer's personal data",
    "All contacts of the customer, also those of undecided orders, are permanently erased, and every node removes them from its "
    "files within seconds. After an answer the erasure is certain: if the node is killed, it resumes at its next start, or "
    "another node does. Events do not change: `order-ledger privacy` lists what must not be put into them.",
    {
        200: success("The erasure is durable.", responses.ErasureOut, "Applied"),
        202: success("Durable and in progress: see `Location`.", responses.ErasureStateOut, "Location Applied"),
    },
    f"open-orders {BODY} not-caught-up ledger-unavailable",
    path="/customers/c-1/erasure",
    parameters=(in_path("customer_id", "The customer, a pseudonym.", "c-1", NAME), "LedgerPosition", "Prefer"),
    body=requests.EraseBody,
    body_required=False,
)
READ_ERASURE = operation(
    "readErasure",
    "customers",
    "Read the progress of an erasure",
    "The last erasure of the customer, on any node.",
    {200: success("Running or done.", responses.ErasureStateOut, "Staleness")},
    f"not-found {READ}",
    path="/customers/c-1/erasure",
    parameters=(in_path("customer_id", "The customer, a pseudonym.", "c-1", NAME),),
)
READ_DAILY = operation(
    "readDailyReport",
    "reports",
    "Daily totals per currency",
    "UTC days by `occurred_at`. Days without events are omitted.",
    {200: success("The totals.", responses.DailyReportOut, "Staleness")},
    f"limit-exceeded {READ}",
    path="/reports/daily",
    parameters=("LedgerPosition", "Prefer"),
    query=queries.DailyQuery,
)


LIVE = health(
    "live",
    "/live",
    "The process answers",
    "For a supervisor: if there is no answer, a restart may help. Nothing is checked.",
    False,
)
READY = health(
    "ready",
    "/ready",
    "The node folds and has caught up once",
    "An unreachable broker is reported but does not make the node unready, even at a start: it answers reads from its databases, "
    "marked as stale (`stale`, `staleness_ms`). `reason` names the problem.",
    True,
)
CONSOLE_CONFIG = operation(
    "consoleConfig",
    "system",
    "How the console logs people in",
    "For the console's page, before anybody has logged in; no token. Empty if the console has no client at an issuer: then "
    "people enter a token. The page asks for `scopes`, with `parameters` and PKCE (S256), and sends the access token that it "
    "gets as bearer token.",
    {200: success("What the page needs.", desk_responses.ConsoleConfigOut)},
    "header-too-large",
    path="/console/config.json",
    security=[],
)
METRICS = plain(
    "metrics",
    "Metrics for Prometheus",
    "Every node counts for itself, from its start. `Accept` chooses between the text formats of Prometheus and OpenMetrics.",
    "text/plain",
    "ledger_commands_waiting 0.0\n",
    path="/metrics",
)
OPENAPI = plain(
    "openapi", "This document", "Made from the running program.", "application/json", {"openapi": "3.1.0"}, path="/openapi.json"
)
ASYNCAPI = plain(
    "asyncapi",
    "The topics and their Avro schemas",
    "An AsyncAPI document for consumers of the topics, made from the running program.",
    "application/json",
    {"asyncapi": "3.1.0"},
    path="/asyncapi.json",
    slugs="ledger-unavailable not-caught-up",
)
READ_PROBLEM = operation(
    "readProblem",
    "system",
    "Read the meaning of a problem's `type`",
    "JSON, or an HTML page with `Accept: text/html`.",
    {
        200: {
            "description": "The problem.",
            "content": {
                **content(responses.ProblemTypeOut),
                "text/html": {
                    "schema": {"type": "string"},
                    "examples": {"page": {"value": "<!doctype html><title>Total mismatch</title>"}},
                },
            },
        }
    },
    "not-found not-acceptable",
    path="/problems/total-mismatch",
    parameters=(in_path("slug", "The problem's code.", "total-mismatch"),),
)
