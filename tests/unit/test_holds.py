"""An order that an operator froze: requests wait, facts do not, nothing is owed, and it continues when it is thawed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from api.cli.freezing import carry_out, command_of
from commands.idempotency import fresh_command_id
from commands.messages import OrderCommand, RecordStock
from commands.obligations import FROZEN_BY_OPERATOR, due_at, is_held, obligations
from ledger.evolve import evolve
from ledger.order import Order
from ledger.transitions import Code, Operation
from tests.support.one_log import TOPICS, Ledger, cancel, place


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    ledger = Ledger()
    ledger.start()
    yield ledger
    for running in list(ledger.running):
        ledger.stop(running)


def order_of(ledger: Ledger, command: OrderCommand) -> Order:
    order: Order | None = None
    for event in ledger.events():
        if event.order_id == command.order_id:
            order = evolve(order, event)
    assert order is not None
    return order


def code_of(ledger: Ledger, command: OrderCommand) -> str:
    """The code of the refusal of `command`; empty if it is an event."""
    ledger.send(command)
    ledger.wait_for(lambda: command.command_id in ledger.answers())
    return next((r.code for r in ledger.refusals() if r.command_id == command.command_id), "")


def stock(of: OrderCommand, fact: str) -> OrderCommand:
    return replace(
        of,
        command_id=fresh_command_id(),
        operation=Operation.RECORD_STOCK.value,
        actor="product-service",
        customer_id="",
        place=None,
        record_stock=RecordStock(fact, "product", reservation_ref="r-1"),
    )


def test_requests_are_refused_until_it_is_thawed(ledger: Ledger) -> None:
    order = place("a")
    assert code_of(ledger, order) == ""
    assert carry_out(ledger.log, TOPICS, order.order_id, "freeze") == ""
    assert code_of(ledger, cancel(order, "frozen")) == Code.ORDER_FROZEN
    assert code_of(ledger, replace(cancel(order, "staff"), actor="admin:desk", customer_id="")) == Code.ORDER_FROZEN
    assert code_of(ledger, replace(cancel(order, "other"), customer_id="c-2")) == Code.ORDER_NOT_FOUND, "as if there were none"
    assert code_of(ledger, place("a2")) == "", "other orders continue"
    assert carry_out(ledger.log, TOPICS, order.order_id, "thaw") == ""
    assert code_of(ledger, cancel(order, "thawed")) == ""
    assert code_of(ledger, cancel(order, "frozen")) == Code.ORDER_FROZEN, "a refused key stays refused"


def test_nothing_is_owed_and_facts_are_recorded(ledger: Ledger) -> None:
    order = place("a")
    code_of(ledger, order)
    before = order_of(ledger, order)
    assert obligations(before)
    assert due_at(before) is not None
    carry_out(ledger.log, TOPICS, order.order_id, "freeze")
    frozen = order_of(ledger, order)
    assert (is_held(frozen), obligations(frozen), due_at(frozen)) == (True, (), None)
    assert code_of(ledger, stock(order, "StockReserved")) == ""
    assert [event.type for event in ledger.events()][-1] == "StockReserved"
    carry_out(ledger.log, TOPICS, order.order_id, "thaw")
    thawed = order_of(ledger, order)
    assert (is_held(thawed), bool(obligations(thawed))) == (False, True)


def test_freezing_twice_and_thawing_what_is_not_frozen_change_nothing(ledger: Ledger) -> None:
    order = place("a")
    code_of(ledger, order)
    assert carry_out(ledger.log, TOPICS, order.order_id, "thaw") == Code.NO_SUCH_ATTENTION
    assert carry_out(ledger.log, TOPICS, order.order_id, "freeze") == ""
    assert carry_out(ledger.log, TOPICS, order.order_id, "freeze") == Code.ALREADY_KNOWN
    assert [flag.code for flag in order_of(ledger, order).attention] == [FROZEN_BY_OPERATOR]
    assert carry_out(ledger.log, TOPICS, order.order_id, "thaw") == ""
    assert carry_out(ledger.log, TOPICS, order.order_id, "freeze") == "", "again"
    assert carry_out(ledger.log, TOPICS, "ord_unknown", "freeze") == Code.ORDER_NOT_FOUND


def test_without_commands_it_is_undecided(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.cli.freezing.DECIDED_S", 0.3)
    order = place("a")
    code_of(ledger, order)
    ledger.stop(ledger.running[0])
    assert carry_out(ledger.log, TOPICS, order.order_id, "freeze") is None


def test_a_freeze_is_a_flag_whose_key_names_the_order() -> None:
    raised, resolved = command_of("ord_1", "freeze"), command_of("ord_1", "thaw")
    assert raised.raise_attention is not None
    assert resolved.resolve_attention is not None
    assert raised.raise_attention.obligation_key == resolved.resolve_attention.obligation_key == "att:ord_1:frozen"
    assert raised.actor.startswith("cli:")
    assert raised.command_id != resolved.command_id
