"""The contract's stage, once per adapter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ledger.topics import Topics
from tests.support.stage import Backstage, KafkaBackstage, MemoryBackstage, Stage


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def stage(request: pytest.FixtureRequest, topics: Topics) -> Iterator[Stage]:
    """The contract's stage, once per adapter."""
    backstage: Backstage
    if request.param == "memory":
        backstage = MemoryBackstage()
    else:
        backstage = KafkaBackstage(request.getfixturevalue("kafka"))
    stage = Stage(backstage, topics)
    yield stage
    stage.close()
