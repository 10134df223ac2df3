"""The verb `verify`: checks the log, compares the read models with it, writes heads and checks earlier ones."""

from __future__ import annotations

import json
import shutil
import threading
import uuid
from pathlib import Path
from typing import Any

import msgspec

from api.cli.screens import LogProgress
from api.cli.terminal import Screen, write_json
from api.processes.signals import stopper
from api.processes.wiring import KafkaDoors
from api.settings import Settings
from ledger.clock import now_ms
from ledger.errors import ConfigError, StoreError
from ledger.kafka.settings import KafkaSettings
from ledger.log import EventLog
from ledger.rfc3339 import format_ms
from ledger.topics import Topics
from ledger.walk import Head
from projections.bulk import BulkFold, FoldProgress
from projections.databases import Databases, OtherReadModels, store_name
from projections.generations import Generations
from projections.live import ask
from projections.opening import projections_of
from projections.verify import SHOWN, Findings, LogWalk, compare, heads_to_json, read_heads, sign_heads

COPY_S = 500.0  # patience with a `serve` that copies its databases: a second for a million orders


def run_verify(
    kafka: KafkaSettings,
    settings: Settings,
    *,
    log_only: bool,
    write_heads: Path | None,
    heads_file: Path | None,
    as_json: bool,
    out: Screen,
    err: Screen,
) -> int:
    """Returns 0 if everything is correct, else 1. Raises `HeadsError`, `LogError`, `Interrupted`."""
    stopping = stopper()
    if write_heads is not None:
        settings.hash_key()  # fail now rather than at the end
    doors, topics = KafkaDoors(kafka), settings.topics
    doors.enter_process()
    event_log = doors.open_log(stopping)
    partitions, topic_id = event_log.partitions(topics.events), event_log.topic_id(topics.events)
    heads: dict[int, list[Head]] = {}
    notes: list[str] = []
    if heads_file is not None:
        kept, kept_id = read_heads(_read_json(heads_file), settings.hash_key())
        heads = {p: [head] for p, head in kept.items()}
        if kept_id != topic_id:
            notes.append(f"the heads belong to another topic named {topics.events} (another cluster, or before an import)")
    generations = projections_of(settings.state_dir)
    folder = generations.root / "requests" / f"{uuid.uuid4().hex}.verify"
    findings = Findings()
    try:
        with LogProgress(err) as bar:
            live = None if log_only else _copy_of_live(generations, doors, topics, partitions, folder / "live", findings)
            try:
                _walk(event_log, doors, topics, partitions, folder / "fold", live, heads, findings, bar, stopping)
            finally:
                if live is not None:
                    live.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if write_heads is not None:
        made_at = format_ms(now_ms())
        signed = sign_heads(findings.heads, topics.events, topic_id, made_at, settings.hash_key())
        write_heads.write_text(json.dumps(signed, indent=2) + "\n")
    if as_json:
        write_json(findings_to_json(findings, notes))
    else:
        _show(findings, notes, write_heads, heads_file, out)
    return int(not findings.well)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{path} cannot be read: {exc}") from None


def _copy_of_live(
    generations: Generations, doors: KafkaDoors, topics: Topics, partitions: int, folder: Path, findings: Findings
) -> Databases | None:
    """The current read models: copied by the running `serve`, or by this process if none runs."""
    current = generations.current()
    if current is None:
        findings.not_compared_because = f"there are no read models in {generations.root}"
        return None
    name = current
    try:
        try:
            source = Databases(doors.opener(generations.folder(current), False), topics, range(partitions), None)
        except StoreError:  # open elsewhere
            name = str(ask(generations.root, "copy", timeout_s=COPY_S, folder=str(folder.absolute()))["generation"])
        else:
            try:
                for p, store in source.stores.items():
                    store.copy_to(folder / store_name(p))
            finally:
                source.close()
        findings.compared_with = name
        return Databases(doors.opener(folder, False), topics, range(partitions), None)
    except OtherReadModels as exc:
        findings.not_compared_because = str(exc)
        return None


def _walk(  # noqa: PLR0913, PLR0917  # an option each
    event_log: EventLog,
    doors: KafkaDoors,
    topics: Topics,
    partitions: int,
    folder: Path,
    live: Databases | None,
    heads: dict[int, list[Head]],
    findings: Findings,
    bar: LogProgress,
    stopping: threading.Event,
) -> None:
    fold = Databases(doors.opener(folder, True), topics, range(partitions), None)
    walk = LogWalk(fold, findings, heads)
    bulk = BulkFold(event_log, fold, "verify", walk.check)
    try:
        ends, starts = bulk.ends(), event_log.starts(list(fold.positions()), timeout_s=30.0)
        bar.started(sum(ends.values()) - sum(starts.values()), 0)

        def report(progress: FoldProgress) -> None:
            done = sum(max(0, progress.positions[tp] - starts[tp]) for tp in ends)
            bar.moved(done, progress.events, progress.bytes)

        if live is not None:  # first exactly up to the position of the read models
            bulk.run(live.positions(), report, stopping.is_set)
            bar.phase("comparing rows")
            expire = {tp.partition for tp, start in starts.items() if tp.topic == topics.refusals and start > 0}
            for p, store in live.stores.items():
                compare(store, fold.stores[p], p, live.digest(p), p in expire, findings)
            bar.phase("reading on")
        bulk.run({tp: end for tp, end in ends.items() if tp.topic == topics.events}, report, stopping.is_set)
        walk.end()
    finally:
        bulk.close()
        fold.close()


def findings_to_json(findings: Findings, notes: list[str]) -> dict[str, Any]:
    """The findings as JSON members."""
    first = [m._asdict() for m in findings.mismatches[:SHOWN]]
    return {
        "ok": findings.well,
        "events": findings.events,
        "faults": findings.fault_count,
        "first_faults": msgspec.to_builtins(findings.faults),
        "compared_with": findings.compared_with,
        "not_compared_because": findings.not_compared_because or None,
        "rows": findings.rows,
        "differences": findings.difference_count,
        "first_differences": msgspec.to_builtins(findings.differences),
        "expired_refusals": findings.expired_refusals,
        "amounts_that_do_not_add_up": first,
        "heads": heads_to_json(findings.heads),
        "notes": notes,
    }


def _show(findings: Findings, notes: list[str], written: Path | None, held_against: Path | None, out: Screen) -> None:
    def line(text: str, style: str = "") -> None:
        out.print(text, style=style or None)

    for fault in findings.faults:
        line(f"log {fault}", "red")
    if findings.fault_count > len(findings.faults):
        line(f"... and {findings.fault_count - len(findings.faults)} more", "red")
    for d in findings.differences:
        place = f"{d.partition}-{d.offset}" if d.offset is not None else f"partition {d.partition}"
        line(f"read models {place} {d.order_id} {d.row} {d.field}: is {d.live}, the log says {d.fold}", "red")
    if findings.difference_count > len(findings.differences):
        line(f"... and {findings.difference_count - len(findings.differences)} more rows", "red")
    line(f"{findings.events:,} events checked, {findings.fault_count} faults")
    if findings.compared_with is None:
        line(f"read models not compared: {findings.not_compared_because or 'not requested (--log-only)'}")
    else:
        line(f"{findings.rows:,} rows of {findings.compared_with} compared, {findings.difference_count} differences")
    untold = [m for m in findings.mismatches if not m.told]
    if findings.mismatches:
        count = len(findings.mismatches)
        line(f"{count} orders have amounts that do not add up, {len(untold)} of them without an attention", "yellow")
    if held_against is not None and not findings.fault_count:
        line(f"the log contains every head in {held_against}")
    if written is not None:
        line(f"heads written to {written}: keep it where nobody who can write to the log has access")
    for note in notes:
        line(note, "yellow")
    line("OK" if findings.well else "FAILED", "green" if findings.well else "bold red")
