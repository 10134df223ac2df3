"""What an operator does with a verb that changes what the ledger decides or believes: recorded in the audit, before and after."""

from __future__ import annotations

import getpass
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass

from api.cli.terminal import Terminal
from api.settings import Settings
from ledger.audit import REQUESTED, AuditRecord
from ledger.bounds import MAX_WORD
from ledger.clock import now_ms
from ledger.errors import ConfigError, LogError, NotDurable
from ledger.log import Acked, EventLog, NewRecord, Sender
from ledger.schemas.codec import audit_codec
from ledger.upgrades.membership import refuse_moved

DURABLE_S = 60.0
MAX_WHY = 255

Ask = Callable[[str], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActOptions:
    """Options of every such verb: why it is done, and whether it was confirmed."""

    why: str
    yes: bool


def actor() -> str:
    """Who acts: the user of this machine, as a principal."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user id without a name
        user = "unknown"
    return f"cli:{user}"[:MAX_WORD]


def confirmed(options: ActOptions, terminal: Terminal, ask: Ask) -> bool:
    """Whether to do what was announced. Raises `ConfigError` without a reason."""
    if not options.why.strip() or len(options.why) > MAX_WHY:
        raise ConfigError(f"--why takes the reason, for the audit: 1 to {MAX_WHY} characters, without personal data")
    if options.yes or (not terminal.as_json and sys.stdin.isatty() and ask("Continue?")):
        return True
    terminal.err.print("nothing was done: pass --yes", style="red")
    return False


class Acts:
    """Writes the audit of one verb. Each record is durable when its method returns."""

    def __init__(self, event_log: EventLog, settings: Settings, action: str, why: str, order_id: str | None = None) -> None:
        self._log, self._topics, self._node = event_log, settings.topics, settings.node_id
        self._action, self._why, self._order_id = action, why, order_id

    def request(self, count: int | None = None) -> None:
        """Record that the act begins. Raises `LedgerMoved` if nobody decides here any more, `NotDurable`, `LogError`."""
        refuse_moved(self._log, self._topics)
        self.record(REQUESTED, count=count)

    def record(self, outcome: str, reason: str | None = None, count: int | None = None) -> None:
        """Raises `NotDurable`."""
        record = AuditRecord(
            audit_id=secrets.token_hex(16),
            occurred_at=now_ms(),
            node=self._node[:255],
            actor=actor(),
            role="",
            action=self._action,
            outcome=outcome,
            reason=reason,
            order_id=self._order_id,
            count=count,
            why=self._why,
        )
        key = None if self._order_id is None else self._order_id.encode()
        send_one(self._log, NewRecord(self._topics.audit, 0, key, audit_codec().encode(record)))


def send_one(event_log: EventLog, record: NewRecord) -> Acked:
    """Send a record and wait until it is durable. Raises `NotDurable`."""
    answers: list[tuple[Acked | None, LogError | None]] = []
    sender: Sender = event_log.sender("verb")
    try:
        sender.send(record, lambda acked, error: answers.append((acked, error)))
        sender.flush(DURABLE_S)
    finally:
        sender.close()
    acked, error = answers[0] if answers else (None, None)
    if acked is None:
        raise NotDurable(f"the record for {record.topic} is not known to be durable: {error or 'no answer'}")
    return acked
