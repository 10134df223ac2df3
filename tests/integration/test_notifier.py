"""Messages to customers through a real SMTP server, on the in-memory log and on Kafka."""

from __future__ import annotations

import email
import email.policy
import itertools
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from email.headerregistry import Address as EmailAddress
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from commands.notifier import loop as notifier_module
from commands.notifier.email_door import EmlDoor, SmtpDoor, as_mail, sender_of
from commands.notifier.loop import MAX_AGE_MS, Notifier
from commands.notifier.message_port import NotSent, OutMessage
from commands.notifier.notices import messages_of, notice_of
from commands.processor.desk import OrderBook
from ledger import events as e
from ledger.contact_rows import TOO_OLD_MS, KeptContacts
from ledger.contacts import NOBODY, Address, OrderContact, contact_key, erased_key
from ledger.errors import ConfigError
from ledger.evolve import evolve
from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.log import EventLog, NewRecord, TopicPartition
from ledger.memory.log import MemoryLog
from ledger.memory.store import MemoryStore
from ledger.order import Order
from ledger.ports import free_port
from ledger.schemas.codec import contact_codec, event_codec
from ledger.topics import Topics
from tests.support.harness import order_body, running_ledger
from tests.support.patience import PATIENCE_S, until
from tests.support.paying_shop import Shop
from tests.support.sandboxed import running_sandbox

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
        """What they were told, without the words that are always there."""
        found = [str(mail["Subject"]) for at, mail in self.mails if at == to]
        return [x.replace("Your order ", "").replace("Your refund for order ", "refund ") for x in found]


@pytest.fixture
def mails() -> Iterator[MailServer]:
    server = MailServer()
    server.controller.start()
    try:
        yield server
    finally:
        server.controller.stop()


class Post:
    """A log with a notifier over it; events and contacts are written as the processor and the API do."""

    def __init__(self, log: EventLog, topics: Topics, url: str) -> None:
        self.log, self.topics, self.url = log, topics, url
        log.ensure_topics(topics.specs(2, 1))
        self.orders = MemoryStore()
        self.folded: dict[str, Order] = {}
        self.failed: list[BaseException] = []
        self.ahead_ms = 0
        self.writer = log.writer(f"{topics.prefix}w-{next(_numbers)}")
        self.writer.start(PATIENCE_S)
        self.sender = log.sender("test-post")
        self.versions: dict[str, int] = {}

    def notifier(self, **more: Any) -> Notifier:
        notifier = Notifier(
            self.log,
            self.topics,
            lambda partition: OrderBook(self.orders),
            lambda name: more.get("contacts") or MemoryStore(),
            more.get("doors", {"email": SmtpDoor(self.url, "Shop <shop@example.org>")}),
            f"{self.topics.prefix}notifier",
            self.failed.append,
            lambda: time.time_ns() // 1_000_000 + self.ahead_ms,
        )
        notifier.start()
        notifier.own([0])
        return notifier

    def contact(
        self, order_id: str, to: str = "ada@example.org", name: str = "Ada", gone: bool = False, partition: int = 0
    ) -> None:
        contact = OrderContact("c-1", name, to, Address("1 Mill Lane", "Leeds", "LS1", "GB"), phone="+44 113 496 0000")
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

    def placed(self, order_id: str, to: str = "ada@example.org", **more: Any) -> None:
        self.contact(order_id, to, **more)
        self.event(order_id, e.ORDER_PLACED)

    def at_end(self) -> bool:
        tp = TopicPartition(self.topics.events, 0)
        bookmark = self.log.bookmark(f"{self.topics.prefix}notifier")
        try:
            return (bookmark.read([tp])[tp] or 0) >= self.log.ends([tp])[tp] - 1  # the last marker is no record
        finally:
            bookmark.close()

    def close(self) -> None:
        self.writer.close()
        self.sender.close()
        assert self.failed == []


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def post(request: pytest.FixtureRequest, topics: Topics, mails: MailServer) -> Iterator[Post]:
    log: EventLog
    if request.param == "kafka":
        settings: KafkaSettings = request.getfixturevalue("kafka")
        log = KafkaLog(settings)
    else:
        log = MemoryLog()
    post = Post(log, topics, mails.url)
    yield post
    post.close()


@contextmanager
def running(post: Post, **more: Any) -> Iterator[Notifier]:
    notifier = post.notifier(**more)
    until(lambda: notifier._positions)
    try:
        yield notifier
    finally:
        notifier.stop(20)
        assert not notifier._thread.is_alive()


def test_an_order_is_told_of_from_placed_to_refunded_once_each_and_in_order(post: Post, mails: MailServer) -> None:
    with running(post):
        post.placed("ord_1")
        post.event("ord_1", e.PAYMENT_REQUESTED, payment=e.Payment(1))
        post.event("ord_1", e.PAYMENT_CAPTURED, payment=e.Payment(1, 2890), captured_minor=2890)  # stock is not reserved yet
        post.event("ord_1", e.STOCK_RESERVED, stock=e.Stock("product"), status="paid", captured_minor=2890)
        post.event("ord_1", e.ORDER_SHIPPED, shipment=e.Shipment("DHL", "0034"), status="shipped")
        post.event("ord_1", e.ORDER_DELIVERED, shipment=e.Shipment(), status="delivered")
        post.placed("ord_2")
        post.event("ord_2", e.ORDER_CANCELLED, cancel=e.Cancel("out_of_stock", "reconciler"), status="cancelled")
        settled = {"refund": e.Refund(1, "re_1", 2890), "status": "cancelled"}
        post.event("ord_2", e.REFUND_SUBMITTED, payment_state="refunding", **settled)
        post.event("ord_2", e.REFUND_SETTLED, payment_state="refunded", refunded_minor=2890, **settled)
        until(lambda: len(mails.mails) >= 7)
        until(post.at_end)
    told = ["ord_1", "ord_1 is paid", "ord_1 is on its way", "ord_1 has arrived", "ord_2", "ord_2 was cancelled", "refund ord_2"]
    assert mails.subjects() == told
    placed = mails.mails[0][1]
    text = placed.get_content()
    assert "Hello Ada," in text
    assert "1 x Espresso, 1 kg" in text
    assert "28.90 EUR" in text
    assert placed["Message-ID"] == "<ord_1.1.email@order-ledger>"
    assert placed["From"] == "Shop <shop@example.org>"


def test_a_restart_tells_nothing_again_also_with_an_empty_database(post: Post, mails: MailServer) -> None:
    with running(post):
        post.placed("ord_1")
        until(lambda: mails.mails)
        until(post.at_end)
    with running(post):
        post.placed("ord_2")
        until(lambda: len(mails.mails) == 2)
    assert mails.subjects() == ["ord_1", "ord_2"]


def test_the_first_start_tells_nothing_of_what_was_before_and_later_starts_all_since(post: Post, mails: MailServer) -> None:
    post.placed("ord_old")
    with running(post):
        pass
    post.placed("ord_meanwhile")
    with running(post):
        until(lambda: mails.mails)
    assert mails.subjects() == ["ord_meanwhile"]


def test_contacts_that_were_made_anew_are_read_from_their_start(post: Post, mails: MailServer) -> None:
    post.contact("ord_1")
    kept = MemoryStore()
    KeptContacts(kept, post.topics.contacts, 2).reached(TopicPartition(post.topics.contacts, 0), 1_000)  # of the topic before
    with running(post, contacts=kept):
        post.event("ord_1", e.ORDER_PLACED)
        until(lambda: mails.mails)
    assert mails.subjects() == ["ord_1"]


def test_a_kill_between_sending_and_noting_repeats_the_message_under_the_same_id(post: Post, mails: MailServer) -> None:
    with running(post):
        post.placed("ord_1")
        until(lambda: mails.mails)
        until(post.at_end)
    tp = TopicPartition(post.topics.events, 0)
    bookmark = post.log.bookmark(f"{post.topics.prefix}notifier")
    bookmark.write({tp: 0})  # as if the process had died before it could note how far it got
    bookmark.close()
    with running(post):
        until(lambda: len(mails.mails) == 2)
    assert mails.mails[0][1]["Message-ID"] == mails.mails[1][1]["Message-ID"]


def test_nothing_older_than_a_day_is_told(post: Post, mails: MailServer) -> None:
    with running(post):
        pass
    post.placed("ord_1")
    post.ahead_ms = MAX_AGE_MS + 60_000
    with running(post):
        until(post.at_end)
    post.ahead_ms = 0
    assert mails.mails == []


def test_an_erased_contact_gets_no_message(post: Post, mails: MailServer) -> None:
    with running(post):
        post.contact("ord_1")
        post.contact("ord_1", gone=True)
        post.event("ord_1", e.ORDER_PLACED)
        post.placed("ord_2", "bob@example.org")
        until(lambda: mails.subjects("bob@example.org"))
    assert mails.subjects() == []


def test_what_waits_to_be_sent_goes_with_its_contact(post: Post, mails: MailServer) -> None:
    mails.refuse = {"busy@example.org": "451 try later"}
    with running(post) as notifier:
        post.placed("ord_1", "busy@example.org")
        until(lambda: notifier._parked)
        post.erase("ord_1")
        until(lambda: not notifier._parked)
        mails.refuse.clear()
        post.placed("ord_2")
        until(lambda: mails.mails)
        until(post.at_end)
        assert notifier.given_up == 0
    assert mails.subjects("busy@example.org") == []


@pytest.mark.parametrize("for_good", [True, False])
def test_what_was_erased_while_nobody_was_here_is_known_before_anything_is_sent(
    post: Post, mails: MailServer, for_good: bool
) -> None:
    kept = Kept()
    with running(post, contacts=kept):
        post.placed("ord_1")
        until(lambda: mails.mails)
        until(post.at_end)
    post.event("ord_1", e.ORDER_SHIPPED, shipment=e.Shipment("DHL", "0034"), status="shipped")
    post.erase("ord_1") if for_good else post.contact("ord_1", gone=True)
    with running(post, contacts=kept):
        post.placed("ord_2", "bob@example.org")
        until(lambda: mails.subjects("bob@example.org"))
    assert mails.subjects() == ["ord_1"]
    assert kept.customers() == {"bob@example.org"}


def test_who_was_away_for_longer_than_the_log_tells_of_erasures_reads_contacts_anew(post: Post, mails: MailServer) -> None:
    kept = Kept()
    contacts = KeptContacts(kept, post.topics.contacts, 2)
    contact = OrderContact("c-1", "Ada", "ada@example.org", Address("1 Mill Lane", "Leeds", "LS1", "GB"))
    contacts.put([(contact_key("ord_1", DIGEST), contact_codec().encode(contact), 1)])  # its tombstone is compacted away
    contacts.note_current(time.time_ns() // 1_000_000 - TOO_OLD_MS - 60_000)
    with running(post, contacts=kept):
        post.event("ord_1", e.ORDER_PLACED)
        post.placed("ord_2", "bob@example.org")
        until(lambda: mails.subjects("bob@example.org"))
    assert mails.subjects() == []
    assert kept.customers() == {"bob@example.org"}


def test_an_erasure_reaches_what_is_kept_of_partitions_that_are_somebody_elses(post: Post, mails: MailServer) -> None:
    kept = Kept()
    with running(post, contacts=kept):
        post.contact("ord_1", "eve@example.org", partition=1)
        until(lambda: kept.customers() == {"eve@example.org"})
        post.erase("ord_1", partition=1)
        until(lambda: kept.customers() == set())
    assert mails.mails == []


class Kept(MemoryStore):
    """Contacts that outlive their notifier, which closes them."""

    def __init__(self) -> None:
        super().__init__()
        self._one_at_a_time = threading.Lock()

    def write(self, rows: Mapping[bytes, bytes | None]) -> None:
        with self._one_at_a_time:
            super().write(rows)

    def close(self) -> None:
        pass

    def customers(self) -> set[str]:
        """The addresses in it."""
        with self._one_at_a_time:
            return self._customers()

    def _customers(self) -> set[str]:
        rows = [row for key, row in self.scan(b"") if not key.startswith(b"\0")]
        return {
            address for address in ("ada@example.org", "bob@example.org", "eve@example.org") if address.encode() in b"".join(rows)
        }


def test_messages_that_a_door_keeps_go_with_their_contact(post: Post, tmp_path: Path) -> None:
    def files() -> set[str]:
        return {path.name for path in tmp_path.iterdir()}

    doors = {"email": EmlDoor(tmp_path, "shop@example.org")}
    with running(post, doors=doors):
        post.placed("ord_1")
        post.placed("ord_1-1")
        post.event("ord_1", e.ORDER_CANCELLED, cancel=e.Cancel("other", "admin"), status="cancelled")
        until(lambda: files() == {"ord_1-1-email.eml", "ord_1-2-email.eml", "ord_1-1-1-email.eml"})
        (tmp_path / ".ord_1-2-email.part").write_text("half a message")
        (tmp_path / "notes.txt").write_text("not ours")
        post.erase("ord_1")
        until(lambda: files() == {"ord_1-1-1-email.eml", "notes.txt"})
    post.erase("ord_1-1")
    (tmp_path / "another-1-email.eml").write_text("of another ledger")
    with running(post, doors=doors):
        until(lambda: files() == {"another-1-email.eml", "notes.txt"})


def test_messages_go_out_while_contacts_keep_arriving(post: Post, mails: MailServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they do for a minute when a customer with many orders is erased."""
    monkeypatch.setattr(notifier_module, "ARRIVING_S", 0.05)
    fold = Notifier._fold_contacts
    monkeypatch.setattr(Notifier, "_fold_contacts", lambda self, timeout_s: fold(self, timeout_s) or timeout_s == 0)
    with running(post):
        post.placed("ord_1")
        until(lambda: len(mails.mails) == 1)


def test_what_a_door_has_kept_is_looked_through_once_for_many_erasures(post: Post) -> None:
    class Counting(EmlDoor):
        looks = 0

        def forget(self, order_ids: Collection[str]) -> None:
            self.looks += 1
            super().forget(order_ids)

    door = Counting(Path("no such folder"), "Shop <shop@example.org>")
    for number in range(500):
        post.contact(f"ord_{number}")
        post.erase(f"ord_{number}")
    with running(post, doors={"email": door}):
        assert 0 < door.looks <= 2, "one for what came, one for what was kept before"


def test_another_partition_is_somebody_elses(post: Post, mails: MailServer) -> None:
    with running(post):
        post.event("ord_1", e.ORDER_PLACED, partition=1)
        post.placed("ord_2")
        until(lambda: mails.mails)
    assert mails.subjects() == ["ord_2"]


def test_a_refused_recipient_is_given_up_and_a_busy_server_asked_again(post: Post, mails: MailServer) -> None:
    mails.refuse = {"nobody@example.org": "550 no such user", "busy@example.org": "451 try later"}
    with running(post) as notifier:
        post.placed("ord_1", "nobody@example.org")
        post.placed("ord_2", "busy@example.org")
        post.placed("ord_3")
        until(lambda: mails.subjects())
        until(lambda: notifier.given_up == 1)
        assert not post.at_end()  # ord_2 still waits, and a restart must find it
        mails.refuse.clear()
        until(lambda: mails.subjects("busy@example.org") == ["ord_2"])
        until(post.at_end)
    assert mails.asked.count("nobody@example.org") == 1
    assert mails.subjects() == ["ord_3"]


@pytest.mark.parametrize("odd", ["<ada@example.org>", "ada@example..org", "ada@.example.org", "ada@example.org\u200b", "\ud7ff@"])
def test_an_address_that_no_door_let_in_costs_its_message_and_is_not_repeated(
    post: Post, mails: MailServer, odd: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(post) as notifier:
        post.placed("ord_1", odd)
        post.placed("ord_2")
        until(lambda: mails.subjects() == ["ord_2"])
        assert (notifier.given_up, notifier.restarts) == (1, 0)
        until(post.at_end)
    assert not post.failed
    said = capsys.readouterr()
    assert odd not in said.out + said.err


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("taro..yamada@example.ne.jp", '"taro..yamada"@example.ne.jp'),
        ("info@m\u00fcller.example.com", "info@xn--mller-kva.example.com"),
    ],
)
def test_an_odd_address_that_is_one_is_written_to(post: Post, mails: MailServer, typed: str, sent: str) -> None:
    with running(post):
        post.placed("ord_1", typed)
        until(lambda: mails.mails)
    assert mails.asked[0] in (sent, typed)  # the server of the tests takes quotes off
    mail = as_mail(OutMessage("ord_1:1:email", "email", typed, "Hello", "Hello"), sender_of("shop@example.org"))
    assert f"To: {sent}\n".encode() in mail.as_bytes()


class BrokenDoor(SmtpDoor):
    """A door with a fault that nobody thought of, for one message."""

    def send(self, message: OutMessage) -> None:
        if "ord_1" in message.subject:
            raise ZeroDivisionError(message.to)
        super().send(message)


def test_a_door_that_raises_costs_one_message(post: Post, mails: MailServer, capsys: pytest.CaptureFixture[str]) -> None:
    with running(post, doors={"email": BrokenDoor(post.url, "shop@example.org")}) as notifier:
        post.placed("ord_1", "secret@example.org")
        post.placed("ord_2")
        until(lambda: mails.subjects() == ["ord_2"])
        assert (notifier.given_up, notifier.restarts) == (1, 0)
    assert not post.failed
    assert "secret" not in (said := capsys.readouterr()).out + said.err


def test_a_mail_server_that_is_away_is_waited_for(post: Post) -> None:
    late = MailServer()
    with running(post, doors={"email": SmtpDoor(late.url, "shop@example.org")}) as notifier:
        post.placed("ord_1")
        until(lambda: notifier._parked)
        late.controller.start()
        try:
            until(lambda: late.subjects() == ["ord_1"])
        finally:
            late.controller.stop()


def test_a_name_ends_up_in_no_header(post: Post, mails: MailServer) -> None:
    with running(post):
        post.placed("ord_1", name="Ada\r\nBcc: eve@example.org\r\n\r\n$order ${name}")
        until(lambda: mails.mails)
    to, mail = mails.mails[0]
    assert (to, mail["Bcc"], mail["To"]) == ("ada@example.org", None, "ada@example.org")
    assert "$order ${name}" in mail.get_content()


# ---- without a log --------------------------------------------------------------------------------------------------


def test_only_the_event_that_makes_an_order_paid_or_refunded_is_told_of() -> None:
    def notice(kind: str, **fields: Any) -> str | None:
        base: dict[str, Any] = {"order_id": "o", "version": 2, "occurred_at": 1, "customer_id": "c", "currency": "EUR"}
        base |= {"total_minor": 1, "actor": "a", "command_id": "c", "fingerprint": bytes(16)} | fields
        return notice_of(e.OrderEvent(**base, type=kind))

    assert notice(e.PAYMENT_CAPTURED, status="pending") is None
    assert notice(e.PAYMENT_CAPTURED, status="cancelled") is None
    assert notice(e.PAYMENT_CAPTURED, status="paid") == "paid"
    assert notice(e.STOCK_RESERVED, status="paid") == "paid"
    assert notice(e.STOCK_RESERVED, status="paid", total_minor=0) == "confirmed"
    assert notice(e.PAYMENT_CAPTURED, status="pending", payment_state="partly_captured") == "part_paid"
    assert notice(e.STOCK_RESERVED, status="pending", payment_state="partly_captured") is None
    assert notice(e.DISPUTE_OPENED, status="paid") is None
    assert notice(e.ATTENTION_RAISED, status="paid", attention=e.Attention("x", "y")) is None
    assert notice(e.REFUND_SETTLED, payment_state="refunding") is None
    assert notice(e.REFUND_SETTLED, payment_state="refunded") == "refunded"
    settled = e.Attention("refund_failed", "k", "settled_elsewhere", 1)
    assert notice(e.ATTENTION_RESOLVED, payment_state="refunded", attention=settled) == "refunded"
    assert notice(e.FULFILMENT_STARTED, status="processing") is None
    assert set(e.EVENT_TYPES) >= {e.ORDER_PLACED}


TELLS_SUM = {(notice, "email") for notice in ("placed", "paid", "part_paid", "refunded")}
TELLS_SUM |= {(notice, "sms") for notice in ("placed", "part_paid", "refunded")}


@pytest.mark.parametrize("channel", ["email", "sms"])
@pytest.mark.parametrize("notice", ["placed", "paid", "part_paid", "confirmed", "shipped", "delivered", "cancelled", "refunded"])
def test_every_notice_has_a_text_for_every_channel(notice: str, channel: str) -> None:
    base: dict[str, Any] = {"order_id": "ord_1", "version": 2, "occurred_at": 1, "customer_id": "c", "currency": "JPY"}
    base |= {
        "total_minor": 2890,
        "captured_minor": 2890,
        "refunded_minor": 2890,
        "actor": "a",
        "command_id": "c",
        "fingerprint": bytes(16),
    }
    event = e.OrderEvent(**base, type="x", shipment=e.Shipment("DHL", "0034"), cancel=e.Cancel("unpaid", "reconciler"))
    contact = OrderContact("c-1", "Ada", "ada@example.org", Address("1 Mill Lane", "Leeds", "LS1", "GB"), phone="+44 1134960000")
    (message,) = messages_of(event, notice, contact, frozenset([channel]))
    assert message.key == f"ord_1:2:{channel}"
    assert "$" not in message.subject + message.text
    assert "ord_1" in message.text
    assert "2890 JPY" in message.text or (notice, channel) not in TELLS_SUM
    assert bool(message.subject) == (channel == "email")
    assert "ada@example.org" not in repr(message)
    nobody = OrderContact("c-1", "Ada", "", contact.shipping_address)
    assert messages_of(event, notice, nobody, frozenset(["email", "sms"])) == []


def test_without_a_server_each_message_is_a_file_for_its_owner_only(tmp_path: Path) -> None:
    door = EmlDoor(tmp_path / "outbox", "Shop <shop@example.org>")
    message = OutMessage("ord_1:2:email", "email", "ada@example.org", "Hello", "Grüße")
    door.send(message)
    door.send(message)
    (file,) = (tmp_path / "outbox").iterdir()
    assert (file.name, file.stat().st_mode & 0o777) == ("ord_1-2-email.eml", 0o600)
    mail = email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
    assert isinstance(mail, EmailMessage)
    assert (mail["To"], mail.get_content().strip()) == ("ada@example.org", "Grüße")
    with pytest.raises(NotSent) as caught:
        door.send(OutMessage("k", "email", "no address\r\nBcc: x", "s", "t"))
    assert not caught.value.again


@pytest.mark.parametrize(
    ("to", "subject", "text"),
    [
        ("ada@example.org", "Your order ord_1", "Hello Ada,\n\nthank you.\n"),
        ("ada.b+c@mail.example.org", "x" * 70, "no end of line"),
        ("ada@example.org", "x " * 70, "y" * 200),
        ('"ada b"@example.org', "Grüße", "Grüße\n"),
        ("ada@example.org", "Your order", "two\r\nlines\r\n"),
        ("ada@example.org", "Your order", ""),
    ],
)
@pytest.mark.parametrize("sender", ["Shop <shop@localhost>", "Läden & Co <shop@example.org>", "shop@example.org"])
def test_a_mail_that_is_made_the_short_way_is_what_the_library_makes_of_it(to: str, subject: str, text: str, sender: str) -> None:
    address = sender_of(sender)
    mail = as_mail(OutMessage("ord_1:2:email", "email", to, subject, text), address)
    whole = EmailMessage()
    whole["From"], whole["To"], whole["Subject"] = address, EmailAddress(addr_spec=to), subject
    whole["Message-ID"] = "<ord_1.2.email@order-ledger>"
    whole["Date"], whole["Auto-Submitted"] = mail["Date"], "auto-generated"
    whole.set_content(text)
    assert mail.as_bytes() == whole.as_bytes()
    assert mail.get_content() == whole.get_content()


@pytest.mark.parametrize("url", ["http://x", "smtp://", "smtp://host:port", "nonsense"])
def test_a_wrong_url_is_named_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SmtpDoor(url.replace("//", "//user:canary@"), "shop@example.org")
    assert "canary" not in str(caught.value)


def test_an_order_through_the_whole_shop_is_told_of(tmp_path: Path, mails: MailServer) -> None:
    """Placed, paid, cancelled, refunded: the reconciler does it, the notifier tells it."""

    with (
        running_sandbox(tmp_path) as sandbox,
        running_ledger(MemoryLog(), Topics("told."), sandbox=sandbox, email_url=mails.url) as ledger,
    ):
        shop = Shop(ledger, sandbox)
        order = shop.place(contact=order_body()["contact"] | {"email": "eve@example.org"})
        sandbox.pay(shop.open_payment(order))
        shop.until_status(order, "paid")
        shop.cancel(order)
        shop.until_axes(order, payment="refunded")
        until(lambda: len(mails.subjects("eve@example.org")) >= 4)
        no = order["order_id"]
        assert mails.subjects("eve@example.org") == [no, f"{no} is paid", f"{no} was cancelled", f"refund {no}"]
