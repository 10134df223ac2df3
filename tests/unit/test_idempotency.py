"""Names by which a retry meets its first attempt: what changes them, what does not, and that no accident does."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.idempotency import (
    CONTACT_DIGEST_BYTES,
    FINGERPRINT_BYTES,
    NEW_ORDER,
    canonical,
    command_id_of,
    contact_digest_of,
    fingerprint_of,
    fresh_command_id,
    order_id_of,
)
from ledger.schemas import versions as schemas

KEY = b"a secret of the shop"
SCOPE = ("web", "ada", "CancelOrder", "ord_1", "key-1")
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=("Cs",)), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(exclude_categories=("Cs",)), max_size=3), inner)
    ),
    max_leaves=8,
)
names = st.text(st.characters(exclude_categories=("Cs",)), max_size=6)


def test_a_retry_has_the_command_id_and_order_id_of_its_first_attempt() -> None:
    """Both are in logs that are kept for ever: a change of the derivation is a change of contract."""
    command_id = command_id_of("web", "ada", "PlaceOrder", NEW_ORDER, "key-1")
    assert command_id == "cmd_cxiaa4w57zrgj77bl7vgybja5e"
    assert order_id_of(command_id) == "ord_a445z3orgozfihykyesesl2hwy"


@pytest.mark.parametrize("part", range(len(SCOPE)))
def test_the_scope_of_a_key_is_principal_customer_operation_and_order(part: int) -> None:
    other = [*SCOPE]
    other[part] += "x"
    assert command_id_of(*other) != command_id_of(*SCOPE)


@given(st.tuples(names, names, names, names, names), st.tuples(names, names, names, names, names))
def test_two_scopes_share_an_id_only_when_they_are_equal(one: tuple[str, ...], two: tuple[str, ...]) -> None:
    """No separator can be written into a customer or key to reach another's command."""
    assert (command_id_of(*one) == command_id_of(*two)) == (one == two)


@given(st.tuples(names, names, names, names, names), st.integers(0, 3))
def test_a_character_moved_from_one_part_to_the_next_makes_another_id(parts: tuple[str, ...], at: int) -> None:
    moved = [*parts]
    moved[at], moved[at + 1] = parts[at] + "x", parts[at + 1]
    other = [*parts]
    other[at], other[at + 1] = parts[at], "x" + parts[at + 1]
    assert command_id_of(*moved) != command_id_of(*other)


def test_ids_are_short_lower_case_and_fit_keys_and_urls() -> None:
    command_id = command_id_of(*SCOPE)
    assert re.fullmatch(r"cmd_[a-z2-7]{26}", command_id)
    assert re.fullmatch(r"ord_[a-z2-7]{26}", order_id_of(command_id))
    assert re.fullmatch(r"fct_[a-z2-7]{26}", fresh_command_id())


def test_a_fact_has_a_new_id_every_time() -> None:
    """With a derived one, "refused stays refused" would silence a second decline or release for ever."""
    assert len({fresh_command_id() for _ in range(2000)}) == 2000


# ---- fingerprints ---------------------------------------------------------------------------------------------------


@given(json_values)
def test_spelling_does_not_change_a_fingerprint(body: Any) -> None:
    again = json.loads(json.dumps(body, indent=2, ensure_ascii=True))
    assert fingerprint_of(again, KEY) == fingerprint_of(body, KEY)
    assert json.loads(canonical(body)) == body


@given(json_values, json_values)
def test_two_bodies_have_one_fingerprint_only_when_they_are_spelled_alike(one: Any, two: Any) -> None:
    assert (fingerprint_of(one, KEY) == fingerprint_of(two, KEY)) == (canonical(one) == canonical(two))


def test_the_order_of_keys_does_not_matter_but_that_of_lists_does() -> None:
    assert canonical({"b": 1, "a": [1, 2]}) == b'{"a":[1,2],"b":1}'
    assert fingerprint_of({"a": [1, 2]}, KEY) != fingerprint_of({"a": [2, 1]}, KEY)
    assert fingerprint_of({"a": 1}, KEY) != fingerprint_of({"a": "1"}, KEY) != fingerprint_of({"a": True}, KEY)


def test_a_fingerprint_says_nothing_without_the_key() -> None:
    assert fingerprint_of({"a": 1}, KEY) != fingerprint_of({"a": 1}, KEY + b"x")


@pytest.mark.parametrize("length", [64, 65, 200])
def test_every_byte_of_a_long_key_counts(length: int) -> None:
    """BLAKE2b itself takes 64."""
    long = bytes(range(200))[:length]
    assert fingerprint_of({}, long) != fingerprint_of({}, long[:-1] + b"x")
    assert contact_digest_of({}, "ord_1", long) != contact_digest_of({}, "ord_1", long[:-1] + b"x")


def test_ids_in_the_log_are_derived_in_the_same_way_for_ever() -> None:
    assert fingerprint_of({"b": 1, "a": "é"}, KEY).hex() == "53dd3cfb119a861de42c45a4a0324c34"
    contact_digest = contact_digest_of({"name": "Ada"}, "ord_1", KEY).hex()
    assert contact_digest == "a5709206fbc83b735d4cb7d769c4acda9c902cf849a0019f34e433307d3533e1"
    assert fingerprint_of({}, KEY * 5).hex() == "ef47b2c8b9917b579722c4b5331e448b"


def test_a_fingerprint_fits_its_field_in_the_log() -> None:
    assert len(fingerprint_of({}, KEY)) == FINGERPRINT_BYTES == fixed_size(schemas.COMMANDS, "fingerprint")


def fixed_size(topic: str, field: str) -> int:
    fields = schemas.versions_of(topic)[-1].parsed["fields"]
    size: int = next(f for f in fields if f["name"] == field)["type"]["size"]
    return size


# ---- contacts -------------------------------------------------------------------------------------------------------


def test_a_contacts_digest_shows_neither_who_it_is_nor_that_two_orders_are_the_same_persons() -> None:
    contact = {"name": "Ada", "email": "ada@example.org"}
    digest = contact_digest_of(contact, "ord_1", KEY)
    assert len(digest) == CONTACT_DIGEST_BYTES == 32
    assert digest == contact_digest_of(dict(reversed(contact.items())), "ord_1", KEY)
    assert digest != contact_digest_of(contact, "ord_2", KEY)
    assert digest != contact_digest_of(contact | {"name": "Eve"}, "ord_1", KEY)
    assert digest != contact_digest_of(contact, "ord_1", KEY + b"x")


def test_fingerprint_and_contact_digest_of_the_same_value_do_not_begin_alike() -> None:
    assert contact_digest_of({}, "", KEY)[:FINGERPRINT_BYTES] != fingerprint_of({}, KEY)
