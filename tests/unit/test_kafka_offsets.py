"""Answers of a broker that are not offsets: they must not be taken for an end of the log."""

from __future__ import annotations

import pytest
from confluent_kafka import OFFSET_END, OFFSET_INVALID, KafkaError, KafkaException

from ledger.errors import LogUnavailable
from ledger.kafka.admin import refuse_unknown
from ledger.kafka.connection import from_exception
from ledger.log import TopicPartition

TP, OTHER = TopicPartition("order-events", 3), TopicPartition("order-events", 4)


def test_an_invalid_offset_is_not_the_end_of_the_log() -> None:
    with pytest.raises(LogUnavailable, match="order-events/3"):
        refuse_unknown({OTHER: 7, TP: OFFSET_INVALID}, least=0)


def test_no_record_that_new_is_an_answer_only_to_a_question_about_time() -> None:
    assert refuse_unknown({TP: OFFSET_END}, least=-1) == {TP: -1}
    with pytest.raises(LogUnavailable):
        refuse_unknown({TP: OFFSET_END}, least=0)


def test_a_partition_that_no_broker_leads_is_unavailable_and_nothing_lasting() -> None:
    """So a broker answers `list_offsets` while it has lost its session with the controller."""
    answer = KafkaException(KafkaError(KafkaError._NOENT, "Failed to query partition leaders: No leaders found"))
    assert isinstance(from_exception(answer, "reading offsets"), LogUnavailable)


@pytest.mark.parametrize(
    "code",
    [
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.NOT_CONTROLLER,
    ],
)
def test_what_a_change_of_leaders_causes_passes(code: int) -> None:
    """With the first of them, a `serve` ended that started while a broker of three came back."""
    assert isinstance(from_exception(KafkaException(KafkaError(code)), "reading offsets"), LogUnavailable)
