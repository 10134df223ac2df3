"""The ports through which messages to customers are composed, and sent at least once; `key` identifies a repeated message."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from msgspec import Struct

from ledger.contacts import OrderContact
from ledger.errors import LedgerError
from ledger.events import OrderEvent
from ledger.order import Order

FAILED_TEMPLATES = "failures of the shop's templates"  # among the counts of the notifier


class NotSent(LedgerError):
    """The message was not accepted. The error does not name the recipient.

    `again`: a later attempt may succeed. `is_reached`: somebody answered; if not, other messages of the channel wait, too.
    """

    code = "not_sent"

    def __init__(self, why: str, again: bool, is_reached: bool = True) -> None:
        super().__init__(why)
        self.again, self.is_reached = again, is_reached


class OutMessage(Struct, frozen=True):
    """One message. `channel` is `email` or `sms`; `subject` and `html` are for e-mail only. `html` says the same as `text`."""

    key: str
    channel: str
    to: str
    subject: str
    text: str
    html: str | None = None

    def __repr__(self) -> str:
        return f"OutMessage({self.key!r})"


class MessageComposer(Protocol):
    """Composes messages about events. Used by one thread. `failures`: how often a template of the shop could not be used."""

    failures: int

    def messages_of(
        self, event: OrderEvent, order: Order, notice: str, contact: OrderContact, channels: frozenset[str]
    ) -> list[OutMessage]:
        """One message per channel on which the contact can be reached. `order` is as of the event, or later."""


class MessageDoor(Protocol):
    """Sends messages of one channel. Used by one thread; calls may block."""

    channel: str

    def send(self, message: OutMessage) -> None:
        """Returns when the message is accepted. Raises `NotSent`."""

    def kept(self) -> Collection[str]:
        """Orders whose messages this door still stores. Messages handed on to a service are not included."""

    def forget(self, order_ids: Collection[str]) -> None:
        """Delete the stored messages of these orders."""
