"""Errors that cross a module border. Each has one cause and a `code` that never changes."""

from __future__ import annotations

from typing import Literal

BrokerCode = Literal[
    "no_network",  # no repository answered
    "download_failed",  # a repository answered, but not with the jar
    "bad_hash",  # what it sent is not what the lock file says
    "no_disk_space",
    "directory_unusable",  # the cache or data directory cannot be read or written
    "already_running",  # a living process owns this data directory or is filling the cache
    "port_taken",
    "start_failed",
    "not_running",
]


class LedgerError(Exception):
    """Root of everything the ledger raises on purpose.

    `code` is a stable, lower-case name of the cause; the message says what happened and, where a person can act, what to do.
    """

    code = "ledger_error"


class ConfigError(LedgerError):
    """A setting is missing, malformed or contradicts the cluster. Raised at start only, before anything is written."""

    code = "config"


class NoFreePort(LedgerError):
    """No port of the loopback interface could be had."""

    code = "port_taken"


class DecodeError(LedgerError):
    """Bytes are not a record of the expected schema.

    `reason` is one of `too_short`, `wrong_magic`, `unknown_schema_id`, `too_large`, `truncated`, `trailing_bytes`,
    `malformed`.
    """

    code = "undecodable"

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class EncodeError(LedgerError):
    """A value does not fit its schema, or its record is larger than the log takes."""

    code = "unencodable"


class LogError(LedgerError):
    """The log refused or did not answer. Whether something was written is unknown unless a subclass says so."""

    code = "log"


class LogUnavailable(LogError):
    """No broker answered in time. Nothing of this call is known to be durable."""

    code = "log_unavailable"


class Discard(LogError):
    """A transactional writer may no longer be trusted: discard it, start a new one, and let the log say what was committed.

    See ARCHITECTURE, Any doubt ends a producer.
    """

    code = "discard"


class Fenced(Discard):
    """A newer writer has the same transactional id, or the coordinator ended the transaction. No proof of a successor."""

    code = "fenced"


class Rejected(Discard):
    """The log refuses a record of the batch for what the record is, and would refuse it again. Nothing was committed."""

    code = "rejected"


class HangingTransaction(Discard):
    """Kafka itself left a transaction open in a partition: nothing behind it can be read or decided until somebody ends it."""

    code = "hanging_transaction"


class NotAllowed(LogError):
    """The log does not let us do this: the principal of our settings lacks a right."""

    code = "not_allowed"


class Hole(LogError):
    """Records that were needed are gone, or the store is ahead of the log. A person must decide; nothing continues."""

    code = "hole"


class TopicMismatch(ConfigError):
    """A topic exists with other settings than the ledger needs. The message names topic, setting, wanted and found."""

    code = "topic_mismatch"


class StoreError(LedgerError):
    """The store could not be opened, read or written (locked by another process, disk full, corrupt)."""

    code = "store"


class BrokerError(LedgerError):
    """The embedded broker cannot be had. `code` is one of `BrokerCode`; the message tells a person what to do."""

    def __init__(self, code: BrokerCode, message: str) -> None:
        super().__init__(message)
        self.code: str = code


class NotNow(LedgerError):
    """What was asked for cannot be done here just now. To try again with the same key is right."""

    code = "not_now"


class NotDurable(NotNow):
    """Nothing of a write is known to be durable, and it may still come to be. `command_id` names its command, if it has one."""

    code = "not_durable"

    def __init__(self, message: str, command_id: str | None = None) -> None:
        super().__init__(message)
        self.command_id = command_id


class Overloaded(NotNow):
    """Too many commands wait for their outcome on this node."""

    code = "overloaded"


class DecisionsBehind(NotNow):
    """Commands of a partition are durable and its writer does not decide them."""

    code = "decisions_behind"


class NotCaughtUp(NotNow):
    """This node has not folded enough of the log to answer; the message says what is missing, as a sentence."""

    code = "not_caught_up"
