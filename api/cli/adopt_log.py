"""The verbs `adopt-log` and `accept-gap`: take a log as it is, after records were lost, on this node."""

from __future__ import annotations

from api.cli.acts import ActOptions, Acts, Ask, actor, confirmed
from api.cli.inspection import as_json, listed, node_of, show
from api.cli.positions import Holder, MissingCommands, Node
from api.cli.terminal import Terminal, write_json
from api.processes.wiring import forget_contacts
from api.settings import Settings
from commands.notifier.resuming import notifier_group
from commands.processor.desk_rows import clear
from ledger.audit import DONE, GAP_ACCEPTANCE, LOG_ADOPTION
from ledger.errors import ConfigError
from ledger.kafka.settings import KafkaSettings
from ledger.log import EventLog
from ledger.log_identity import verdict_of
from ledger.progress import accept_gap
from ledger.topics import Topics
from projections.generations import Generations
from projections.opening import projections_of


def run_adopt_log(kafka: KafkaSettings, settings: Settings, options: ActOptions, terminal: Terminal, ask: Ask) -> int:
    """Forget what this node folded from another log. Returns 2 if not confirmed; then nothing is done.

    Raises `ConfigError` while `serve` or `commands` of this node runs, `NotDurable`, `LogError`, `StoreError`.
    """
    node = node_of(kafka, settings)
    holders = node.holders(notifier_group(settings.ledger_id))
    if running := [holder for holder in holders if holder.in_use]:
        raise ConfigError(f"{running[0].name}: {running[0].why}; stop it first")
    other = [holder for holder in holders if holder.verdict == "other"]
    if not terminal.as_json:
        show(holders, terminal.out)
    if not other:
        if terminal.as_json:
            write_json({"ok": True, "adopted": False, **as_json(node, holders, [])})
        else:
            terminal.out.print("nothing to adopt: no position here is of another log")
        return 0
    if not terminal.as_json:
        terminal.out.print(
            "What this node folded and the log lacks is given up: orders and changes that were answered may be unknown from now "
            "on. Everything is folded again from this log. Run this on each node that refuses the log."
        )
    if not confirmed(options, terminal, ask):
        return 2
    acts = Acts(node.event_log, settings, LOG_ADOPTION, options.why)
    acts.request()
    forget(node, projections_of(settings.state_dir), settings, other)
    acts.record(DONE)
    if terminal.as_json:
        write_json({"ok": True, "adopted": True, **as_json(node, holders, [])})
    else:
        terminal.out.print("Done. `commands` and `serve` fold this log at their next start.")
    return 0


def forget(node: Node, generations: Generations, settings: Settings, other: list[Holder]) -> None:
    """Delete what was folded from another log. Repeated after a kill, it does the rest."""
    forget_partitions(node, settings.topics)
    forget_contacts(settings.state_dir / "commands")
    folders = [holder.folder for holder in other if holder.folder is not None]
    current, kept = generations.current(), generations.kept()
    if current is not None and generations.folder(current) in folders:
        generations.point(generations.create(), None)
    elif current is not None and kept is not None and generations.folder(kept) in folders:
        generations.point(current, None)
    for folder in folders:
        generations.remove(folder)


def forget_partitions(node: Node, topics: Topics) -> None:
    """Clear the partitions of writers whose last records the log does not have."""
    for writer in node.writers_here():
        store = node.open_writer(writer)
        try:
            for desk in node.desks(writer, store):
                if verdict_of(node.judged(desk), topics) in ("other", "moved"):
                    clear(store, desk.partition)
        finally:
            store.close()


def run_accept_gap(kafka: KafkaSettings, settings: Settings, options: ActOptions, terminal: Terminal, ask: Ask) -> int:
    """`give_up` for this node."""
    return give_up(node_of(kafka, settings), settings, options, terminal, ask)


def give_up(node: Node, settings: Settings, options: ActOptions, terminal: Terminal, ask: Ask) -> int:
    """Give up commands that were deleted before they were decided. Returns 2 if not confirmed; then nothing is done.

    Raises `StoreError` while `commands` of this node runs, `ConfigError` if nothing is missing in the partitions that are folded
    here and others are not folded, `NotDurable`, `LogError`.
    """
    missing, unfolded = node.missing_commands(), node.unfolded()
    if unfolded and not missing:
        raise ConfigError(
            f"partitions {listed(unfolded)} are not folded here, and no command of the others is missing: run this on the node "
            "whose `commands` ended with `gap`"
        )
    count = sum(gap.last - gap.first + 1 for gap in missing)
    if not missing:
        if terminal.as_json:
            write_json({"ok": True, "accepted": 0, "missing_commands": [], "unfolded_partitions": []})
        else:
            terminal.out.print("no command is missing")
        return 0
    if not terminal.as_json:
        for gap in missing:
            terminal.out.print(f"partition {gap.partition}: commands {gap.first} to {gap.last} are gone")
        if unfolded:
            terminal.out.print(f"partitions {listed(unfolded)}: not folded here, not examined")
        terminal.out.print(f"{count} commands are given up: their senders got 202 and will get no outcome.")
    if not confirmed(options, terminal, ask):
        return 2
    acts = Acts(node.event_log, settings, GAP_ACCEPTANCE, options.why)
    acts.request(count=count)
    accept(node.event_log, settings.topics, missing)
    acts.record(DONE, count=count)
    if terminal.as_json:
        rows = [{"partition": gap.partition, "first": gap.first, "last": gap.last} for gap in missing]
        write_json({"ok": True, "accepted": count, "missing_commands": rows, "unfolded_partitions": unfolded})
    else:
        terminal.out.print("Done. `commands` of every node continues behind them at its next start.")
    return 0


def accept(event_log: EventLog, topics: Topics, missing: list[MissingCommands]) -> None:
    """Note in the log, for every node, that the missing commands will never be decided. Raises `LogError`."""
    for gap in missing:
        accept_gap(event_log, topics, gap.partition, gap.last + 1, actor())
