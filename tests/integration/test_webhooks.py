"""Outgoing webhooks of a whole ledger: each event arrives, signed, in its order's order, whatever the receiver does."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from commands.webhooks import door, loop, queues
from commands.webhooks.delivering import group_of
from commands.webhooks.endpoints import DISABLE_MS, GIVE_UP_MS
from commands.webhooks.loop import Webhooks
from ledger.durations import DAY_MS, MINUTE_MS
from ledger.errors import LogError
from ledger.kafka.log import KafkaLog
from ledger.log import Bookmark, EventLog, TopicPartition
from ledger.memory.log import MemoryLog
from ledger.ports import free_port
from ledger.topics import Topics
from tests.support.harness import Clock, RunningLedger, key, order_body, running_ledger
from tests.support.patience import PATIENCE_S, until
from tests.support.webhook_receiver import MANNERS, OK, Receiver

_names = itertools.count(1)


@pytest.fixture(scope="module", params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def ledger(request: pytest.FixtureRequest) -> Iterator[RunningLedger]:
    log: EventLog = MemoryLog() if request.param == "memory" else KafkaLog(request.getfixturevalue("kafka"))
    with running_ledger(log, Topics(f"hooks-{next(_names)}-{id(log)}."), payment_window_s=86_000, clock=Clock()) as running:
        assert running.companions is not None
        running.context.clock = running.companions.clock  # one clock for whoever enables and whoever disables
        yield running
        webhooks_of(running).stop(PATIENCE_S)


@pytest.fixture(autouse=True)
def _no_endpoint_stays(ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(loop, "PUBLISH_EVERY_S", 0.05)
    monkeypatch.setattr(loop, "COUNTS_EVERY_S", 0.0)
    yield
    admin = ledger.client("admin")
    for endpoint in admin.get("/webhook-endpoints").json()["data"]:
        assert admin.delete(f"/webhook-endpoints/{endpoint['name']}").status_code == 204
    webhooks = webhooks_of(ledger)
    until(lambda: not webhooks._loops)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    yield running
    running.close()


def webhooks_of(ledger: RunningLedger) -> Webhooks:
    assert ledger.companions is not None
    assert ledger.companions.webhooks is not None
    return ledger.companions.webhooks


class Desk:
    """The ledger's callers, and one endpoint."""

    def __init__(self, ledger: RunningLedger, url: str, **members: Any) -> None:
        self.ledger, self.admin, self.gateway = ledger, ledger.client("admin"), ledger.client()
        self.path = f"/webhook-endpoints/e{next(_names)}"
        answer = self.put(url=url, **members)
        assert answer.status_code == 201, answer.text
        self.url = url

    def put(self, **members: Any) -> httpx.Response:
        return self.admin.put(self.path, json=members)

    def place(self) -> str:
        answer = self.gateway.post("/orders", json=order_body(), headers=key())
        assert answer.status_code == 201, answer.text
        return str(answer.json()["order_id"])

    def cancel(self, order_id: str) -> None:
        assert self.gateway.post(f"/orders/{order_id}/cancel", headers=key()).status_code == 200

    def secret(self) -> str:
        return str(self.admin.get(f"{self.path}/secret").json()["secret"])

    def shown(self) -> dict[str, Any]:
        body: dict[str, Any] = self.admin.get(self.path).json()
        return body

    def tries(self) -> list[dict[str, Any]]:
        """Oldest first."""
        rows: list[dict[str, Any]] = []
        before: dict[str, int] = {}
        while True:
            body = self.admin.get(f"{self.path}/deliveries", params={"limit": 200, **before}).json()
            rows += body["data"]
            if body["next_before"] is None:
                return rows[::-1]
            before = {"before": body["next_before"]}

    def move(self, ms: int) -> None:
        self.ledger.clock.ahead_ms += ms


def in_order(ids: list[str]) -> bool:
    """Whether the versions of each order rise by one, without what was delivered again."""
    last: dict[str, int] = {}
    for message_id in ids:
        order_id, _, version = message_id.rpartition("/")
        if int(version) > last.get(order_id, 0) + 1:
            return False
        last[order_id] = max(last.get(order_id, 0), int(version))
    return True


def test_each_event_from_then_on_is_delivered_signed_and_as_in_the_feed(ledger: RunningLedger, receiver: Receiver) -> None:
    before = ledger.client("admin").get("/events", params={"start": "end"}).json()["next_cursor"]
    desk = Desk(ledger, receiver.url)
    orders = [desk.place() for _ in range(4)]
    for order_id in orders:
        desk.cancel(order_id)
    until(lambda: len(receiver.ids()) >= 8)
    assert sorted(receiver.ids()) == sorted(f"{order_id}/{version}" for order_id in orders for version in (1, 2))
    assert in_order(receiver.ids())
    secret = desk.secret()
    feed = {
        r["event_id"]: r for r in ledger.client("reader").get("/events", params={"after": before, "limit": 500}).json()["data"]
    }
    for got in receiver.delivered():
        assert got.is_signed(secret)
        assert not got.is_signed("whsec_" + "A" * 43 + "=")
        row = feed[got.message_id]
        assert got.message == {"type": row["type"], "timestamp": row["occurred_at"], "data": row}
        assert got.headers["content-type"] == "application/json"
    until(lambda: len(desk.tries()) >= 8)
    assert {(t["result"], t["status"], t["attempt"]) for t in desk.tries()} == {("delivered", 204, 1)}
    until(lambda: desk.shown()["health"]["delivered"] == 8)
    assert desk.shown()["state"] == "active"


def test_an_endpoint_gets_the_types_and_the_customer_that_it_wants(ledger: RunningLedger, receiver: Receiver) -> None:
    desk = Desk(ledger, receiver.url, types=["OrderCancelled"], customer_id="c-1")
    stranger = ledger.client(customer="c-2")
    other = stranger.post("/orders", json=order_body(), headers=key()).json()["order_id"]
    assert stranger.post(f"/orders/{other}/cancel", headers=key()).status_code == 200
    order_id = desk.place()
    desk.cancel(order_id)
    until(receiver.ids)
    assert receiver.ids() == [f"{order_id}/2"]


@pytest.mark.parametrize("manner", MANNERS)
def test_whatever_the_receiver_does_the_event_is_tried_again_and_only_its_order_waits(
    ledger: RunningLedger, receiver: Receiver, manner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if manner in ("silent", "drips"):
        monkeypatch.setattr(door, "TIMEOUT_S", 3.0)
    monkeypatch.setattr(queues, "PAUSES_MS", (50_000, *queues.PAUSES_MS[1:]))  # longer than a slow machine takes
    desk = Desk(ledger, receiver.url)
    first, second = desk.place(), desk.place()
    until(lambda: len(receiver.ids()) >= 2)
    receiver.manner = lambda got: manner if got.message_id == f"{first}/2" else OK
    desk.cancel(first)
    until(lambda: any(got.manner == manner for got in receiver.got))
    until(lambda: desk.shown()["health"]["waiting"] == 1)
    desk.cancel(second)
    until(lambda: f"{second}/2" in receiver.ids())
    until(lambda: desk.shown()["health"]["delivered"] == 3)
    assert desk.shown()["health"]["failed"] == 1
    receiver.manner = lambda got: OK
    desk.move(MINUTE_MS if manner != "busy" else 121 * MINUTE_MS)
    until(lambda: f"{first}/2" in receiver.ids())
    assert in_order(receiver.ids())
    until(lambda: len(desk.tries()) >= 5)
    failed = [t for t in desk.tries() if t["result"] != "delivered"]
    assert [(t["message_id"], t["attempt"]) for t in failed] == [(f"{first}/2", 1)]
    expected = {"silent": "timed_out", "drips": "timed_out", "500": "refused", "404": "refused", "redirect": "refused"}
    assert failed[0]["result"] == (expected | {"busy": "refused"}).get(manner, "no_answer")
    assert "secret" not in json.dumps(failed)
    assert all(got.path == "/hook" for got in receiver.got), "a redirect is not followed"


def test_a_receiver_that_is_not_there_gets_everything_when_it_comes(ledger: RunningLedger) -> None:
    port = free_port()
    desk = Desk(ledger, f"http://127.0.0.1:{port}/hook")
    order_id = desk.place()
    desk.cancel(order_id)
    until(lambda: desk.shown()["health"]["waiting"] == 1)
    receiver = Receiver()
    try:
        assert desk.put(url=receiver.url).status_code == 200
        desk.move(6 * MINUTE_MS)
        until(lambda: len(receiver.ids()) >= 2)
        assert receiver.ids() == [f"{order_id}/1", f"{order_id}/2"]
    finally:
        receiver.close()


def test_after_three_days_an_event_is_abandoned_and_its_order_continues(ledger: RunningLedger, receiver: Receiver) -> None:
    desk = Desk(ledger, receiver.url)
    poison, fine = desk.place(), desk.place()
    until(lambda: len(receiver.ids()) >= 2)
    receiver.manner = lambda got: "500" if got.message_id == f"{poison}/2" else OK
    desk.cancel(poison)
    until(lambda: desk.shown()["health"]["waiting"] == 1)
    for _ in range(8):
        before = desk.shown()["health"]["failed"]
        desk.cancel(desk.place())  # deliveries of others succeed meanwhile
        desk.move(GIVE_UP_MS // 3)  # a day: no pause is longer
        until(lambda before=before: desk.shown()["health"]["failed"] > before or desk.shown()["health"]["abandoned"])
        if desk.shown()["health"]["abandoned"]:
            break
    health = desk.shown()["health"]
    assert (health["abandoned"], health["waiting"]) == (1, 0)
    assert desk.shown()["state"] == "active"
    until(lambda: any(t["is_abandoned"] for t in desk.tries()))
    assert f"{fine}/1" in receiver.ids()


def test_a_week_without_one_success_disables_it_and_enabled_again_it_continues(ledger: RunningLedger, receiver: Receiver) -> None:
    desk = Desk(ledger, receiver.url)
    receiver.manner = lambda got: "500"
    order_id = desk.place()
    until(lambda: desk.shown()["health"]["failing_since"] is not None)
    desk.move(DISABLE_MS - DAY_MS)
    assert desk.shown()["state"] == "active"
    desk.move(DAY_MS)
    until(lambda: desk.shown()["state"] == "disabled_failing")
    later = desk.place()
    receiver.manner = lambda got: OK
    assert receiver.ids() == []
    assert desk.put(url=desk.url).json()["state"] == "active"
    until(lambda: f"{later}/1" in receiver.ids())
    assert desk.shown()["state"] == "active"
    assert order_id != later


def test_the_position_of_a_disabled_endpoint_is_written_again_before_the_log_forgets_it(
    ledger: RunningLedger, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(ledger, receiver.url)
    desk.place()
    until(lambda: len(receiver.ids()) == 1)
    desk.put(url=receiver.url, enabled=False)
    webhooks = webhooks_of(ledger)
    until(lambda: not webhooks._loops)
    group = group_of(webhooks._shared, desk.path.rpartition("/")[2])
    written: list[str] = []
    make = ledger.log.bookmark

    def noted(name: str) -> Bookmark:
        written.append(name)
        return make(name)

    before = positions(ledger, group)
    monkeypatch.setattr(ledger.log, "bookmark", noted)
    webhooks._keep_positions()
    assert written == [group]
    assert positions(ledger, group) == before
    assert any(before.values())
    desk.put(url=receiver.url, enabled=True)
    desk.place()
    until(lambda: len(receiver.ids()) == 2)


def test_a_disabled_endpoint_whose_position_cannot_be_kept_costs_no_other_one(
    ledger: RunningLedger, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, broken = Desk(ledger, receiver.url), Desk(ledger, receiver.url, enabled=False)
    webhooks, name = webhooks_of(ledger), broken.path.rpartition("/")[2]
    until(lambda: name not in webhooks._loops)
    group, make, refused = group_of(webhooks._shared, name), ledger.log.bookmark, list[str]()

    def bookmark(name: str) -> Bookmark:
        if name == group:
            refused.append(name)
            raise LogError("not authorised")
        return make(name)

    monkeypatch.setattr(ledger.log, "bookmark", bookmark)
    webhooks._keep_positions()
    assert refused == [group]
    desk.place()
    until(receiver.ids)


def positions(ledger: RunningLedger, group: str) -> dict[TopicPartition, int | None]:
    own = [TopicPartition(ledger.topics.events, p) for p in range(ledger.context.partitions)]
    with closing(ledger.log.bookmark(group)) as bookmark:
        return dict(bookmark.read(own))


def test_a_receiver_that_is_gone_is_disabled_immediately(ledger: RunningLedger, receiver: Receiver) -> None:
    desk = Desk(ledger, receiver.url)
    receiver.manner = lambda got: "gone"
    order_id = desk.place()
    until(lambda: desk.shown()["state"] == "disabled_gone")
    receiver.manner = lambda got: OK
    assert desk.put(url=desk.url).json()["state"] == "active"
    desk.move(MINUTE_MS)
    until(lambda: f"{order_id}/1" in receiver.ids())


def test_an_admin_disables_and_enables_and_nothing_is_missed(ledger: RunningLedger, receiver: Receiver) -> None:
    desk = Desk(ledger, receiver.url)
    first = desk.place()
    until(lambda: f"{first}/1" in receiver.ids())
    assert desk.put(url=desk.url, enabled=False).json()["state"] == "disabled"
    until(lambda: not webhooks_of(ledger)._loops)
    second = desk.place()
    assert desk.put(url=desk.url).json()["state"] == "active"
    until(lambda: f"{second}/1" in receiver.ids())
    assert receiver.ids().count(f"{first}/1") == 1


def test_a_replay_delivers_again_from_a_cursor_or_a_time(ledger: RunningLedger, receiver: Receiver) -> None:
    admin = ledger.client("admin")
    before = admin.get("/events", params={"start": "end"}).json()["next_cursor"]
    desk = Desk(ledger, receiver.url)
    orders = [desk.place() for _ in range(3)]
    until(lambda: len(receiver.ids()) >= 3)
    assert desk.admin.post(f"{desk.path}/replay", json={"after": before}).status_code == 200
    until(lambda: all(receiver.ids().count(f"{order_id}/1") == 2 for order_id in orders))
    answer = desk.admin.post(f"{desk.path}/replay", json={"from": "2020-01-01T00:00:00Z"})
    assert answer.status_code == 200
    until(lambda: all(receiver.ids().count(f"{order_id}/1") == 3 for order_id in orders))
    for wrong in ({}, {"after": before, "from": "2020-01-01T00:00:00Z"}, {"from": "yesterday"}):
        assert desk.admin.post(f"{desk.path}/replay", json=wrong).json()["code"] == "invalid-field"
    assert desk.admin.post(f"{desk.path}/replay", json={"after": "x"}).json()["code"] == "invalid-cursor"


def test_a_new_secret_signs_beside_the_old_one_for_a_day(ledger: RunningLedger, receiver: Receiver) -> None:
    desk = Desk(ledger, receiver.url)
    old = desk.secret()
    new = desk.admin.post(f"{desk.path}/secret").json()["secret"]
    assert new != old
    assert desk.secret() == new
    first = desk.place()
    until(lambda: f"{first}/1" in receiver.ids())
    got = receiver.delivered()[-1]
    assert got.is_signed(new)
    assert got.is_signed(old)
    desk.move(DAY_MS + MINUTE_MS)
    second = desk.place()
    until(lambda: f"{second}/1" in receiver.ids())
    got = receiver.delivered()[-1]
    assert got.is_signed(new)
    assert not got.is_signed(old)


def test_a_process_that_takes_over_continues_where_the_other_one_ended(ledger: RunningLedger, receiver: Receiver) -> None:
    """What waits for a retry waits on; what was delivered is, after an orderly stop, not delivered again."""
    desk = Desk(ledger, receiver.url)
    first, second = desk.place(), desk.place()
    until(lambda: len(receiver.ids()) >= 2)
    receiver.manner = lambda got: "500" if got.message_id == f"{first}/2" else OK
    desk.cancel(first), desk.cancel(second)
    until(lambda: f"{second}/2" in receiver.ids() and desk.shown()["health"]["waiting"] == 1)
    before = webhooks_of(ledger)
    before.stop(PATIENCE_S)
    after = Webhooks(before._shared, pytest.fail)
    after.own(sorted(before._owned))
    after.start()
    try:
        third = desk.place()
        until(lambda: f"{third}/1" in receiver.ids())
        receiver.manner = lambda got: OK
        desk.move(30 * MINUTE_MS)
        until(lambda: f"{first}/2" in receiver.ids())
        ids = receiver.ids()
        assert len(ids) == len(set(ids))
        assert in_order(ids)
    finally:
        after.stop(PATIENCE_S)
        again = Webhooks(before._shared, pytest.fail)
        again.own(sorted(before._owned))
        again.start()
        assert ledger.companions is not None
        ledger.companions.webhooks = again


def test_secrets_are_in_no_record_no_metric_and_no_other_answer(ledger: RunningLedger, receiver: Receiver) -> None:
    desk = Desk(ledger, receiver.url)
    desk.place()
    until(receiver.ids)
    secret = desk.secret().removeprefix("whsec_").encode()
    until(lambda: not ledger.context.audit.waiting)
    for topic in ledger.topics.names:
        if topic != ledger.topics.writers:
            assert not any(secret in (record.value or b"") + (record.key or b"") for record in ledger.records(topic)), topic
    for path in ("/metrics", "/webhook-endpoints", desk.path, f"{desk.path}/deliveries", "/openapi.json"):
        assert secret.decode() not in desk.admin.get(path).text
    actions = [json.dumps(str(record.value)) for record in ledger.records(ledger.topics.audit)]
    assert any("webhook_change" in action for action in actions)
    assert any("webhook_key_read" in action for action in actions)
