"""Order numbers: distinct within and across partitions, with a check character that finds the mistakes people make."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.idempotency import order_id_of
from ledger.order_numbers import DIGITS, candidate, free_number, is_number_of, place_of, read_number

ids = st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=26, max_size=26).map("ord_".__add__)


@given(ids, st.integers(0, 5000))
def test_a_number_is_read_as_people_type_it(order_id: str, partition: int) -> None:
    number = candidate(order_id, partition, 0)
    assert read_number(number) == number
    typed = number.lower().replace("-", " ").replace("0", "o").replace("1", "l")
    assert read_number(typed) == read_number(number.replace("-", "")) == number


@given(ids, st.integers(1, 60), st.integers(1, 12), st.data())
def test_a_number_stays_that_of_its_order_when_the_ledger_gets_more_partitions(
    order_id: str, before: int, times: int, data: st.DataObject
) -> None:
    partition = data.draw(st.integers(0, before - 1))
    now = partition + before * data.draw(st.integers(0, times - 1))
    for place in (place_of(partition, before), partition):  # also an early one
        number = candidate(order_id, place, 0)
        assert is_number_of(number, order_id, now, before * times)
        assert not is_number_of(number, f"{order_id[:-1]}z" if order_id[-1] != "z" else f"{order_id[:-1]}y", now, before * times)


def test_no_two_partitions_of_any_counts_have_one_place_nor_that_of_an_early_number() -> None:
    places = [place_of(partition, count) for count in range(1, 200) for partition in range(count)]
    assert len(set(places)) == len(places)
    for count in range(1, 200):
        assert min(place_of(partition, count) for partition in range(count)) >= count, "early places are below the count"


def test_partitions_never_share_a_number_whatever_the_order() -> None:
    prefixes = {candidate("ord_x", partition, 0).replace("-", "")[:-7] for partition in range(4096)}
    assert len(prefixes) == 4096


def test_every_wrong_character_and_nearly_every_exchange_of_neighbours_is_found() -> None:
    chance, exchanged, missed = random.Random(7), 0, 0
    for n in range(200):
        number = candidate(order_id_of(f"cmd_{n}"), n % 12, 0).replace("-", "")
        for place, digit in enumerate(number):
            wrong = chance.choice([d for d in DIGITS if d != digit])
            with pytest.raises(ValueError, match="not an order number"):
                read_number(number[:place] + wrong + number[place + 1 :])
        for place in range(len(number) - 1):
            a, b = number[place : place + 2]
            if a != b:
                exchanged += 1
                try:
                    read_number(number[:place] + b + a + number[place + 2 :])
                except ValueError:
                    continue
                missed += 1
    assert missed / exchanged < 0.01


@pytest.mark.parametrize("text", ["", "K7QM", "U7QM-2F9X-R", "K7QM-2F9X-!", "ord_2cumvh5jpkvhcxsfqqzwnmx5ei", "ß" * 9])
def test_anything_else_is_not_a_number(text: str) -> None:
    with pytest.raises(ValueError, match="not an order number"):
        read_number(text)


def test_a_number_in_use_is_passed_over_and_all_orders_of_a_partition_have_their_own() -> None:
    first, second = candidate("ord_a", 3, 0), candidate("ord_a", 3, 1)
    assert free_number("ord_a", 3, {first}.__contains__) == second != first
    with pytest.raises(ValueError, match="candidates"):
        free_number("ord_a", 3, lambda number: True)
    taken: set[str] = set()
    for n in range(60_000):
        number = free_number(f"ord_{n}", 0, taken.__contains__)
        assert number not in taken
        taken.add(number)
