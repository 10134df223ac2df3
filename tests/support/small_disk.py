"""A small disk for one process, that can be filled and emptied from outside: a file system in memory (Linux only).

The process gets user and mount namespaces of its own, so nobody needs to be root, nothing else sees the disk, and it ends with
the process. From outside it is reached through `/proc/<pid>/root`.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

_FILLER = "filler"
_MOUNT = 'mount -t tmpfs -o "size=$0m,mode=0700" ledger "$1" && shift && exec "$@"'
_BLOCK = bytes(1 << 20)


def on_small_disk(folder: Path, mb: int) -> list[str]:
    """Words before a command: to it, `folder`, which must exist, is an empty disk of so many MB."""
    return ["unshare", "--user", "--map-root-user", "--mount", "--", "sh", "-c", _MOUNT, str(mb), str(folder)]


@cache
def is_possible() -> bool:
    """Whether this machine allows it."""
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run([*on_small_disk(Path("/mnt"), 1), "true"], capture_output=True, check=False)
    return tried.returncode == 0


def used_mb(pid: int, folder: Path) -> float | None:
    """What is used of the small disk of the process; None if it has none (yet), or has ended."""
    try:
        seen = _inside(pid, folder)
        status = os.statvfs(seen)
        if seen.stat().st_dev == folder.stat().st_dev:
            return None
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    return (status.f_blocks - status.f_bfree) * status.f_frsize / 2**20


def fill(pid: int, folder: Path) -> bool:
    """Write to the disk until it is full. False if the process has ended meanwhile."""
    try:
        with (_inside(pid, folder) / _FILLER).open("ab", 0) as file:
            while True:
                file.write(_BLOCK)
    except OSError as exc:
        if exc.errno == errno.ENOSPC:
            return True
        if isinstance(exc, FileNotFoundError | ProcessLookupError | PermissionError):
            return False
        raise


def empty(pid: int, folder: Path) -> None:
    """Remove what `fill` wrote."""
    (_inside(pid, folder) / _FILLER).unlink(missing_ok=True)


def _inside(pid: int, folder: Path) -> Path:
    return Path(f"/proc/{pid}/root{folder}")
