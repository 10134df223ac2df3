"""Problems: every error of the API, as RFC 9457 `application/problem+json`. The only table of slugs and statuses.

`type` is `/problems/<slug>` and `code` repeats the slug: these two never change, titles and details may. The slug of a refusal
is its `ledger.transitions.Code` with hyphens, except those in `_SLUG_OF`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from api.contract.responses import ProblemErrorOut, ProblemOut
from ledger.errors import DecisionsBehind, NotCaughtUp, NotDurable, NotNow, NotUpgraded, Overloaded
from ledger.transitions import Code

PROBLEM_JSON = b"application/problem+json"


class ProblemType(NamedTuple):
    """The meaning of a slug. `retry_after_s` is sent as `Retry-After`."""

    status: int
    title: str
    meaning: str
    retry_after_s: int | None = None


_NEW_KEY = "The outcome is recorded: a retry with the same key gets the same answer. To try again after a change, use a new key."

PROBLEMS: dict[str, ProblemType] = {
    # 400: the request cannot be read
    "malformed-json": ProblemType(
        400, "Malformed JSON", "The body is not one JSON value in UTF-8, or an object has a duplicate key."
    ),
    "idempotency-key-required": ProblemType(400, "Idempotency-Key required", "Every command needs an `Idempotency-Key` header."),
    "idempotency-key-invalid": ProblemType(
        400, "Idempotency-Key invalid", "The key must be 1 to 255 visible ASCII characters, without spaces."
    ),
    "customer-required": ProblemType(
        400,
        "Customer-Id required",
        "A gateway acts for one customer and must send `Customer-Id`, a pseudonym: `[A-Za-z0-9_-]{1,64}`.",
    ),
    "invalid-cursor": ProblemType(
        400, "Invalid cursor", "The cursor was not issued by this API, or belongs to other filters or another customer."
    ),
    "invalid-if-match": ProblemType(400, "Invalid If-Match", '`If-Match` must be one strong entity tag with a version: "7".'),
    "invalid-signature": ProblemType(
        400, "Invalid signature", "The message is not signed by the provider, is too old, or is not for this account and mode."
    ),
    "malformed-request": ProblemType(400, "Malformed request", "The request is not valid HTTP/1.1; the connection is closed."),
    # 401, 403
    "unauthenticated": ProblemType(
        401, "Unauthenticated", "A bearer token is required: none was sent, or it is unknown or has expired."
    ),
    "forbidden": ProblemType(403, "Forbidden", "The role of the token does not permit this operation."),
    # 404, 405, 406
    "not-found": ProblemType(404, "Not found", "There is no resource at this path."),
    "order-not-found": ProblemType(404, "Order not found", "There is no such order, or it belongs to another customer."),
    "version-not-found": ProblemType(404, "Version not found", "The order has no such version, or did not exist at that time."),
    "shipment-not-found": ProblemType(404, "Shipment not found", f"The order has no such shipment. {_NEW_KEY}"),
    "command-unknown": ProblemType(
        404,
        "Command unknown",
        "This principal and customer have no such command, and there is none at the position in the query.",
    ),
    "method-not-allowed": ProblemType(405, "Method not allowed", "The path does not support this method; see `Allow`."),
    "not-acceptable": ProblemType(406, "Not acceptable", "The resource has no representation that `Accept` permits."),
    # 408, 431: of the connection, which is closed
    "request-timeout": ProblemType(408, "Request timeout", "Headers must be complete within 10 s, the body within another 10 s."),
    "header-too-large": ProblemType(
        431, "Header too large", "The headers of a request, including its path, are limited to 32 KiB."
    ),
    # 409: the order's state says no
    "order-cancelled": ProblemType(409, "Order cancelled", f"The order is cancelled. {_NEW_KEY}"),
    "order-expired": ProblemType(409, "Order expired", f"The time to pay has expired. {_NEW_KEY}"),
    "already-paid": ProblemType(409, "Already paid", f"The order is already paid. {_NEW_KEY}"),
    "payment-open": ProblemType(409, "Payment open", f"Another payment attempt is in progress. {_NEW_KEY}"),
    "nothing-to-pay": ProblemType(409, "Nothing to pay", f"The order costs nothing. {_NEW_KEY}"),
    "too-many-attempts": ProblemType(409, "Too many attempts", f"No further payment attempt is possible. {_NEW_KEY}"),
    "too-late-to-cancel": ProblemType(
        409,
        "Too late to cancel",
        f"Customers can cancel until processing starts, staff until the order is shipped. {_NEW_KEY}",
    ),
    "not-paid": ProblemType(409, "Not paid", f"The order is not paid yet. {_NEW_KEY}"),
    "stock-not-reserved": ProblemType(409, "Stock not reserved", f"Stock for the order is not reserved yet. {_NEW_KEY}"),
    "dispute-open": ProblemType(409, "Dispute open", f"A dispute about the payment is open. {_NEW_KEY}"),
    "not-shipped": ProblemType(409, "Not shipped", f"The order has not been shipped yet. {_NEW_KEY}"),
    "already-shipped": ProblemType(409, "Already shipped", f"The order has already been shipped. {_NEW_KEY}"),
    "quantity-exceeded": ProblemType(
        409, "Quantity exceeded", f"A line has fewer units left for that: see the quantities of the order's lines. {_NEW_KEY}"
    ),
    "order-imported": ProblemType(
        409, "Order imported", f"The order was paid through an older service, which must refund it first. {_NEW_KEY}"
    ),
    "number-in-use": ProblemType(409, "Number in use", "Another order has this number."),
    "nothing-to-refund": ProblemType(
        409, "Nothing to refund", f"Nothing was paid for that, or it was refunded already. {_NEW_KEY}"
    ),
    "amount-not-payable": ProblemType(
        409,
        "Amount not payable",
        "Some currencies are paid and refunded in steps of 10 or 100 minor units. What the order would cost, or what is to "
        f"be refunded, is no such amount. {_NEW_KEY}",
    ),
    "refund-exceeds-payment": ProblemType(
        409, "Refund exceeds payment", f"Less can be refunded: see `refundable_minor` of the order's refunds. {_NEW_KEY}"
    ),
    "no-such-attention": ProblemType(409, "No such attention", f"The order has no such open flag. {_NEW_KEY}"),
    "order-full": ProblemType(
        409, "Order full", f"The order has 1,000 events and accepts only what winds it up as a whole. {_NEW_KEY}"
    ),
    "order-frozen": ProblemType(
        409,
        "Order frozen",
        "An event of this order could not be folded (`frozen` names it), or an operator froze it (`attention` has the flag). "
        f"Staff must investigate. {_NEW_KEY}",
    ),
    "could-not-decide": ProblemType(
        409,
        "Could not decide",
        f"The decision failed because of a bug; the order is unchanged and the error is logged. {_NEW_KEY}",
    ),
    "newer-refusal": ProblemType(
        409,
        "Newer refusal",
        "An upgraded node refused the command for a reason that this older node has no words for; the order is unchanged. "
        f"Ask again after the upgrade. {_NEW_KEY}",
    ),
    "not-due": ProblemType(409, "Not due", f"It is too early for this operation. {_NEW_KEY}"),
    "unknown-attempt": ProblemType(409, "Unknown attempt", f"The order has no such payment attempt or dispute. {_NEW_KEY}"),
    "undecodable": ProblemType(409, "Undecodable", "The bytes of the command could not be decoded; they are kept for staff."),
    "open-orders": ProblemType(
        409,
        "Open orders",
        "The customer has orders that are neither delivered nor cancelled. Send `force` to erase anyway.",
    ),
    # 412, 413, 415
    "version-conflict": ProblemType(
        412, "Version conflict", f"`If-Match` does not name the current version of the order; see `current`. {_NEW_KEY}"
    ),
    "body-too-large": ProblemType(413, "Body too large", "A request body is limited to 64 KiB, a webhook to 256 KiB."),
    "unsupported-media-type": ProblemType(
        415, "Unsupported media type", "The body must be `application/json` in UTF-8, not compressed."
    ),
    # 422: readable, but not valid
    "unknown-field": ProblemType(
        422, "Unknown field", "`errors` points to members or parameters that this operation does not have."
    ),
    "invalid-field": ProblemType(422, "Invalid field", "`errors` points to values that are missing or not allowed."),
    "limit-exceeded": ProblemType(422, "Limit exceeded", "Too many lines, adjustments, levels, days or notes; see `errors`."),
    "duplicate-line": ProblemType(422, "Duplicate line", "Two lines have the same service and sku: send one line with the sum."),
    "unknown-line": ProblemType(422, "Unknown line", "The order has no line with this service and sku."),
    "too-much-metadata": ProblemType(422, "Too much metadata", "An order has at most 20 entries of metadata."),
    "currency-not-supported": ProblemType(422, "Currency not supported", "The shop does not sell in this currency."),
    "total-mismatch": ProblemType(
        422, "Total mismatch", "The total does not equal the sum of lines and adjustments, or the total of the order."
    ),
    "payment-window-not-allowed": ProblemType(
        422,
        "Payment window not allowed",
        "`payment_window_seconds` is below the minimum or above the maximum of the shop.",
    ),
    "status-not-settable": ProblemType(
        422, "Status not settable", "`pending` and `paid` follow from facts about payment and stock and cannot be set."
    ),
    "idempotency-key-reused": ProblemType(
        422, "Idempotency-Key reused", "The key was already used for a different request of this operation. Use a new key."
    ),
    # 429, 5xx
    "too-many-requests": ProblemType(
        429,
        "Too many requests",
        "This principal or customer exceeded its rate limit, or too many commands are waiting for their outcome on this node. "
        "Wait for `Retry-After`; a retry with the same key is safe.",
        1,
    ),
    "internal-error": ProblemType(
        500, "Internal error", "A bug in this program; the log has details under the `Request-Id`. A retry is safe."
    ),
    "ledger-unavailable": ProblemType(
        503,
        "Ledger unavailable",
        "The log does not answer, and it is unknown whether the request is durable. A retry with the same key is safe.",
        1,
    ),
    "too-many-connections": ProblemType(
        503,
        "Too many connections",
        "All connections that this node accepts, in total or from one address, are busy.",
        1,
    ),
    "decisions-behind": ProblemType(
        503, "Decisions behind", "Earlier commands are undecided, so this one was not sent. A retry with the same key is safe.", 5
    ),
    "issuer-unavailable": ProblemType(
        503,
        "Issuer unavailable",
        "The key of the token is unknown, and the issuer of tokens, who may have published it, does not answer. Nothing was "
        "done; a retry is safe.",
        10,
    ),
    "not-caught-up": ProblemType(
        503, "Not caught up", "This node has not folded the log far enough to answer; another node may have. A retry is safe.", 1
    ),
    "not-upgraded": ProblemType(
        503,
        "Not upgraded",
        "The request needs records that an older program, which is still part of this ledger, could not read. It was not sent; a "
        "retry with the same key is safe, and succeeds when the upgrade is finished.",
        60,
    ),
    "payment-refused": ProblemType(
        422,
        "Payment refused",
        "The payment provider refuses to open a payment for this order; `provider_code` is its reason. Another card would not "
        "help: the order is flagged for staff.",
    ),
    "provider-unavailable": ProblemType(
        503, "Provider unavailable", "The payment provider does not answer. A retry with the same key is safe.", 5
    ),
}

_SLUG_OF = {Code.AMOUNT_DIFFERS.value: "total-mismatch", Code.UNKNOWN_PARCEL.value: "shipment-not-found"}

# Refused because the request is already fulfilled: answered with the order and 200.
UNCHANGED = frozenset({Code.NOTHING_TO_CHANGE.value, Code.ALREADY_KNOWN.value})


def slug_of(code: str) -> str:
    """Slug of a refusal's code; `newer-refusal` for one that came with a later version of the program."""
    slug = _SLUG_OF.get(code) or code.replace("_", "-")
    return slug if slug in PROBLEMS else "newer-refusal"


Where = Literal["body", "query", "header", "path"]


class FieldError(NamedTuple):
    """One fault of a request. `pointer` is a JSON pointer into the body, or `/<name>` of the header or parameter.

    `where` is `body`, `query`, `header` or `path`; `code` a stable word with hyphens (`missing`, `string-too-long`, ...).
    """

    pointer: str
    code: str
    where: Where = "body"

    def shown(self) -> ProblemErrorOut:
        return ProblemErrorOut(self.pointer, self.code, None if self.where == "body" else self.where)


class Problem(Exception):
    """An answer other than success. Raised anywhere below a route, which sends it.

    `members` are added to the JSON: `order_id`, `command_id`, `current` {version, status}, `frozen` {reason, partition, offset},
    `provider_code`.
    """

    def __init__(
        self,
        slug: str,
        detail: str = "",
        *,
        errors: Sequence[FieldError] = (),
        members: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(slug)
        self.slug = slug
        self.type = PROBLEMS[slug]
        self.detail = detail or self.type.meaning
        self.errors = errors
        self.members = members or {}
        self.headers = dict(headers or {})
        if self.type.retry_after_s is not None:
            self.headers.setdefault("Retry-After", str(self.type.retry_after_s))

    @property
    def status(self) -> int:
        return self.type.status

    def shown(self, instance: str) -> ProblemOut:
        """The answer; `instance` is the path of the request."""
        return ProblemOut(
            f"/problems/{self.slug}",
            self.type.title,
            self.type.status,
            self.detail,
            instance,
            self.slug,
            [error.shown() for error in self.errors] or None,
            **self.members,
        )

    def as_bytes(self, instance: str) -> bytes:
        return msgspec.json.encode(self.shown(instance))


def invalid_header(name: str, detail: str) -> Problem:
    """`invalid-field` for a header without a slug of its own."""
    return Problem("invalid-field", detail, errors=[FieldError(f"/{name}", "invalid", "header")])


_SLUG_OF_ERROR: dict[type[NotNow], str] = {
    NotDurable: "ledger-unavailable",
    Overloaded: "too-many-requests",
    DecisionsBehind: "decisions-behind",
    NotCaughtUp: "not-caught-up",
    NotUpgraded: "not-upgraded",
}


def problem_of(error: NotNow) -> Problem:
    """The problem with which an error of the services is answered."""
    detail = str(error) if isinstance(error, NotCaughtUp) else ""
    members = {"command_id": error.command_id} if isinstance(error, NotDurable) else {}
    return Problem(_SLUG_OF_ERROR[type(error)], detail, members=members)


def sentence(detail: str) -> str:
    """`detail` as `Problem` shows it: a capital first, a full stop last. Empty if it is."""
    return f"{detail[:1].upper()}{detail[1:]}." if detail else ""
