"""The verb `rebuild`: shows progress, then prints a report for a person or a script."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from api.cli.screens import LogProgress
from api.cli.terminal import Screen, Terminal, write_json
from api.processes.signals import stopper
from api.processes.wiring import KafkaDoors
from api.settings import Settings
from ledger.kafka.settings import KafkaSettings
from projections.live import digest_to_json
from projections.opening import projections_of
from projections.rebuild import Rebuild, RebuildReport


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildOptions:
    """The options of `rebuild`. `jobs`: number of processes; None for one per CPU."""

    jobs: int | None
    keep_old: bool
    dry_run: bool
    back: bool
    fresh: bool
    accept_difference: bool


def run_rebuild(kafka: KafkaSettings, settings: Settings, options: RebuildOptions, terminal: Terminal) -> int:
    """Rebuild the read models of the node in `settings`. Returns 1 if the current ones differ from the log."""
    stopping = stopper()
    doors = KafkaDoors(kafka, settings.topics)
    doors.enter_process()
    partitions = doors.open_log(stopping).partitions(settings.topics.events)
    with LogProgress(terminal.err) as bar:
        rebuild = Rebuild(
            projections_of(settings.state_dir),
            doors,
            settings.topics,
            partitions,
            min(options.jobs or os.cpu_count() or 1, partitions),
            bar,
            stopping.is_set,
        )
        report = rebuild.run(
            keep_old=options.keep_old,
            dry_run=options.dry_run,
            back=options.back,
            fresh=options.fresh,
            accept_difference=options.accept_difference,
        )
    if terminal.as_json:
        write_json(report_to_json(report))
    else:
        _show(report, options.dry_run, terminal.out)
    return int(bool(report.differences) and not options.accept_difference)


def report_to_json(report: RebuildReport) -> dict[str, Any]:
    """The report as JSON members."""
    return {
        "events": report.events,
        "bytes": report.bytes,
        "took_s": round(report.took_s, 3),
        "resumed": report.resumed,
        "compared_partitions": report.compared,
        "not_compared_because": report.not_compared_because or None,
        "equal": None if report.compared is None else not report.differences,
        "differences": [
            {
                "partition": d.partition,
                "position": d.position,
                "live": d.live,
                "rebuilt": d.rebuilt,
                "equal_until_event": d.equal_until,
            }
            for d in report.differences
        ],
        "digests": {str(p): digest_to_json(digest) for p, digest in report.digests.items()},
        "generation": report.generation,
        "kept": report.kept,
        "taken_over": report.taken_over if report.generation else None,
    }


def _show(report: RebuildReport, dry_run: bool, out: Screen) -> None:
    per_s = report.events / report.took_s if report.took_s else 0.0
    resumed = "resumed an earlier rebuild; " if report.resumed else ""
    out.print(f"{resumed}folded {report.events:,} events in {report.took_s:.1f} s ({per_s:,.0f}/s)")
    if report.compared is None:
        out.print(f"not compared: {report.not_compared_because}")
    elif not report.differences:
        share = (
            f"all {report.compared}" if report.compared == len(report.digests) else f"{report.compared} of {len(report.digests)}"
        )
        out.print(f"the digests of {share} partitions match the current read models")
    for d in report.differences:
        out.print(
            f"partition {d.partition} differs at position {d.position}: current {d.live[:16]}..., from the log "
            f"{d.rebuilt[:16]}... (equal up to event {d.equal_until:,})",
            style="red",
        )
    if report.generation is None:
        if report.differences and not dry_run:
            out.print("nothing was changed. `order-ledger verify` names the row; `rebuild --accept-difference` uses the result")
        elif dry_run:
            out.print("nothing was changed (--dry-run)")
        return
    kept = f"; {report.kept} is kept for `rebuild --back`" if report.kept else ""
    out.print(f"{report.generation} is now the current generation{kept}")
    messages = {
        "yes": "the running `serve` has switched to it",
        "no": "the running `serve` has not switched to it: start the version of `serve` that built it in its place",
        "nobody serves": "no `serve` is running here: the next one will use it",
    }
    out.print(messages[report.taken_over], style="yellow" if report.taken_over == "no" else None)
