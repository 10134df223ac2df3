"""A shop that pays and reserves in the sandbox, and a Chromium. Playwright is imported only when a test of this folder runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from ledger.memory.log import MemoryLog
from ledger.topics import Topics
from tests.support.harness import Clock, running_ledger
from tests.support.paying_shop import Shop
from tests.support.sandboxed import RunningSandbox, running_sandbox

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSandbox]:
    with running_sandbox(tmp_path_factory.mktemp("sandbox")) as running:
        yield running


@pytest.fixture(scope="module")
def shop(sandbox: RunningSandbox) -> Iterator[Shop]:
    clock = Clock()
    with running_ledger(MemoryLog(clock), Topics("desk."), sandbox=sandbox, payment_window_s=86_000, clock=clock) as ledger:
        yield Shop(ledger, sandbox)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    from tests.support.desk_browser import running_chromium

    with running_chromium() as browser:
        yield browser
