"""The manifest of a backup, its signature, and what can be wrong with a part.

`manifest.json` is replaced last: until then, what a killed `backup` left behind belongs to nothing, and the next one deletes it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec
from filelock import FileLock, Timeout
from msgspec import Raw, Struct

from ledger.errors import LedgerError
from ledger.files import write_whole
from ledger.walk import Head

FORM = 1
MANIFEST, LOCK = "manifest.json", ".lock"
LEDGER, CONTACTS, HEADS = "ledger.avro", "contacts.age", "heads.json"
CONTROL, SETTINGS, TOKENS = "control.json", "settings.json", "tokens.json"
CHUNK_BYTES = 1 << 20

BackupCode = Literal[
    "not_a_backup",  # no manifest, or one that cannot be read
    "backup_signature",  # the manifest was changed, or signed with another LEDGER_HASH_KEY
    "backup_missing_part",
    "backup_truncated",  # a part is shorter than the manifest says
    "backup_damaged",  # a part has another content than the manifest says
    "backup_running",  # another `backup` writes to this folder
    "other_ledger",  # the log is not the one from before
]


class BackupError(LedgerError):
    """A backup that is damaged, or that cannot be continued. `code` is one of `BackupCode`."""

    def __init__(self, code: BackupCode, message: str) -> None:
        super().__init__(message)
        self.code: str = code


class Part(Struct, frozen=True):
    """One file. `path` is relative to the folder of the backup, `size` in bytes, `sha256` in hex."""

    path: str
    size: int
    sha256: str


class Increment(Struct, frozen=True):
    """What one `backup` added. `at` is RFC 3339; `contacts` counts records, also deletions.

    `all_contacts`: contacts of earlier increments are not needed. `faults` counts events that do not continue their chain.
    """

    no: int
    at: str
    program: str
    events: int
    refusals: int
    contacts: int
    all_contacts: bool
    faults: int
    first_fault: str
    parts: dict[str, Part]


class LastRefusal(Struct, frozen=True):
    """The last refusal of a partition: its offset, and the hash by which a log is compared (`ledger.log_identity`)."""

    offset: int
    link: bytes


class Manifest(Struct, frozen=True):
    """`topic_ids` by kind (`events`, `refusals`, `contacts`), in hex. `heads` and the next two: where the next increment begins.

    `as_of_ms`: until then, everything in the log is in the backup, by the clock of the machine that made it.
    """

    form: int
    partitions: int
    as_of_ms: int
    topic_ids: dict[str, str]
    heads: dict[int, Head]
    refusals: dict[int, LastRefusal]
    contacts: dict[int, int]
    increments: tuple[Increment, ...]

    @property
    def parts(self) -> Iterator[Part]:
        """Every file once: an increment may name one of an earlier increment."""
        yield from {part.path: part for increment in self.increments for part in increment.parts.values()}.values()

    def with_contacts(self) -> tuple[Increment, ...]:
        """The increments whose contacts are needed: from the last one on that has all of them."""
        first = max((one.no for one in self.increments if one.all_contacts), default=1)
        return tuple(one for one in self.increments if one.no >= first)


class _Signed(Struct, frozen=True):
    signature: str
    manifest: Raw


class _Form(Struct, frozen=True):
    form: int


_decode_signed = msgspec.json.Decoder(_Signed).decode
_decode = msgspec.json.Decoder(Manifest).decode
_decode_form = msgspec.json.Decoder(_Form).decode


def write_manifest(folder: Path, manifest: Manifest, key: bytes) -> None:
    """Replace the manifest atomically and durably. Raises `OSError`."""
    text = msgspec.json.encode(manifest)
    signed = msgspec.json.encode(_Signed(_signature(text, key), Raw(text)))
    write_whole(folder / MANIFEST, signed.decode() + "\n", private=True, durable=True)
    sync_folder(folder)


def read_manifest(folder: Path, key: bytes) -> Manifest:
    """The manifest. Raises `BackupError`."""
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise BackupError("not_a_backup", f"{folder} has no {MANIFEST}") from None
    try:
        signed = _decode_signed(content)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise BackupError("not_a_backup", f"{path} cannot be read: it is damaged, or something else") from None
    raw = bytes(signed.manifest)
    if not hmac.compare_digest(_signature(raw, key).encode(), signed.signature.encode()):
        raise BackupError("backup_signature", f"{path} was changed, or signed with another LEDGER_HASH_KEY")
    form = _decode_form(raw).form
    if form != FORM:
        raise BackupError("not_a_backup", f"this backup has form {form}, this program reads form {FORM}: use a newer one")
    return _decode(raw)


def _signature(text: bytes, key: bytes) -> str:
    return hmac.new(key, b"order-ledger backup 1\0" + text, hashlib.sha256).hexdigest()


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """Whether every part is there and as long as it was. Raises `BackupError`."""
    for part in manifest.parts:
        try:
            size = (folder / part.path).stat().st_size
        except FileNotFoundError:
            raise BackupError("backup_missing_part", f"{part.path} is missing") from None
        if size < part.size:
            raise BackupError("backup_truncated", f"{part.path} has {size} of {part.size} bytes")
        if size > part.size:
            raise BackupError("backup_damaged", f"{part.path} has {size} bytes, the manifest says {part.size}")


def check_hash(folder: Path, part: Part, moved: Callable[[int], object]) -> None:
    """Compare a part with its checksum; `moved(bytes)` after each piece. Raises `BackupError`."""
    if _sha256(folder / part.path, moved) != part.sha256:
        raise BackupError("backup_damaged", f"the checksum of {part.path} does not match")


def part_of(folder: Path, path: str) -> Part:
    """The description of a part that was written, relative to `folder`."""
    file = folder / path
    return Part(path, file.stat().st_size, _sha256(file, lambda size: None))


def _sha256(path: Path, moved: Callable[[int], object]) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            moved(len(chunk))
    return digest.hexdigest()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody else writes to this backup. Raises `BackupError`."""
    lock = FileLock(folder / LOCK, mode=0o600)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BackupError("backup_running", f"another `backup` writes to {folder}") from None
    try:
        yield
    finally:
        lock.release()


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive power loss, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
