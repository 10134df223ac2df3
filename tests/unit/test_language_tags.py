"""Language tags: which are well-formed, how they are written, and in which order languages are tried."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.bodies import validated
from api.contract.requests import PlaceOrderBody
from api.problems import Problem
from commands.notifier.languages import canonical, chain, lookups
from ledger.bounds import LANGUAGE_TAG, MAX_LANGUAGE_TAG
from tests.support.harness import order_body

WELL_FORMED = {
    "en": "en",
    "DE-at": "de-AT",
    "zh-hant-tw": "zh-Hant-TW",
    "zh-yue-hk": "zh-yue-HK",
    "es-419": "es-419",
    "sl-IT-nedis": "sl-IT-nedis",
    "de-1996": "de-1996",
    "de-CH-1901": "de-CH-1901",
    "en-US-u-CA-gregory-HC-h23": "en-US-u-ca-gregory-hc-h23",
    "en-x-AB-CDEF": "en-x-ab-cdef",
}
MALFORMED = ["", "d", "x", "german", "de_AT", "de-", "-de", "de--AT", "de-A", "de-AT-", "de AT", "en-u", "../de", "de/AT", "de\n"]
MALFORMED += ["d\u00e9", "de-\u0661\u0661\u0661", "e" * 36, "en-x-" + "a" * 9]


@pytest.mark.parametrize("tag", WELL_FORMED)
def test_a_tag_is_written_as_the_standard_writes_it(tag: str) -> None:
    assert canonical(tag) == WELL_FORMED[tag]
    assert canonical(WELL_FORMED[tag]) == WELL_FORMED[tag]


@pytest.mark.parametrize("tag", MALFORMED)
def test_what_is_no_tag_names_no_language(tag: str) -> None:
    assert canonical(tag) is None
    assert lookups(tag) == []


@pytest.mark.parametrize(("tag", "is_one"), [*((tag, True) for tag in WELL_FORMED), *((tag, False) for tag in MALFORMED)])
def test_the_door_lets_in_what_is_a_tag(tag: str, is_one: bool) -> None:
    body: dict[str, Any] = order_body()
    body["contact"] |= {"locale": tag}
    if is_one:
        assert validated(PlaceOrderBody, body).contact.locale == tag
        return
    with pytest.raises(Problem) as caught:
        validated(PlaceOrderBody, body)
    assert [error.pointer for error in caught.value.errors] == ["/contact/locale"]


@pytest.mark.parametrize(
    ("tag", "tried"),
    [
        ("de-at", ["de-AT", "de"]),
        ("zh-hant-tw", ["zh-Hant-TW", "zh-Hant", "zh"]),
        ("de-u-co-phonebk", ["de-u-co-phonebk", "de-u-co", "de"]),
        ("en-x-a-b", ["en-x-a-b", "en"]),
    ],
)
def test_a_language_is_looked_up_in_less_and_less_detail(tag: str, tried: list[str]) -> None:
    assert lookups(tag) == tried


def test_after_the_customers_language_come_the_shops_and_english() -> None:
    assert chain(["de-AT", "fr-CA"]) == ["de-AT", "de", "fr-CA", "fr", "en"]
    assert chain([None, "en-GB"]) == ["en-GB", "en"]
    assert chain(["../de", "nonsense"]) == ["en"]


@given(st.from_regex(LANGUAGE_TAG, fullmatch=True))
def test_every_tag_of_the_pattern_leads_to_languages_that_are_tags_themselves(tag: str) -> None:
    tried = lookups(tag)
    assert bool(tried) == (len(tag) <= MAX_LANGUAGE_TAG)
    assert all(canonical(one) == one and re.fullmatch(r"[a-zA-Z0-9-]+", one) for one in tried)
