"""The verbs `backup`, `restore` and `backup-key`: read settings, call the code that does the work, show the result."""

from __future__ import annotations

import re
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from api.cli.backup.age import identities_of, new_pair, recipients_of
from api.cli.backup.making import Backup, Secrets
from api.cli.backup.manifest import SETTINGS, TOKENS, Increment, Manifest
from api.cli.backup.proving import Proof, Proven, RestoreKeys
from api.cli.backup.restoring import refuse_used, restore
from api.cli.backup.surroundings import surroundings_of
from api.cli.screens import LogProgress
from api.cli.terminal import Screen, Terminal, write_json
from api.processes.signals import stopper
from api.processes.wiring import KafkaDoors
from api.settings import Settings, program_version
from ledger.bounds import ID
from ledger.errors import ConfigError
from ledger.kafka.settings import KafkaSettings
from ledger.walk import Head
from projections.verify import HeadsError, heads_to_json, read_heads


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreOptions:
    """`heads_file`: heads kept elsewhere that the ledger must contain. `erased_file`: ids of customers, one a line."""

    check: bool
    accept_faults: bool
    heads_file: Path | None
    erased_file: Path | None


def run_backup(kafka: KafkaSettings, settings: Settings, folder: Path, all_contacts: bool, terminal: Terminal) -> int:
    """Add what is new to the backup in `folder`.

    Raises `BackupError`, `ConfigError`, `LogError`, `Interrupted`.
    """
    secrets = Secrets(hash_key=settings.hash_key(), recipients=recipients_of(settings.backup_recipients))
    surroundings, stopping = surroundings_of(kafka, settings), stopper()
    event_log = KafkaDoors(kafka, settings.topics).open_log(stopping)
    with LogProgress(terminal.err) as bar:
        work = Backup(event_log, settings.topics, folder, secrets, surroundings, program_version(), bar, stopping)
        manifest, increment = work.run(all_contacts)
    if terminal.as_json:
        write_json(_added(folder, manifest, increment))
    else:
        _show_added(folder, manifest, increment, TOKENS in surroundings, terminal.out)
    return 0


def _added(folder: Path, manifest: Manifest, increment: Increment | None) -> dict[str, Any]:
    added = None
    if increment is not None:
        added = {
            name: getattr(increment, name)
            for name in ("no", "events", "refusals", "contacts", "all_contacts", "faults", "first_fault")
        }
        added["bytes"] = sum(part.size for part in increment.parts.values())
    return {
        "ok": True,
        "folder": str(folder),
        "added": added,
        "increments": len(manifest.increments),
        "events": sum(one.events for one in manifest.increments),
        "refusals": sum(one.refusals for one in manifest.increments),
        "bytes": sum(part.size for part in manifest.parts),
        "heads": heads_to_json(manifest.heads),
    }


def _show_added(folder: Path, manifest: Manifest, increment: Increment | None, has_tokens: bool, out: Screen) -> None:
    if increment is None:
        out.print(f"nothing new since the last backup: {folder} is up to date")
        return
    size = sum(part.size for part in increment.parts.values()) / 1e6
    records = f"{increment.events:,} events, {increment.refusals:,} refusals and {increment.contacts:,} records of contacts"
    out.print(f"added {records} to {folder} as {increment.no:06} ({size:,.1f} MB), chain checked")
    if increment.faults:
        text = f"{increment.faults:,} faults, kept as they are, the first: {increment.first_fault}; see `order-ledger verify`"
        out.print(text, style="red")
    if not has_tokens:
        out.print("the settings name no tokens, so the backup has none: LEDGER_TOKENS_FILE", style="yellow")
    out.print(f"{len(manifest.increments)} increments; `order-ledger restore {folder} --check` proves them")


def run_restore(kafka: KafkaSettings, settings: Settings, folder: Path, options: RestoreOptions, terminal: Terminal) -> int:
    """Prove the backup in `folder`, then, unless only that was asked for, write it to the empty ledger of the settings.

    Raises `BackupError`, `WrongKey`, `HeadsError`, `BrokenLog`, `ProgramTooOld`, `NotEmpty`, `ConfigError`, all before a record
    is written; `LogError` if the log fails halfway.
    """
    identity = settings.backup_identity.get_secret_value() if settings.backup_identity else ""
    keys = RestoreKeys(hash_key=settings.hash_key(), identities=identities_of(identity))
    heads = _heads_in(options.heads_file, keys.hash_key) if options.heads_file else {}
    also_erased = _customers_in(options.erased_file) if options.erased_file else []
    doors, stopping = KafkaDoors(kafka, settings.topics), stopper()
    with (
        tempfile.TemporaryDirectory(prefix="restore-") as scratch,
        LogProgress(terminal.err) as bar,
        closing(Proof(folder, keys, doors.opener, Path(scratch), bar, stopping)) as proof,
    ):
        proven = proof.run(heads, also_erased, options.accept_faults)
        if not options.check:
            event_log = doors.open_log(stopping)
            refuse_used(event_log, settings, proven.manifest.partitions)
            restore(event_log, settings, proof, proven, stopping)
    if terminal.as_json:
        write_json(_restored(folder, proven, options))
    else:
        _show_restored(folder, proven, options, terminal.out)
    return 0


def _restored(folder: Path, proven: Proven, options: RestoreOptions) -> dict[str, Any]:
    fates = proven.fates
    return {
        "ok": True,
        "folder": str(folder),
        "restored": not options.check,
        "as_of": proven.manifest.increments[-1].at,
        "increments": len(proven.manifest.increments),
        "events": proven.findings.events,
        "refusals": proven.refusals,
        "contacts": fates["contacts"],
        "notes": fates["notes"],
        "not_restored": {"erased": fates["erased"], "without_order": fates["without_order"]},
        "faults": proven.findings.fault_count,
        "first_faults": msgspec.to_builtins(proven.findings.faults),
        "level": proven.control.level,
        "heads": heads_to_json(proven.findings.heads),
    }


def _show_restored(folder: Path, proven: Proven, options: RestoreOptions, out: Screen) -> None:
    fates, last = proven.fates, proven.manifest.increments[-1]
    events = proven.findings.events
    counts = f"{events:,} events, {proven.refusals:,} refusals, {fates['contacts']:,} contacts, {fates['notes']:,} notes"
    verb = "is complete" if options.check else "was restored"
    out.print(f"{folder} {verb}, as of {last.at}: {counts}; chain, heads and keys checked")
    if proven.findings.fault_count:
        out.print(f"{proven.findings.fault_count:,} faults accepted, the first: {proven.findings.faults[0]}", style="red")
    if fates["erased"] or fates["without_order"]:
        out.print(f"left out: {fates['erased']:,} contacts of erased people, {fates['without_order']:,} whose order is not there")
    if not options.check:
        # files that did not change are in the folder of an earlier run
        small = ", ".join(str(folder / last.parts[name].path) for name in (SETTINGS, TOKENS) if name in last.parts)
        out.print(f"settings and tokens: {small}. Next: `commands`, `serve`, `verify`; then back up to a new folder")


def _heads_in(path: Path, key: bytes) -> dict[int, Head]:
    try:
        content = msgspec.json.decode(path.read_bytes())
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise HeadsError(f"{path} does not contain heads") from None
    return read_heads(content, key)[0]


def _customers_in(path: Path) -> list[str]:
    """The ids in the file. Raises `ConfigError` with the number of the first wrong line, never its text."""
    names = [line.strip() for line in path.read_text("utf-8").splitlines()]
    for number, name in enumerate(names, 1):
        if name and not re.fullmatch(ID, name):
            raise ConfigError(f"{path}, line {number}: not the id of a customer")
    return [name for name in names if name]


def run_backup_key(terminal: Terminal) -> int:
    """Create a pair of keys, shown once and stored nowhere."""
    secret, public = new_pair()
    if terminal.as_json:
        write_json({"identity": secret, "recipient": public})
    else:
        text = "Secret key, shown once. Keep it away from the machines that make backups; only a restore needs it:\n"
        terminal.out.print(text, f"BACKUP_IDENTITY={secret}\n", sep="\n")
        terminal.out.print("Public key, for the machines that make backups:\n", f"BACKUP_RECIPIENTS={public}", sep="\n")
    return 0
