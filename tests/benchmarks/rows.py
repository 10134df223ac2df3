"""The result: rows with a goal each, as a table for people and as JSON for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from tests.benchmarks.spread import Spread


@dataclass(frozen=True, slots=True)
class Goal:
    """`at_least` or `at_most` this. `where` says under which circumstances, for people."""

    bound: float
    sense: Literal[">=", "<="]
    where: str = ""

    def met(self, value: float) -> bool:
        return value >= self.bound if self.sense == ">=" else value <= self.bound

    def __str__(self) -> str:
        sign = "≥" if self.sense == ">=" else "≤"
        return f"{sign} {self.bound:g}{' ' + self.where if self.where else ''}"


def at_least(bound: float, where: str = "") -> Goal:
    return Goal(bound, ">=", where)


def at_most(bound: float, where: str = "") -> Goal:
    return Goal(bound, "<=", where)


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. Without a goal it explains others."""

    benchmark: str
    figure: str
    unit: str
    spread: Spread
    goal: Goal | None = None
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def result(self) -> str:
        if self.goal is None:
            return ""
        return "ok" if self.goal.met(self.spread.median) else "missed"

    def as_json(self) -> dict[str, Any]:
        return {
            "benchmark": self.benchmark,
            "what": self.figure,
            "unit": self.unit,
            "median": self.spread.median,
            "min": self.spread.least,
            "max": self.spread.largest,
            "samples": list(self.spread.samples),
            "goal": None if self.goal is None else {"bound": self.goal.bound, "sense": self.goal.sense, "where": self.goal.where},
            "result": self.result or None,
            **({"detail": self.detail} if self.detail else {}),
        }


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"


def table(rows: Sequence[Row]) -> Table:
    grid = Table(show_edge=False, pad_edge=False, header_style="bold")
    for name in ("what", "unit"):
        grid.add_column(name)
    for name in ("median", "min", "max"):
        grid.add_column(name, justify="right")
    grid.add_column("goal")
    grid.add_column("result")
    for place, row in enumerate(rows):
        numbers = (_number(v) for v in (row.spread.median, row.spread.least, row.spread.largest))
        result = {"ok": "[green]ok[/]", "missed": "[red]missed[/]"}.get(row.result, "")
        end_section = place + 1 < len(rows) and rows[place + 1].benchmark != row.benchmark
        goal = "" if row.goal is None else str(row.goal)
        grid.add_row(row.figure, row.unit, *numbers, goal, result, style=None if row.goal else "dim", end_section=end_section)
    return grid


def show(out: Console, rows: Sequence[Row], machine: dict[str, Any], pairs: int, foreign_cpus: Sequence[float]) -> None:
    """Print the machine, the table, and how busy other processes were."""
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    box = f"{machine['cpus']} CPUs ({machine['cpu_model']}), {machine['memory_gib']} GiB, {machine['system']}"
    out.print(box, highlight=False)
    out.print(f"Python {machine['python']}, Kafka {machine['kafka']}, {machine['http_stack']}", highlight=False)
    out.print(f"{libraries}\n", highlight=False)
    out.print(table(rows))
    goals = [row for row in rows if row.goal is not None]
    met = sum(row.result == "ok" for row in goals)
    out.print(f"\n{met} of {len(goals)} goals met; medians of {pairs} interleaved pairs.", highlight=False)
    if foreign_cpus:
        spread = Spread.of(foreign_cpus)
        out.print(
            f"Other processes kept {spread.median:.2f} CPUs busy meanwhile ({spread.least:.2f} to {spread.largest:.2f}).",
            highlight=False,
        )
