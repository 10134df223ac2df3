"""One embedded broker for the whole run (`workers`); every test gets topics of its own."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest
import structlog

from ledger.topics import Topics

pytest_plugins = ["workers", "leaks"]

_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A verb that runs inside a test sets up logging to that test's standard error, which is closed after it."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def topics() -> Topics:
    """Topic names that no other test uses."""
    return Topics(prefix=f"t{os.getpid()}-{next(_numbers)}.")
