"""The feed over HTTP: pages and streams of all events, resumed from any of them; each caller sees what it may see."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, ClassVar

import httpx
import msgspec
import pytest

from api.callers.auth import Principal
from api.callers.limits import BURST_S, RateLimits
from api.cursors import signed_place
from api.routes import feed
from api.settings import Settings
from ledger.memory.log import MemoryLog
from ledger.schemas.codec import event_codec
from ledger.topics import Topics
from projections.all_events import MOST_HELD, EventFilter, FeedPlace, Read
from tests.support.harness import RunningLedger, key, order_body, running_ledger
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.usefixtures("no_stream_stays")


@pytest.fixture
def no_stream_stays(ledger: RunningLedger) -> Iterator[None]:
    """Streams that a test opened end before its ledger does."""
    yield
    while Stream.open:
        Stream.open.pop().leave()


class Stream(threading.Thread):
    """Reads the feed into `messages` ({id, event, data} or {comment}) until it ends or `leave`."""

    open: ClassVar[list[Stream]] = []

    def __init__(self, client: httpx.Client, query: str = "", last: str | None = None) -> None:
        super().__init__(daemon=True)
        self.messages: list[dict[str, Any]] = []
        self._client, self._path, self._leaving = client, f"/events{query}", threading.Event()
        self._sent = {"Accept": "text/event-stream"} | ({} if last is None else {"Last-Event-ID": last})
        self.open.append(self)
        self.start()
        self.wait_until(lambda: self.messages)

    def run(self) -> None:
        try:
            with self._client.stream("GET", self._path, headers=self._sent) as answer:
                message: dict[str, Any] = {}
                for line in answer.iter_lines():
                    if self._leaving.is_set():
                        return
                    if line:
                        name, _, value = line.partition(": ")
                        message[name or "comment"] = value
                    elif message:
                        self.messages.append(message)
                        message = {}
        except httpx.TransportError:
            assert self._leaving.is_set()  # the test has closed its ledger

    def leave(self) -> None:
        self._leaving.set()

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(m["data"]) for m in list(self.messages) if "data" in m]

    def ids(self) -> list[str]:
        return [row["event_id"] for row in self.rows()]

    def wait_until(self, condition: Any) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, self.messages
            time.sleep(0.005)


def placed(client: httpx.Client) -> str:
    answer = client.post("/orders", json=order_body(), headers=key())
    assert answer.status_code == 201, answer.text
    return str(answer.json()["order_id"])


def cancel(client: httpx.Client, order_id: str) -> None:
    assert client.post(f"/orders/{order_id}/cancel", headers=key()).status_code == 200


def page(client: httpx.Client, **params: Any) -> dict[str, Any]:
    answer = client.get("/events", params=params)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def end_of(client: httpx.Client, **params: Any) -> str:
    """The cursor behind all current events."""
    return str(page(client, start="end", **params)["next_cursor"])


def pages(client: httpx.Client, after: str | None, limit: int, **params: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    while True:
        body = page(client, limit=limit, **params, **({} if after is None else {"after": after}))
        rows += body["data"]
        after = body["next_cursor"]
        if body["at_end"]:
            return rows


def test_the_pages_have_every_event_of_the_log_once(ledger: RunningLedger) -> None:
    client, reader = ledger.client(), ledger.client("reader")
    for _ in range(9):
        cancel(client, placed(client))
    expected = {(r.partition, r.offset): event_codec().decode(r.value) for r in ledger.records(ledger.topics.events)}
    for limit in (1, 4, 500):
        rows = pages(reader, None, limit)
        assert sorted((r["partition"], r["offset"]) for r in rows) == sorted(expected)
        versions = defaultdict(list)
        for row in rows:
            event = expected[row["partition"], row["offset"]]
            assert row["event_id"] == f"{event.order_id}/{event.version}"
            assert (row["order_id"], row["customer_id"], row["type"]) == (event.order_id, event.customer_id, event.type)
            assert (row["status"], row["payment_state"], row["total_minor"]) == (
                event.status,
                event.payment_state,
                event.total_minor,
            )
            versions[row["order_id"]].append(row["version"])
        assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in versions.values())
    one = rows[0]
    history = reader.get(f"/orders/{one['order_id']}/events").json()["data"]
    assert history[0].items() <= one.items(), "an event is the same in the feed and in the history of its order"


def test_a_page_behind_the_last_event_is_empty_and_resumes_with_the_next(ledger: RunningLedger) -> None:
    client, admin = ledger.client(), ledger.client("admin")
    after = end_of(admin)
    assert page(admin, after=after) == {"data": [], "next_cursor": after, "at_end": True}
    order_id = placed(client)
    assert [row["event_id"] for row in page(admin, after=after)["data"]] == [f"{order_id}/1"]


def test_filters_by_type_and_customer(ledger: RunningLedger) -> None:
    admin = ledger.client("admin")
    start, mine, yours = end_of(admin), ledger.client(customer="feed-1"), ledger.client(customer="feed-2")
    first, second, third = placed(mine), placed(yours), placed(mine)
    cancel(mine, first)
    kinds = {"type": "OrderCancelled,OrderPlaced", "customer": "feed-1"}
    rows = [row for row in pages(admin, None, 2, **kinds) if row["order_id"] in (first, second, third)]
    assert sorted(row["event_id"] for row in rows) == sorted([f"{first}/1", f"{third}/1", f"{first}/2"])
    assert [row["order_id"] for row in pages(admin, None, 1, type="OrderCancelled", customer="feed-1")] == [first]
    assert {row["order_id"] for row in pages(admin, start, 500)} == {first, second, third}
    answer = admin.get("/events", params={"after": start, "customer": "feed-1"})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-cursor"), "of other filters"


def test_a_gateway_sees_the_events_of_its_customer_whatever_it_sends(ledger: RunningLedger) -> None:
    mine, yours = ledger.client(customer="feed-3"), ledger.client(customer="feed-4")
    own, other = placed(mine), placed(yours)
    assert {row["order_id"] for row in pages(mine, None, 500)} == {own}
    assert {row["order_id"] for row in pages(yours, None, 500)} == {other}
    assert mine.get("/events", params={"customer": "feed-4"}).json()["code"] == "unknown-field"
    assert ledger.client(customer=None).get("/events").json()["code"] == "customer-required"
    for stranger in (end_of(yours), end_of(ledger.client("admin"))):
        assert mine.get("/events", params={"after": stranger}).json()["code"] == "invalid-cursor"
    assert ledger.client("operator").get("/events").status_code == 403


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "type=", "type=OrderEaten", "start=middle", "customer=a b"])
def test_a_wrong_query_is_an_invalid_field(ledger: RunningLedger, query: str) -> None:
    answer = ledger.client("admin").get(f"/events?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-field")


def test_a_forged_cursor_is_refused(ledger: RunningLedger) -> None:
    admin = ledger.client("admin")
    whole = end_of(admin)
    raw = bytearray(base64.urlsafe_b64decode(whole + "=" * (-len(whole) % 4)))
    orders = admin.get("/orders", params={"limit": 1}).json()["next_cursor"] or "x"
    forged = []
    for place in range(0, len(raw), 5):
        changed = bytearray(raw)
        changed[place] ^= 1
        forged.append(base64.urlsafe_b64encode(changed).decode().rstrip("="))
    for text in ("x", "%", whole[:-2], whole + "AA", orders, *forged):
        answer = admin.get("/events", params={"after": text})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-cursor"), text
        answer = admin.get("/events", headers={"Accept": "text/event-stream", "Last-Event-ID": text})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-cursor"), text


def test_the_cursor_of_a_thousand_partitions_is_accepted(ledger: RunningLedger) -> None:
    """`PARTITIONS` allows so many, with any positions and as many records held as there may be."""
    context, wanted, far = ledger.context, EventFilter(), 2**40
    read = {p: Read(far, list(range(far - MOST_HELD, far)) if p == 0 else []) for p in range(1000)}
    log_id = context.projector.databases.log_ids().get(ledger.topics.events, b"")
    cursor = signed_place(context, msgspec.msgpack.encode(FeedPlace(wanted.digest(), log_id, read)))
    admin, path = ledger.client("admin"), "/webhook-endpoints/wide"
    assert page(admin, after=cursor)["data"] == []
    assert admin.put(path, json={"url": "https://a.example/hook", "enabled": False}).status_code == 201
    assert admin.post(f"{path}/replay", json={"after": cursor}).status_code == 200
    assert admin.delete(path).status_code == 204


def test_another_representation_is_not_acceptable(ledger: RunningLedger) -> None:
    answer = ledger.client("admin").get("/events", headers={"Accept": "application/xml"})
    assert (answer.status_code, answer.json()["code"]) == (406, "not-acceptable")


# ---- streams --------------------------------------------------------------------------------------------------------


def test_a_stream_sends_what_is_there_and_then_what_comes(ledger: RunningLedger) -> None:
    client, admin = ledger.client(), ledger.client("admin")
    after = end_of(admin)
    first = placed(client)
    stream = Stream(admin, f"?after={after}")
    stream.wait_until(lambda: f"{first}/1" in stream.ids())
    cancel(client, first)
    second = placed(client)
    stream.wait_until(lambda: {f"{first}/2", f"{second}/1"} <= set(stream.ids()))
    assert stream.rows() == pages(admin, after, 500)
    assert [m["event"] for m in stream.messages if "event" in m] == [row["type"] for row in stream.rows()]


def test_a_stream_resumes_behind_any_event_also_as_pages(ledger: RunningLedger) -> None:
    client, admin = ledger.client(), ledger.client("admin")
    after = end_of(admin)
    for _ in range(5):
        cancel(client, placed(client))
    stream = Stream(admin, f"?after={after}")
    stream.wait_until(lambda: len(stream.ids()) >= 10)
    expected, cursors = stream.ids(), [m["id"] for m in stream.messages if "data" in m]
    assert len(set(cursors)) == len(cursors)
    for number, cursor in enumerate(cursors):
        following = expected[number + 1 :]
        assert [row["event_id"] for row in pages(admin, cursor, 3)][: len(following)] == following
        resumed = Stream(admin, f"?after={after}", last=cursor)  # the header has precedence
        resumed.wait_until(lambda resumed=resumed, following=following: len(resumed.ids()) >= len(following))
        assert resumed.ids()[: len(following)] == following


def test_a_stream_of_a_customer_is_not_woken_by_others(ledger: RunningLedger) -> None:
    mine, yours = ledger.client(customer="feed-5"), ledger.client(customer="feed-6")
    stream = Stream(mine, "?start=end")
    for _ in range(3):
        placed(yours)
    own = placed(mine)
    stream.wait_until(stream.ids)
    assert stream.ids() == [f"{own}/1"]


def test_a_quiet_stream_says_how_far_it_has_come(ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a stream of a rare type, resumed, would go through everything again."""
    monkeypatch.setattr(feed, "COMMENT_S", 0.05)
    client, admin = ledger.client(), ledger.client("admin")
    stream = Stream(admin, "?start=end&type=OrderCancelled")
    order_id = placed(client)
    stream.wait_until(lambda: any(m.keys() == {"id"} for m in stream.messages))
    cursor = next(m["id"] for m in stream.messages if m.keys() == {"id"})
    assert page(admin, after=cursor, type="OrderCancelled")["data"] == []
    cancel(client, order_id)
    stream.wait_until(stream.ids)
    assert stream.ids() == [f"{order_id}/2"]
    assert "comment" in stream.messages[0]


def test_a_stream_ends_after_its_time_also_when_it_is_busy(ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "STREAM_S", 0.2)
    stream = Stream(ledger.client("admin"))
    stream.join(PATIENCE_S)
    assert not stream.is_alive()


def test_a_stop_ends_every_stream_of_the_feed() -> None:
    with running_ledger(MemoryLog(), Topics()) as running:
        streams = [Stream(running.client("admin")), Stream(running.client(), "?start=end")]
        running.loop.call_soon_threadsafe(running.context.end_streams)
        for stream in streams:
            stream.join(PATIENCE_S)
            assert not stream.is_alive()


# ---- limits ---------------------------------------------------------------------------------------------------------


class Limited:
    """Fresh limits with a clock that the test moves: staff has ten requests a second."""

    PER_S = 10
    STAFF = Principal("admin", "admin")

    def __init__(self) -> None:
        self.now = 0.0
        self.limits = RateLimits(Settings(_env_file=None, limit_staff_per_second=self.PER_S), lambda: self.now)

    def left(self) -> float:
        """What is left to the admin."""
        return self.limits._principals._left(self.STAFF.actor, self.PER_S, self.now)


@pytest.fixture
def limited(ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch) -> Limited:
    limited = Limited()
    monkeypatch.setattr(ledger.context, "limits", limited.limits)
    monkeypatch.setattr(feed, "COMMENT_S", 0.05)
    return limited


def test_a_stream_is_charged_for_what_it_reads_also_in_vain(ledger: RunningLedger, limited: Limited) -> None:
    client, admin = ledger.client(), ledger.client("admin")
    orders = [placed(client) for _ in range(20)]
    full = limited.left()
    assert full == Limited.PER_S * BURST_S
    stream = Stream(admin, "?type=OrderDelivered")
    stream.wait_until(lambda: any(m.keys() == {"id"} for m in stream.messages))
    assert limited.left() < full - 1, "the request, and the work for it"
    before = limited.left()
    with admin.stream("GET", f"/orders/{orders[0]}/events", headers={"Accept": "text/event-stream"}) as answer:
        assert any(line.startswith("data:") for line in answer.iter_lines())
        assert limited.left() < before - 1


def test_a_stream_reads_nothing_while_nothing_is_left_to_its_caller(ledger: RunningLedger, limited: Limited) -> None:
    mine, admin, waiters = ledger.client(customer="feed-8"), ledger.client("admin"), ledger.context.projector.waiters
    stream = Stream(admin, "?start=end&customer=feed-8")

    async def overdraw() -> None:
        while not waiters._feeds.get("feed-8"):  # noqa: ASYNC110  it waits for news now, and reads nothing
            await asyncio.sleep(0.005)
        limited.limits.charge(Limited.STAFF, "", 100.0)

    ledger.run(overdraw())
    order_id = placed(mine)
    said = len(stream.messages)
    stream.wait_until(lambda: len(stream.messages) >= said + 3)
    assert stream.ids() == []
    assert "comment" in stream.messages[-1], "the connection is kept alive"
    limited.now += 100_000 / Limited.PER_S
    stream.wait_until(stream.ids)
    assert stream.ids() == [f"{order_id}/1"]


def test_a_stream_without_anything_left_ends_at_a_stop() -> None:
    with running_ledger(MemoryLog(), Topics()) as running:
        limits = running.context.limits = Limited().limits
        stream = Stream(running.client("admin"))
        limits.charge(Limited.STAFF, "", 1_000.0)
        placed(running.client())  # which wakes it
        stream.wait_until(lambda: running.context.projector.waiters._pauses)
        running.loop.call_soon_threadsafe(running.context.end_streams)
        stream.join(PATIENCE_S)
        assert not stream.is_alive()
