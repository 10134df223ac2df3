"""The verb `inspect`: every position that this node keeps, and whether the log is the one from before."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from api.cli.positions import Holder, MissingCommands, Node
from api.cli.terminal import Screen, Terminal, write_json
from api.processes.patient_log import patient
from api.processes.wiring import KafkaDoors, open_log
from api.settings import Settings
from commands.notifier.resuming import notifier_group
from ledger.errors import StoreError
from ledger.kafka.settings import KafkaSettings
from projections.opening import projections_of

COLOURS = {"same": "green", "mirrored": "green", "moved": "yellow", "other": "red", None: "yellow"}
MEANING = {
    "same": "the log from before",
    "mirrored": "a copy of it, with the same records at the same offsets: used as it is",
    "moved": "the same records at other offsets (restored): folded again",
    "other": "NOT the log from before",
    None: "not compared",
}


def node_of(kafka: KafkaSettings, settings: Settings) -> Node:
    """This node beside the log of the settings. Raises `LogError`."""
    doors = KafkaDoors(kafka, settings.topics)
    event_log = patient(open_log(kafka, settings.topics))
    return Node(
        event_log,
        settings.topics,
        projections_of(settings.state_dir),
        settings.state_dir,
        lambda folder: doors.opener(folder, False),
    )


def run_inspect(kafka: KafkaSettings, settings: Settings, terminal: Terminal) -> int:
    """`inspect_node` for this node. Raises `LogError`."""
    return inspect_node(node_of(kafka, settings), notifier_group(settings.ledger_id), terminal)


def inspect_node(node: Node, group: str, terminal: Terminal) -> int:
    """Returns 1 if the log is not the one from before, or lacks commands that were never decided. Changes nothing."""
    holders = node.holders(group)
    try:
        missing, unfolded = node.missing_commands(), node.unfolded()
    except StoreError:
        missing, unfolded = [], []  # `commands` is running, and would have ended
    ok = not missing and all(holder.verdict != "other" for holder in holders)
    if terminal.as_json:
        write_json({"ok": ok, **as_json(node, holders, missing), "unfolded_partitions": unfolded})
        return int(not ok)
    show(holders, terminal.out)
    for gap in missing:
        terminal.out.print(f"commands {gap.first} to {gap.last} of partition {gap.partition} are gone, undecided", style="red")
    if unfolded:
        terminal.out.print(f"partitions {listed(unfolded)}: not folded here, not examined for missing commands")
    if any(holder.verdict == "other" for holder in holders):
        terminal.out.print(
            "use the log from before, or restore it whole, or take this one as it is: order-ledger adopt-log --why ..."
        )
    if missing:
        terminal.out.print("ask their senders what is missing, then: order-ledger accept-gap --why ...")
    return int(not ok)


def listed(partitions: list[int]) -> str:
    """The numbers, for people."""
    return ", ".join(map(str, partitions))


def show(holders: list[Holder], out: Screen) -> None:
    """A table for people: one row for each holder, and the partitions that differ."""
    table = Table("what", "log", "")
    for holder in holders:
        verdict = Text(holder.verdict or "not compared", style=COLOURS[holder.verdict])
        table.add_row(holder.name, verdict, holder.why or MEANING[holder.verdict])
        for tp, one in sorted(holder.judged.items()):
            if one.verdict in ("other", "moved"):
                moved = f" -> {one.at}" if one.at is not None else ""
                table.add_row(f"  {tp.topic}/{tp.partition} at {one.mark.position}{moved}", "", one.why)
    out.print(table)


def as_json(node: Node, holders: list[Holder], missing: list[MissingCommands]) -> dict[str, Any]:
    """Everything that was found, as JSON members."""
    return {
        "topic_ids": {topic: log_id.hex() for topic, log_id in node.ids.items()},
        "holders": [
            {
                "name": holder.name,
                "log": holder.verdict,
                "why": holder.why or None,
                "positions": [
                    {
                        "topic": tp.topic,
                        "partition": tp.partition,
                        "position": one.mark.position,
                        "topic_id": one.mark.log_id.hex() or None,
                        "link": one.mark.link.hex() or None,
                        "log": one.verdict,
                        "found_at": one.at,
                        "why": one.why or None,
                    }
                    for tp, one in sorted(holder.judged.items())
                ],
            }
            for holder in holders
        ],
        "missing_commands": [
            {"partition": gap.partition, "first": gap.first, "last": gap.last, "count": gap.last - gap.first + 1}
            for gap in missing
        ],
    }
