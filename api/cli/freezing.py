"""The verbs `freeze` and `thaw`: stop everything about one order, and let it continue (`commands.holds`)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from api.cli.acts import ActOptions, Acts, Ask, actor, confirmed, send_one
from api.cli.inspection import node_of
from api.cli.terminal import Terminal, write_json
from api.processes.patient_log import patient
from api.processes.wiring import open_log
from api.settings import Settings
from commands.holds import hold_key
from commands.idempotency import fresh_command_id
from commands.messages import OrderCommand, RaiseAttention, ResolveAttention, command_codec
from commands.obligations import FROZEN_BY_OPERATOR
from commands.processor.desk_rows import clear
from ledger.audit import DONE, ORDER_FREEZE, ORDER_THAW, REFUSED, UNDECIDED
from ledger.bounds import ID_PATTERN
from ledger.errors import ConfigError, DecodeError
from ledger.events import OrderEvent, OrderRefusal
from ledger.kafka.settings import KafkaSettings
from ledger.log import EventLog, NewRecord, TopicPartition
from ledger.schemas.codec import event_codec, refusal_codec
from ledger.topics import Topics
from ledger.transitions import Code, Operation

DECIDED_S = 60.0  # patience until the command is decided, which takes 0.01 s
NOTHING_NEW = (Code.ALREADY_KNOWN, Code.NO_SUCH_ATTENTION)

Deed = Literal["freeze", "thaw"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeOptions(ActOptions):
    """`fold_again`: only forget, on this node, the fold of the order's partition, which stopped at a record (`thaw`)."""

    order_id: str
    deed: Deed
    fold_again: bool = False


def run_freeze(kafka: KafkaSettings, settings: Settings, options: FreezeOptions, terminal: Terminal, ask: Ask) -> int:
    """Freeze or thaw an order. Returns 1 if it is refused or not decided in time, 2 if not confirmed."""
    if not ID_PATTERN.fullmatch(options.order_id):
        raise ConfigError("this is not the id of an order")
    if not confirmed(options, terminal, ask):
        return 2
    event_log = patient(open_log(kafka, settings.topics))
    action = ORDER_FREEZE if options.deed == "freeze" else ORDER_THAW
    acts = Acts(event_log, settings, action, options.why, options.order_id)
    acts.request()
    if options.fold_again:
        partition = forget_fold(kafka, settings, options.order_id)
        acts.record(DONE)
        _say(terminal, options, True, f"partition {partition} is folded again at the next start of `commands` here")
        return 0
    outcome = carry_out(event_log, settings.topics, options.order_id, options.deed)
    if outcome is None:
        acts.record(UNDECIDED)
        _say(terminal, options, False, "the command is durable but not decided yet: is `commands` running?")
        return 1
    if outcome == "" or outcome in NOTHING_NEW:
        acts.record(DONE, outcome or None)
        _say(terminal, options, True, _SAID[options.deed, bool(outcome)])
        return 0
    acts.record(REFUSED, outcome)
    hint = (
        ": its fold stopped at a record. With a program that can fold it, stop `commands` on each node, run `order-ledger thaw "
        "ORDER --fold-again --why ...` there and start it; `rebuild --accept-difference` does the same for `serve`"
    )
    _say(terminal, options, False, outcome + (hint if outcome == Code.ORDER_FROZEN else ""))
    return 1


_SAID = {
    ("freeze", False): "frozen: requests about it are refused, and nothing is done for it",
    ("freeze", True): "was frozen before",
    ("thaw", False): "thawed: it continues where it was",
    ("thaw", True): "was not frozen by an operator",
}


def _say(terminal: Terminal, options: FreezeOptions, ok: bool, text: str) -> None:
    if terminal.as_json:
        write_json({"ok": ok, "order_id": options.order_id, "result": text})
    else:
        terminal.out.print(f"{options.order_id} {text}", style=None if ok else "red")


def carry_out(event_log: EventLog, topics: Topics, order_id: str, deed: Deed) -> str | None:
    """Send the command. Returns the code of its refusal, "" if it became an event, None if it is not decided in time."""
    command = command_of(order_id, deed)
    partition = event_log.partition_for(order_id.encode(), event_log.partitions(topics.commands))
    places = {TopicPartition(topic, partition): 0 for topic in (topics.events, topics.refusals)}
    ends = event_log.ends(places)
    reader = event_log.reader("freeze", max_wait_ms=100)
    try:
        reader.assign(ends)
        send_one(event_log, NewRecord(topics.commands, partition, order_id.encode(), command_codec().encode(command)))
        deadline = time.monotonic() + DECIDED_S
        while time.monotonic() < deadline:
            for record in reader.poll(500, 0.2):
                try:
                    decided: OrderEvent | OrderRefusal = (
                        event_codec().decode(record.value)
                        if record.topic == topics.events
                        else refusal_codec().decode(record.value)
                    )
                except DecodeError:
                    continue
                if decided.command_id == command.command_id:
                    return decided.code if isinstance(decided, OrderRefusal) else ""
    finally:
        reader.close()
    return None


def command_of(order_id: str, deed: Deed) -> OrderCommand:
    """The command that raises or resolves the flag."""
    flag: dict[str, RaiseAttention | ResolveAttention]
    if deed == "freeze":
        operation, flag = Operation.RAISE_ATTENTION, {"raise_attention": RaiseAttention(FROZEN_BY_OPERATOR, hold_key(order_id))}
    else:
        operation = Operation.RESOLVE_ATTENTION
        flag = {"resolve_attention": ResolveAttention(FROZEN_BY_OPERATOR, hold_key(order_id), "retry")}
    return OrderCommand(
        command_id=fresh_command_id(),
        order_id=order_id,
        fingerprint=bytes(16),
        operation=operation,
        actor=actor(),
        customer_id="",
        **flag,  # type: ignore[arg-type]
    )


def forget_fold(kafka: KafkaSettings, settings: Settings, order_id: str) -> int:
    """Clear the fold of the order's partition in `commands` of this node. Raises `StoreError` while it is running."""
    node = node_of(kafka, settings)
    partition = node.partition_of(order_id)
    store = node.open_writer(partition % node.writers)
    try:
        clear(store, partition)
    finally:
        store.close()
    return partition
