"""Java's ahead-of-time cache for the broker: classes already loaded and linked, and profiles of its methods.

It halves the time and the CPU of a start. It is not needed for correctness: Java checks that it was created by the same build for
the same jars and verifies its checksum; otherwise it starts without it. So a cache is used if it exists, deleted if Java rejected
it, and created by `ledger.broker.aot_training` in the background of a first run.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

CALM_S = 30.0  # after a start, so that a first-time user has the machine undisturbed until then
NEED_FREE_MB = 1024
STOP_S = 15.0
_KEPT = 2  # caches of other versions beside the newest: two checkouts may need different ones

log = logging.getLogger(__name__)


def cache_file(java: Path, jars: Sequence[Path]) -> Path:
    """Path of the cache for this Java and these jars: beside the jars, named after both."""
    home = java.parents[1]
    known = hashlib.sha256((home / "release").read_bytes())
    known.update(str((home / "lib" / "modules").stat().st_size).encode())
    known.update("\n".join(jar.name for jar in jars).encode())
    return jars[0].parent / f"broker-{known.hexdigest()[:16]}.aot"


def options(file: Path) -> list[str]:
    """Java's options to start with the cache in `file`, which must be created with `training_options`."""
    # Without the checksum, a damaged cache causes a crash later; it costs 30 ms. Saved call adapters are disabled: Java 25.0.2
    # finds many of them changed at every start and logs that, twice each.
    return [f"-XX:AOTCache={file}", "-XX:+VerifySharedSpaces", "-XX:+UnlockDiagnosticVMOptions", "-XX:-AOTAdapterCaching"]


def training_options(file: Path) -> list[str]:
    """Java's options to write the cache to `file` at an orderly exit."""
    return [f"-XX:AOTCacheOutput={file}"]


def refusal(output: str) -> str | None:
    """Why Java rejected the cache, from its output at the start; None if it accepted it."""
    lines = re.findall(r"^\[[^\]]+\]\[(warning|error) *\]\[aot *\] (.*)$", output, re.MULTILINE)
    return lines[0][1] if any(level == "error" for level, _ in lines) else None


def remove_older(newest: Path) -> None:
    """Delete caches of other versions, except a few."""
    others = [file for file in newest.parent.glob("broker-*.aot") if file != newest]
    for file in sorted(others, key=lambda file: file.stat().st_mtime, reverse=True)[_KEPT:]:
        file.unlink(missing_ok=True)


class Offered:
    """The cache as used by one broker: deleted if its Java rejects it. `output`: write a cache there instead."""

    def __init__(self, output: Path | None = None) -> None:
        self._output = output
        self._file: Path | None = None  # passed to the running Java

    def options(self, java: Path, jars: Sequence[Path]) -> list[str]:
        """Java's options for the next start."""
        if self._output is not None:
            return training_options(self._output)
        file = cache_file(java, jars)
        self._file = file if file.exists() else None
        return [] if self._file is None else options(self._file)

    def drop_if_refused(self, output_file: Path, crashed: bool = False) -> bool:
        """Delete the cache if Java rejected it, or crashed with it; returns whether. It is recreated in the background."""
        if self._file is None:
            return False
        why = "Java crashed" if crashed else refusal(output_file.read_text("utf-8", errors="replace"))
        if why is None:
            return False
        log.warning("starting without Java's cache %s, which is deleted: %s", self._file, why)
        with suppress(OSError):  # the directory may be read-only
            self._file.unlink(missing_ok=True)
        return True


class Training:
    """Creates the cache in the background, once: `tend` starts that after the owner has run undisturbed for `CALM_S`."""

    def __init__(self, file: Path, log_file: Path, calm_s: float = CALM_S) -> None:
        self._file, self._log_file = file, log_file
        self._begin_at = time.monotonic() + calm_s
        self._process: subprocess.Popen[bytes] | None = None
        self._due = is_missing(file)

    def tend(self) -> None:
        """Call it periodically."""
        if self._due and time.monotonic() >= self._begin_at:
            self._due = False
            if is_missing(self._file):
                self._process = _start(self._file.parent, self._log_file, attached=True)
        elif self._process is not None and self._process.poll() is not None:
            self.stop()

    def stop(self) -> None:
        """Stop it, even if unfinished; the next run starts over."""
        self._due = False
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()  # it first ends its own processes
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def train_detached(file: Path) -> None:
    """Create the cache in `file` in a process that outlives this one by a few minutes at most; for verbs that end soon."""
    if is_missing(file):
        # Deliberately left running and not waited for: it has its own log.
        _start(file.parent, file.parent / "training.log", attached=False)


def is_missing(file: Path) -> bool:
    """Whether the cache is missing and its folder exists."""
    if file.exists() or not os.access(file.parent, os.W_OK):
        return False
    return shutil.disk_usage(file.parent).free // 2**20 >= NEED_FREE_MB


def _start(cache_dir: Path, log_file: Path, attached: bool) -> subprocess.Popen[bytes]:
    log_file.parent.mkdir(parents=True, exist_ok=True)
    ends = ["--with-parent"] if attached else []
    with log_file.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "ledger.broker.aot_training", str(cache_dir), *ends],
            stdin=subprocess.PIPE if attached else subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
