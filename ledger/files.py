"""Files that are written whole, folders that only their owner enters, and what the operating system says about a place."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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


def write_whole(path: Path, text: str, private: bool = False, durable: bool = False) -> None:
    """All of it or the old file: written beside, then renamed. Raises `OSError`.

    `private`: only its owner can read it. `durable`: against power loss too.
    """
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if private else 0o666)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(descriptor)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """`value` in a file that is whole and durable; its folder is made. Raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(value), durable=True)
