"""Bytes and values: every guard of the codec, alone; what it refuses to write; older schemas."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger.contacts import Address, OrderContact
from ledger.errors import DecodeError, EncodeError
from ledger.events import OrderEvent, OrderRefusal, Payment, Shipment, Units
from ledger.schemas.codec import PREFIX_BYTES, Codec, contact_codec, event_codec, link_of, refusal_codec
from ledger.schemas.versions import SchemaVersion
from ledger.topics import MAX_RECORD_BYTES
from tests.support.avro_values import real_events, real_records, varint

EVENT: OrderEvent = next(e for e in real_events() if e.type == "PaymentOpened")
GOOD = event_codec().encode(EVENT)
CONTACT = OrderContact("c-1", "Ada Lovelace", "ada@example.org", Address("1 Main St", "Springfield", "12345", "US"))


def reason_of(data: bytes | None, codec: Codec[Any] | None = None) -> str:
    with pytest.raises(DecodeError) as caught:
        (codec or event_codec()).decode(data)
    return caught.value.reason


# ---- one error for each guard ---------------------------------------------------------------------------------------


def test_a_value_comes_back_as_it_was_written() -> None:
    for codec, data in real_records():
        assert codec.encode(codec.decode(data)) == data


def test_the_value_begins_with_zero_and_the_schema_id_as_confluent_has_it() -> None:
    assert struct.unpack(">bI", GOOD[:5]) == (0, event_codec().schema_id)


@pytest.mark.parametrize("data", [None, b"", b"\0", GOOD[:4]])
def test_less_than_the_prefix_is_too_short(data: bytes | None) -> None:
    assert reason_of(data) == "too_short"


def test_another_first_byte_is_wrong_magic() -> None:
    assert reason_of(b"\1" + GOOD[1:]) == "wrong_magic"
    assert reason_of(b"\xff" + GOOD[1:]) == "wrong_magic"


def test_an_id_that_is_not_on_the_list_is_unknown_even_if_another_topic_has_it() -> None:
    assert reason_of(struct.pack(">bI", 0, event_codec().schema_id ^ 1) + GOOD[5:]) == "unknown_schema_id"
    assert reason_of(GOOD, refusal_codec()) == "unknown_schema_id"


def test_a_record_above_the_limit_is_not_even_read() -> None:
    assert reason_of(GOOD + bytes(MAX_RECORD_BYTES)) == "too_large"
    assert reason_of(bytes(MAX_RECORD_BYTES) + b"\0") == "too_large"
    assert reason_of(bytes(MAX_RECORD_BYTES)) == "unknown_schema_id"


def test_a_record_cut_anywhere_is_truncated() -> None:
    for codec, data in real_records():
        for end in range(PREFIX_BYTES, len(data)):
            assert reason_of(data[:end], codec) == "truncated", (end, data[:end])


@pytest.mark.parametrize("junk", [b"\0", b"\xff", GOOD])
def test_bytes_after_the_record_are_refused(junk: bytes) -> None:
    for codec, data in real_records():
        assert reason_of(data + junk, codec) == "trailing_bytes"
    with pytest.raises(DecodeError, match=f"^trailing_bytes: {len(junk)} after the record$"):
        event_codec().decode(GOOD + junk)


def test_text_that_is_not_utf_8_is_malformed() -> None:
    at = GOOD.index(b"ord_1")
    assert reason_of(GOOD[:at] + b"\xff" + GOOD[at + 1 :]) == "malformed"


def test_a_branch_that_a_union_does_not_have_is_malformed() -> None:
    assert GOOD[-1:] == b"\0"  # attention: null
    assert reason_of(GOOD[:-1] + varint(2) + bytes(9)) == "malformed"
    assert reason_of(GOOD[:-1] + varint(-3) + bytes(9)) == "malformed"


@pytest.mark.parametrize("size", [-1, -(2**31), -(2**63), 2**20, 2**31, 2**40, 2**62])
def test_a_length_beyond_the_end_is_truncated_whatever_it_claims(size: int) -> None:
    assert reason_of(GOOD[:5] + varint(size) + b"abc") == "truncated"


def test_a_number_that_never_ends_is_truncated() -> None:
    assert reason_of(GOOD[:5] + b"\x80" * 200_000) == "truncated"


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=400), st.sampled_from(real_records()))
def test_junk_behind_a_good_prefix_gives_a_value_or_a_decode_error(junk: bytes, record: tuple[Codec[Any], bytes]) -> None:
    codec, data = record
    try:
        codec.decode(data[:PREFIX_BYTES] + junk)
        reason = "value"
    except DecodeError as error:
        reason = error.reason
    assert reason in ("truncated", "trailing_bytes", "malformed", "value")


# ---- values that are not written ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (replace(EVENT, version=2**31), "version"),
        (replace(EVENT, writer_epoch=-(2**31) - 1), "writer_epoch"),
        (replace(EVENT, payment=Payment(2**31)), "attempt"),
        (replace(EVENT, occurred_at=2**63), "occurred_at"),
        (replace(EVENT, refunded_minor=10**12 + 1), "refunded_minor"),
        (replace(EVENT, fingerprint=bytes(15)), "fingerprint"),
        (replace(EVENT, prev_hash=bytes(33)), "prev_hash"),
        (replace(EVENT, actor="\ud800"), "UnicodeEncodeError"),
        (replace(EVENT, version="3"), "version"),  # type: ignore[arg-type]
        (replace(EVENT, order_id=None), "order_id"),  # type: ignore[arg-type]
        (replace(EVENT, shipment=Shipment(lines=(Units("product", "TEA", 2**40),))), "quantity"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_value_that_no_other_reader_could_read_is_not_written(value: OrderEvent, where: str) -> None:
    with pytest.raises(EncodeError, match=where):
        event_codec().encode(value)


def test_a_record_above_the_limit_is_not_written() -> None:
    with pytest.raises(EncodeError, match=str(MAX_RECORD_BYTES)):
        contact_codec().encode(replace(CONTACT, name="x" * MAX_RECORD_BYTES))
    fits = MAX_RECORD_BYTES - len(contact_codec().encode(replace(CONTACT, name="x" * 10_000))) + 10_000
    assert len(contact_codec().encode(replace(CONTACT, name="x" * fits))) == MAX_RECORD_BYTES
    with pytest.raises(EncodeError, match=str(MAX_RECORD_BYTES + 1)):
        contact_codec().encode(replace(CONTACT, name="x" * (fits + 1)))


@pytest.mark.parametrize(
    "wrong",
    [
        replace(CONTACT, phone=7),  # type: ignore[arg-type]
        replace(CONTACT, name=None),  # type: ignore[arg-type]
        replace(CONTACT, delivery_note="\ud800"),
        replace(CONTACT, locale=b"de-AT"),  # type: ignore[arg-type]
        replace(CONTACT, billing_address=Address("1 Main St", "Springfield", "12345", 7)),  # type: ignore[arg-type]
    ],
)
def test_an_error_never_repeats_what_a_contact_says(wrong: OrderContact) -> None:
    with pytest.raises(EncodeError) as caught:
        contact_codec().encode(wrong)
    shown = repr(caught.value) + str(caught.value.__cause__) + str(caught.value.__suppress_context__)
    assert "Ada" not in shown
    assert "example.org" not in shown
    assert "Springfield" not in shown
    assert caught.value.__suppress_context__


def test_two_shipment_lines_are_not_taken_for_a_named_branch() -> None:
    """fastavro reads a tuple of two in a union as (name, value)."""
    lines = (Units("product", "TEA", 1), Units("merch", "MUG", 2))
    event = replace(EVENT, type="OrderShipped", payment=None, shipment=Shipment("DHL", "T1", lines))
    assert event_codec().decode(event_codec().encode(event)) == event


def test_encoding_leaves_the_value_as_it_was() -> None:
    before = msgspec.to_builtins(EVENT, builtin_types=(bytes,))
    event_codec().encode(EVENT)
    assert msgspec.to_builtins(EVENT, builtin_types=(bytes,)) == before


# ---- older schemas --------------------------------------------------------------------------------------------------


class Tea(msgspec.Struct, frozen=True):
    name: str
    sugar: int | None = None


def tea(version: int, *more: dict[str, Any]) -> SchemaVersion:
    fields = [{"name": "name", "type": "string"}, *more]
    return SchemaVersion("tea", version, json.dumps({"type": "record", "name": "Tea", "fields": fields}))


SUGAR = {"name": "sugar", "type": ["null", "int"], "default": None}
SUGAR_ALWAYS = {"name": "sugar", "type": "int"}
LEAVES = {"name": "leaves", "type": {"type": "array", "items": {"type": "record", "name": "L", "fields": [SUGAR_ALWAYS]}}}
OLD, NEW = tea(1), tea(2, SUGAR)


def test_records_of_an_older_schema_are_read_with_the_defaults_of_the_newest() -> None:
    old = Codec(Tea, [OLD]).encode(Tea("Assam"))
    assert Codec(Tea, [OLD, NEW]).decode(old) == Tea("Assam", None)
    assert Codec(Tea, [OLD, NEW]).decode_fields(old) == {"name": "Assam", "sugar": None}
    assert reason_of(old, Codec(Tea, [NEW])) == "unknown_schema_id"


def test_records_are_written_with_the_newest_schema() -> None:
    both = Codec(Tea, [OLD, NEW])
    assert both.schema_id == NEW.id
    assert both.decode(both.encode(Tea("Assam", 2))) == Tea("Assam", 2)
    assert both.encode(Tea("Assam", 2)) != Codec(Tea, [OLD]).encode(Tea("Assam"))


def test_a_field_that_the_newest_schema_dropped_is_skipped_to_its_end_and_no_further() -> None:
    """The same guards hold while fastavro skips: the end is noticed inside skipped data too."""
    wrote, reads = tea(1, LEAVES), tea(2)
    codec = Codec(Tea, [wrote, reads])
    prefix = struct.pack(">bI", 0, wrote.id) + varint(5) + b"Assam"
    assert codec.decode(prefix + varint(1) + varint(3) + b"\0") == Tea("Assam")
    for body in (varint(2**62), varint(-3) + varint(2**40), varint(1) + varint(1) + b"\x80", varint(1) + varint(1)):
        assert reason_of(prefix + body, codec) in ("truncated", "malformed"), body


# ---- the chain ------------------------------------------------------------------------------------------------------


def test_the_link_to_the_next_event_is_the_hash_of_the_body_and_not_of_the_prefix() -> None:
    assert link_of(GOOD) == hashlib.sha256(GOOD[5:]).digest()
    assert link_of(b"\1\1\1\1\1" + GOOD[5:]) == link_of(GOOD) != link_of(GOOD[:-1] + b"\1")


def test_a_refusal_keeps_the_bytes_that_could_not_be_read_as_they_were() -> None:
    refusal = OrderRefusal(
        code="undecodable",
        detail="truncated",
        occurred_at=1,
        command_log=bytes(16),
        command_offset=1,
        batch_first=1,
        writer_epoch=1,
        original=bytes(range(256)) * 4,
    )
    assert refusal_codec().decode(refusal_codec().encode(refusal)).original == bytes(range(256)) * 4
