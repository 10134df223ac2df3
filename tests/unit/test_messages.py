"""What customers read: messages made of the shipped templates and of the shop's, in their languages."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from commands.notifier.checking import PARTS, check
from commands.notifier.composing import Composer, Shop
from commands.notifier.email_door import as_mail, sender_of
from commands.notifier.notices import EMAIL, NOTICES, SMS
from commands.notifier.samples import NUMBER, ORDER_ID, Sample, sample, samples
from commands.notifier.template_files import SHIPPED_TEMPLATES
from commands.notifier.values import one_line
from ledger import events as e
from ledger.contacts import Address
from ledger.order import Order
from tests.support.messages import LANGUAGES, TAGS_OF_MAIL, Read, html_of, mail, messages, with_content, write

SILENT = {("shipped", EMAIL), ("delivered", EMAIL)}  # of amounts
SILENT |= {(notice, SMS) for notice in ("confirmed", "shipped", "delivered", "cancelled")}


# ---- the shipped ones -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("notice", NOTICES)
def test_every_notice_has_a_mail_and_a_text_message_in_every_language(notice: str, language: str) -> None:
    of = sample(notice)
    by_mail, by_sms = messages(of, notice, locale=language)
    event = of.event
    amounts = {"paid": event.captured_minor, "part_paid": event.captured_minor, "refunded": event.refunded_minor}
    whole, cents = divmod(amounts.get(notice, event.total_minor), 100)
    for message, channel in ((by_mail, EMAIL), (by_sms, SMS)):
        assert (message.channel, message.key) == (channel, f"{ORDER_ID}:{of.event.version}:{channel}")
        assert NUMBER in message.text
        assert not {"{{", "{%", "None", "}}"} & set(message.text.split())
        assert f"{whole}{'.' if language == 'en' else ','}{cents:02}" in message.text or (notice, channel) in SILENT
        assert "Bean & Leaf" in message.text
        assert "ada@example.org" not in repr(message)
    assert NUMBER in by_mail.subject
    assert (by_sms.subject, by_sms.html) == ("", None)
    assert len(by_sms.text.splitlines()) == 1
    assert "\u00a0" not in by_sms.text
    page = Read(html_of(by_mail))
    assert page.tags <= TAGS_OF_MAIL
    assert NUMBER in page.text
    assert "Ada Example" in page.text
    assert f'<html lang="{language}" dir="ltr">' in html_of(by_mail)


def test_the_shipped_templates_are_without_fault_and_whole() -> None:
    checked = check(Shop("Shop"))
    assert checked.faults == []
    assert checked.languages == list(LANGUAGES)
    assert checked.templates == len(LANGUAGES) * len(NOTICES) * len(PARTS)
    assert checked.rendered == len(LANGUAGES) * len(PARTS) * sum(len(list(samples(notice))) for notice in NOTICES)


def test_a_mail_fetches_nothing_from_anywhere() -> None:
    for path in SHIPPED_TEMPLATES.rglob("*.html"):
        source = path.read_text("utf-8").lower()
        assert not [word for word in ("http:", "https:", "src=", "url(", "@import", "<img", "<script", "<link") if word in source]


def test_a_shops_mail_has_greeting_lines_totals_address_and_what_happens_next() -> None:
    message = mail(sample("placed"))
    assert message.subject == f"Your order {NUMBER}"
    assert message.text == (
        "Hello Ada Example,\n\n"
        f"Thank you for your order {NUMBER} of January 31, 2030:\n\n"
        "  2 x Espresso, 1 kg: €49.80\n"
        "  1 x Mug: €9.00\n"
        "  Parcel: €4.00\n"
        "  VAT: €2.10\n"
        "  Spring: -€5.00\n\n"
        "Total: €59.90\n"
        "Your reference: cart-1017\n\n"
        "Delivery address:\n  Ada Example\n  1 Mill Lane\n  Leeds LS1 1AA\n  United Kingdom\n\n"
        "What happens next\n\n"
        "If you have not paid yet, please pay by January 31, 2030, 1:00\u202fPM UTC.\n"
        "We cancel orders that are not paid by then. We will write to you\n"
        "when your payment has arrived and when your order is on its way.\n\n"
        "Bean & Leaf\n"
    )
    text = Read(html_of(message)).text
    for said in ("2 × Espresso, 1 kg", "€49.80", "-€5.00", "€59.90", "Leeds LS1 1AA", "United Kingdom", "What happens next"):
        assert said in text


def test_a_text_message_is_short() -> None:
    (_, message) = messages(sample("shipped"), "shipped")
    assert message.text == f"Order {NUMBER} is on its way with DHL, number 00340434161094015902. Bean & Leaf"
    assert all(len(messages(sample(notice), notice)[1].text) <= 160 for notice in NOTICES)


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("customer_request", " as you asked."),
        ("out_of_stock", ", because an item is sold out."),
        ("unpaid", ", because it was not paid in time."),
        ("stock_timeout", ", because we could not reserve everything in time."),
        ("fraud", "."),
        ("a later reason", "."),
    ],
)
def test_a_cancellation_says_why(reason: str, said: str) -> None:
    of = sample("cancelled")
    message = mail(Sample("", replace(of.event, cancel=e.Cancel(reason, "admin")), of.order, of.contact), "cancelled")
    assert f"was cancelled{said}\n" in message.text
    assert f"was cancelled{said}</p>" in html_of(message)


@pytest.mark.parametrize("name", ["the first of two parcels", "the last of two parcels"])
def test_one_parcel_of_several_says_what_is_in_it(name: str) -> None:
    message = mail(with_content("shipped", name), "shipped")
    assert message.subject == f"A parcel of your order {NUMBER} is on its way"
    assert "A parcel of your order" in message.text
    assert "  1 x Mug\n" in message.text
    assert "Espresso" not in message.text + html_of(message)
    only = mail(sample("shipped"), "shipped")
    assert only.subject == f"Your order {NUMBER} is on its way"
    assert "Mug" not in only.text + html_of(only)


def test_a_cut_line_says_what_the_order_costs_now_and_the_lines_add_up() -> None:
    of = sample("lines_cancelled")
    message = mail(of, "lines_cancelled")
    assert message.subject == f"Your order {NUMBER} was changed"
    assert "  1 x Espresso, 1 kg\n\nYour order costs €" in message.text
    assert "  2 x Espresso, 1 kg: €49.80 (1 cancelled)\n  1 x Mug: €9.00\n" in message.text
    assert "(1 cancelled)" in Read(html_of(message)).text
    rows = message.text.partition("This is your order now:")[2].partition("Your reference")[0]
    *parts, total = [int(amount.replace("€", "").replace(".", "")) for amount in re.findall(r": (-?€[0-9.]+)", rows)]
    assert sum(parts) == total == of.event.total_minor


def test_nobody_is_written_to_where_they_cannot_be_reached() -> None:
    of = sample("placed")
    composer = Composer(Shop("Shop"))
    assert (
        composer.messages_of(of.event, of.order, "placed", replace(of.contact, email="", phone=None), frozenset({EMAIL, SMS}))
        == []
    )
    assert composer.messages_of(of.event, of.order, "placed", of.contact, frozenset()) == []
    (by_sms,) = composer.messages_of(of.event, of.order, "placed", of.contact, frozenset({SMS}))
    assert by_sms.to == "+441134960000"


# ---- amounts --------------------------------------------------------------------------------------------------------


def test_amounts_without_minor_units_and_with_three_digits_are_whole() -> None:
    yen = mail(with_content("placed", "a currency without minor units"))
    assert "  1 x Beans: ¥2,890\n" in yen.text
    assert "Total: ¥2,890\n" in yen.text
    dinars = mail(with_content("placed", "a currency with three digits"))
    assert "Total: KWD\u00a02.890\n" in dinars.text
    assert messages(with_content("placed", "a currency with three digits"), "placed")[1].text.count("KWD 2.890") == 1


@pytest.mark.parametrize(
    ("name", "amount", "total"),
    [
        ("an ordinary order", "€59.90", None),
        ("the last of several refunds", "€23.96", "€59.90"),
        ("staff settled it elsewhere", "€59.90", None),
        ("a currency without minor units", "¥2,890", None),
    ],
)
def test_a_refund_says_its_amount_and_the_sum_of_several(name: str, amount: str, total: str | None) -> None:
    message = mail(with_content("refunded", name), "refunded")
    for text in (message.text, Read(html_of(message)).text):
        assert f"We have refunded {amount} for order {NUMBER}." in text
        assert ("in total" in text) == (total is not None)
        assert total is None or f"that is {total} in total." in text


def test_amounts_are_those_of_the_event_and_not_of_the_order_since() -> None:
    of = sample("refunded")
    later: Order = replace(of.order, total_minor=1, captured_minor=1, refunded_minor=1)
    assert mail(Sample("", of.event, later, of.contact), "refunded") == mail(of, "refunded")


# ---- languages ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("locale", "shop", "subject", "total"),
    [
        (None, "en", "Your order", "€59.90"),
        (None, "de", "Ihre Bestellung", "59,90\u00a0€"),
        ("de", "en", "Ihre Bestellung", "59,90\u00a0€"),
        ("de-AT", "en", "Ihre Bestellung", "€\u00a059,90"),
        ("de-Latn-AT-1996", "en", "Ihre Bestellung", "€\u00a059,90"),
        ("de-u-co-phonebk", "en", "Ihre Bestellung", "59,90\u00a0€"),
        ("DE-ch", "en", "Ihre Bestellung", "EUR\u00a059.90"),
        ("fr-CA", "de-AT", "Ihre Bestellung", "59,90\u00a0€"),
        ("fr-CA", "it", "Your order", "€59.90"),
        ("tlh", "en", "Your order", "€59.90"),
        ("../../etc", "de", "Ihre Bestellung", "59,90\u00a0€"),
    ],
)
def test_a_message_is_in_the_customers_language_else_in_the_shops_else_in_english(
    locale: str | None, shop: str, subject: str, total: str
) -> None:
    message = mail(sample("placed"), shop=Shop("Shop", shop), locale=locale)
    assert message.subject == f"{subject} {NUMBER}"
    assert total in message.text
    assert total in html.unescape(html_of(message))


def test_a_language_of_the_shop_may_be_more_detailed_than_the_shipped_one(tmp_path: Path) -> None:
    write(tmp_path, "de-AT/placed.email.txt", "Subject: Servus {{ name }}\nSumme {{ order.total }}")
    shop = Shop("Shop", folder=tmp_path)
    austrian, german = (mail(sample("placed"), shop=shop, locale=locale) for locale in ("de-AT", "de-DE"))
    assert (austrian.subject, austrian.text) == ("Servus Ada Example", "Summe €\u00a059,90\n")
    assert "Vielen Dank" in html_of(austrian), "the HTML part of the less detailed language"
    assert german.subject == f"Ihre Bestellung {NUMBER}"
    assert mail(sample("paid"), "paid", shop, locale="de-AT").subject.startswith(f"Ihre Bestellung {NUMBER} ")


def test_a_new_language_is_used_for_the_messages_that_it_has(tmp_path: Path) -> None:
    write(tmp_path, "ar/placed.email.txt", "Subject: {{ order.id }}\n{{ name }} {{ order.lines[0].name }} {{ direction }}")
    write(tmp_path, "fr/placed.email.html", "never used without a text")
    shop = Shop("Shop", folder=tmp_path)
    arabic = mail(sample("placed"), shop=shop, locale="ar-EG")
    assert arabic.text == "\u2068Ada Example\u2069 \u2068Espresso, 1 kg\u2069 rtl\n"
    assert arabic.html is None
    assert mail(sample("paid"), "paid", shop, locale="ar-EG").subject.startswith("Your order")
    assert mail(sample("placed"), shop=shop, locale="fr").subject.startswith("Your order")


# ---- what people write ----------------------------------------------------------------------------------------------

HOSTILE = '<script>alert("x")</script><img src=x onerror=y>&amp;{{ 7 * 7 }}{% raw %}'


@pytest.mark.parametrize("notice", NOTICES)
def test_what_people_write_is_text_and_never_html_or_a_template(notice: str) -> None:
    of = sample(notice)
    lines = (replace(of.order.lines[0], name=HOSTILE), *of.order.lines[1:])
    placed = of.event.placed and replace(of.event.placed, lines=lines, reference=HOSTILE[:64])
    shipment = of.event.shipment and e.Shipment(HOSTILE, HOSTILE)
    event = replace(of.event, placed=placed, shipment=shipment)
    address = Address(HOSTILE, HOSTILE, HOSTILE, "GB", HOSTILE, HOSTILE)
    message = mail(Sample("", event, replace(of.order, lines=lines), of.contact), notice, name=HOSTILE, shipping_address=address)
    page = Read(html_of(message))
    assert page.tags <= TAGS_OF_MAIL
    assert not [value for value in page.values if "script" in value or "onerror" in value]
    assert f"Hello {HOSTILE}," in page.text
    assert f"Hello {HOSTILE}," in message.text


def test_a_name_cannot_forge_lines_or_headers(tmp_path: Path) -> None:
    write(tmp_path, "en/placed.email.txt", "Subject: {{ name }}, your order\n{{ name }}!")
    name = "Ada\r\nBcc: eve@example.org\r\n\r\n\x1b[2J\x00\u2028Eve"
    message = mail(sample("placed"), shop=Shop("Shop", folder=tmp_path), name=name)
    assert message.subject == "Ada Bcc: eve@example.org [2J Eve, your order"
    assert message.text == "Ada Bcc: eve@example.org [2J Eve!\n"
    sent = as_mail(message, sender_of("shop@example.org"))
    assert (sent["Bcc"], sent["Subject"]) == (None, message.subject)
    assert b"\nBcc:" not in sent.as_bytes()


def test_a_name_from_right_to_left_changes_nothing_around_it() -> None:
    for name, shown in (
        ("עדה", "\u2068עדה\u2069"),
        ("عائشة", "\u2068عائشة\u2069"),
        ("\u202eAda", "Ada"),
        ("\u2067Ada", "Ada"),
        ("Ada", "Ada"),
        ("می\u200cخواهم", "\u2068می\u200cخواهم\u2069"),  # a joiner is a letter's own affair
    ):
        message = mail(sample("placed"), name=name)
        assert f"Hello {shown},\n" in message.text
        assert f"<p>Hello {shown},</p>" in html_of(message)


def test_long_words_are_kept_whole_and_a_mail_keeps_its_line_length() -> None:
    for language in LANGUAGES:
        of = with_content("placed", "a long word")
        message = mail(of, locale=language)
        assert of.contact.name in message.text
        assert of.contact.name in html_of(message)
        assert "overflow-wrap: anywhere" in html_of(message)
        assert max(map(len, as_mail(message, sender_of("shop@example.org")).as_bytes().splitlines())) <= 998


@pytest.mark.parametrize(
    ("text", "kept"), [("a\tb\n c", "a b c"), ("\u202ea\u2069", "a"), ("👩\u200d🌾 é", "👩\u200d🌾 é"), ("\x7f", "")]
)
def test_a_text_from_outside_is_one_line(text: str, kept: str) -> None:
    assert one_line(text) == kept


def test_addresses_are_written_as_their_country_does() -> None:
    def address(*parts: str | None) -> list[str]:
        text = mail(sample("placed"), shipping_address=Address(*parts)).text  # type: ignore[arg-type]
        return text.partition("Delivery address:\n  Ada Example\n")[2].partition("\n\n")[0].split("\n")

    assert address("1 Mill Lane", "Leeds", "LS1 1AA", "gb") == ["  1 Mill Lane", "  Leeds LS1 1AA", "  United Kingdom"]
    assert address("Am Hof 1", "Wien", "1010", "AT", "Stiege 2") == ["  Am Hof 1", "  Stiege 2", "  1010 Wien", "  Austria"]
    assert address("1 Mill Street", "Reno", "89501", "US", None, "NV")[1:] == ["  Reno NV 89501", "  United States"]
    assert address("Street 1", "Dubai", "", "AE") == ["  Street 1", "  Dubai", "  United Arab Emirates"]
