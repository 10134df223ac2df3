"""Which events customers are notified of, and how a mail is built from them."""

from __future__ import annotations

import email
import email.policy
from email.headerregistry import Address as EmailAddress
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from commands.notifier.email_door import EmlDoor, SmtpDoor, as_mail, sender_of
from commands.notifier.message_port import NotSent, OutMessage
from commands.notifier.notices import NOTICES, notice_of
from ledger import events as e
from ledger.errors import ConfigError


def test_only_the_event_that_makes_an_order_paid_and_each_refund_is_notified() -> None:
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
    assert notice(e.REFUND_SUBMITTED, payment_state="refunding") is None
    assert notice(e.REFUND_REQUESTED, payment_state="refunding") is None
    assert notice(e.REFUND_FAILED, payment_state="refund_failed") is None
    for state in ("refunding", "refunded", "captured"):  # of several refunds, each says its own amount
        assert notice(e.REFUND_SETTLED, payment_state=state) == "refunded"
    settled = e.Attention("refund_failed", "k", "settled_elsewhere", 1)
    assert notice(e.ATTENTION_RESOLVED, payment_state="refunded", attention=settled) == "refunded"
    nothing = e.Attention("refund_failed", "k", "settled_elsewhere", 0)
    assert notice(e.ATTENTION_RESOLVED, payment_state="refunded", attention=nothing) is None
    assert notice(e.ATTENTION_RESOLVED, attention=e.Attention("refund_failed", "k", "retry")) is None
    assert notice(e.PARCEL_SHIPPED) == notice(e.ORDER_SHIPPED) == "shipped"
    assert notice(e.PARCEL_DELIVERED) is None
    assert notice(e.FULFILMENT_STARTED, status="processing") is None
    assert set(e.EVENT_TYPES) >= {e.ORDER_PLACED}
    assert {notice(kind) for kind in e.EVENT_TYPES} - {None} | {"paid", "confirmed", "part_paid"} == set(NOTICES)


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
def test_a_mail_built_by_the_short_path_is_the_one_that_the_library_builds(to: str, subject: str, text: str, sender: str) -> None:
    address = sender_of(sender)
    mail = as_mail(OutMessage("ord_1:2:email", "email", to, subject, text), address)
    whole = EmailMessage()
    whole["From"], whole["To"], whole["Subject"] = address, EmailAddress(addr_spec=to), subject
    whole["Message-ID"] = "<ord_1.2.email@order-ledger>"
    whole["Date"], whole["Auto-Submitted"] = mail["Date"], "auto-generated"
    whole.set_content(text)
    assert mail.as_bytes() == whole.as_bytes()
    assert mail.get_content() == whole.get_content()


@pytest.mark.parametrize(
    "text", ["Hello Ada,\n", "Grüße\n", "y" * 2000 + "\n", "ü" * 600 + "\n", "--=_order-ledger--\n", "a\n.\nFrom b\n"]
)
@pytest.mark.parametrize(
    "html", ["<p>Hello Ada,</p>\n", "<p>Grüße 28,90\u00a0€</p>\n", f"<p>{'y' * 2000}</p>\n", f"<p>{'€ ' * 100}</p>\n"]
)
def test_a_mail_with_html_has_the_text_first_and_both_as_they_were(text: str, html: str) -> None:
    message = OutMessage("ord_1:2:email", "email", "ada@example.org", "Your order", text, html)
    sent = as_mail(message, sender_of("Shop <shop@example.org>")).as_bytes()
    assert max(map(len, sent.splitlines())) <= 998, "RFC 5322"
    mail = email.message_from_bytes(sent, policy=email.policy.default)
    assert isinstance(mail, EmailMessage)
    assert mail.get_content_type() == "multipart/alternative"
    plain, rich = mail.iter_parts()
    assert isinstance(plain, EmailMessage)
    assert isinstance(rich, EmailMessage)
    assert [(part.get_content_type(), part.get_content_charset()) for part in (plain, rich)] == [
        ("text/plain", "utf-8"),
        ("text/html", "utf-8"),
    ]
    assert (plain.get_content(), rich.get_content()) == (text, html)
    headers = [(name, str(value)) for name, value in mail.items() if name not in ("Date", "Content-Type")]
    assert headers == [
        ("From", "Shop <shop@example.org>"),
        ("To", "ada@example.org"),
        ("Subject", "Your order"),
        ("Message-ID", "<ord_1.2.email@order-ledger>"),
        ("Auto-Submitted", "auto-generated"),
        ("MIME-Version", "1.0"),
    ]


@pytest.mark.parametrize("url", ["http://x", "smtp://", "smtp://host:port", "nonsense"])
def test_a_wrong_url_is_named_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SmtpDoor(url.replace("//", "//user:canary@"), "shop@example.org")
    assert "canary" not in str(caught.value)
