"""One embedded broker for the whole run (`workers`); every test gets topics of its own."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator

import pytest
import structlog

from ledger.topics import Topics

pytest.register_assert_rewrite("tests.support")  # so that what they assert is shown with its values
pytest_plugins = ["tests.support.workers", "tests.support.leaks"]

_numbers = itertools.count(1)


def pytest_configure() -> None:
    """Give programs that tests start the signals they would get in a terminal, however this run was started.

    Under `nohup`, and in the background of a script, some signals are ignored, and children inherit that. They do not inherit
    a handler, here one that does nothing.
    """
    for name in ("SIGINT", "SIGHUP"):
        number = getattr(signal, name, None)  # no SIGHUP on Windows
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A verb that runs inside a test sets up logging to that test's standard error, which is closed after it."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def topics() -> Topics:
    """Topic names that no other test uses."""
    return Topics(prefix=f"t{os.getpid()}-{next(_numbers)}.")
