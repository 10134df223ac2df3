"""What the demo shows: a progress bar while it runs, then the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from api.cli.demo.steps import CONNECTIONS
from api.cli.terminal import Screen

if TYPE_CHECKING:
    from api.cli.demo.run import Demo

MOST_PROBLEMS = 10  # shown for one step
SUMS = {
    "captured_minor": "captured, minor units",
    "refunded_minor": "refunded, minor units",
    "reserved_units": "reserved, units",
}
PHASES = {  # of `Demo.seconds`
    "to start everything": "start",
    "for all steps": "steps",
    "for the consumer to finish": "consumer's last events",
    "to stop everything": "stop",
    "in all": "in total",
}


class StepProgress:
    """Progress bar over the steps; silent if standard error is not a terminal."""

    def __init__(self, console: Screen) -> None:
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=1)

    def __enter__(self) -> StepProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, name: str, done: int, total: int) -> None:
        self._bar.update(self._task, description=name, completed=done, total=total)


def show(demo: Demo, out: Screen) -> None:
    """Show the tables: what was done and checked, how long it took, the final states."""
    table = Table(title="Order Ledger demo", title_justify="left", box=SIMPLE)
    good, bad = out.sign("✓", "ok"), out.sign("✗", "NOT")
    table.add_column("", no_wrap=True)
    table.add_column("count", justify="right")
    table.add_column("s", justify="right")
    table.add_column("step")
    table.add_column("check", style="dim")
    for step in demo.all_steps():
        mark = Text(bad, style="red") if step.problems else Text(good, style="green")
        took = f"{step.seconds:.1f}" if step.seconds else ""
        table.add_row(mark, f"{step.count:,}", took, step.name, step.promise)
    out.print(table)
    report = demo.report()
    facts = Table.grid(padding=(0, 2))
    latency = ", ".join(f"{name} {ms} ms" for name, ms in report["post_latency_ms"].items())
    facts.add_row(f"POST to 201, {CONNECTIONS} at a time", latency)
    paid = ", ".join(f"{name} {ms} ms" for name, ms in report["paid_after_ms"].items())
    facts.add_row("Card accepted to order paid", paid)
    if report["sent_again_after_202_or_503"]:
        facts.add_row("First answer not final", f"{report['sent_again_after_202_or_503']} commands sent again with the same key")
    facts.add_row("Orders by status", ", ".join(f"{count} {status}" for status, count in report["statuses"].items()))
    facts.add_row("Events by type", ", ".join(f"{count} {kind}" for kind, count in report["events_by_type"].items()))
    facts.add_row("Decoded with", report["decoder"] or "")
    facts.add_row("Seconds", ", ".join(f"{took_s} {PHASES[name]}" for name, took_s in report["seconds"].items()))
    out.print(facts)
    if report["sums"]:
        sums = Table(title="Ledger and the sandbox's journal", title_justify="left", box=SIMPLE)
        for column in ("", "ledger", "journal"):
            sums.add_column(column, justify="right" if column else "left")
        for name, text in SUMS.items():
            sums.add_row(text, *(f"{report['sums'][side][name]:,}" for side in ("ledger", "journal")))
        out.print(sums)
    for step in demo.all_steps():
        for problem in step.problems[:MOST_PROBLEMS]:
            out.print(f"{step.name}: {problem}", style="red")
        if len(step.problems) > MOST_PROBLEMS:
            out.print(f"{step.name}: {len(step.problems) - MOST_PROBLEMS} more", style="red")
    if demo.error:
        out.print(demo.error, style="red")
    if demo.passed:
        out.print("Everything was as promised.", style="green")
    else:
        out.print("Not everything was as promised.", style="bold red")
