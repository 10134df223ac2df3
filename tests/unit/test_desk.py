"""The desk: every command gets one record or none, and the log alone leads to the same rows.

`Line` below plays one partition of the log and the loop around its desk: batches, crashes before and after the commit,
take-overs, rebuilds. What must come of each command is said by `Expected`, which knows only `order_model` and dictionaries.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
import structlog
import structlog.testing
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from commands.messages import OrderCommand, command_codec
from commands.processor.desk import MAX_COMMAND_BYTES, MAX_ORIGINAL_BYTES, Desk, Meta
from ledger import events as e
from ledger.envelope import Written, summary
from ledger.errors import Hole
from ledger.events import OrderEvent, OrderRefusal
from ledger.evolve import evolve
from ledger.log import NewRecord, Record
from ledger.memory.store import MemoryStore
from ledger.order import Order
from ledger.outcomes import Outcome, decode_outcome, outcome_key, reused_key
from ledger.schemas.codec import event_codec, link_of, refusal_codec
from ledger.topics import Topics
from tests.support import order_model as model
from tests.support.absurd_commands import encoded, plain
from tests.support.order_space import PLACED_AT, WHOLE, WINDOW_MS, order_command

TOPICS = Topics()
COMMAND_LOG = bytes(range(16))
Row = dict[bytes, bytes]


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[Any]]:
    """What the desk logs of bad records; here there are thousands."""
    with structlog.testing.capture_logs() as lines:
        yield lines


class Line:
    """One partition: its command log, its two outcome logs, its desk and store."""

    def __init__(self, seed: int = 0) -> None:
        self.commands: list[Record] = []
        self.log: dict[str, list[Record]] = {TOPICS.events: [], TOPICS.refusals: []}
        self.store = MemoryStore()
        self.desk = Desk(self.store, 0, 1, TOPICS, COMMAND_LOG)
        self.read = 0  # index of the next command to deal with
        self.epoch = 1
        self._gaps = random.Random(seed)

    def send(self, key: bytes | None, value: bytes | None, at: int = PLACED_AT) -> Record:
        offset = self._next(self.commands)
        self.commands.append(Record(TOPICS.commands, 0, offset, at, key, value))
        return self.commands[-1]

    def order(self, c: model.Command, order_id: str = "ord_1", command_id: str = "", at: int = PLACED_AT) -> OrderCommand:
        command = order_command(c, order_id, command_id or f"cmd_{len(self.commands)}")
        self.send(order_id.encode(), command_codec().encode(command), at)
        return command

    def deal(self, commit: bool = True, store: bool = True) -> list[NewRecord | None]:
        """Deal with everything sent: one batch, one transaction."""
        todo = self.commands[self.read :]
        written = Written(COMMAND_LOG, todo[0].offset, self.epoch)
        answers = [self.desk.deal(record, written) for record in todo]
        if not commit:
            self.take_over()
            return answers
        positions = self.append([a for a in answers if a is not None])
        if not store:
            self.take_over()
            return answers
        for topic, position in positions.items():
            self.desk.landed(topic, position)
        self.desk.passed(todo[-1].offset)
        self.read = len(self.commands)
        self.save()
        return answers

    def append(self, records: list[NewRecord]) -> dict[str, int]:
        """The transaction: offsets rise, with a gap for its marker now and then."""
        for new in records:
            offset = self._next(self.log[new.topic])
            self.log[new.topic].append(Record(new.topic, new.partition, offset, new.timestamp_ms, new.key, new.value))
        return {topic: log[-1].offset + 1 for topic, log in self.log.items() if log}

    def _next(self, log: list[Record]) -> int:
        return (log[-1].offset + 1 if log else 0) + self._gaps.choice((0, 0, 1))

    def save(self) -> None:
        self.store.write(self.desk.rows())
        self.desk.written()

    def fold(self, records: list[Record]) -> None:
        for record in records:
            self.desk.fold(record)
        self.save()

    def take_over(self) -> None:
        """Another incarnation: what the store has, the rest from the log, commands from the last batch's first on."""
        self.desk = Desk(self.store, 0, 1, TOPICS, COMMAND_LOG)
        self.epoch += 1
        meta = self.desk.meta
        for topic, position in ((TOPICS.events, meta.events), (TOPICS.refusals, meta.refusals)):
            self.fold([record for record in self.log[topic] if record.offset >= position])
        self.read = next((i for i, r in enumerate(self.commands) if r.offset >= self.desk.meta.resume), len(self.commands))

    def rebuilt(self, seed: int) -> Desk:
        """A desk folded from the log alone, the two topics in any interleaving."""
        todo = {topic: list(records) for topic, records in self.log.items()}
        rng, store = random.Random(seed), MemoryStore()
        desk = Desk(store, 0, 1, TOPICS, COMMAND_LOG)
        while any(todo.values()):
            desk.fold(todo[rng.choice([topic for topic, left in todo.items() if left])].pop(0))
            if rng.random() < 0.3:
                store.write(desk.rows())
                desk.written()
        store.write(desk.rows())
        desk.written()
        return desk


def rows_of(desk: Desk) -> tuple[Row, Meta]:
    """Every row of the desk's store, and the position apart: the loop knows more of it than the log says."""
    rows = dict(desk._store.scan(b""))
    meta = msgspec.msgpack.decode(rows.pop(b"0/meta"), type=Meta)
    return rows, meta


def assert_same_rows(line: Line, seed: int = 1) -> None:
    """The desk that decided and one that only folded its output agree, bit for bit."""
    decided, met = rows_of(line.desk)
    folded, read = rows_of(line.rebuilt(seed))
    assert decided == folded
    assert (met.events, met.refusals, met.chain, met.epoch) == (read.events, read.refusals, read.chain, read.epoch)
    assert met.dealt >= read.dealt
    assert met.resume >= read.resume


def event_in(answer: NewRecord | None) -> OrderEvent:
    assert answer is not None
    assert answer.topic == TOPICS.events
    return event_codec().decode(answer.value)


def refusal_in(answer: NewRecord | None) -> OrderRefusal:
    assert answer is not None
    assert answer.topic == TOPICS.refusals
    return refusal_codec().decode(answer.value)


PLACE: model.Command = {"op": "PlaceOrder", "role": "customer"}
PAY: model.Command = {"op": "RequestPayment", "role": "customer", "amount": 1000}
CANCEL: model.Command = {"op": "CancelOrder", "role": "customer", "reason": "other"}


def a_line(*commands: model.Command) -> Line:
    line = Line()
    for c in commands:
        line.order(c)
    if commands:
        line.deal()
    return line


# ---- one record each ------------------------------------------------------------------------------------------------


def test_an_accepted_command_leads_to_one_event_with_its_place_in_the_log() -> None:
    line = Line()
    line.order(PLACE)
    line.order(PAY)
    first, second = (event_in(a) for a in line.deal())
    assert (first.type, first.version, second.type, second.version) == ("OrderPlaced", 1, "PaymentRequested", 2)
    offsets = [record.offset for record in line.commands]
    assert [first.command_offset, second.command_offset] == offsets
    assert [first.batch_first, second.batch_first] == [offsets[0], offsets[0]]
    assert {first.command_log, second.command_log} == {COMMAND_LOG}
    assert first.prev_hash == bytes(32)
    assert second.prev_hash == link_of(line.log[TOPICS.events][0].value or b"")
    assert (second.status, second.payment_state) == ("pending", "requested")


def test_an_event_carries_the_clouds_headers_and_the_orders_key_and_time() -> None:
    line = Line()
    line.order(PLACE, at=PLACED_AT + 5)
    (answer,) = line.deal()
    assert answer is not None
    assert (answer.key, answer.timestamp_ms, answer.partition) == (b"ord_1", PLACED_AT + 5, 0)
    assert dict(answer.headers) == {"ce_id": b"ord_1/1", "ce_type": b"OrderPlaced", "content-type": b"application/avro"}


def test_a_refused_command_leads_to_one_refusal_and_leaves_the_order_as_it_was() -> None:
    line = a_line(PLACE)
    before = line.desk.order("ord_1")
    line.order(PAY | {"amount": 1})
    refusal = refusal_in(line.deal()[0])
    assert (refusal.code, refusal.order_id) == ("amount_differs", "ord_1")
    assert (refusal.actor, refusal.customer_id) == ("gateway:web", "c-1")
    assert refusal.order_version == 1, "the version it met, so that an answer can wait for it to be folded"
    assert line.desk.order("ord_1") == before


def test_the_outcome_of_a_command_says_what_came_of_it_and_who_sent_it() -> None:
    line = a_line(PLACE)
    line.order(PAY | {"fingerprint": b"f" * 16}, command_id="cmd_pay", at=PLACED_AT + 1)
    line.order(PAY, command_id="cmd_again", at=PLACED_AT + 2)
    line.order(PAY, command_id="cmd_pay", at=PLACED_AT + 3)
    line.order({"op": "RecordStock", "service": "gifts", "fact": "StockReserved"}, command_id="fct_1", at=PLACED_AT + 4)
    line.deal()
    kept = (outcome_key("cmd_pay"), outcome_key("cmd_again"), reused_key("cmd_pay", bytes(16)), outcome_key("fct_1"))
    accepted, refused, reused, known = (decode_outcome(line.desk._get(key) or b"") for key in kept)
    ada = ("gateway:web", "c-1")
    again, taken = "attempt 1 is requested", "this key was already used for another request"
    assert accepted == Outcome(b"f" * 16, "ord_1", 2, None, "", *ada, PLACED_AT + 1)
    assert refused == Outcome(bytes(16), "ord_1", 2, "payment_open", again, *ada, PLACED_AT + 2)
    assert reused == Outcome(bytes(16), "ord_1", 2, "idempotency_key_reused", taken, *ada, PLACED_AT + 3)
    assert (known.code, known.actor, known.customer_id) == ("already_known", "reconciler", "")


def test_a_duplicate_leads_to_no_record_whatever_the_first_answer_was() -> None:
    line = a_line(PLACE)
    for c in (PAY, PAY | {"amount": 1}):
        line.order(c, command_id=f"cmd_{c['amount']}")
        assert line.deal() != [None]
        for _ in range(2):
            line.order(c, command_id=f"cmd_{c['amount']}")
            assert line.deal() == [None]
    assert_same_rows(line)


def test_a_duplicate_within_one_batch_is_known_before_anything_is_written() -> None:
    line = Line()
    for _ in range(3):
        line.order(PLACE, command_id="cmd_1")
    assert [a is None for a in line.deal()] == [False, True, True]


def test_refused_stays_refused_even_when_it_would_succeed_now() -> None:
    line = Line()
    line.order(PAY, command_id="cmd_pay")
    assert refusal_in(line.deal()[0]).code == "order_not_found"
    line.order(PLACE)
    line.order(PAY, command_id="cmd_pay")
    assert line.deal()[1] is None
    assert decode_outcome(line.desk._get(outcome_key("cmd_pay")) or b"").code == "order_not_found"


def test_a_known_id_with_another_body_is_refused_once_for_each_body() -> None:
    line = a_line(PLACE)
    codes = []
    for fingerprint in (b"a", b"b", b"b", b"c", b"a", b"c"):
        line.order(PAY | {"fingerprint": fingerprint * 16}, command_id="cmd_pay")
        answer = line.deal()[0]
        codes.append(None if answer is None else "event" if answer.topic == TOPICS.events else refusal_in(answer).code)
    assert codes == ["event", "idempotency_key_reused", None, "idempotency_key_reused", None, None]
    assert decode_outcome(line.desk._get(outcome_key("cmd_pay")) or b"").version == 2
    assert line.desk._get(reused_key("cmd_pay", b"b" * 16)) is not None
    assert_same_rows(line)


def test_an_order_that_is_placed_under_a_second_command_id_is_refused_once() -> None:
    line = a_line(PLACE)
    for expected in ("idempotency_key_reused", None, None):
        line.order(PLACE, command_id="cmd_other")
        answer = line.deal()[0]
        assert (answer and refusal_in(answer).code) == expected
    assert_same_rows(line)


def test_another_customers_order_is_refused_as_if_it_were_not_there() -> None:
    line = a_line(PLACE)
    line.order(CANCEL | {"foreign": True})
    line.order(CANCEL, order_id="ord_none")
    foreign, missing = (refusal_in(a) for a in line.deal())
    assert (foreign.code, foreign.detail) == (missing.code, missing.detail) == ("order_not_found", "there is no such order")
    assert foreign.order_version is missing.order_version is None


def test_a_stale_version_is_a_conflict_that_names_the_current_one() -> None:
    line = a_line(PLACE, PAY)
    line.order(CANCEL | {"expected_version": 1})
    refusal = refusal_in(line.deal()[0])
    assert refusal.code == "version_conflict"
    assert "2" in refusal.detail


def test_a_full_order_refuses_a_payment_takes_facts_and_can_still_expire() -> None:
    line = a_line(PLACE, PAY)
    looks: list[model.Command] = [
        {"op": "RecordPayment", "attempt": 1, "fact": "PaymentPending", "waiting": "provider"},
        {"op": "RecordPayment", "attempt": 1, "fact": "PaymentDeclined", "code": "card_declined"},
    ]
    for i in range(998):
        line.order(looks[i % 2])
    assert None not in line.deal()
    line.order({"op": "RecordPayment", "attempt": 1, "fact": "PaymentVoided", "code": "expired"})
    line.order(PAY)
    line.order({"op": "ExpireOrder"}, at=PLACED_AT + WINDOW_MS)
    fact, full, expired = line.deal()
    assert refusal_in(full).code == "order_full"
    assert (event_in(fact).version, event_in(expired).type, event_in(expired).version) == (1001, "OrderCancelled", 1002)
    assert_same_rows(line)


# ---- what cannot be decided -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, b"", b"junk", b"\0\0\0\0\1{}", command_codec().encode(order_command(PAY))[:-1]])
def test_an_unreadable_command_is_kept_with_its_bytes_and_refused_once_even_when_read_again(value: bytes | None) -> None:
    line = Line()
    sent = line.send(b"ord_1", value)
    line.order(PLACE)
    refusal = refusal_in(line.deal(store=False)[0])
    assert (refusal.code, refusal.original, refusal.command_offset) == ("undecodable", value or b"", sent.offset)
    assert (refusal.order_id, refusal.command_id, refusal.fingerprint, refusal.actor) == (None, None, None, None)
    assert line.read == 0, "the take-over reads the batch again"
    assert line.deal() == [None, None]
    assert_same_rows(line)


def test_the_same_offset_of_another_incarnation_of_the_command_log_is_another_command() -> None:
    line = Line()
    line.send(b"ord_1", b"junk")
    line.deal()
    other = Desk(MemoryStore(), 0, 1, TOPICS, bytes(16))
    for record in line.log[TOPICS.refusals]:
        other.fold(record)
    assert (other.meta.dealt, other.meta.resume, other.meta.epoch) == (0, 0, 1)
    again = other.deal(line.commands[0], Written(bytes(16), line.commands[0].offset, 2))
    assert refusal_in(again).code == "undecodable"
    assert (other.meta.dealt, other.meta.resume) == (line.commands[0].offset + 1, line.commands[0].offset)


def test_a_desk_opened_again_goes_on_where_the_last_one_was_even_behind_duplicates() -> None:
    line = a_line(PLACE, PAY)
    line.order(PAY, command_id="cmd_1")
    assert line.deal() == [None]
    last = line.commands[-1].offset
    assert (line.desk.meta.dealt, line.desk.meta.resume) == (last + 1, last + 1)
    assert Desk(line.store, 0, 1, TOPICS, COMMAND_LOG).meta == line.desk.meta


def test_a_store_of_another_incarnation_of_the_command_log_knows_orders_but_no_offsets() -> None:
    line = a_line(PLACE)
    after = Desk(line.store, 0, 1, TOPICS, bytes(16))
    assert (after.meta.dealt, after.meta.resume) == (0, 0)
    assert after.meta.command_log == bytes(16)
    assert after.meta.epoch == line.desk.meta.epoch
    assert after.order("ord_1") == line.desk.order("ord_1")


def test_a_command_too_large_for_its_refusal_to_fit_is_unreadable_and_stops_nobody() -> None:
    line = Line()
    huge = order_command(PAY, "ord_1", "cmd_" + "x" * (MAX_COMMAND_BYTES - 10))
    line.send(b"ord_1", encoded(plain(huge)))
    spare = MAX_COMMAND_BYTES - len(encoded(plain(order_command(PAY, "ord_2", "c" * 100_000))))
    largest = encoded(plain(order_command(PAY, "ord_2", "c" * (100_000 + spare))))
    assert len(largest) == MAX_COMMAND_BYTES
    line.send(b"ord_2", largest)
    line.send(b"k" * 1_000_000, b"junk")
    line.order(PLACE)
    too_large, fits, big_key, placed = line.deal()
    assert refusal_in(too_large).code == "undecodable"
    assert refusal_in(too_large).original == (line.commands[0].value or b"")[:MAX_ORIGINAL_BYTES]
    assert refusal_in(fits).code == "undecodable"
    assert refusal_in(fits).original == largest[:MAX_ORIGINAL_BYTES]
    assert big_key is not None
    assert len(big_key.key or b"") == 1024
    assert event_in(placed).type == "OrderPlaced"
    assert_same_rows(line)


@pytest.mark.parametrize(
    "wrong",
    [
        {"operation": "MakeTea"},
        {"cancel": None},
        {"operation": "RecordStock"},
    ],
    ids=["unknown operation", "no payload", "another payload"],
)
def test_a_command_that_cannot_be_decided_is_refused_and_the_next_one_goes_on(wrong: dict[str, Any]) -> None:
    line = a_line(PLACE)
    bad = replace(order_command(CANCEL, command_id="cmd_bad"), **wrong)
    line.send(b"ord_1", command_codec().encode(bad))
    line.order(PAY)
    line.send(b"ord_1", command_codec().encode(bad))
    refused, accepted, again = line.deal()
    assert (refusal_in(refused).code, refusal_in(refused).detail) == ("could_not_decide", "MalformedCommand")
    assert event_in(accepted).version == 2
    assert again is None
    assert_same_rows(line)


def test_an_event_that_does_not_fit_its_record_is_not_half_applied() -> None:
    line = a_line()
    # the end of its time to pay is beyond what the record's field holds
    line.send(b"ord_1", command_codec().encode(order_command(PLACE, command_id="cmd_big")), at=2**63 - 1)
    line.order(PAY)
    refused, after = line.deal()
    assert (refusal_in(refused).code, refusal_in(refused).detail) == ("could_not_decide", "EncodeError")
    assert refusal_in(after).code == "order_not_found"
    assert line.desk.order("ord_1") is None
    assert_same_rows(line)


def test_a_fact_that_brings_a_sum_out_of_its_bounds_costs_itself_and_not_the_order() -> None:
    line = a_line(PLACE)
    refund: model.Command = {"op": "RecordRefund", "fact": "RefundSettled", "no": 0, "amount": 10**12}
    for ref in ("re_1", "re_2"):
        line.order(refund | {"ref": ref})
    line.order(CANCEL)
    settled, too_much, cancelled = line.deal()
    assert event_in(settled).refunded_minor == 10**12
    assert (refusal_in(too_much).code, refusal_in(too_much).detail) == ("could_not_decide", "EncodeError")
    assert (event_in(cancelled).type, event_in(cancelled).version) == (e.ORDER_CANCELLED, 3)
    assert_same_rows(line)


@pytest.mark.parametrize("key", [None, b"", b"ord_2"])
def test_a_command_under_another_orders_key_could_be_in_the_wrong_partition_and_is_not_decided(key: bytes | None) -> None:
    line = Line()
    line.send(key, command_codec().encode(order_command(PLACE)))
    assert refusal_in(line.deal()[0]).code == "could_not_decide"
    assert line.desk.order("ord_1") is None


# ---- frozen orders --------------------------------------------------------------------------------------------------


UNDECODABLE = b"\0\0\0\0\1junk"


def bad_event(line: Line, order_id: str, how: str) -> Record:
    """An event record of `order_id` that no correct writer can have written, at the end of the log."""
    last = event_codec().decode(next(r.value for r in reversed(line.log[TOPICS.events]) if r.value != UNDECODABLE))
    event = replace(last, order_id=order_id, prev_hash=line.desk.meta.chain, command_id=f"cmd_bad_{how}")
    value = {
        "undecodable": UNDECODABLE,
        "no value": None,
        "version does not follow": event_codec().encode(replace(event, version=77)),
        "unknown type": event_codec().encode(replace(event, type="OrderRevised", version=last.version + 1)),
    }[how]
    line.append([NewRecord(TOPICS.events, 0, order_id.encode(), value, last.occurred_at)])
    return line.log[TOPICS.events][-1]


every_bad_event = pytest.mark.parametrize("how", ["undecodable", "no value", "version does not follow", "unknown type"])


@every_bad_event
def test_an_event_that_does_not_fold_freezes_its_order_and_no_other(how: str) -> None:
    line = a_line(PLACE)
    line.order(PLACE, "ord_2")
    line.order(PAY, "ord_1")
    line.deal()
    before = line.desk.order("ord_1")
    bad = bad_event(line, "ord_1", how)
    line.fold([bad])
    line.order(CANCEL, "ord_1", "cmd_frozen")
    line.order(CANCEL, "ord_2")
    frozen, others = line.deal()
    assert refusal_in(frozen).code == "order_frozen"
    assert f"partition 0 offset {bad.offset}" in refusal_in(frozen).detail
    assert event_in(others).prev_hash == link_of(bad.value or b"")
    assert line.desk.order("ord_1") == before
    stopped = line.desk.frozen("ord_1")
    assert stopped is not None
    assert stopped.offset == bad.offset
    assert line.desk.frozen("ord_2") is None
    line.order(CANCEL, "ord_1", "cmd_frozen")
    assert line.deal() == [None], "the refusal is recorded: a thawed order needs a new key"
    assert_same_rows(line)


def test_a_frozen_order_that_is_not_the_customers_is_refused_as_if_it_were_not_there() -> None:
    line = a_line(PLACE)
    for order_id in ("ord_1", "ord_2"):
        line.fold([bad_event(line, order_id, "undecodable")])
    line.order(CANCEL | {"foreign": True}, "ord_1", "cmd_foreign")
    line.order(CANCEL, "ord_2", "cmd_nobodys")  # no event of it can be read, so whose it is nobody knows
    line.order(CANCEL, "ord_0", "cmd_missing")
    line.order(CANCEL, "ord_1", "cmd_own")
    line.order(CANCEL | {"role": "admin"}, "ord_2", "cmd_staffs")
    foreign, nobodys, missing, own, staffs = (refusal_in(answer) for answer in line.deal())
    assert [r.code for r in (foreign, nobodys, missing)] == ["order_not_found"] * 3
    assert {(r.detail, r.order_version) for r in (foreign, nobodys, missing)} == {(missing.detail, None)}
    assert [r.code for r in (own, staffs)] == ["order_frozen"] * 2
    assert_same_rows(line)


def test_later_events_of_a_frozen_order_wait_but_their_commands_are_known() -> None:
    line = a_line(PLACE)
    line.fold([bad_event(line, "ord_1", "version does not follow")])
    last = event_codec().decode(line.log[TOPICS.events][0].value)
    later = replace(last, version=2, type=e.STOCK_RESERVED, placed=None, stock=e.Stock("product"), command_id="cmd_later")
    line.append([NewRecord(TOPICS.events, 0, b"ord_1", event_codec().encode(replace(later, prev_hash=line.desk.meta.chain)), 1)])
    line.fold(line.log[TOPICS.events][-1:])
    order = line.desk.order("ord_1")
    assert order is not None
    assert order.version == 1
    assert line.desk._get(outcome_key("cmd_later")) is not None


def test_an_unreadable_event_without_a_key_freezes_nobody_and_is_passed() -> None:
    line = a_line(PLACE)
    line.append([NewRecord(TOPICS.events, 0, None, UNDECODABLE)])
    line.fold(line.log[TOPICS.events][-1:])
    line.order(CANCEL)
    assert event_in(line.deal()[0]).prev_hash == link_of(UNDECODABLE)
    assert_same_rows(line)


def test_a_key_refused_as_another_bodys_stays_so_when_the_order_is_frozen_later() -> None:
    line = a_line(PLACE)
    line.order(PLACE, command_id="cmd_other")
    assert refusal_in(line.deal()[0]).code == "idempotency_key_reused"
    line.fold([bad_event(line, "ord_1", "undecodable")])
    line.order(PLACE, command_id="cmd_other")
    assert line.deal() == [None]


def test_a_broken_chain_stops_the_fold_for_a_person() -> None:
    line = a_line(PLACE, PAY)
    desk = Desk(MemoryStore(), 0, 1, TOPICS, COMMAND_LOG)
    with pytest.raises(Hole, match="chain broken"):
        desk.fold(line.log[TOPICS.events][1])


def test_a_refusal_that_cannot_be_read_is_passed_over() -> None:
    line = a_line(PLACE)
    line.append([NewRecord(TOPICS.refusals, 0, b"ord_1", b"junk")])
    line.fold(line.log[TOPICS.refusals])
    assert line.desk.meta.refusals == line.log[TOPICS.refusals][0].offset + 1


def test_every_bad_record_is_logged_with_where_to_look(logged: list[dict[str, Any]]) -> None:
    line = a_line(PLACE)
    junk = line.send(b"ord_1", b"junk")
    line.send(b"ord_1", command_codec().encode(replace(order_command(PAY, command_id="cmd_tea"), operation="MakeTea")))
    line.deal()
    bad = bad_event(line, "ord_1", "undecodable")
    line.append([NewRecord(TOPICS.refusals, 0, b"ord_1", b"junk")])
    unread = line.log[TOPICS.refusals][-1]
    line.fold([bad, unread])
    reason = {"reason": "too_short: 4 bytes", "log_level": "error"}
    assert logged == [
        {"event": "undecodable command", "partition": 0, "offset": junk.offset, **reason},
        {"event": "could not decide", "command_id": "cmd_tea", "order_id": "ord_1", "exc_info": True, "log_level": "error"},
        {
            "event": "order frozen",
            "order_id": "ord_1",
            "partition": 0,
            "offset": bad.offset,
            "reason": "unknown_schema_id: 1",
            "log_level": "error",
        },
        {"event": "undecodable refusal", "partition": 0, "offset": unread.offset, **reason},
    ]


# ---- anything, in any order -----------------------------------------------------------------------------------------


class Expected:
    """What must come of each command: first answers, orders, frozen orders. Plain dictionaries."""

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
            if c["op"] != "PlaceOrder":
                return "order_not_found"
            self.states[order_id] = model.State(1000, (("product", "owed"),))
            self.versions[order_id], self.expires[order_id] = 1, record.timestamp_ms + WINDOW_MS
            return "OrderPlaced"
        c["late"] = record.timestamp_ms >= self.expires[order_id]
        c["stale"] = c.get("expected_version") not in (None, self.versions[order_id])
        expected = model.expect(state, c)
        if isinstance(expected, model.No):
            return expected.code
        self.states[order_id] = model.after(state, c, expected)
        self.versions[order_id] += 1
        return expected.type


order_ids = st.sampled_from(["ord_1", "ord_2", "ord_3"])
likely = [c for c in WHOLE if not {"stale", "full", "matching", "late"} & set(c)]
useful = [c for c in likely if c["op"] in ("RequestPayment", "RecordStock", "StartFulfilment", "ShipOrder", "CancelOrder")]


class AnyLine(RuleBasedStateMachine):
    """Commands of any kind, sent again, sent with another body, unreadable; batches that commit, vanish, or are not stored."""

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

    @initialize()
    def some_orders_are_placed(self) -> None:
        for order_id in ("ord_1", "ord_2"):
            self.send(order_id, PLACE, f"cmd_place_{order_id}")

    @rule(order_id=order_ids)
    def place(self, order_id: str) -> None:
        self.send(order_id, PLACE, f"cmd_place_{order_id}")

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
    def a_bad_event_stands_in_the_log(self, order_id: str, how: str) -> None:
        self.line.fold([bad_event(self.line, order_id, how)])
        self.records += 1
        self.expected.frozen.add(order_id)
        if how != "undecodable":
            self.expected.first[f"cmd_bad_{how}"] = bytes(16)

    @rule()
    def take_over(self) -> None:
        self.line.take_over()

    @invariant()
    def orders_are_what_the_model_says(self) -> None:
        for order_id, state in self.expected.states.items():
            order = self.line.desk.order(order_id)
            assert order is not None
            assert order.version == self.expected.versions[order_id]
            assert summary(order)["status"] == model.shown(state)
            assert summary(order)["payment_state"] == model.payment_axis(state)

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
        """Dense versions, times that never fall, an unbroken chain, a summary that a second fold confirms."""
        chain, orders = bytes(32), dict[str, Order]()
        for record in self.line.log[TOPICS.events]:
            value = record.value or b""
            if record.key is not None and record.key.decode() not in self.expected.frozen:
                event = event_codec().decode(value)
                before = orders.get(event.order_id)
                assert before is None or event.occurred_at >= before.updated_at
                orders[event.order_id] = after = evolve(before, event)
                assert {name: getattr(event, name) for name in summary(after)} == summary(after)
            if value != UNDECODABLE:
                assert event_codec().decode(value).prev_hash == chain
            chain = link_of(value)


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
