"""Order numbers for people, such as `K7QM-2F9X-R`. Pure. The only importer of `stdnum`.

Two or more characters name the partition and how many there are, six are derived from the order's id, the last one is a check
character (ISO 7064, hybrid system with modulus 33,32): it detects every wrong character and every transposition of neighbours.
Characters are those of Crockford's base 32, without I, L, O and U.

A number belongs to one order: partitions have different prefixes, and the writer of a partition, which knows all its orders,
takes the next candidate if one is in use (`candidate` with the next `turn`). The number is recorded in OrderPlaced.

A ledger may be copied to more partitions (`repartitioning`). Then the orders of an old partition are in several new ones, whose
writers do not know each other's numbers. So each count of partitions has places of its own: `place_of`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from stdnum.iso7064 import mod_37_36

DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_BASE = len(DIGITS)
_OWN_BITS = 30  # six characters
_FACTOR, _OFFSET = 0x2A5, 0x165  # neighbouring partitions do not look alike; an odd factor keeps them distinct
MAX_TURNS = 1000
_READ_AS = str.maketrans({"O": "0", "I": "1", "L": "1", "-": "", " ": ""})


def place_of(partition: int, partitions: int) -> int:
    """The number of a partition among the partitions of all ledgers: no two counts share one, nor that of an early number.

    Early numbers have the place `partition`, which is less than that of any count which is at least as large.
    """
    return partitions * partitions + partition


def candidate(order_id: str, place: int, turn: int) -> str:
    """The number of this order in the partition with this place, if its first `turn` candidates are in use."""
    size = 2
    while _BASE**size <= place:
        size += 1
    digest = hashlib.sha256(f"{turn}:{order_id}".encode()).digest()
    own = int.from_bytes(digest[:4], "big") >> (32 - _OWN_BITS)
    body = _digits((place * _FACTOR + _OFFSET) % _BASE**size, size) + _digits(own, _OWN_BITS // 5)
    return _shown(body + mod_37_36.calc_check_digit(body, DIGITS))


def free_number(order_id: str, place: int, in_use: Callable[[str], bool]) -> str:
    """The first candidate that is not in use. Raises `ValueError` if there are too many."""
    for turn in range(MAX_TURNS):
        if not in_use(number := candidate(order_id, place, turn)):
            return number
    raise ValueError(f"{MAX_TURNS} candidates for a number are in use")


def is_number_of(number: str, order_id: str, partition: int, partitions: int) -> bool:
    """Whether `number` is one of the first candidates of this order: here, or where it was before its ledger was copied."""
    places = [place_of(partition, partitions)]
    for count in range(partitions, 0, -1):
        if partitions % count == 0:  # the order was in this partition of so many
            places += [place_of(partition % count, count), partition % count]
    return any(candidate(order_id, place, turn) == number for place in dict.fromkeys(places) for turn in range(16))


def read_number(text: str) -> str:
    """A number as people type it: in lower case, with spaces, O for 0. Raises `ValueError` if its check character is wrong."""
    plain = text.upper().translate(_READ_AS)
    if len(plain) < 9 or not set(plain) <= set(DIGITS) or not mod_37_36.is_valid(plain, DIGITS):
        raise ValueError("not an order number")
    return _shown(plain)


def _digits(value: int, size: int) -> str:
    return "".join(DIGITS[value // _BASE**place % _BASE] for place in range(size - 1, -1, -1))


def _shown(plain: str) -> str:
    """Groups of four from the left; the check character is alone."""
    body = plain[:-1]
    return "-".join([body[i : i + 4] for i in range(0, len(body), 4)] + [plain[-1]])
