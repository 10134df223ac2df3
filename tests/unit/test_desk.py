"""The desk: every command gets one record or none, and the log alone leads to the same rows."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from commands.messages import command_codec
from commands.processor.desk import Desk
from commands.processor.readable import MAX_COMMAND_BYTES
from commands.processor.refusing import MAX_ORIGINAL_BYTES
from ledger import events as e
from ledger.envelope import Written
from ledger.memory.store import MemoryStore
from ledger.outcomes import Outcome, decode_outcome, outcome_key, reused_key
from ledger.schemas.codec import link_of
from tests.support import order_model as model
from tests.support.absurd_commands import encoded, plain
from tests.support.desk_line import (
    CANCEL,
    COMMAND_LOG,
    PAY,
    PLACE,
    TOPICS,
    Line,
    a_line,
    assert_same_rows,
    event_in,
    refusal_in,
)
from tests.support.order_commands import PLACED_AT, WINDOW_MS, order_command

pytestmark = pytest.mark.usefixtures("logged")


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


def test_an_event_is_a_whole_cloud_event_and_has_the_orders_key_and_time() -> None:
    line = Line()
    line.order(PLACE, at=PLACED_AT + 5)
    (answer,) = line.deal()
    assert answer is not None
    assert (answer.key, answer.timestamp_ms, answer.partition) == (b"ord_1", PLACED_AT + 5, 0)
    assert answer.headers == (
        ("ce_id", b"ord_1/1"),
        ("ce_type", b"OrderPlaced"),
        ("content-type", b"application/avro"),
        ("ce_specversion", b"1.0"),
        ("ce_source", b"/order-events"),
        ("ce_time", b"2023-11-14T22:13:20.005Z"),
    )


def test_a_refused_command_leads_to_one_refusal_and_leaves_the_order_as_it_was() -> None:
    line = a_line(PLACE)
    before = line.desk.order("ord_1")
    line.order(PAY | {"amount": 1})
    refusal = refusal_in(line.deal()[0])
    assert (refusal.code, refusal.order_id) == ("amount_differs", "ord_1")
    assert (refusal.actor, refusal.customer_id) == ("gateway:web", "c-1")
    assert refusal.order_version == 1, "the version it met, so that an answer can wait for it to be folded"
    assert line.desk.order("ord_1") == before


def test_the_outcome_of_a_command_says_its_result_and_who_sent_it() -> None:
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


def test_another_customers_order_is_refused_as_if_it_did_not_exist() -> None:
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
    readings: list[model.Command] = [
        {"op": "RecordPayment", "attempt": 1, "fact": "PaymentPending", "waiting": "provider"},
        {"op": "RecordPayment", "attempt": 1, "fact": "PaymentDeclined", "code": "card_declined"},
    ]
    for i in range(998):
        line.order(readings[i % 2])
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


def test_a_desk_opened_again_resumes_where_the_last_one_was_even_behind_duplicates() -> None:
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
def test_a_command_that_cannot_be_decided_is_refused_and_the_next_one_is_decided(wrong: dict[str, Any]) -> None:
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
