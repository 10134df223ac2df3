"""The door to `pyrage`: age encryption (age-encryption.org/v1) with X25519 keys, as streams in constant memory."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import pyrage

from ledger.errors import ConfigError, LedgerError

NEW_KEY = "create a pair with: order-ledger backup-key"


class WrongKey(LedgerError):
    """None of the keys decrypts the file."""

    code = "backup_wrong_key"


class Undecryptable(LedgerError):
    """The file is not what age wrote, or was changed or truncated."""

    code = "backup_damaged"


def new_pair() -> tuple[str, str]:
    """A new key as (secret `AGE-SECRET-KEY-1...`, public `age1...`)."""
    identity = pyrage.x25519.Identity.generate()
    return str(identity), str(identity.to_public())


def recipients_of(text: str) -> list[Any]:
    """The comma-separated public keys in `text`. Raises `ConfigError`, whose message does not repeat them."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise ConfigError(f"BACKUP_RECIPIENTS is not set: a public key (age1...) for which contacts are encrypted; {NEW_KEY}")
    try:
        return [pyrage.x25519.Recipient.from_str(word) for word in words]
    except pyrage.RecipientError:
        raise ConfigError(f"BACKUP_RECIPIENTS: not a public key (age1...); {NEW_KEY}") from None


def identities_of(text: str) -> list[Any]:
    """The comma-separated secret keys in `text`. Raises `ConfigError`, whose message contains no key."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise ConfigError("BACKUP_IDENTITY is not set: the secret key (AGE-SECRET-KEY-1...) of one of the BACKUP_RECIPIENTS")
    try:
        return [pyrage.x25519.Identity.from_str(word) for word in words]
    except pyrage.IdentityError:
        raise ConfigError("BACKUP_IDENTITY: not a secret key (AGE-SECRET-KEY-1...)") from None


def encrypt(chunks: Iterator[bytes], file: BinaryIO, recipients: list[Any]) -> None:
    """Write `chunks` to `file`, encrypted for `recipients`. Raises what `chunks` and `file` raise."""
    source, sink = _Source(chunks), _Sink(file.write)
    try:
        pyrage.encrypt_io(io.BufferedReader(source, 64 * 1024), sink, recipients)
    except (pyrage.EncryptError, OSError):
        raise source.failed or sink.failed or OSError("the contacts could not be encrypted") from None


def decrypt(file: BinaryIO, take: Callable[[bytes], object], identities: list[Any]) -> None:
    """Call `take` with one piece of the content of `file` after the other. A piece is authentic, the whole is when this returns.

    Raises `WrongKey`, `Undecryptable`, and what `take` raises.
    """
    sink = _Sink(take)
    try:
        pyrage.decrypt_io(file, sink, identities)
    except (pyrage.DecryptError, OSError) as exc:
        if sink.failed is not None:
            raise sink.failed from None
        if "No matching keys" in str(exc):
            raise WrongKey("BACKUP_IDENTITY is not the secret key of any of the BACKUP_RECIPIENTS of this backup") from None
        raise Undecryptable("the encrypted contacts are damaged") from None


class _Source(io.RawIOBase):
    """A readable file of `chunks`. `failed` is what they raised: the library passes on only its text."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._waiting = chunks, b""
        self.failed: BaseException | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            while not self._waiting:
                if (chunk := next(self._chunks, None)) is None:
                    return 0
                self._waiting = chunk
        except BaseException as exc:
            self.failed = exc
            raise
        size = min(len(buffer), len(self._waiting))
        buffer[:size], self._waiting = self._waiting[:size], self._waiting[size:]
        return size


class _Sink(io.RawIOBase):
    """A writable file that passes everything to `take`. `failed` is what that raised."""

    def __init__(self, take: Callable[[bytes], object]) -> None:
        self._take = take
        self.failed: BaseException | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        try:
            self._take(bytes(data))
        except BaseException as exc:
            self.failed = exc
            raise
        return len(data)
