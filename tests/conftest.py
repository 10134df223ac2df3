"""One embedded broker for the whole run (`workers`); every test gets topics of its own."""

from __future__ import annotations

import itertools
import os

import pytest

from ledger.topics import Topics

pytest_plugins = ["workers"]

_numbers = itertools.count(1)


@pytest.fixture
def topics() -> Topics:
    """Topic names that no other test uses."""
    return Topics(prefix=f"t{os.getpid()}-{next(_numbers)}.")
