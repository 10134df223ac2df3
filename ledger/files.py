"""Files that are written whole, folders that only their owner enters, and what the operating system says about a place."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ledger.errors import BrokerError


def require_disk(directory: Path, need_mb: int) -> None:
    """Raises `BrokerError` `no_disk_space` when `directory` has less room."""
    free_mb = shutil.disk_usage(directory).free // 2**20
    if free_mb < need_mb:
        raise BrokerError("no_disk_space", f"{directory}: {free_mb} MB free, {need_mb} MB needed: make room or choose another")


@contextmanager
def errors_of_the_disk(directory: Path) -> Iterator[None]:
    """Names what the operating system says about `directory`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BrokerError("no_disk_space", f"the disk of {directory} became full: make room or choose another") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise BrokerError("directory_unusable", f"{directory} cannot be used: {error}. Choose another") from error
        raise


def private_folder(path: Path) -> Path:
    """`path` as a folder that only its owner can enter, made if it is not there; what others could enter is closed to them.

    Raises `OSError`, also when it is not ours.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_mode & 0o077:
        path.chmod(0o700)
    return path


def write_whole(path: Path, text: str) -> None:
    """All of it or the old file: written beside, then renamed."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        beside.write_text(text, "utf-8", newline="\n")
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
