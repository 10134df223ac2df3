"""The desk and events that do not fold: they freeze their order and no other."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from commands.messages import command_codec
from commands.processor.desk import Desk
from ledger import events as e
from ledger.errors import Hole
from ledger.log import NewRecord
from ledger.memory.store import MemoryStore
from ledger.outcomes import outcome_key
from ledger.schemas.codec import event_codec, link_of
from tests.support.desk_line import (
    CANCEL,
    COMMAND_LOG,
    PAY,
    PLACE,
    TOPICS,
    UNDECODABLE,
    a_line,
    assert_same_rows,
    bad_event,
    event_in,
    refusal_in,
)
from tests.support.order_commands import order_command

pytestmark = pytest.mark.usefixtures("logged")
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


def test_a_frozen_order_that_is_not_the_customers_is_refused_as_if_it_did_not_exist() -> None:
    line = a_line(PLACE)
    for order_id in ("ord_1", "ord_2"):
        line.fold([bad_event(line, order_id, "undecodable")])
    line.order(CANCEL | {"foreign": True}, "ord_1", "cmd_foreign")
    line.order(CANCEL, "ord_2", "cmd_nobodys")  # no event of it can be read, so its owner is unknown
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


def test_an_unreadable_event_without_a_key_freezes_nobody_and_is_skipped() -> None:
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


def test_a_refusal_that_cannot_be_read_is_skipped() -> None:
    line = a_line(PLACE)
    line.append([NewRecord(TOPICS.refusals, 0, b"ord_1", b"junk")])
    line.fold(line.log[TOPICS.refusals])
    assert line.desk.meta.refusals == line.log[TOPICS.refusals][0].offset + 1


def test_every_bad_record_is_logged_with_its_position(logged: list[dict[str, Any]]) -> None:
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
