"""What several files here share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import structlog.testing


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    """What is logged meanwhile, and shown nowhere: tests of the desk meet thousands of bad records."""
    with structlog.testing.capture_logs() as lines:
        yield lines
