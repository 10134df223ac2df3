"""Messages to customers through a real SMTP server, on the in-memory log and on Kafka."""

from __future__ import annotations

import html
from pathlib import Path

import pytest

from commands.notifier.composing import Shop as OurShop
from commands.notifier.email_door import SmtpDoor, as_mail, sender_of
from commands.notifier.loop import GIVEN_UP, MAX_AGE_MS, SENT
from commands.notifier.message_port import FAILED_TEMPLATES, OutMessage
from ledger import events as e
from ledger.log import TopicPartition
from ledger.memory.log import MemoryLog
from ledger.topics import Topics
from tests.support.harness import order_body, running_ledger
from tests.support.patience import until
from tests.support.paying_shop import Shop
from tests.support.post import DIGEST, MailServer, Post, part_of, running
from tests.support.sandboxed import running_sandbox


def test_each_step_of_an_order_from_placed_to_refunded_is_notified_once_and_in_order(post: Post, mails: MailServer) -> None:
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
    expected = [
        "ord_1",
        "ord_1 is paid",
        "ord_1 is on its way",
        "ord_1 has arrived",
        "ord_2",
        "ord_2 was cancelled",
        "refund ord_2",
    ]
    assert mails.subjects() == expected
    placed = mails.mails[0][1]
    text = part_of(placed)
    assert "Hello Ada," in text
    assert "1 x Espresso, 1 kg" in text
    assert "€28.90" in text
    assert (placed.get_content_type(), placed.get_content_charset()) == ("multipart/alternative", None)
    assert [part.get_content_type() for part in placed.iter_parts()] == ["text/plain", "text/html"]
    assert "1 × Espresso, 1 kg" in html.unescape(part_of(placed, "html"))
    assert "€28.90" in part_of(placed, "html")
    refund = mails.mails[6][1]
    assert "We have refunded €28.90 for order ord_2." in part_of(refund)
    assert placed["Message-ID"] == "<ord_1.1.email@order-ledger>"
    assert placed["From"] == "Shop <shop@example.org>"


def test_a_cut_line_each_parcel_and_each_refund_gets_a_message_with_its_own_amount(post: Post, mails: MailServer) -> None:
    def units(quantity: int) -> tuple[e.Units, ...]:
        return (e.Units("product", "espresso-1kg", quantity),)

    lines = (e.Line("product", "espresso-1kg", "Espresso, 1 kg", 3, 2890),)
    paid = {"total_minor": 5780, "captured_minor": 5780, "status": "processing"}
    with running(post):
        post.placed("ord_1", placed=e.Placed(lines, (), DIGEST, 10**13), total_minor=8670)
        post.event("ord_1", e.LINES_CANCELLED, cut=e.Cut(units(1), 2890, "customer_request", "admin"), total_minor=5780)
        post.event("ord_1", e.PARCEL_SHIPPED, shipment=e.Shipment("DHL", "0034", units(1), 1), **paid)
        post.event("ord_1", e.ORDER_SHIPPED, shipment=e.Shipment("DHL", "0035", units(1), 2), **paid)
        post.event("ord_1", e.PARCEL_DELIVERED, shipment=e.Shipment(parcel=1), **paid)
        for number, amount in ((1, 500), (2, 250)):
            refund = {"refund": e.Refund(number, f"re_{number}", amount), **paid}
            post.event("ord_1", e.REFUND_SUBMITTED, payment_state="refunding", refunded_minor=500 * (number - 1), **refund)
            post.event("ord_1", e.REFUND_SETTLED, payment_state="captured", refunded_minor=500 + 250 * (number - 1), **refund)
        until(lambda: len(mails.mails) >= 6)
        until(post.at_end)
    parcel_subject = "A parcel of your order ord_1 is on its way"
    assert mails.subjects() == ["ord_1", "ord_1 was changed", parcel_subject, parcel_subject, "refund ord_1", "refund ord_1"]
    _, cut, first, last, one, two = (part_of(mail) for _, mail in mails.mails)
    assert "  1 x Espresso, 1 kg\n\nYour order costs €28.90 less." in cut
    assert "  3 x Espresso, 1 kg: €86.70 (1 cancelled)\n  Cancelled: -€28.90\n\nTotal: €57.80\n" in cut
    assert ("0034" in first, "0035" in last) == (True, True)
    assert "We have refunded €5.00 for order ord_1." in one
    assert "We have refunded €2.50 for order ord_1.\nWith earlier refunds, that is €7.50 in total." in two


def test_a_late_reservation_of_a_service_without_units_left_is_not_notified(post: Post, mails: MailServer) -> None:
    mug = (e.Units("merch", "mug", 1),)
    lines = (e.Line("product", "espresso-1kg", "Espresso, 1 kg", 1, 2890), e.Line("merch", "mug", "Mug", 1, 900))
    less = {"total_minor": 2890, "captured_minor": 2890, "status": "paid", "payment_state": "captured"}
    with running(post):
        for order_id in ("ord_1", "ord_2"):
            post.placed(order_id, placed=e.Placed(lines, (), DIGEST, 10**13), total_minor=3790)
            post.event(order_id, e.PAYMENT_REQUESTED, payment=e.Payment(1, 3790), total_minor=3790)
            post.event(order_id, e.STOCK_RESERVED, stock=e.Stock("product"), total_minor=3790)
        post.event("ord_1", e.LINES_CANCELLED, cut=e.Cut(mug, 900, "other", "admin"), total_minor=2890)
        post.event("ord_1", e.PAYMENT_CAPTURED, payment=e.Payment(1, 2890), **less)
        post.event("ord_1", e.STOCK_RELEASED, stock=e.Stock("merch"), **less)
        post.event("ord_1", e.STOCK_RESERVED, stock=e.Stock("merch"), **less)
        post.event("ord_1", e.STOCK_RELEASED, stock=e.Stock("merch"), **less)
        whole = {"total_minor": 3790, "captured_minor": 3790}
        post.event("ord_2", e.PAYMENT_CAPTURED, payment=e.Payment(1, 3790), **whole)
        until(lambda: len(mails.mails) >= 4)
        until(post.at_end)
    post.event("ord_2", e.STOCK_RESERVED, stock=e.Stock("merch"), status="paid", **whole)
    post.event("ord_2", e.LINES_CANCELLED, cut=e.Cut(mug, 900, "other", "admin"), status="paid", total_minor=2890)
    with running(post):  # the mug is cancelled when the reservation is read, but not when it was made
        until(lambda: len(mails.mails) >= 6)
        until(post.at_end)
    expected = ["ord_1", "ord_2", "ord_1 was changed", "ord_1 is paid", "ord_2 is paid", "ord_2 was changed"]
    assert mails.subjects() == expected


def test_a_restart_repeats_no_message_even_with_an_empty_database(post: Post, mails: MailServer) -> None:
    with running(post):
        post.placed("ord_1")
        until(lambda: mails.mails)
        until(post.at_end)
    with running(post):
        post.placed("ord_2")
        until(lambda: len(mails.mails) == 2)
    assert mails.subjects() == ["ord_1", "ord_2"]


def test_the_first_start_skips_earlier_events_and_later_starts_report_all_since(post: Post, mails: MailServer) -> None:
    post.placed("ord_old")
    with running(post):
        pass
    post.placed("ord_meanwhile")
    with running(post):
        until(lambda: mails.mails)
    assert mails.subjects() == ["ord_meanwhile"]


def test_a_kill_between_sending_and_noting_repeats_the_message_under_the_same_id(post: Post, mails: MailServer) -> None:
    with running(post):
        post.placed("ord_1")
        until(lambda: mails.mails)
        until(post.at_end)
    tp = TopicPartition(post.topics.events, 0)
    bookmark = post.log.bookmark(f"{post.topics.prefix}notifier")
    bookmark.write({tp: 0})  # as if the process had died before it could note its progress
    bookmark.close()
    with running(post):
        until(lambda: len(mails.mails) == 2)
    assert mails.mails[0][1]["Message-ID"] == mails.mails[1][1]["Message-ID"]


def test_nothing_older_than_a_day_is_notified(post: Post, mails: MailServer) -> None:
    with running(post):
        pass
    post.placed("ord_1")
    post.ahead_ms = MAX_AGE_MS + 60_000
    with running(post):
        until(post.at_end)
    post.ahead_ms = 0
    assert mails.mails == []


def test_another_partition_belongs_to_another_notifier(post: Post, mails: MailServer) -> None:
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
        until(mails.subjects)
        until(lambda: notifier.with_fate(GIVEN_UP) == 1)
        assert not post.at_end()  # ord_2 still waits, and a restart must find it
        mails.refuse.clear()
        until(lambda: mails.subjects("busy@example.org") == ["ord_2"])
        until(post.at_end)
    assert mails.asked.count("nobody@example.org") == 1
    assert mails.subjects() == ["ord_3"]


def test_a_restart_while_a_message_waits_repeats_no_other(post: Post, mails: MailServer) -> None:
    mails.refuse = {"busy@example.org": "451 try later"}
    with running(post) as notifier:
        post.placed("ord_1", "busy@example.org")
        post.placed("ord_2")
        until(lambda: notifier.with_fate(SENT) == 1)
    with running(post) as notifier:
        post.placed("ord_3")
        until(lambda: notifier.with_fate(SENT) == 1)
        until(lambda: notifier.parked == 1)
    mails.refuse.clear()
    with running(post):
        until(lambda: mails.subjects("busy@example.org") == ["ord_1"])
        until(post.at_end)
    assert mails.subjects() == ["ord_2", "ord_3"]


@pytest.mark.parametrize("odd", ["<ada@example.org>", "ada@example..org", "ada@.example.org", "ada@example.org\u200b", "\ud7ff@"])
def test_an_address_that_the_api_would_refuse_costs_its_message_and_is_not_repeated(
    post: Post, mails: MailServer, odd: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(post) as notifier:
        post.placed("ord_1", odd)
        post.placed("ord_2")
        until(lambda: mails.subjects() == ["ord_2"])
        assert (notifier.with_fate(GIVEN_UP), notifier.restarts) == (1, 0)
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
def test_an_odd_but_valid_address_gets_its_message(post: Post, mails: MailServer, typed: str, sent: str) -> None:
    with running(post):
        post.placed("ord_1", typed)
        until(lambda: mails.mails)
    assert mails.asked[0] in (sent, typed)  # the tests' mail server removes quotes
    mail = as_mail(OutMessage("ord_1:1:email", "email", typed, "Hello", "Hello"), sender_of("shop@example.org"))
    assert f"To: {sent}\n".encode() in mail.as_bytes()


class BrokenDoor(SmtpDoor):
    """A door with an unexpected fault, for one message."""

    def send(self, message: OutMessage) -> None:
        if "ord_1" in message.subject:
            raise ZeroDivisionError(message.to)
        super().send(message)


def test_a_door_that_raises_costs_one_message(post: Post, mails: MailServer, capsys: pytest.CaptureFixture[str]) -> None:
    with running(post, doors={"email": BrokenDoor(post.url, "shop@example.org")}) as notifier:
        post.placed("ord_1", "secret@example.org")
        post.placed("ord_2")
        until(lambda: mails.subjects() == ["ord_2"])
        assert (notifier.with_fate(GIVEN_UP), notifier.restarts) == (1, 0)
    assert not post.failed
    assert "secret" not in (said := capsys.readouterr()).out + said.err


def test_an_unreachable_mail_server_is_waited_for(post: Post) -> None:
    late = MailServer()
    with running(post, doors={"email": SmtpDoor(late.url, "shop@example.org")}) as notifier:
        post.placed("ord_1")
        until(lambda: notifier._parked)
        late.controller.start()
        try:
            until(lambda: late.subjects() == ["ord_1"])
        finally:
            late.controller.stop()


def test_no_name_gets_into_a_header(post: Post, mails: MailServer) -> None:
    with running(post):
        post.placed("ord_1", name="Ada\r\nBcc: eve@example.org\r\n\r\n$order ${name}")
        until(lambda: mails.mails)
    to, mail = mails.mails[0]
    assert (to, mail["Bcc"], mail["To"]) == ("ada@example.org", None, "ada@example.org")
    assert "Hello Ada Bcc: eve@example.org $order ${name}," in part_of(mail)
    assert "<p>Hello Ada Bcc: eve@example.org $order ${name},</p>" in part_of(mail, "html")


def test_a_customer_is_written_to_in_their_language_and_money(post: Post, mails: MailServer) -> None:
    with running(post):
        post.placed("ord_1", locale="de-AT", name="Zoë")
        post.placed("ord_2", locale="tlh")
        post.placed("ord_3", locale="ja", currency="JPY")
        until(lambda: len(mails.mails) == 3)
    german, unknown, yen = (mail for _, mail in mails.mails)
    assert german["Subject"] == "Ihre Bestellung ord_1"
    assert "Guten Tag Zoë," in part_of(german)
    assert "€\xa028,90" in part_of(german)
    assert '<html lang="de" dir="ltr">' in part_of(german, "html")
    assert unknown["Subject"] == "Your order ord_2"
    assert "Total: ¥2,890\n" in part_of(yen)


def test_a_template_that_fails_costs_itself_and_the_message_is_sent(
    post: Post, mails: MailServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "en").mkdir()
    (tmp_path / "en" / "placed.email.txt").write_text("Subject: Hi {{ name }}\n{{ order.price }}", "utf-8")
    (tmp_path / "layout.email.html").write_text("{% block message %}{% endblock %} {{ shop }}'s own", "utf-8")
    post.shop = OurShop("Shop", folder=tmp_path)
    with running(post) as notifier:
        post.placed("ord_1", name="Canary")
        post.event("ord_1", e.ORDER_CANCELLED, cancel=e.Cancel("out_of_stock", "reconciler"), status="cancelled")
        until(lambda: notifier.with_fate(SENT) == 2)
        assert notifier.counts() == {"messages sent": 2, "messages given up": 0, FAILED_TEMPLATES: 1}
        assert notifier.restarts == 0
    placed, cancelled = (mail for _, mail in mails.mails)
    assert placed["Subject"] == "Your order ord_1"
    assert "Hello Canary," in part_of(placed)
    assert "Shop&#39;s own" not in part_of(placed, "html"), "the whole message is the shipped one"
    assert "Shop's own" in part_of(cancelled, "html")
    said = capsys.readouterr()
    assert "en/placed.email.txt" in said.out + said.err
    assert "Canary" not in said.out + said.err


def test_an_order_through_the_whole_shop_is_notified(tmp_path: Path, mails: MailServer) -> None:
    """Placed, paid, cancelled, refunded: the reconciler acts, the notifier reports."""

    with (
        running_sandbox(tmp_path) as sandbox,
        running_ledger(MemoryLog(), Topics("notified."), sandbox=sandbox, email_url=mails.url) as ledger,
    ):
        shop = Shop(ledger, sandbox)
        order = shop.place(contact=order_body()["contact"] | {"email": "eve@example.org"})
        sandbox.pay(shop.open_payment(order))
        shop.until_status(order, "paid")
        shop.cancel(order)
        shop.until_axes(order, payment="refunded")
        until(lambda: len(mails.subjects("eve@example.org")) >= 4)
        no = order["number"]
        assert mails.subjects("eve@example.org") == [no, f"{no} is paid", f"{no} was cancelled", f"refund {no}"]
