"""Atomic writes, private folders, and errors of the disk."""

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
    """Raises `BrokerError` `no_disk_space` if `directory` has less free space."""
    free_mb = shutil.disk_usage(directory).free // 2**20
    if free_mb < need_mb:
        raise BrokerError(
            "no_disk_space", f"{directory}: {free_mb} MB free, {need_mb} MB needed: free some space or choose another directory"
        )


@contextmanager
def errors_of_the_disk(directory: Path) -> Iterator[None]:
    """Turn errors of the operating system about `directory` into `BrokerError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BrokerError(
                "no_disk_space", f"the disk of {directory} is full: free some space or choose another directory"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise BrokerError("directory_unusable", f"{directory} cannot be used: {error}. Choose another directory") from error
        raise


def private_folder(path: Path) -> Path:
    """Create `path` as a folder that only its owner can enter, or restrict an existing one.

    Raises `OSError`, also if it belongs to another user.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_mode & 0o077:
        path.chmod(0o700)
    return path


def write_whole(path: Path, text: str, private: bool = False, durable: bool = False) -> None:
    """Replace a file atomically: write a new one beside it, then rename. Raises `OSError`.

    `private`: only its owner can read it. `durable`: survives power loss, too.
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
    """Write `value` as JSON atomically and durably, creating the folder. Raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(value), durable=True)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; empty if there is none. For files that can be lost."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
