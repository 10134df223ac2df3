"""Before any number: every accepted order is readable over HTTP and is in the log exactly as promised."""

from __future__ import annotations

from tests.benchmarks.bench import Bench, Incorrect
from tests.support.checker import describe, read_ledger


def check_everything(bench: Bench) -> dict[str, int]:
    """The counts. Raises `Incorrect`, which names what is wrong."""
    if restarts := bench.system.restarts():
        raise Incorrect(f"a process of the system died: {restarts[:3]}")
    posted = {order_id for _, order_id in bench.orders}
    if len(posted) != len(bench.orders):
        raise Incorrect(f"{len(bench.orders)} orders were accepted under {len(posted)} ids")
    _check_readable(bench)
    ledger = read_ledger(bench.system.bootstrap_servers)  # independent of the product's code
    if ledger.problems:
        raise Incorrect(describe(ledger.problems))
    if set(ledger.orders) != posted:
        raise Incorrect(f"{len(posted)} orders were accepted, the log has {len(ledger.orders)}")
    counted = {"orders": len(posted), "commands": len(ledger.commands)}
    counted |= {"events": len(ledger.events), "refusals": len(ledger.refusals)}
    if counted["refusals"]:
        raise Incorrect(f"commands were refused: {counted}")
    if counted["commands"] != counted["events"]:
        raise Incorrect(f"not one event per accepted command: {counted}")
    return counted


def _check_readable(bench: Bench) -> None:
    answers = bench.get(bench.orders, None)
    if answers.count != len(bench.orders):
        raise Incorrect(f"{answers.count} of {len(bench.orders)} orders were read")
