"""A notifier over a log, and the mail server that it sends to."""

from __future__ import annotations

import email
import email.policy
import itertools
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.message import EmailMessage
from typing import Any

import msgspec
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from commands.notifier.composing import Composer
from commands.notifier.composing import Shop as OurShop
from commands.notifier.email_door import SmtpDoor
from commands.notifier.loop import Notifier
from commands.notifier.message_port import MessageDoor
from commands.processor.order_book import OrderBook
from ledger import events as e
from ledger.clock import now_ms
from ledger.contacts import NOBODY, Address, OrderContact, contact_key, erased_key
from ledger.evolve import evolve
from ledger.log import EventLog, NewRecord, TopicPartition
from ledger.log_clock import LogClock
from ledger.memory.store import MemoryStore
from ledger.order import Order
from ledger.ports import free_port
from ledger.schemas.codec import contact_codec, event_codec
from ledger.store import Store
from ledger.topics import Topics
from tests.support.patience import PATIENCE_S, until

DIGEST = b"d" * 32
_numbers = itertools.count(1)


class MailServer:
    """A real SMTP server. `refuse` maps a recipient to the answer it gets."""

    def __init__(self) -> None:
        self.mails: list[tuple[str, EmailMessage]] = []
        self.refuse: dict[str, str] = {}
        self.asked: list[str] = []
        self.controller = Controller(self, hostname="127.0.0.1", port=free_port())

    async def handle_RCPT(self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]) -> str:
        self.asked.append(address)
        if address in self.refuse:
            return self.refuse[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content = envelope.content
        assert isinstance(content, bytes)
        mail = email.message_from_bytes(content, policy=email.policy.default)
        assert isinstance(mail, EmailMessage)
        self.mails.append((envelope.rcpt_tos[0], mail))
        return "250 OK"

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.controller.port}"

    def subjects(self, to: str = "ada@example.org") -> list[str]:
        """Subjects of their messages, without the words that are in all of them."""
        subjects = [str(mail["Subject"]) for at, mail in self.mails if at == to]
        return [x.replace("Your order ", "").replace("Your refund for order ", "refund ") for x in subjects]


def part_of(mail: EmailMessage, kind: str = "plain") -> str:
    """The text part of a mail, or its `html` part."""
    part = mail.get_body((kind,))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n")  # as it went over the wire


class Post:
    """A log with a notifier over it; events and contacts are written as the processor and the API do."""

    def __init__(self, log: EventLog, topics: Topics, url: str) -> None:
        self.log, self.topics, self.url = log, topics, url
        log.ensure_topics(topics.specs(2, 1), PATIENCE_S)
        self.orders = MemoryStore()
        self.folded: dict[str, Order] = {}
        self.failed: list[BaseException] = []
        self.ahead_ms = 0
        self.shop = OurShop("Shop")
        self.writer = log.writer(f"{topics.prefix}w-{next(_numbers)}")
        self.writer.start(PATIENCE_S)
        self.sender = log.sender("test-post")
        self.versions: dict[str, int] = {}

    def notifier(self, contacts: Store | None = None, doors: Mapping[str, MessageDoor] | None = None) -> Notifier:
        notifier = Notifier(
            self.log,
            self.topics,
            lambda partition: OrderBook(self.orders),
            lambda name: contacts or MemoryStore(),
            doors or {"email": SmtpDoor(self.url, "Shop <shop@example.org>")},
            Composer(self.shop),
            f"{self.topics.prefix}notifier",
            self.failed.append,
            clock=LogClock(lambda: now_ms() + self.ahead_ms),
        )
        notifier.start()
        notifier.own([0])
        return notifier

    def contact(
        self,
        order_id: str,
        to: str = "ada@example.org",
        name: str = "Ada",
        gone: bool = False,
        partition: int = 0,
        locale: str | None = None,
    ) -> None:
        home = Address("1 Mill Lane", "Leeds", "LS1", "GB")
        contact = OrderContact("c-1", name, to, home, phone="+44 113 496 0000", locale=locale)
        self.write(contact_key(order_id, DIGEST), None if gone else contact_codec().encode(contact), partition)

    def erase(self, order_id: str, partition: int = 0) -> None:
        name = contact_key(order_id, DIGEST)
        self.write(erased_key(name), contact_codec().encode(NOBODY), partition)
        self.write(name, None, partition)

    def write(self, name: bytes, value: bytes | None, partition: int) -> None:
        acked = threading.Event()
        self.sender.send(NewRecord(self.topics.contacts, partition, name, value), lambda ack, error: acked.set())
        assert acked.wait(PATIENCE_S)

    def event(self, order_id: str, kind: str, partition: int = 0, **fields: Any) -> None:
        version = self.versions[order_id] = self.versions.get(order_id, 0) + 1
        detail: dict[str, Any] = {}
        if kind == e.ORDER_PLACED:
            lines = (e.Line("product", "espresso-1kg", "Espresso, 1 kg", 1, 2890),)
            detail["placed"] = e.Placed(lines, (), DIGEST, 10**13)
        event = e.OrderEvent(
            **{
                "order_id": order_id,
                "version": version,
                "type": kind,
                "occurred_at": time.time_ns() // 1_000_000,
                "customer_id": "c-1",
                "currency": "EUR",
                "total_minor": 2890,
                "actor": "test",
                "command_id": f"cmd-{next(_numbers)}",
                "fingerprint": bytes(16),
                "status": "pending",
                "payment_state": "unpaid",
                **detail,
                **fields,
            }
        )
        order = self.folded[order_id] = evolve(self.folded.get(order_id), event)
        self.orders.write({b"%d/o/%b" % (partition, order_id.encode()): msgspec.msgpack.encode(order)})
        record = NewRecord(self.topics.events, partition, order_id.encode(), event_codec().encode(event))
        self.writer.transact([record])

    def placed(
        self, order_id: str, to: str = "ada@example.org", name: str = "Ada", locale: str | None = None, **fields: Any
    ) -> None:
        self.contact(order_id, to, name, locale=locale)
        self.event(order_id, e.ORDER_PLACED, **fields)

    def at_end(self) -> bool:
        tp = TopicPartition(self.topics.events, 0)
        bookmark = self.log.bookmark(f"{self.topics.prefix}notifier")
        try:
            end = self.log.ends([tp], timeout_s=PATIENCE_S)[tp]
            return (bookmark.read([tp])[tp] or 0) >= end - 1  # the last marker is not a record
        finally:
            bookmark.close()

    def close(self) -> None:
        self.writer.close()
        self.sender.close()
        assert self.failed == []


@contextmanager
def running(post: Post, contacts: Store | None = None, doors: Mapping[str, MessageDoor] | None = None) -> Iterator[Notifier]:
    """A notifier that has started to read, until the block ends."""
    notifier = post.notifier(contacts, doors)
    until(lambda: notifier._places)
    try:
        yield notifier
    finally:
        notifier.stop(PATIENCE_S)
        assert not notifier._thread.is_alive()
