"""Payments and stock while the outside fails in every way and the processor is killed, judged from two records alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledger.kafka.settings import KafkaSettings
from ledger.topics import Topics
from tests.support.chaotic_shop import PATIENCE_S, run_chaos

pytestmark = pytest.mark.kafka


@pytest.mark.timeout(2 * PATIENCE_S + 700)
def test_sixty_payments_under_chaos_and_three_kills_end_with_equal_sums(
    tmp_path: Path, kafka: KafkaSettings, topics: Topics
) -> None:
    assert run_chaos(tmp_path, kafka, topics, orders=60, kills=3, lost=0.0, settle_s=PATIENCE_S)["paid"] > 30


@pytest.mark.campaign
@pytest.mark.timeout(3000)
def test_two_thousand_payments_under_chaos_and_fifty_kills_end_with_equal_sums(
    tmp_path: Path, kafka: KafkaSettings, topics: Topics
) -> None:
    assert run_chaos(tmp_path, kafka, topics, orders=2_000, kills=50, lost=0.1, settle_s=600)["paid"] > 1_000
