"""Real records, damaged: a value or one `DecodeError`, in little time and memory. Never a crash, a hang or another error."""

from __future__ import annotations

import contextlib
import random
import time
import tracemalloc
from typing import Any

import pytest

from commands.messages import OrderCommand, command_codec
from ledger.errors import DecodeError, EncodeError
from ledger.schemas.codec import PREFIX_BYTES, Codec
from ledger.topics import MAX_RECORD_BYTES
from tests.support.avro_values import real_records, varint

RECORDS = real_records()
BODIES = [data[PREFIX_BYTES:] for _, data in RECORDS]
BOMBS = [varint(n) for n in (2**20, 2**28, 2**31, 2**33, 2**40, 2**62, 2**63 - 1, -1, -2, -(2**20), -(2**40), -(2**62), -(2**63))]
BOMBS += [b"\xff" * 9 + b"\x01", b"\x80" * 20 + b"\x01", b"\xff" * 40]
REASONS = {"too_short", "wrong_magic", "unknown_schema_id", "too_large", "truncated", "trailing_bytes", "malformed"}


def damaged(rng: random.Random, data: bytes) -> bytes:
    """`data` after one to four mishaps, mostly behind the prefix."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(0 if rng.random() < 0.02 else PREFIX_BYTES, len(out) + 1) if len(out) > PREFIX_BYTES else 0
        match rng.randrange(8):
            case 0 | 1 if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            case 2 if at < len(out):
                out[at] = rng.randrange(256)
            case 3:
                del out[at : at + rng.randrange(1, 9)]
            case 4:
                out[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 5:
                out[at : at + rng.randrange(2)] = rng.choice(BOMBS)
            case 6:
                del out[at:]
            case _:
                body = rng.choice(BODIES)
                cut = rng.randrange(len(body))
                out[at : at + rng.randrange(30)] = body[cut : cut + rng.randrange(40)]
    return bytes(out)


def fuzz(seed: int, rounds: int) -> dict[str, int]:
    """How often each answer came."""
    rng = random.Random(seed)
    answers: dict[str, int] = {}
    for _ in range(rounds):
        codec, data = RECORDS[rng.randrange(len(RECORDS))]
        damage = damaged(rng, data)
        try:
            value = codec.decode(damage)
            answer = "value"
        except DecodeError as error:
            answer = error.reason
            assert answer in REASONS
        else:
            check_readable(codec, value)
        answers[answer] = answers.get(answer, 0) + 1
    return answers


def check_readable(codec: Codec[Any], value: Any) -> None:
    """A decoded value can be encoded and decoded again as the same, or an error says that it does not fit."""
    try:
        again = codec.encode(value)
    except EncodeError:
        return
    assert codec.decode(again) == value


def test_sixty_thousand_damaged_records_each_get_a_value_or_a_decode_error() -> None:
    answers = fuzz(seed=20_250_101, rounds=60_000)
    assert set(answers) == REASONS - {"too_large"} | {"value"}


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(8))
def test_five_million_damaged_records_each_get_a_value_or_a_decode_error(seed: int) -> None:
    answers = fuzz(seed, 625_000)
    print(f"seed {seed}: {answers}")
    assert set(answers) == REASONS - {"too_large"} | {"value"}


def peak_bytes(codec: Codec[Any], data: bytes) -> int:
    """Peak memory of decoding `data`, without `data` itself."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    with contextlib.suppress(DecodeError):
        codec.decode(data)
    return tracemalloc.get_traced_memory()[1] - before


def test_no_length_or_count_anywhere_in_a_record_can_ask_for_too_much_memory() -> None:
    """Every place of every kind of record, every size up to 2**63. (Six bytes of some other schemas cost fastavro gigabytes.)"""
    highest, slowest = 0, 0.0
    tracemalloc.start()
    try:
        for codec, data in [*RECORDS[::6], *RECORDS[-3:]]:
            for at in range(PREFIX_BYTES, len(data)):
                for bomb in BOMBS:
                    began = time.thread_time()
                    highest = max(highest, peak_bytes(codec, data[:at] + bomb + data[at + 1 :]))
                    slowest = max(slowest, time.thread_time() - began)
    finally:
        tracemalloc.stop()
    assert highest < 256 * 1024
    assert slowest < 1.0


def test_the_largest_record_of_the_smallest_items_stays_within_bounds() -> None:
    """The worst that fits the limit: as many empty lines as a record holds. Bounded by the record's own length."""
    codec: Codec[OrderCommand] = command_codec()
    whole = next(data for c, data in RECORDS if c is codec and codec.decode(data).place)
    lines_at = whole.index(b"\x02" + varint(7) + b"product")  # one line, whose service is `product`
    empty_lines = (MAX_RECORD_BYTES - lines_at - 20) // 5
    bomb = whole[:lines_at] + varint(empty_lines) + bytes(5 * empty_lines)
    tracemalloc.start()
    try:
        began = time.thread_time()
        peak = peak_bytes(codec, bomb)
        took = time.thread_time() - began
    finally:
        tracemalloc.stop()
    assert peak < 48 * 1024 * 1024
    assert took < 3.0
