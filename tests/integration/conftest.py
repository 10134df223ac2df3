"""The sandbox, and a shop that pays and reserves there. A module that needs another sandbox has a fixture of the same name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ledger.memory.log import MemoryLog
from ledger.topics import Topics
from tests.support.harness import running_ledger
from tests.support.paying_shop import Shop
from tests.support.sandboxed import RunningSandbox, running_sandbox


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSandbox]:
    with running_sandbox(tmp_path_factory.mktemp("sandbox")) as running:
        yield running


@pytest.fixture
def calm(sandbox: RunningSandbox) -> Iterator[None]:
    """Afterwards the sandbox answers as it should again."""
    yield
    sandbox.chaos()


@pytest.fixture(scope="module")
def shop(sandbox: RunningSandbox) -> Iterator[Shop]:
    with running_ledger(MemoryLog(), Topics("paying."), sandbox=sandbox) as ledger:
        yield Shop(ledger, sandbox)
