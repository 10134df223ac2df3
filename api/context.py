"""The dependencies of the routes: this node's log, fold, tokens and services, composed by the `serve` process."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from weakref import WeakValueDictionary

from api.callers.auth import Token, Tokens
from api.callers.limits import RateLimits
from api.callers.oidc import Oidc
from api.connections import Connections
from api.contract.patterns import POSITION
from api.metrics import HttpMetrics
from api.problems import FieldError, Problem, Where
from api.services.audit import Audit
from api.services.client_secrets import ClientSecrets
from api.services.erasure import Erasures
from api.services.followed_messages import FollowedMessages
from api.services.look_ups import LookUps
from api.services.loop_lag import LoopLag
from api.services.submissions import Submissions
from api.services.webhook_endpoints import WebhookEndpoints
from api.settings import Settings
from commands.idempotency import contact_digest_of, email_digest_of, fingerprint_of
from commands.mailboxes import mailbox
from commands.reconciler.payment_port import PaymentProvider
from ledger.log import EventLog, Sender, TopicPartition
from ledger.log_clock import LogClock
from ledger.turns import Turns
from projections.all_events import AllEvents
from projections.feed import FoldStatus
from projections.projector import Projector
from projections.queries import Queries
from projections.read_models import Frozen

_POSITION = re.compile(POSITION)


class StatusOf(Protocol):
    """Returns the status of this node's fold."""

    def __call__(self) -> FoldStatus: ...


@dataclass
class AppContext:
    """Everything a request may use. All of it belongs to the event loop that folds, except `sender` and `log`.

    `hash_key` keys fingerprints, contact digests and cursors. `status` must be cheap, because every request calls it. Without
    `payments`, no payment can be opened here; without `oidc`, only `tokens` are accepted.
    """

    settings: Settings
    log: EventLog
    sender: Sender
    projector: Projector
    queries: Queries
    tokens: Tokens
    hash_key: bytes
    status: StatusOf
    payments: PaymentProvider | None = None
    oidc: Oidc | None = None
    metrics: HttpMetrics = field(default_factory=HttpMetrics)
    connections: Connections = field(default_factory=Connections)
    followed: FollowedMessages = field(default_factory=FollowedMessages)
    turns: Turns = field(default_factory=Turns)
    loop_lag: LoopLag = field(default_factory=LoopLag)
    clock: LogClock = field(default_factory=LogClock)
    audit_spool: Path | None = None  # where audit records wait while the log is unreachable
    commands_counts: Callable[[], dict[str, int]] = dict  # of the `commands` process that uses the same STATE_DIR
    commands_skews_s: Callable[[], dict[str, float]] = dict  # its clock, by partition
    stopping: bool = False
    making: bool = False  # there are no read models yet; they are being built from the log

    def __post_init__(self) -> None:
        self.topics = self.settings.topics
        self.currencies = self.settings.allowed_currencies
        self.payment_window_bounds_s = (self.settings.payment_window_min_seconds, self.settings.payment_window_max_seconds)
        self.limits = RateLimits(self.settings)
        self.all_events = AllEvents(self.projector)
        self.webhook_endpoints = WebhookEndpoints(self.log, self.topics)
        self._note_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.secrets = ClientSecrets()
        self.look_ups = LookUps(self.log, self.topics.commands)
        self.submissions = Submissions(
            self.sender,
            self.projector,
            self.queries,
            self.topics,
            self.look_ups,
            self.partition_of,
            lambda: self.status(),  # noqa: PLW0108  # as it is then
            self.metrics.outcomes,
            clock=self.clock,
        )
        node = self.settings.node_id
        self.audit = Audit(self.sender, self.submissions.send_all, self.topics, node, self.audit_spool)
        self.erasures = Erasures(
            self.log, self.topics, self.submissions, self.projector, self.queries, self.turns, node, self.audit
        )

    def note_lock(self, order_id: str) -> asyncio.Lock:
        """Of whoever adds a note to the order on this node, so that their number is bounded. Other nodes have their own."""
        return self._note_locks.setdefault(order_id, asyncio.Lock())

    def accepts(self, token: Token) -> bool:
        """Whether an accepted token is still valid."""
        if token.key:
            return self.oidc is not None and self.oidc.accepts(token)
        return self.tokens.accepts(token)

    @property
    def partitions(self) -> int:
        """Partitions of the order topics; 0 while this node has no read models."""
        return self.projector.partitions

    def refuse_unreadable(self) -> None:
        """Raises `Problem` `ledger-unavailable` or `not-caught-up` while this node has no read models."""
        if self.projector.partitions:
            return
        if self.making:
            raise Problem("not-caught-up", "This node has no read models yet: it is building them from the log.")
        raise Problem("ledger-unavailable", "This node has no read models yet: it will build them when the log answers.")

    def refuse_unfolded_contacts(self, partition: int | None = None) -> None:
        """Raises `Problem` `not-caught-up` while contacts of a partition (None: of any) may have been erased unnoticed.

        That is from a start until their fold has reached the end. If the log has not answered since the start, nobody knows when
        that will be: they are shown, and the answer says how old they may be.
        """
        status, partitions = self.status(), range(self.partitions) if partition is None else (partition,)
        folded = all(status.was_at_end(TopicPartition(self.topics.contacts, p)) for p in partitions)
        if status.staleness_ms is None or ((status.answered or status.connecting) and not folded):
            raise Problem("not-caught-up", "This node has not folded all contacts since its start: some may have been erased.")

    def partition_of(self, order_id: str) -> int:
        """The partition of an order's commands, events, refusals and contact."""
        return self.log.partition_for(order_id.encode(), self.partitions)

    def fingerprint(self, body: object) -> bytes:
        return fingerprint_of(body, self.hash_key)

    def contact_digest(self, contact: object, order_id: str) -> bytes:
        return contact_digest_of(contact, order_id, self.hash_key)

    def email_digest(self, address: str) -> bytes:
        """For `OrderContact.email_digest`. Raises `ValueError` for what is no e-mail address."""
        return email_digest_of(mailbox(address), self.hash_key)

    def position(self, partition: int) -> str:
        """`Ledger-Position` of a partition: how far this node has folded it."""
        return f"{partition}-{self.projector.position(partition)}"

    def frozen(self, partition: int, order_id: str) -> Frozen | None:
        """Why and where the fold of the order stopped, if it did."""
        return self.queries.frozen(partition, order_id)

    def parse_position(self, text: str, name: str, where: Where) -> tuple[int, int]:
        """`P-N` as (partition, offset). Raises `Problem` `invalid-field` about the header or parameter `name`."""
        partition, _, offset = text.partition("-")
        if _POSITION.fullmatch(text) and int(partition) < self.partitions:
            return int(partition), int(offset)
        raise Problem(
            "invalid-field",
            f"{name} must be <partition>-<offset>, for example 3-1017, of an existing partition.",
            errors=[FieldError(f"/{name}", "invalid-position", where)],
        )

    def close(self) -> None:
        """Call after the last request. `audit.end` comes after the sender is closed."""
        self.look_ups.close()
        self.audit.close()

    def end_streams(self) -> None:
        """End all event streams, because the process is stopping; clients resume elsewhere. Call it on the event loop."""
        self.stopping = True
        self.submissions.stop()
        self.projector.waiters.wake_streams()
