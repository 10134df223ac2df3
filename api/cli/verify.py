"""The verb `verify`: checks the log, compares the read models with it, writes heads and checks earlier ones."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from api.cli.screens import LogProgress
from api.cli.terminal import Screen, Terminal, write_json
from api.processes.signals import stopper
from api.processes.wiring import KafkaDoors
from api.settings import Settings
from ledger.clock import now_ms
from ledger.errors import ConfigError
from ledger.kafka.settings import KafkaSettings
from ledger.rfc3339 import format_ms
from ledger.walk import Head
from projections.opening import projections_of
from projections.verification import Verification
from projections.verify import SHOWN, Findings, heads_to_json, read_heads, sign_heads


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """The options of `verify`. `write_heads`: where to write the signed heads; `heads_file`: earlier ones to check."""

    log_only: bool
    write_heads: Path | None
    heads_file: Path | None


def run_verify(kafka: KafkaSettings, settings: Settings, options: VerifyOptions, terminal: Terminal) -> int:
    """Returns 0 if everything is correct, else 1. Raises `HeadsError`, `LogError`, `Interrupted`."""
    stopping = stopper()
    if options.write_heads is not None:
        settings.hash_key()  # fail now rather than at the end
    doors, topics = KafkaDoors(kafka, settings.topics), settings.topics
    doors.enter_process()
    event_log = doors.open_log(stopping)
    topic_id = event_log.topic_id(topics.events)
    heads: dict[int, list[Head]] = {}
    notes: list[str] = []
    if options.heads_file is not None:
        kept, kept_id = read_heads(_read_json(options.heads_file), settings.hash_key())
        heads = {p: [head] for p, head in kept.items()}
        if kept_id != topic_id:
            notes.append(f"the heads belong to another topic named {topics.events} (another cluster, or before an import)")
    with LogProgress(terminal.err) as bar:
        verification = Verification(projections_of(settings.state_dir), doors, event_log, topics, bar, stopping.is_set)
        findings = verification.run(heads, log_only=options.log_only)
    if options.write_heads is not None:
        made_at = format_ms(now_ms())
        signed = sign_heads(findings.heads, topics.events, topic_id, made_at, settings.hash_key())
        options.write_heads.write_text(json.dumps(signed, indent=2) + "\n")
    if terminal.as_json:
        write_json(findings_to_json(findings, notes))
    else:
        _show(findings, notes, options, terminal.out)
    return int(not findings.well)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{path} cannot be read: {exc}") from None


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


def _show(findings: Findings, notes: list[str], options: VerifyOptions, out: Screen) -> None:
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
    if options.heads_file is not None and not findings.fault_count:
        line(f"the log contains every head in {options.heads_file}")
    if options.write_heads is not None:
        line(f"heads written to {options.write_heads}: keep it where nobody who can write to the log has access")
    for note in notes:
        line(note, "yellow")
    line("OK" if findings.well else "FAILED", "green" if findings.well else "bold red")
