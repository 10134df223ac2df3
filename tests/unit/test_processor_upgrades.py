"""`commands` processes of two versions, one after the other, over one log: the older one takes over what the later one wrote."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from commands.processor import desk
from ledger.events import ORDER_CANCELLED, ORDER_PLACED, OrderEvent
from ledger.schemas.codec import Codec
from ledger.schemas.of_the_ledger import learn
from ledger.transitions import Code
from ledger.upgrades.control import Control
from ledger.upgrades.records import schema_record
from ledger.upgrades.resolving import resolving
from tests.support import later_schemas
from tests.support.one_log import TOPICS, Ledger, assert_log_is_whole, cancel, place

FIRST, SECOND, _ = later_schemas.event_versions()
ORDERS = [place(name) for name in "abcdef"]


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """A log on which a later program has placed orders. It has stopped."""
    with later_schemas.nothing_learned():
        ledger = Ledger()
        with monkeypatch.context() as later:
            later.setattr(desk, "event_codec", lambda: Codec(OrderEvent, [FIRST, SECOND]))
            running = ledger.start("later")
            for order in ORDERS:
                ledger.send(order)
            ledger.wait_for(lambda: len(ledger.records(TOPICS.events)) == len(ORDERS))
            ledger.stop(running)
        yield ledger
        for running in list(ledger.running):
            ledger.stop(running)


def records_of_both(ledger: Ledger) -> int:
    """Events and refusals, also those that cannot be decoded here yet."""
    return len(ledger.records(TOPICS.events)) + len(ledger.records(TOPICS.refusals))


def test_an_older_program_takes_over_and_no_command_gets_a_second_outcome(ledger: Ledger) -> None:
    """Without the schema, it took those events for junk, and recorded refusals of commands that had become events."""
    control = Control(ledger.log, TOPICS)
    control.write([schema_record(SECOND)])
    control.close()
    ledger.start("older", resolving(ledger.log, TOPICS))
    cancels = [cancel(order, "x") for order in ORDERS]
    for command in (*ORDERS, *cancels):
        ledger.send(command)
    ledger.wait_for(lambda: records_of_both(ledger) >= 2 * len(ORDERS))
    assert ledger.refusals() == []
    assert [event.type for event in ledger.events()].count(ORDER_PLACED) == len(ORDERS)
    assert_log_is_whole(ledger, {command.command_id for command in (*ORDERS, *cancels)})


def test_orders_thaw_in_a_running_writer_when_the_schema_is_learned(ledger: Ledger) -> None:
    """Nobody published it. That is what no program does, but what it costs is bounded: the orders, until it is published."""
    ledger.start("older", resolving(ledger.log, TOPICS))
    first = cancel(ORDERS[0], "x")
    ledger.send(first)
    ledger.wait_for(lambda: first.command_id in {refusal.command_id for refusal in ledger.refusals()})
    (refusal,) = [refusal for refusal in ledger.refusals() if refusal.command_id == first.command_id]
    assert refusal.code in (Code.ORDER_FROZEN, Code.ORDER_NOT_FOUND)
    assert learn(SECOND)
    keys = iter(range(1000))

    def cancelled() -> bool:
        ledger.send(cancel(ORDERS[0], f"again-{next(keys)}"))
        return ORDER_CANCELLED in {event.type for event in ledger.events()}

    ledger.wait_for(cancelled)
