"""Fixtures that several files here share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import structlog.testing


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    """The captured log lines, which are shown nowhere: tests of the desk produce thousands of bad records."""
    with structlog.testing.capture_logs() as lines:
        yield lines
