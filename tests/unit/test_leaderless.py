"""Partitions that no broker leads cost themselves: the others are asked, folded and written as always."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ledger.errors import LogUnavailable
from ledger.kafka.admin import leaderless
from ledger.log import NoLeader, TopicPartition
from ledger.reading import of_led

A, B, C = (TopicPartition("order-events", p) for p in range(3))


def metadata(**leaders: dict[int, int]) -> dict[str, Any]:
    """As librdkafka gives it: leader -1 is none."""
    return {
        topic.replace("_", "-"): SimpleNamespace(partitions={p: SimpleNamespace(leader=leader) for p, leader in of.items()})
        for topic, of in leaders.items()
    }


def test_the_metadata_says_which_partitions_have_no_leader() -> None:
    topics = metadata(order_events={0: 1, 1: -1, 2: 2}, other={0: -1})
    assert leaderless(topics, [A, B, C]) == [B]
    assert leaderless(topics, [C]) == []
    assert leaderless(topics, [TopicPartition("missing", 0)]) == [], "list_offsets says that it does not exist"


def test_the_others_are_asked_until_each_has_a_leader() -> None:
    lost = [{B}, {C}]

    def ask(wanted: list[TopicPartition]) -> dict[TopicPartition, int]:
        if missing := [tp for tp in wanted if lost and tp in lost[0]]:
            lost.pop(0)
            raise NoLeader(missing)
        return dict.fromkeys(wanted, 7)

    assert of_led(ask, [A, B, C]) == ({A: 7}, frozenset({B, C}))


def test_where_none_has_a_leader_nothing_is_known() -> None:
    def ask(wanted: list[TopicPartition]) -> dict[TopicPartition, int]:
        raise NoLeader(wanted)

    assert of_led(ask, [A, B]) == ({}, frozenset({A, B}))
    assert of_led(ask, []) == ({}, frozenset())


def test_another_error_is_that_of_all() -> None:
    def ask(wanted: list[TopicPartition]) -> dict[TopicPartition, int]:
        raise LogUnavailable("no answer")

    with pytest.raises(LogUnavailable, match="no answer"):
        of_led(ask, [A, B])


def test_the_error_names_the_partitions_and_is_one_that_passes() -> None:
    error = NoLeader([C, A])
    assert str(error) == "no broker leads order-events/0, order-events/2"
    assert isinstance(error, LogUnavailable)
    assert error.code == "log_unavailable"
