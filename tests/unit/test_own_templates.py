"""The shop's own templates: which file is used, and what a broken one costs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC
from pathlib import Path

import pytest
from msgspec.structs import replace

from commands.notifier.checking import check
from commands.notifier.composing import Composer, Shop
from commands.notifier.notices import EMAIL, NOTICES, SMS
from commands.notifier.samples import NUMBER, ORDER_ID, sample
from ledger.errors import ConfigError
from tests.support.messages import BROKEN, LANGUAGES, html_of, mail, messages, write


def test_a_folder_that_replaces_one_file_replaces_only_that(tmp_path: Path) -> None:
    write(tmp_path, "en/placed.email.html", "{% extends 'layout.email.html' %}{% block message %}<p>Ours</p>{% endblock %}")
    shop = Shop("Shop", folder=tmp_path)
    ours, shipped = mail(sample("placed"), shop=shop), mail(sample("placed"), shop=Shop("Shop"))
    assert (ours.subject, ours.text) == (shipped.subject, shipped.text)
    assert "<p>Ours</p>" in html_of(ours)
    assert "<p>Ours</p>" not in html_of(shipped)
    assert mail(sample("paid"), "paid", shop) == mail(sample("paid"), "paid", Shop("Shop"))
    assert check(shop).faults == []


def test_a_layout_of_the_shop_is_that_of_every_message(tmp_path: Path) -> None:
    write(tmp_path, "layout.email.html", "<h1>{{ shop }}</h1>{% block message %}{% endblock %}")
    shop = Shop("Bean & Leaf", folder=tmp_path)
    for notice in NOTICES:
        for language in LANGUAGES:
            assert html_of(mail(sample(notice), notice, shop, locale=language)).startswith("<h1>Bean &amp; Leaf</h1>")
    assert check(shop).faults == []


def test_a_file_counts_from_the_next_message_on(tmp_path: Path) -> None:
    composer, of = Composer(Shop("Shop", folder=tmp_path)), sample("placed")

    def text() -> str:
        (message,) = composer.messages_of(of.event, of.order, "placed", of.contact, frozenset({SMS}))
        return message.text

    shipped = text()
    write(tmp_path, "en/placed.sms.txt", "one")
    assert text() == "one"
    write(tmp_path, "en/placed.sms.txt", "two, longer")
    assert text() == "two, longer"
    (tmp_path / "en" / "placed.sms.txt").unlink()
    assert text() == shipped
    assert composer.failures == 0


def test_a_folder_that_is_mounted_as_links_is_read(tmp_path: Path) -> None:
    write(tmp_path, "..data/en/placed.sms.txt", "mounted")
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "en").symlink_to(tmp_path / "..data" / "en")
    shop = Shop("Shop", folder=tmp_path / "shop")
    assert messages(sample("placed"), "placed", shop)[1].text == "mounted"
    assert check(shop).faults == []


def test_a_folder_that_is_not_there_is_an_error_at_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="NOTIFY_TEMPLATES_DIR"):
        Composer(Shop("Shop", zone=UTC, folder=tmp_path / "messages"))


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    def read() -> str:
        captured = capsys.readouterr()
        return captured.out + captured.err

    return read


@pytest.mark.parametrize("breakage", BROKEN)
def test_a_template_that_fails_is_replaced_by_the_shipped_one_counted_and_logged(
    breakage: str, tmp_path: Path, said: Callable[[], str]
) -> None:
    source, kind, _ = BROKEN[breakage]
    write(tmp_path / "messages", "en/placed.email.txt", source)
    write(tmp_path, "secret.txt", "secret")
    composer, of = Composer(Shop("Bean & Leaf", folder=tmp_path / "messages")), sample("placed")
    contact = replace(of.contact, name="Canary")
    for _ in range(2):
        (message,) = composer.messages_of(of.event, of.order, "placed", contact, frozenset({EMAIL}))
        assert message == mail(of, name="Canary")
    assert composer.failures == 2
    logged = said()
    assert logged.count("template failed, using the shipped one") == 2
    assert "en/placed.email.txt" in logged
    assert kind in logged
    assert ORDER_ID in logged
    assert "Canary" not in logged
    assert "secret" not in logged


def test_a_failing_template_costs_no_other_message(tmp_path: Path) -> None:
    write(tmp_path, "en/placed.email.html", "{{ custmer }}")
    write(tmp_path, "en/placed.sms.txt", "ours")
    write(tmp_path, "en/paid.email.txt", "Subject: ours\nours")
    composer = Composer(Shop("Shop", folder=tmp_path))
    subjects = []
    for notice in ("placed", "paid"):
        of = sample(notice)
        subjects += [
            message.subject or message.text
            for message in composer.messages_of(of.event, of.order, notice, of.contact, frozenset({EMAIL, SMS}))
        ]
    assert subjects[:3] == [f"Your order {NUMBER}", "ours", "ours"]
    assert composer.failures == 1
