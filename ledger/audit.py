"""Records of `order-audit`: who did or saw what no event of an order records. Pure.

They contain no personal data: principals, orders and customers appear by name and pseudonym, a request by its id.
"""

from __future__ import annotations

from msgspec import Struct

from ledger.bounds import Count, Id, OptionalId, Text, TimeMs, Word

CONTACT_READ = "contact_read"  # staff received an answer with the contact of an order
CONTACT_SEARCH = "contact_search"  # staff looked for orders by an e-mail address
CUSTOMER_ERASURE = "customer_erasure"
ATTENTION_RESOLUTION = "attention_resolution"  # staff resolved the attention of an order
TOKENS_RELOAD = "tokens_reload"
LOG_ADOPTION = "log_adoption"  # a node took a log as it is, instead of the one from before
GAP_ACCEPTANCE = "gap_acceptance"  # commands that were deleted before they were decided were given up
WRITERS_CHANGE = "writers_change"  # the number of writers was set
WEBHOOK_CHANGE = "webhook_change"  # an endpoint was set, deleted, begun elsewhere, or got a new secret
WEBHOOK_KEY_READ = "webhook_key_read"  # the secret of an endpoint was shown
LOG_COPY = "log_copy"  # the ledger was copied to more partitions
ORDER_FREEZE, ORDER_THAW = "order_freeze", "order_thaw"
ACTIONS = (
    CONTACT_READ,
    CONTACT_SEARCH,
    CUSTOMER_ERASURE,
    ATTENTION_RESOLUTION,
    TOKENS_RELOAD,
    LOG_ADOPTION,
    GAP_ACCEPTANCE,
    ORDER_FREEZE,
    ORDER_THAW,
    WRITERS_CHANGE,
    WEBHOOK_CHANGE,
    WEBHOOK_KEY_READ,
    LOG_COPY,
)

DONE = "done"
REQUESTED = "requested"  # durable, but not done yet
UNDECIDED = "undecided"  # the command is durable, but was not decided at the time of the answer
REFUSED = "refused"
OUTCOMES = (DONE, REQUESTED, UNDECIDED, REFUSED)


class AuditRecord(Struct, frozen=True, kw_only=True):
    """`actor` is a principal (`admin:desk`), `serve` for what a process does by itself, or `cli:` and a user for a verb; then
    `role` is empty.

    `audit_id` identifies a record that was written twice. `occurred_at` is by the clock of `node`, in ms since the epoch.
    `reason` is the code of the problem of a refusal. `count` is the number of deleted contacts, of commands that were given up,
    of writers, or of partitions and copied events. `why` is the reason that a person gave.
    """

    audit_id: Id
    occurred_at: TimeMs
    node: Text
    actor: Text
    role: Word
    action: Word
    outcome: Word
    reason: Word | None = None
    order_id: OptionalId | None = None
    customer_id: OptionalId | None = None
    request_id: OptionalId | None = None
    count: Count | None = None
    why: Text | None = None
