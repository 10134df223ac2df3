"""Addresses and numbers as customers type them, and as messages are sent to them."""

from __future__ import annotations

import pytest

from commands.mailboxes import mailbox
from commands.phone_numbers import dialled

MAILBOXES = {
    "ada@example.org": "ada@example.org",
    "ADA+tag@EXAMPLE.org": "ADA+tag@example.org",
    "taro..yamada@example.ne.jp": '"taro..yamada"@example.ne.jp',  # as carriers in Japan issued them
    "taro.@example.ne.jp": '"taro."@example.ne.jp',
    '"taro..yamada"@example.ne.jp': '"taro..yamada"@example.ne.jp',
    "info@m\u00fcller.example.com": "info@xn--mller-kva.example.com",
    "info@xn--mller-kva.example.com": "info@xn--mller-kva.example.com",
}
NONE = [
    "",
    "ada",
    "@example.org",
    "ada@",
    "<ada@example.org>",
    "Ada <ada@example.org>",
    "ada@example..org",
    "ada@.example.org",
    "ada@example.org\u200b",
    "ada@localhost",
    "ada@[127.0.0.1]",
    "ada@example.org, bob@example.org",
    "ada@example.org\nBcc: bob@example.org",
    "ada smith@example.org",
    "\u00fcnal@example.org",
    "a" * 65 + "@example.org",
    "ada@" + "a" * 260 + ".org",
    "ada@\ud83d\ude00",
]


@pytest.mark.parametrize(("typed", "sent"), MAILBOXES.items(), ids=MAILBOXES)
def test_an_address_is_sent_in_the_form_that_every_server_takes(typed: str, sent: str) -> None:
    assert mailbox(typed) == sent
    assert mailbox(sent) == sent


@pytest.mark.parametrize("typed", NONE)
def test_an_invalid_address_is_refused_without_being_repeated(typed: str) -> None:
    with pytest.raises(ValueError, match=r"^not an e-mail address$"):
        mailbox(typed)


@pytest.mark.parametrize(
    ("typed", "country", "sent"),
    [
        ("+49 (0)151 23456789", "DE", "+4915123456789"),
        ("0151 / 234 567-89", "de", "+4915123456789"),
        ("00441134960000", "DE", "+441134960000"),
        ("+44 113 496 0000", "US", "+441134960000"),
        ("(503) 555-0100", "US", "+15035550100"),
        ("\uff0b\uff18\uff11 90-1234-5678", "JP", "+819012345678"),
    ],
)
def test_a_number_is_dialled_from_the_country_that_the_parcel_goes_to(typed: str, country: str, sent: str) -> None:
    assert dialled(typed, country) == sent


UNDIALLED = [("", "DE"), ("call me", "DE"), ("1", "DE"), ("0151 23456789", "ZZ"), ("+" + "1" * 30, "US")]


@pytest.mark.parametrize(("typed", "country"), UNDIALLED)
def test_an_invalid_number_is_refused_without_being_repeated(typed: str, country: str) -> None:
    with pytest.raises(ValueError, match=r"^not a phone number$"):
        dialled(typed, country)
