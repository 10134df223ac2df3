"""Which texts are a card number, however people write it, and which only have digits; and every text is checked."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from pydantic import BaseModel

from api.bodies import validated
from api.contract import requests as payloads
from api.contract.card_numbers import has_card_number
from api.problems import Problem
from tests.support.harness import order_body

CARDS = [
    # as issued: Visa, Mastercard, American Express, Discover, Diners, JCB, UnionPay, Maestro, Mir, Dankort, RuPay, Elo, Hipercard
    "4242424242424242",
    "4111111111111111",
    "4222222222222",
    "4000000000000000006",
    "5555555555554444",
    "2223003122003222",
    "378282246310005",
    "371449635398431",
    "6011111111111117",
    "36227206271667",
    "3056930009020004",
    "3566002020360505",
    "6200000000000005",
    "6205500000000000004",
    "6759649826438453",
    "2200000000000053",
    "5019717010103742",
    "6073849700004947",
    "6362970000457013",
    "6062826786276634",
    # with an expiry date, a code, a prefix
    "378282246310005 12/27",
    "5555 5555 5555 4444 7/27",
    "5555 5555 5555 4444 07/2027 123",
    "4242424242424242 1227 424",
    "No 12, 4242 4242 4242 4242",
    "2026-11-25 4242 4242 4242 4242",
    "visa4242424242424242exp1227",
    "x5555555555554444x",
    # in groups
    "4242 4242 4242 4242",
    "3782 822463 10005",
    "3622 720627 1667",
    "42424242 42424242",
    "424242 4242424242",
    "4 2 4 2 4 2 4 2 4 2 4 2 4 2 4 2",
    "42 42 42 42 42 42 42 42",
    # with every separator that people type
    "4242-4242-4242-4242",
    "4242.4242.4242.4242",
    "4242/4242/4242/4242",
    "4242_4242_4242_4242",
    "4242, 4242, 4242, 4242",
    "4242 - 4242 - 4242 - 4242",
    "4242  --  4242  --  4242  --  4242",
    "(4242) 4242 4242 [4242]",
    "4242*4242*4242*4242",
    "4242|4242|4242|4242",
    "4242:4242;4242\\4242",
    "4242+4242=4242~4242",
    "4242\u00a04242\u202f4242\u20094242",
    "4242\u20134242\u20144242\u22124242",
    "4242\u200b4242\u200d4242\u00ad4242",
    "4242\u00b74242\u20224242\u00b74242",
    "4242\t4242\n4242 4242",
    # in digits of other scripts
    "\uff14\uff12\uff14\uff12 \uff14\uff12\uff14\uff12 \uff14\uff12\uff14\uff12 \uff14\uff12\uff14\uff12",
    "\u0664\u0662\u0664\u0662 \u0664\u0662\u0664\u0662 \u0664\u0662\u0664\u0662 \u0664\u0662\u0664\u0662",
    "4\ufe0f\u20e32\ufe0f\u20e3" * 8,
]

NO_CARDS = [
    "",
    "Ring twice",
    "123456789012",
    # one digit is wrong, one too few, one too many
    "4242 4242 4242 4243",
    "378282246310006",
    "424242424242424",
    "42424242424242424",
    "424242424242424242424242",
    # no issuer has such numbers
    "1234567890123456",
    "0000 0000 0000 0000",
    "7992739871300000",
    "9400 1000 0000 0000 0000 00",
    # articles, by their own check digit
    "Pen, EAN 4006381000093",
    "4006381333931",
    "Pen, EAN 4006381000093, 500 g",
    "EAN 4006381000093 / 4006381333931",
    "6901234567892",
    "ISBN 978-3-16-148410-0",
    "UPC 036000291452",
    # telephones
    "+44 113 496 0000",
    "+49 151 23456789",
    "4915123456782",
    "+49 4915 123456782",
    "0171 2345678 or 030 12345678",
    "00 1 415 555 2671 / 00 44 20 7946 0958",
    # devices, parcels, accounts, orders
    "IMEI 490154203237518",
    "IMEI 356938035643809",
    "00340434161094015902",
    "1Z 999 AA1 01 2345 6784",
    "RM 123 456 785 DE",
    "DE89 3704 0044 0532 0130 00",
    "GB82 WEST 1234 5698 7654 32",
    "cart-2026-000123-7",
    "ord_2cumvh5jpkvhcxsfqqzwnmx5ei",
    "550e8400-e29b-41d4-a716-446655440000",
    # days, times, sizes, prices, places
    "from 24.12.2026 to 27.12.2026",
    "2026-12-24 - 2026-12-31, 10:00-12:30",
    "23/12/2026 18:00, 30/12/2026 20:00",
    "sizes 36 37 38 39 40 41 42 43",
    "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20",
    "4 x 250 g, 2 x 500 g, 1 x 1000 g",
    "12.50 + 13.50 + 14.50 EUR",
    "52.5200 N, 13.4050 E",
    "Gate 4, code 1234#, floor 12, flat 42",
    "x" * 500,
    "4" * 500,
]


def test_the_tables_are_as_long_as_they_should_be() -> None:
    assert len(CARDS) >= 40
    assert len(NO_CARDS) >= 40
    assert not set(CARDS) & set(NO_CARDS)


@pytest.mark.parametrize("text", CARDS)
def test_a_card_number_is_seen(text: str) -> None:
    assert has_card_number(text)
    assert has_card_number(f"Please take {text}, thanks")


@pytest.mark.parametrize("text", NO_CARDS)
def test_other_digits_are_not_a_card_number(text: str) -> None:
    assert not has_card_number(text)
    assert not has_card_number(f"Please take {text}, thanks")


# ---- every text -----------------------------------------------------------------------------------------------------


def requests() -> list[type[payloads.RequestBody]]:
    models, left = [], [payloads.RequestBody]
    while left:
        below = left.pop().__subclasses__()
        left += below
        models += [model for model in below if model.__module__.startswith("api.")]
    return models


def unchecked(model: type[BaseModel]) -> list[str]:
    """Fields of `model` with a text that may be a card number: those that take a `str` and not the rule."""
    return [
        f"{model.__name__}.{name}"
        for name, field in model.model_fields.items()
        if has_text(field.annotation) and payloads.NO_CARD not in field.metadata
    ]


def has_text(kind: Any) -> bool:
    """Whether values of this type are, or hold, a `str`, except of another request or from a fixed list."""
    if get_origin(kind) in (Union, types.UnionType, list, tuple, set, dict):
        return any(has_text(part) for part in get_args(kind))
    if get_origin(kind) is Annotated:
        return has_text(get_args(kind)[0]) and payloads.NO_CARD not in kind.__metadata__
    return kind is Any or (isinstance(kind, type) and issubclass(kind, str))


def test_every_text_of_every_request_is_checked() -> None:
    models = requests()
    assert {"PlaceOrderBody", "LineBody", "ContactBody", "AddressBody", "ResolveAttentionBody"} <= {m.__name__ for m in models}
    assert [text for model in models for text in unchecked(model)] == []


def test_an_unchecked_text_is_seen() -> None:
    class Forgotten(BaseModel):
        plain: str
        perhaps: str | None = None
        several: list[str] = []
        anything: Any = None
        checked: Annotated[str, payloads.NO_CARD]
        each: list[Annotated[str, payloads.NO_CARD]] = []
        number: int = 0
        line: payloads.LineBody | None = None
        fixed: payloads.Service = "merch"

    assert unchecked(Forgotten) == [f"Forgotten.{name}" for name in ("plain", "perhaps", "several", "anything")]


def texts_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the texts in `value` are."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict):
        for name, member in value.items():
            yield from texts_of(member, (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from texts_of(item, (*path, index))


def whole_order() -> dict[str, Any]:
    """An order with every member set."""
    body = order_body()
    address = {"line1": "1 Mill Lane", "line2": "b", "city": "Leeds", "region": "York", "postcode": "LS1 1AA", "country": "GB"}
    body["contact"] |= {"shipping_address": address, "billing_address": dict(address), "delivery_note": "Ring twice"}
    return body


@pytest.mark.parametrize("path", list(texts_of(whole_order())))
def test_no_text_of_an_order_may_be_a_card_number_and_no_answer_repeats_it(path: tuple[Any, ...]) -> None:
    body = whole_order()
    validated(payloads.PlaceOrderBody, body)
    inner: Any = body
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = "4242424242424242@example.org" if path[-1] == "email" else "4242424242424242"
    with pytest.raises(Problem) as caught:
        validated(payloads.PlaceOrderBody, body)
    (error,) = caught.value.errors
    assert error.pointer == "".join(f"/{part}" for part in path)
    expected = {"currency": "pattern", "country": "pattern", "service": "not-one-of", "kind": "not-one-of"}
    assert error.code == expected.get(str(path[-1]), "card-number")
    assert "4242" not in str(caught.value.shown("/orders"))
