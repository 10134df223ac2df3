"""Adds an increment to a backup: everything that the log has since the last one, up to its current end.

The ledger is read first, the contacts afterwards, each up to its end by then: a contact is written before its order, so no order
of a backup lacks its contact, and erasures are as new as they can be. An increment checks the chain from the one before on, and
counts faults; whether every event follows from the ones before it is proven by `restore --check`.

A small file that is as it was in the increment before is not written again: the manifest names the earlier one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from api.cli.archive import committed_records, header_of, partitions_of_ledger
from api.cli.backup.age import encrypt
from api.cli.backup.contact_lines import lines_of
from api.cli.backup.manifest import (
    CONTACTS,
    CONTROL,
    FORM,
    HEADS,
    LEDGER,
    LOCK,
    MANIFEST,
    BackupError,
    Increment,
    LastRefusal,
    Manifest,
    Part,
    check_sizes,
    locked,
    part_of,
    read_manifest,
    sync_folder,
    write_manifest,
)
from api.cli.backup.surroundings import control_of
from ledger.archive import EVENTS, REFUSALS, ArchiveWriter, Contents, Entry
from ledger.clock import now_ms
from ledger.contact_rows import TOO_OLD_MS
from ledger.errors import DecodeError
from ledger.files import private_folder
from ledger.log import EventLog, Record, TopicPartition
from ledger.log_identity import Mark, judge, topic_ids
from ledger.rfc3339 import format_ms
from ledger.schemas.codec import event_codec, link_of
from ledger.topics import Topics
from ledger.walk import NO_HEAD, Head
from projections.rebuild import RebuildObserver
from projections.verify import sign_heads

ENDS_S = 30.0
DRAFT = "draft"


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """`hash_key` signs; `recipients` are the public keys for which contacts are encrypted."""

    hash_key: bytes
    recipients: list[Any]


class Chains:
    """The heads of the chains, moved on by each event. `faults` are events that do not continue their chain: they are kept, too.

    A backup that is refused for one bad record would be none for all others. `restore` shows each fault and wants a confirmation.
    """

    def __init__(self, heads: Mapping[int, Head], partitions: int) -> None:
        self.heads = {p: heads.get(p, NO_HEAD) for p in range(partitions)}
        self.faults = 0
        self.first_fault = ""
        self._decode = event_codec().decode

    def take(self, record: Record) -> None:
        head, value = self.heads[record.partition], record.value or b""
        try:
            if self._decode(value).prev_hash != head.link:
                self._fault(record, "does not continue the chain")
        except DecodeError as exc:
            self._fault(record, f"cannot be read ({exc.reason})")
        self.heads[record.partition] = Head(head.events + 1, record.offset, link_of(value))

    def _fault(self, record: Record, why: str) -> None:
        self.faults += 1
        self.first_fault = self.first_fault or f"event {record.partition}-{record.offset} {why}"


class Backup:
    """One run of `backup` into `folder`. `surroundings` are the small files besides, by name."""

    def __init__(
        self,
        event_log: EventLog,
        topics: Topics,
        folder: Path,
        secrets: Secrets,
        surroundings: Mapping[str, bytes],
        program: str,
        bar: RebuildObserver,
        stopping: threading.Event,
        *,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self._log, self._topics, self._folder, self._secrets = event_log, topics, folder, secrets
        self._surroundings, self._program, self._bar = surroundings, program, bar
        self._stopping, self._clock = stopping, clock

    def run(self, all_contacts: bool = False) -> tuple[Manifest, Increment | None]:
        """Add what is new. Returns the manifest and the increment, None if there is nothing new.

        Raises `BackupError`, `Interrupted`, `LogError`; the folder then has the backup from before.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (self._folder / LOCK).exists():
            self._refuse_other_files(())  # what was never a backup stays as it is
        private_folder(self._folder)
        with locked(self._folder):
            self._refuse_other_files((LOCK, DRAFT))
            before = self._before()
            if before is not None:
                self._refuse_other_log(before)
            self._clear(before)
            now = self._clock()
            draft = self._folder / DRAFT
            draft.mkdir(mode=0o700)
            try:
                manifest, increment = self._draft(before, draft, now, all_contacts)
                if increment is None:
                    shutil.rmtree(draft)
                else:
                    draft.replace(self._folder / f"{increment.no:06}")
                    sync_folder(self._folder)
                write_manifest(self._folder, manifest, self._secrets.hash_key)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                if not (self._folder / MANIFEST).exists():  # of a first run, and the next one would refuse it
                    shutil.rmtree(self._folder / f"{1:06}", ignore_errors=True)
                raise
            self._clear(manifest)
        return manifest, increment

    # ---- what was there before

    def _refuse_other_files(self, allowed: Sequence[str]) -> None:
        """Without a manifest, nobody knows whether increments are those of a backup: they are neither continued nor deleted."""
        if (self._folder / MANIFEST).exists():
            return
        others = [entry for entry in self._folder.iterdir() if entry.name not in allowed]
        if not others:
            return
        why = f"{self._folder} has other files and no {MANIFEST}"
        if all(map(_is_ours, others)):
            why = f"{self._folder} has increments and no {MANIFEST}: take it from a copy, or delete them if no backup ever ended"
        raise BackupError("not_a_backup", f"{why}; or choose an empty folder")

    def _before(self) -> Manifest | None:
        if not (self._folder / MANIFEST).exists():
            return None
        manifest = read_manifest(self._folder, self._secrets.hash_key)
        check_sizes(self._folder, manifest)
        return manifest

    def _refuse_other_log(self, before: Manifest) -> None:
        topics, folded = self._topics, {p: head for p, head in before.heads.items() if head.events}
        if (partitions := self._log.partitions(topics.events)) != before.partitions:
            raise BackupError("other_ledger", f"this ledger has {partitions} partitions, the backup {before.partitions}")
        ids = topic_ids(self._log, (topics.events, topics.refusals, topics.contacts))
        events_id, refusals_id, contacts_id = (
            bytes.fromhex(before.topic_ids[kind]) for kind in ("events", "refusals", "contacts")
        )
        marks = {TopicPartition(topics.events, p): Mark(head.offset + 1, events_id, head.link) for p, head in folded.items()}
        marks |= {
            TopicPartition(topics.refusals, p): Mark(last.offset + 1, refusals_id, last.link)
            for p, last in before.refusals.items()
        }
        if contacts_id == ids[topics.contacts]:
            marks |= {TopicPartition(topics.contacts, p): Mark(at, contacts_id, b"") for p, at in before.contacts.items()}
        elif events_id == ids[topics.events]:  # not a mirror: whoever read all contacts again would delete those of the backup
            raise BackupError("other_ledger", f"{topics.contacts} was created again since: back up into another folder")
        for tp, one in sorted(judge(self._log, marks, ids, topics, self._stopping).items()):
            if one.at != one.mark.position:  # a mirror has every record at its offset, as signed heads have
                where = f"{tp.topic}/{tp.partition} up to {one.mark.position}"
                was = "was restored since" if one.at is not None else one.why
                raise BackupError("other_ledger", f"the backup followed {where}, but this log {was}: back up into another folder")

    def _clear(self, manifest: Manifest | None) -> None:
        """Delete what belongs to no increment: of a killed run, and contacts that a later increment has again."""
        kept = {part.path for part in manifest.parts} if manifest else set()
        for entry in self._folder.iterdir():
            if entry.name == DRAFT or (_is_ours(entry) and not any(path.startswith(f"{entry.name}/") for path in kept)):
                shutil.rmtree(entry)
            elif _is_ours(entry):
                for file in entry.iterdir():
                    if f"{entry.name}/{file.name}" not in kept:
                        file.unlink()

    # ---- the increment

    def _draft(self, before: Manifest | None, draft: Path, now: int, all_contacts: bool) -> tuple[Manifest, Increment | None]:
        topics, partitions = self._topics, self._log.partitions(self._topics.events)
        ends = self._log.ends(partitions_of_ledger(topics, partitions), timeout_s=ENDS_S)
        chains = Chains(before.heads if before else {}, partitions)
        refusals = dict(before.refusals) if before else {}
        events, refused = self._write_ledger(draft, ends, chains, refusals)
        contact_ends = self._log.ends([TopicPartition(topics.contacts, p) for p in range(partitions)], timeout_s=ENDS_S)
        contacts_id = self._log.topic_id(topics.contacts).hex()
        whole = all_contacts or _needs_all_contacts(before, contacts_id, now)
        contacts = self._write_contacts(draft, contact_ends, {} if whole or before is None else before.contacts)
        ids = topic_ids(self._log, (topics.events, topics.refusals))
        small = dict(self._surroundings) | {CONTROL: control_of(self._log, topics)}
        manifest = Manifest(
            form=FORM,
            partitions=partitions,
            as_of_ms=now,
            topic_ids={"events": ids[topics.events].hex(), "refusals": ids[topics.refusals].hex(), "contacts": contacts_id},
            heads=chains.heads,
            refusals=refusals,
            contacts={tp.partition: end for tp, end in contact_ends.items()},
            increments=before.increments if before else (),
        )
        last = before.increments[-1] if before and before.increments else None
        no = 1 + (last.no if last else 0)
        signed = sign_heads(chains.heads, topics.events, ids[topics.events], format_ms(now), self._secrets.hash_key)
        small[HEADS] = (json.dumps(signed, indent=2) + "\n").encode()
        unchanged = self._write_small(draft, small, last.parts if last else {})
        if last and not whole and not events + refused + contacts and small.keys() == unchanged.keys() | {HEADS}:
            return manifest, None
        new = {file.name: replace(part_of(draft, file.name), path=f"{no:06}/{file.name}") for file in draft.iterdir()}
        sync_folder(draft)
        parts = dict(sorted((unchanged | new).items()))
        faults, first = chains.faults, chains.first_fault
        increment = Increment(no, format_ms(now), self._program, events, refused, contacts, whole, faults, first, parts)
        earlier = [_without_contacts(one) if whole else one for one in manifest.increments]
        return replace(manifest, increments=(*earlier, increment)), increment

    def _write_small(self, draft: Path, small: Mapping[str, bytes], before: Mapping[str, Part]) -> dict[str, Part]:
        """Write the files that are not as they were `before`. Returns the parts of the others."""
        unchanged: dict[str, Part] = {}
        for name, content in small.items():
            if name in before and before[name].sha256 == hashlib.sha256(content).hexdigest():
                unchanged[name] = before[name]
            else:
                _write(draft / name, content)
        return unchanged

    def _write_ledger(
        self, draft: Path, ends: Mapping[TopicPartition, int], chains: Chains, refusals: dict[int, LastRefusal]
    ) -> tuple[int, int]:
        """Numbers of events and refusals; `chains` and `refusals` are then those of the new ends."""
        topics = self._topics
        starts = self._log.starts(ends, timeout_s=ENDS_S)
        for tp in starts:
            last = chains.heads[tp.partition] if tp.topic == topics.events else refusals.get(tp.partition)
            starts[tp] = max(starts[tp], 0 if last is None else last.offset + 1)
        counted = [0, 0]
        with tempfile.TemporaryFile(dir=draft) as scratch, _private(draft / LEDGER) as file:
            writer = ArchiveWriter(scratch, header_of(self._log, topics, len(chains.heads)))
            for record in committed_records(self._log, starts, ends, self._bar, self._stopping):
                kind = EVENTS if record.topic == topics.events else REFUSALS
                if kind == EVENTS:
                    chains.take(record)
                else:
                    refusals[record.partition] = LastRefusal(record.offset, link_of(record.value or b""))
                writer.write(Entry(kind, *record[1:]))
                counted[kind] += 1
            writer.finish(Contents(counted[EVENTS], counted[REFUSALS], chains.heads), file)
            _sync(file)
        if not any(counted):
            (draft / LEDGER).unlink()
        return counted[EVENTS], counted[REFUSALS]

    def _write_contacts(self, draft: Path, ends: Mapping[TopicPartition, int], positions: Mapping[int, int]) -> int:
        """The number of records."""
        starts = self._log.starts(ends, timeout_s=ENDS_S)
        starts = {tp: min(max(start, positions.get(tp.partition, 0)), ends[tp]) for tp, start in starts.items()}
        counted = 0

        def records() -> Iterator[Record]:
            nonlocal counted
            for record in committed_records(self._log, starts, ends, self._bar, self._stopping):
                counted += 1
                yield record

        with _private(draft / CONTACTS) as file:
            encrypt(lines_of(records()), file, self._secrets.recipients)
            _sync(file)
        if not counted:
            (draft / CONTACTS).unlink()
        return counted


def _needs_all_contacts(before: Manifest | None, contacts_id: str, now: int) -> bool:
    """Whether deletions since the last backup may be missing in the topic, or it is another topic: that of a mirror.

    Kafka forgets a tombstone after a while, and who was offline for longer reads all contacts again (`ledger.contact_rows`).
    """
    if before is None or before.topic_ids["contacts"] != contacts_id:
        return True
    return not 0 <= now - before.as_of_ms <= TOO_OLD_MS


def _without_contacts(increment: Increment) -> Increment:
    return replace(increment, parts={name: part for name, part in increment.parts.items() if name != CONTACTS})


def _is_ours(entry: Path) -> bool:
    return entry.is_dir() and len(entry.name) == 6 and entry.name.isdigit()


def _private(path: Path) -> Any:
    """A new file that only its owner can read."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _write(path: Path, content: bytes) -> None:
    with _private(path) as file:
        file.write(content)
        _sync(file)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
