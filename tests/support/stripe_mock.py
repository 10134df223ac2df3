"""Stripe's own stripe-mock, built with Go: it judges requests by Stripe's OpenAPI description and answers with samples.

It keeps no state: what was created is not found afterwards.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.go_programs import built
from tests.support.patience import PATIENCE_S

MODULE, VERSION = "github.com/stripe/stripe-mock", "v0.203.0"
_LISTENS = re.compile(r"Listening for HTTP (?:on port|at address): \S*?:?(\d+)\s")


def ensure_stripe_mock() -> Path:
    """The program, after building it if it is not there. Raises `RuntimeError` with Go's words."""
    return built("stripe-mock", MODULE, MODULE, VERSION, "stripe_mock")


@contextmanager
def running_stripe_mock(folder: Path) -> Iterator[str]:
    """Its address on a free loopback port. `folder` gets its log. Raises `RuntimeError` with the log if it does not start."""
    log = folder / "stripe-mock.log"
    with log.open("wb") as out:
        command = [str(ensure_stripe_mock()), "-http-addr", "127.0.0.1:0"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        yield f"http://127.0.0.1:{_wait_for_port(process, log)}"
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _wait_for_port(process: subprocess.Popen[bytes], log: Path) -> int:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        if match := _LISTENS.search(log.read_text("utf-8", errors="replace")):
            return int(match[1])
        time.sleep(0.05)
    raise RuntimeError(f"stripe-mock did not start ({process.poll()}):\n{log.read_text('utf-8', errors='replace')[-4000:]}")
