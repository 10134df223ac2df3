"""Who did, or saw, what no event of an order tells: one record of `order-audit`. Pure.

There is no personal data in it: principals, orders and customers by their names and pseudonyms, a request by its id.
"""

from __future__ import annotations

from msgspec import Struct

from ledger.bounds import Count, Id, OptionalId, Text, TimeMs, Word

CONTACT_READ = "contact_read"  # staff got an answer with an order's contact in it
CUSTOMER_ERASURE = "customer_erasure"
ATTENTION_RESOLUTION = "attention_resolution"  # staff said what became of what a person was called for
TOKENS_RELOAD = "tokens_reload"
ACTIONS = (CONTACT_READ, CUSTOMER_ERASURE, ATTENTION_RESOLUTION, TOKENS_RELOAD)

DONE = "done"
REQUESTED = "requested"  # promised, and not done yet
UNDECIDED = "undecided"  # the command is durable, and was not decided when it was answered
REFUSED = "refused"
OUTCOMES = (DONE, REQUESTED, UNDECIDED, REFUSED)


class AuditRecord(Struct, frozen=True, kw_only=True):
    """`actor` is a principal (`admin:desk`) or, for what a process does by itself, `serve`; `role` is empty then.

    `audit_id` is the same when a record had to be written twice. `occurred_at` is of the clock of `node`, in ms since the epoch.
    `reason` is the code of a refusal's problem. `count` is how many contacts were deleted.
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
