"""The desk under any commands in any order, with crashes and take-overs.

`Expected` says what each command must lead to; it knows only `order_model` and dictionaries.
"""

from __future__ import annotations

import copy
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from commands.messages import command_codec
from ledger.envelope import summary
from ledger.evolve import evolve
from ledger.log import NewRecord, Record
from ledger.order import Order
from ledger.schemas.codec import event_codec, link_of
from tests.support import order_model as model
from tests.support import order_rules as rules
from tests.support import order_steps as steps
from tests.support.desk_line import (
    PAY,
    PLACE,
    TOPICS,
    UNDECODABLE,
    Line,
    assert_same_rows,
    bad_event,
    event_in,
    refusal_in,
)
from tests.support.folded import Folded
from tests.support.order_commands import (
    DESK,
    FULFIL,
    OLD_AT,
    PLACED_AT,
    REFUNDS,
    WHOLE,
    WINDOW_MS,
    cart_of,
    order_command,
    payments_of,
    stock_of,
)
from tests.support.order_space import quotient, state_of

pytestmark = pytest.mark.usefixtures("logged")


class Expected:
    """What each command must lead to: first answers, orders, frozen orders. Plain dictionaries."""

    def __init__(self) -> None:
        self.first: dict[str, bytes] = {}
        self.reused: set[tuple[str, bytes]] = set()
        self.unreadable: set[int] = set()
        self.frozen: set[str] = set()
        self.states: dict[str, model.State] = {}
        self.versions: dict[str, int] = {}
        self.expires: dict[str, int] = {}

    def answer(self, record: Record, sent: dict[str, Any] | None) -> str | None:
        """An event's type, a refusal's code, or None for a duplicate."""
        if sent is None:
            if record.offset in self.unreadable:
                return None
            self.unreadable.add(record.offset)
            return "undecodable"
        identity = (sent["id"], sent["fingerprint"])
        if self.first.get(sent["id"]) == sent["fingerprint"] or identity in self.reused:
            return None
        answer = "idempotency_key_reused" if sent["id"] in self.first else self._new(record, sent)
        if answer == "idempotency_key_reused":
            self.reused.add(identity)
        else:
            self.first[sent["id"]] = sent["fingerprint"]
        return answer

    def _new(self, record: Record, sent: dict[str, Any]) -> str:
        order_id, c = sent["order"], dict(sent["c"])
        if order_id in self.frozen:
            customer = "c-2" if c.get("foreign") else "c-1" if c.get("role") == "customer" or c["op"] == "MakeTea" else ""
            hidden = customer and c["op"] != "PlaceOrder" and (order_id not in self.states or customer != "c-1")
            return "order_not_found" if hidden else "order_frozen"
        if c["op"] == "MakeTea":
            return "could_not_decide"
        state = self.states.get(order_id)
        if state is None:
            return self._first(record, order_id, c)
        c["late"] = record.timestamp_ms >= self.expires[order_id]
        c["stale"] = c.get("expected_version") not in (None, self.versions[order_id])
        expected = rules.expect(state, c)
        if isinstance(expected, model.No):
            return expected.code
        self.states[order_id] = steps.after(state, c, expected)
        self.versions[order_id] += 1
        return expected.type

    def _first(self, record: Record, order_id: str, c: model.Command) -> str:
        if c["op"] not in ("PlaceOrder", "ImportOrder"):
            return "order_not_found"
        self.versions[order_id] = 1
        if c["op"] == "ImportOrder":
            self.states[order_id], self.expires[order_id] = model.imported_state(*cart_of(c), c), OLD_AT
            return "OrderImported"
        self.states[order_id], self.expires[order_id] = model.placed_state(*cart_of(c)), record.timestamp_ms + WINDOW_MS
        return "OrderPlaced"


order_ids = st.sampled_from(["ord_1", "ord_2", "ord_3"])
likely = [c for c in WHOLE if not {"stale", "full", "matching", "late"} & set(c)]
useful = [c for c in likely if c["op"] in ("RequestPayment", "RecordStock", "StartFulfilment", "ShipOrder", "CancelOrder")]
# Of two lines, and of one: a place command is sent again with the same body, so an order has one of them.
CARTS = {"ord_1": PLACE, "ord_2": PLACE | {"cart": "two and one"}, "ord_3": PLACE | {"cart": "two and one"}}
days = st.lists(st.sampled_from([*DESK, [FULFIL[1]], REFUNDS]).flatmap(st.sampled_from), max_size=8)
PAID = [PAY, payments_of(1)[0], payments_of(1)[9], stock_of("product")[0], stock_of("merch")[0]]


class AnyLine(RuleBasedStateMachine):
    """Commands of any kind, repeated, sent with another body, unreadable; batches that commit, vanish, or are not stored."""

    def __init__(self) -> None:
        super().__init__()
        self.line = Line(7)
        self.expected = Expected()
        self.sent: dict[int, dict[str, Any] | None] = {}
        self.now = PLACED_AT
        self.records = 0

    def send(self, order_id: str, c: model.Command, command_id: str, fingerprint: bytes = bytes(16)) -> None:
        base = PAY if c["op"] == "MakeTea" else c
        command = order_command(base | {"fingerprint": fingerprint}, order_id, command_id)
        if c["op"] == "MakeTea":
            command = replace(command, operation="MakeTea")
        record = self.line.send(order_id.encode(), command_codec().encode(command), self.now)
        self.sent[record.offset] = {"order": order_id, "c": c, "id": command_id, "fingerprint": fingerprint}

    @initialize(day=days)
    def some_orders_are_placed(self, day: list[model.Command]) -> None:
        for order_id in ("ord_1", "ord_2"):
            self.place(order_id)
        self.pay("ord_2", day)

    @rule(order_id=order_ids)
    def place(self, order_id: str) -> None:
        self.send(order_id, CARTS[order_id], f"cmd_place_{order_id}")

    @rule(order_id=order_ids, day=days)
    def pay(self, order_id: str, day: list[model.Command]) -> None:
        """And what the desk does then."""
        for c in [*PAID, *day]:
            self.send(order_id, c, f"cmd_{len(self.sent)}")

    @rule(order_id=order_ids, day=days)
    def ask_the_desk(self, order_id: str, day: list[model.Command]) -> None:
        for c in day:
            self.send(order_id, c, f"cmd_{len(self.sent)}")

    @rule(order_id=order_ids, c=st.one_of(st.sampled_from(useful), st.sampled_from(likely)))
    def command(self, order_id: str, c: model.Command) -> None:
        self.send(order_id, c, f"cmd_{len(self.sent)}")

    @rule(order_id=order_ids, version=st.integers(1, 6), c=st.sampled_from(useful))
    def command_if_match(self, order_id: str, version: int, c: model.Command) -> None:
        self.send(order_id, c | {"expected_version": version}, f"cmd_{len(self.sent)}")

    @rule(order_id=order_ids)
    def unknown_operation(self, order_id: str) -> None:
        self.send(order_id, {"op": "MakeTea"}, f"cmd_{len(self.sent)}")

    @precondition(lambda self: any(self.sent.values()))
    @rule(data=st.data(), other_body=st.booleans())
    def send_again(self, data: st.DataObject, other_body: bool) -> None:
        earlier = data.draw(st.sampled_from([s for s in self.sent.values() if s is not None]))
        fingerprint = bytes([data.draw(st.integers(1, 3))]) * 16 if other_body else earlier["fingerprint"]
        self.send(earlier["order"], earlier["c"], earlier["id"], fingerprint)

    @rule(order_id=order_ids, value=st.one_of(st.none(), st.binary(max_size=40)))
    def unreadable(self, order_id: str, value: bytes | None) -> None:
        self.sent[self.line.send(order_id.encode(), value, self.now).offset] = None

    @rule(ms=st.sampled_from([1, 1000, WINDOW_MS, -5000]))
    def time_passes_or_falls_back(self, ms: int) -> None:
        self.now += ms

    @precondition(lambda self: self.line.read < len(self.line.commands))
    @rule(fate=st.sampled_from(["stored", "stored", "stored", "not committed", "not stored"]))
    def deal(self, fate: str) -> None:
        todo = self.line.commands[self.line.read :]
        before = copy.deepcopy(self.expected)
        expected = [self.expected.answer(record, self.sent[record.offset]) for record in todo]
        answers = self.line.deal(commit=fate != "not committed", store=fate == "stored")
        for record, wanted, answer in zip(todo, expected, answers, strict=True):
            self.check(record, wanted, answer)
        if fate == "not committed":
            self.expected = before
        else:
            self.records += sum(answer is not None for answer in answers)

    def check(self, record: Record, wanted: str | None, answer: NewRecord | None) -> None:
        if answer is None:
            assert wanted is None, f"{wanted} was taken for a duplicate"
        elif answer.topic == TOPICS.events:
            assert event_in(answer).type == wanted
            assert event_in(answer).command_offset == record.offset
        else:
            refusal = refusal_in(answer)
            assert refusal.code == wanted
            assert refusal.command_offset == record.offset
            assert refusal.original == ((record.value or b"") if wanted == "undecodable" else None)

    @precondition(lambda self: any(r.value != UNDECODABLE for r in self.line.log[TOPICS.events]))
    @rule(order_id=order_ids, how=st.sampled_from(["undecodable", "version does not follow", "unknown type"]))
    def a_bad_event_is_in_the_log(self, order_id: str, how: str) -> None:
        self.line.fold([bad_event(self.line, order_id, how)])
        self.records += 1
        self.expected.frozen.add(order_id)
        if how != "undecodable":
            self.expected.first[f"cmd_bad_{how}"] = bytes(16)

    @rule()
    def take_over(self) -> None:
        self.line.take_over()

    @invariant()
    def orders_agree_with_the_model(self) -> None:
        for order_id, state in self.expected.states.items():
            order = self.line.desk.order(order_id)
            assert order is not None
            assert order.version == self.expected.versions[order_id]
            assert summary(order)["status"] == model.shown(state)
            assert summary(order)["payment_state"] == model.payment_axis(state)
            assert summary(order)["total_minor"] == model.total_now(state)
            assert state_of(order) == quotient(state)

    @invariant()
    def frozen_are_the_orders_whose_log_is_bad_and_no_other(self) -> None:
        for order_id in ("ord_1", "ord_2", "ord_3"):
            assert (self.line.desk.frozen(order_id) is not None) == (order_id in self.expected.frozen)

    def teardown(self) -> None:
        if self.line.read < len(self.line.commands):
            self.deal("stored")
        assert sum(len(log) for log in self.line.log.values()) == self.records
        self.line.save()
        for seed in (1, 2):
            assert_same_rows(self.line, seed)
        self.the_log_is_whole()

    def the_log_is_whole(self) -> None:
        """Dense versions, times that never fall, an unbroken chain, a summary that a second fold confirms, and a judge."""
        chain, orders, judged = bytes(32), dict[str, Order](), dict[str, Folded]()
        for record in self.line.log[TOPICS.events]:
            value = record.value or b""
            if record.key is not None and record.key.decode() not in self.expected.frozen:
                event = event_codec().decode(value)
                before = orders.get(event.order_id)
                assert before is None or event.occurred_at >= before.updated_at
                orders[event.order_id] = after = evolve(before, event)
                assert {name: getattr(event, name) for name in summary(after)} == summary(after)
                fields = event_codec().decode_fields(value)
                if before is None:
                    judged[event.order_id] = Folded.placed(fields)
                assert judge(judged[event.order_id], fields) == []
            if value != UNDECODABLE:
                assert event_codec().decode(value).prev_hash == chain
            chain = link_of(value)


def judge(order: Folded, event: dict[str, Any]) -> list[str]:
    """What the independent fold finds wrong. Refunds come from anybody here, so more may go back than was asked for."""
    wrong = [line for line in order.take(event) if "went back" not in line]
    names = ("status", "total_minor", "captured_minor", "refunded_minor")
    return wrong + [f"{name} {event[name]}, not {getattr(order, name)}" for name in names if event[name] != getattr(order, name)]


AnyLine.TestCase.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestAnyLine = AnyLine.TestCase


class LongLine(AnyLine):
    pass


LongLine.TestCase.settings = settings(
    max_examples=1500, stateful_step_count=120, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestLongLine = pytest.mark.campaign(LongLine.TestCase)
