"""One `order-ledger up` for all end-to-end tests; after a test that ends it, the next test starts it again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.up_process import UpProcess


@pytest.fixture(scope="session")
def the_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpProcess]:
    machine = UpProcess(tmp_path_factory.mktemp("up") / "data")
    yield machine
    if machine.running():
        machine.interrupt()


@pytest.fixture
def up(the_up: UpProcess) -> UpProcess:
    """The shared `up`, running."""
    if not the_up.running():
        the_up.start()
    return the_up
