"""The port that sends messages to customers, at least once; `key` tells a repeated message from another one."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from msgspec import Struct

from ledger.errors import LedgerError


class NotSent(LedgerError):
    """The message was not taken. `again` tells whether a later try may help. Says nothing of whom it was for."""

    code = "not_sent"

    def __init__(self, why: str, again: bool) -> None:
        super().__init__(why)
        self.again = again


class OutMessage(Struct, frozen=True):
    """One message. `channel` is `email` or `sms`; `subject` is for e-mail only."""

    key: str
    channel: str
    to: str
    subject: str
    text: str

    def __repr__(self) -> str:
        return f"OutMessage({self.key!r})"


class MessageDoor(Protocol):
    """One way out for one channel. Used by one thread, which may wait."""

    channel: str

    def send(self, message: OutMessage) -> None:
        """Returns once the message is taken. Raises `NotSent`."""

    def kept(self) -> Collection[str]:
        """Orders whose messages this door still has. What was handed on to others is not its own any more."""

    def forget(self, order_ids: Collection[str]) -> None:
        """Delete what it has kept of these orders."""
