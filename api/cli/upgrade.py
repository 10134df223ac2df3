"""The verbs `upgrade status` and `upgrade finish`: which programs run on the ledger, and the feature level in use."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from rich.table import Table
from rich.text import Text

from api.cli.terminal import Screen, write_json
from api.processes.patient_log import patient
from api.processes.wiring import open_log
from api.settings import Settings, program_version
from ledger.kafka.settings import KafkaSettings
from ledger.levels import LEVEL
from ledger.log import EventLog
from ledger.rfc3339 import format_ms
from ledger.topics import Topics
from ledger.upgrades.control import Control
from ledger.upgrades.membership import LedgerMoved, finish
from ledger.upgrades.records import View


def view_of(event_log: EventLog, topics: Topics) -> View:
    """What the control topic says now. Raises `LogError`, also if there is no such topic."""
    with closing(Control(event_log, topics)) as control:
        return control.read(View())


def run_status(kafka: KafkaSettings, settings: Settings, as_json: bool, out: Screen) -> int:
    """Show the running nodes with their programs, and the level in use. Returns 0. Raises `LogError`."""
    view = view_of(patient(open_log(kafka, settings.topics)), settings.topics)
    if as_json:
        write_json(_members(view))
        return 0
    table = Table("node", "program", "reads up to level", "last announced")
    for node in view.live():
        level = Text(str(node.level), "green" if node.level >= LEVEL else "yellow")
        table.add_row(node.name, node.program, level, format_ms(node.at_ms))
    out.print(table)
    out.print(f"Feature level {view.level} is in use; this program, version {program_version()}, has level {LEVEL}.")
    out.print(advice(view))
    return 0


def advice(view: View) -> str:
    """What to do next, as a sentence."""
    if view.moved is not None:
        return f"{LedgerMoved(view.moved)}."
    if view.level > LEVEL:
        return "This program is too old for this ledger: use that of its nodes."
    if view.level == LEVEL:
        return "Nothing is left to do."
    if older := view.too_old_for(LEVEL):
        names = ", ".join(node.name for node in older)
        return f"Start this program, or a later one, as {names}; then run `order-ledger upgrade finish`."
    return (
        "Every running node has this level: `order-ledger upgrade finish` raises it. Older programs cannot be started after that."
    )


def run_finish(kafka: KafkaSettings, settings: Settings, as_json: bool, out: Screen) -> int:
    """Raise the level in use to that of this program. Returns 0. Raises `NotAllUpgraded`, `ProgramTooOld`, `LogError`."""
    view = finish(patient(open_log(kafka, settings.topics)), settings.topics, program_version())
    if as_json:
        write_json(_members(view))
    else:
        out.print(f"Feature level {view.level} is in use. All nodes write with it within a minute.", style="green")
    return 0


def _members(view: View) -> dict[str, Any]:
    nodes = [
        {"node": node.name, "program": node.program, "level": node.level, "announced_at": format_ms(node.at_ms)}
        for node in view.live()
    ]
    return {"level": view.level, "level_of_this_program": LEVEL, "program": program_version(), "nodes": nodes}
