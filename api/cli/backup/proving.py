"""Checks a backup from end to end, without a cluster and without writing: what `restore --check` does, and `restore` first.

1   the manifest and its signature; every part: there, as long as it was, with its checksum
2   the heads of every increment: their signatures
3   the ledger, folded as by `verify`: framing, versions, chain, transitions, amounts; it contains the heads of every increment
    and of `heads` kept elsewhere, and ends where the last one says
4   the contacts: decrypted to the last byte, and which of them come back (`choosing`)
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from api.cli.archive import BrokenLog, Checker, Opener, later_schemas, record_of
from api.cli.backup.age import Undecryptable, decrypt
from api.cli.backup.choosing import Choice, Fate
from api.cli.backup.contact_lines import ContactLine, LineReader
from api.cli.backup.manifest import (
    CONTACTS,
    CONTROL,
    HEADS,
    LEDGER,
    BackupError,
    Manifest,
    check_hash,
    check_sizes,
    read_manifest,
)
from api.cli.backup.surroundings import ControlState, decode_control, is_json
from ledger.archive import REFUSALS, ArchiveError, ArchiveReader, Entry
from ledger.errors import LogError
from ledger.levels import LEVEL
from ledger.schemas.of_the_ledger import learn
from ledger.topics import Topics
from ledger.upgrades.membership import ProgramTooOld
from ledger.walk import Head
from projections.bulk import Interrupted
from projections.rebuild import RebuildObserver
from projections.verify import Findings, read_heads

REPORT_RECORDS = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreKeys:
    """`hash_key` signed the backup; `identities` are secret keys, one of which decrypts its contacts."""

    hash_key: bytes
    identities: list[Any]


@dataclass(frozen=True, slots=True)
class Proven:
    """A correct backup. `choice` has noted every record of a contact; `fates` counts what becomes of them."""

    manifest: Manifest
    control: ControlState
    findings: Findings
    refusals: int
    choice: Choice
    fates: Counter[Fate]


class Proof:
    """Reads the backup in `folder`. `scratch` is an empty folder for temporary databases, which contain no contact."""

    def __init__(
        self, folder: Path, keys: RestoreKeys, opener: Opener, scratch: Path, bar: RebuildObserver, stopping: threading.Event
    ) -> None:
        self._folder, self._keys, self._bar, self._stopping = folder, keys, bar, stopping
        self._opener, self._scratch = opener, scratch
        self._checker: Checker | None = None
        self.is_writing = False  # what is read is being written to a cluster

    def close(self) -> None:
        """Close the temporary databases, which the `choice` of what was proven asks."""
        if self._checker is not None:
            self._checker.close()

    def run(self, heads: Mapping[int, Head], also_erased: Collection[str] = (), accept_faults: bool = False) -> Proven:
        """With `accept_faults`, events that no correct writer can have written are only counted.

        Raises `BackupError`, `WrongKey`, `Undecryptable`, `HeadsError`, `BrokenLog`, `ProgramTooOld`, `Interrupted`."""
        manifest = read_manifest(self._folder, self._keys.hash_key)
        if not manifest.increments:
            raise BackupError("not_a_backup", f"{self._folder} has no increment")
        check_sizes(self._folder, manifest)
        self._check_hashes(manifest)
        control = self._control(manifest)
        kept = self._kept_heads(manifest)
        for p, head in heads.items():
            kept.setdefault(p, []).append(head)
        self._checker = checker = Checker(self._opener, Topics(), manifest.partitions, self._scratch, kept, accept_faults)
        refusals = self._check_ledger(manifest, checker)
        findings = checker.finish()
        if findings.heads != manifest.heads:
            p = next(p for p, head in findings.heads.items() if manifest.heads.get(p) != head)
            raise BrokenLog(f"event {p}-{findings.heads[p].offset}: the chain of partition {p} does not end with its head")
        choice, fates = Choice(manifest.partitions, checker.order, checker.is_frozen, also_erased), Counter[Fate]()
        self.read_contacts(manifest, choice.note)
        self.read_contacts(manifest, lambda number, line: fates.update([choice.fate(number, line)]))
        return Proven(manifest, control, findings, refusals, choice, fates)

    # ---- files

    def _check_hashes(self, manifest: Manifest) -> None:
        parts = list(manifest.parts)
        self._bar.started(sum(part.size for part in parts), 0)
        self._bar.phase("checking files")
        done = 0

        def moved(size: int) -> None:
            nonlocal done
            done += size
            self._go_on()
            self._bar.moved(done, 0, done)

        for part in parts:
            check_hash(self._folder, part, moved)
            if part.path.endswith(".json") and not is_json((self._folder / part.path).read_bytes()):
                raise BackupError("backup_damaged", f"{part.path} is not JSON")

    def _go_on(self) -> None:
        """Raises `Interrupted` if stopped, `LogError` if records may have been written by then."""
        if self._stopping.is_set() and self.is_writing:
            raise LogError("stopped halfway: delete the topics before the next attempt")
        if self._stopping.is_set():
            raise Interrupted("stopped; nothing was written")

    def _control(self, manifest: Manifest) -> ControlState:
        path = manifest.increments[-1].parts[CONTROL].path
        try:
            control = decode_control((self._folder / path).read_bytes())
            later = control.later()
        except ValueError:  # msgspec's errors are, too
            raise BackupError("backup_damaged", f"{path} cannot be read") from None
        if control.level > LEVEL:
            raise ProgramTooOld(
                f"this backup is of a ledger at feature level {control.level}, raised by version {control.raised_by}; this "
                f"program reads up to level {LEVEL}: restore it with version {control.raised_by} or later"
            )
        for schema in later:
            learn(schema)
        return control

    def _kept_heads(self, manifest: Manifest) -> dict[int, list[Head]]:
        kept: dict[int, list[Head]] = {}
        for increment in manifest.increments:
            content = msgspec.json.decode((self._folder / increment.parts[HEADS].path).read_bytes())
            heads, _ = read_heads(content, self._keys.hash_key)
            for p, head in heads.items():
                kept.setdefault(p, []).append(head)
        return kept

    # ---- the ledger

    def _check_ledger(self, manifest: Manifest, checker: Checker) -> int:
        """Returns the number of refusals."""
        names, refusals = Topics(), 0
        for entry in self.entries(manifest, "checking the ledger"):
            refusals += entry.kind == REFUSALS
            checker.take(record_of(entry, names))
        return refusals

    def entries(self, manifest: Manifest, phase: str) -> Iterator[Entry]:
        """All events and refusals, increment by increment. Raises `BackupError`, `BrokenLog`, `Interrupted`."""
        ledgers = [one.parts[LEDGER] for one in manifest.increments if LEDGER in one.parts]
        self._bar.started(sum(part.size for part in ledgers), 0)
        self._bar.phase(phase)
        done = number = 0
        for part in ledgers:
            with (self._folder / part.path).open("rb") as file:
                try:
                    reader = ArchiveReader(file)
                    if reader.header.partitions != manifest.partitions:
                        raise BackupError("backup_damaged", f"{part.path} has another number of partitions than the manifest")
                    for schema in later_schemas(reader.header):
                        learn(schema)
                    for entry in reader.entries():
                        if number % REPORT_RECORDS == 0:
                            self._go_on()
                            self._bar.moved(done + file.tell(), number, done + file.tell())
                        if not 0 <= entry.partition < manifest.partitions:
                            raise BrokenLog(
                                f"event {entry.partition}-{entry.offset} is in a partition beyond those of the backup"
                            )
                        number += 1
                        yield entry
                except ArchiveError as exc:
                    raise BackupError("backup_damaged", f"{part.path}: {exc}") from None
            done += part.size
        self._bar.moved(done, number, done)

    # ---- contacts

    def read_contacts(self, manifest: Manifest, take: Callable[[int, ContactLine], object]) -> None:
        """Call `take(number, line)` for every record of a contact. Raises `BackupError`, `WrongKey`, `Interrupted`."""
        parts = [one.parts[CONTACTS] for one in manifest.with_contacts() if CONTACTS in one.parts]
        self._bar.started(sum(part.size for part in parts), 0)
        self._bar.phase("contacts")
        done = number = 0

        def next_line(line: ContactLine) -> None:
            nonlocal number
            if not 0 <= line.partition < manifest.partitions:
                raise ValueError("a partition beyond those of the backup")
            take(number, line)
            number += 1
            if number % REPORT_RECORDS == 0:
                self._go_on()
                self._bar.moved(done, number, done)

        for part in parts:
            reader = LineReader(next_line)
            with (self._folder / part.path).open("rb") as file:
                try:
                    decrypt(file, reader.feed, self._keys.identities)
                    reader.end()
                except Undecryptable:
                    raise BackupError("backup_damaged", f"{part.path} cannot be decrypted") from None
                except ValueError:  # its text could quote what was encrypted
                    raise BackupError("backup_damaged", f"{part.path} has a line that is not a record") from None
            done += part.size
        self._bar.moved(done, number, done)
