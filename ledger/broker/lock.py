"""The lock file: the jars that the broker needs, each with its size and hash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from ledger.files import write_whole
from ledger.schemas.data_files import data_file

LOCK_FILE = "kafka.lock.json"


@dataclass(frozen=True, slots=True)
class Jar:
    """One line of the lock file. `coordinate` is Maven's `group:artifact:version`, `sha256` is lower-case hex."""

    coordinate: str
    sha256: str
    size_bytes: int

    @property
    def file_name(self) -> str:
        _, artifact, version = self.coordinate.split(":")
        return f"{artifact}-{version}.jar"


@dataclass(frozen=True, slots=True)
class JarLock:
    """The jars, in the order of the class path."""

    kafka_version: str
    roots: tuple[str, ...]
    jars: tuple[Jar, ...]

    @classmethod
    def read(cls, path: Path | None = None) -> JarLock:
        """The lock file at `path`, else the shipped one. Raises `FileNotFoundError`, or `ValueError` if it is malformed."""
        document = json.loads((path or data_file(LOCK_FILE)).read_text("utf-8"))
        try:
            jars = tuple(Jar(jar["coordinate"], jar["sha256"], jar["size_bytes"]) for jar in document["jars"])
            lock = cls(document["kafka_version"], tuple(document["roots"]), jars)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path or LOCK_FILE} is not a lock file of jars: {error!r}") from error
        if len({jar.file_name for jar in jars}) != len(jars):
            raise ValueError(f"{path or LOCK_FILE}: two jars have the same file name")
        return lock

    def write(self, path: Path) -> None:
        """Write atomically, one jar per line, so that diffs are readable."""
        jars = ",\n    ".join(
            json.dumps({"coordinate": jar.coordinate, "sha256": jar.sha256, "size_bytes": jar.size_bytes}) for jar in self.jars
        )
        head = f'"kafka_version": {json.dumps(self.kafka_version)},\n  "roots": {json.dumps(list(self.roots))}'
        write_whole(path, f'{{\n  {head},\n  "jars": [\n    {jars}\n  ]\n}}\n')


def sha256_of(path: Path) -> str | None:
    """SHA-256 of a file in hex; None if there is no such file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
