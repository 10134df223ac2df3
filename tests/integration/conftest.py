"""A ledger, in memory and on Kafka; the sandbox, and a shop that pays and reserves there; a log whose customers get mail.

A module that needs another ledger or another sandbox has a fixture of the same name.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from api.services import submissions
from ledger.kafka.log import KafkaLog
from ledger.log import EventLog
from ledger.memory.log import MemoryLog
from ledger.topics import Topics
from tests.support.harness import Clock, RunningLedger, running_ledger
from tests.support.patience import PATIENCE_S
from tests.support.paying_shop import Shop
from tests.support.post import MailServer, Post
from tests.support.sandboxed import RunningSandbox, running_sandbox


@pytest.fixture(scope="module", params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def ledger(request: pytest.FixtureRequest) -> Iterator[RunningLedger]:
    log: EventLog = MemoryLog() if request.param == "memory" else KafkaLog(request.getfixturevalue("kafka"))
    with running_ledger(log, Topics(f"ledger-{time.time_ns()}.")) as running:
        yield running


@pytest.fixture
def acks_without_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command becomes durable, however long Kafka takes for it on a busy machine."""
    monkeypatch.setattr(submissions, "ACK_S", PATIENCE_S)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSandbox]:
    with running_sandbox(tmp_path_factory.mktemp("sandbox")) as running:
        yield running


@pytest.fixture
def calm(sandbox: RunningSandbox) -> Iterator[None]:
    """Afterwards the sandbox works normally again."""
    yield
    sandbox.chaos()


@pytest.fixture(scope="module")
def shop(sandbox: RunningSandbox) -> Iterator[Shop]:
    clock = Clock()
    # Tests advance the clock by hours: no order may expire meanwhile.
    with running_ledger(MemoryLog(clock), Topics("paying."), sandbox=sandbox, payment_window_s=86_000, clock=clock) as ledger:
        yield Shop(ledger, sandbox)


@pytest.fixture
def mails() -> Iterator[MailServer]:
    server = MailServer()
    server.controller.start()
    try:
        yield server
    finally:
        server.controller.stop()


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def post(request: pytest.FixtureRequest, topics: Topics, mails: MailServer) -> Iterator[Post]:
    log: EventLog = MemoryLog() if request.param == "memory" else KafkaLog(request.getfixturevalue("kafka"))
    post = Post(log, topics, mails.url)
    yield post
    post.close()
