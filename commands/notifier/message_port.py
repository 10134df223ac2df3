"""The port that sends messages to customers, at least once; `key` identifies a repeated message."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from msgspec import Struct

from ledger.errors import LedgerError


class NotSent(LedgerError):
    """The message was not accepted. `again`: a later attempt may succeed. The error does not name the recipient."""

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
    """Sends messages of one channel. Used by one thread; calls may block."""

    channel: str

    def send(self, message: OutMessage) -> None:
        """Returns when the message is accepted. Raises `NotSent`."""

    def kept(self) -> Collection[str]:
        """Orders whose messages this door still stores. Messages handed on to a service are not included."""

    def forget(self, order_ids: Collection[str]) -> None:
        """Delete the stored messages of these orders."""
