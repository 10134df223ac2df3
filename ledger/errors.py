"""Errors that cross module boundaries. Each has one cause and a `code` that never changes."""

from __future__ import annotations

from typing import Literal

BrokerCode = Literal[
    "no_network",  # no repository answered
    "download_failed",  # a repository answered, but not with the jar
    "bad_hash",  # the download does not match the lock file
    "no_disk_space",
    "directory_unusable",  # the cache or data directory cannot be read or written
    "already_running",  # another process owns this data directory or is filling the cache
    "port_taken",
    "start_failed",
    "not_running",
]


class LedgerError(Exception):
    """Base class of all errors that the ledger raises on purpose.

    `code` is a stable, lower-case name of the cause. The message says what happened and, if a person can act, what to do.
    """

    code = "ledger_error"


class ConfigError(LedgerError):
    """A setting is missing, malformed or contradicts the cluster. Raised only at start, before anything is written."""

    code = "config"


class MissingExtra(ConfigError):
    """A part of the program is not installed. The message has the command that installs it."""

    code = "missing_extra"


class NoFreePort(LedgerError):
    """No free port was found on the loopback interface."""

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
    """A value does not match its schema, or its record is larger than the log accepts."""

    code = "unencodable"


class TooNew(EncodeError):
    """A value may not be written yet, because a node with an older program could not read it (`ledger.levels`)."""

    code = "too_new"


class LogError(LedgerError):
    """The log rejected a request or did not answer. Whether something was written is unknown unless a subclass says so."""

    code = "log"


class LogUnavailable(LogError):
    """No broker answered in time. Whether anything of this call is durable is unknown."""

    code = "log_unavailable"


class Discard(LogError):
    """A transactional writer can no longer be trusted: discard it, start a new one, and let the log say what was committed.

    See ARCHITECTURE, Any doubt ends a producer.
    """

    code = "discard"


class Fenced(Discard):
    """A newer writer has the same transactional id, or the coordinator ended the transaction. Does not prove a successor."""

    code = "fenced"


class Rejected(Discard):
    """The log rejects a record of the batch because of its content, and would always reject it. Nothing was committed."""

    code = "rejected"


class HangingTransaction(Discard):
    """Kafka left a transaction open in a partition: nothing behind it can be read or decided until somebody ends it."""

    code = "hanging_transaction"


class NotAllowed(LogError):
    """The log denies this: the principal in the settings lacks a permission."""

    code = "not_allowed"


class Hole(LogError):
    """Needed records are gone, or the store is ahead of the log. Nothing continues until a person decides."""

    code = "hole"


class NotThisLog(Hole):
    """The log is not the one that was folded, or has lost records. The message says what to do (`ledger.log_identity`)."""

    code = "not_this_log"


class OtherLayout(LedgerError):
    """The number of writers was changed while this process ran."""

    code = "other_layout"

    def __init__(self) -> None:
        super().__init__("the number of writers was changed: set WRITERS to the new number, and start this process again")


class Gap(Hole):
    """Commands were deleted before they were decided. The message says what to do."""

    code = "gap"


class TopicMismatch(ConfigError):
    """A topic exists with other settings than the ledger needs. The message names topic, setting, wanted and found."""

    code = "topic_mismatch"


class StoreError(LedgerError):
    """The store could not be opened, read or written (locked by another process, disk full, corrupt)."""

    code = "store"


class BrokerError(LedgerError):
    """The embedded broker is not available. `code` is one of `BrokerCode`; the message says what to do."""

    def __init__(self, code: BrokerCode, message: str) -> None:
        super().__init__(message)
        self.code: str = code


class NotNow(LedgerError):
    """The request cannot be fulfilled on this node at the moment. A retry with the same key is safe."""

    code = "not_now"


class NotDurable(NotNow):
    """Whether a write is durable is unknown, and it may still become so. `command_id` names its command, if it has one."""

    code = "not_durable"

    def __init__(self, message: str, command_id: str | None = None) -> None:
        super().__init__(message)
        self.command_id = command_id


class Overloaded(NotNow):
    """Too many commands are waiting for their outcome on this node."""

    code = "overloaded"


class DecisionsBehind(NotNow):
    """Commands of a partition are durable, but its writer does not decide them."""

    code = "decisions_behind"


class NotUpgraded(NotNow):
    """The request leads to a record that the feature level in use does not allow (`ledger.levels`)."""

    code = "not_upgraded"


class NotCaughtUp(NotNow):
    """This node has not folded enough of the log to answer; the message says what is missing, as a sentence."""

    code = "not_caught_up"
