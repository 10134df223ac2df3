"""One embedded broker for the whole run; every test gets topics of its own."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

from ledger.broker import EmbeddedBroker
from ledger.config import KafkaSettings
from ledger.topics import Topics

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    """The broker that most tests share. A test that kills a broker starts one of its own."""
    folder = tmp_path_factory.mktemp("broker")
    # `quick` compiles less: cheaper for a run of minutes.
    node = EmbeddedBroker(folder / "data", log_file=folder / "broker.log", jit="quick")
    node.start()
    yield node
    node.stop()


@pytest.fixture(scope="session")
def kafka(broker: EmbeddedBroker) -> KafkaSettings:
    """How to reach the shared broker."""
    return KafkaSettings(bootstrap_servers=broker.bootstrap_servers, client_id="tests")


@pytest.fixture
def topics() -> Topics:
    """Topic names that no other test uses."""
    return Topics(prefix=f"t{os.getpid()}-{next(_numbers)}.")
