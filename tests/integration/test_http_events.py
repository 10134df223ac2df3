"""The events of an order: pages, and streams that follow it, resume, and end when they should."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import httpx
import pytest

from api.routes import events
from ledger.memory.log import MemoryLog
from ledger.topics import Topics
from tests.support.harness import RunningLedger, key, order_body, running_ledger
from tests.support.patience import PATIENCE_S, until


@pytest.fixture
def ledger() -> Iterator[RunningLedger]:
    with running_ledger(MemoryLog(), Topics()) as running:
        yield running
        running.loop.call_soon_threadsafe(running.context.end_streams)
        while Stream.open:
            Stream.open.pop().join(PATIENCE_S)


def placed(client: httpx.Client) -> str:
    answer = client.post("/orders", json=order_body(), headers=key())
    return str(answer.json()["order_id"])


def cancel(client: httpx.Client, order_id: str) -> None:
    assert client.post(f"/orders/{order_id}/cancel", headers=key()).status_code == 200


def test_a_page_has_every_event_with_its_position_in_the_log(ledger: RunningLedger) -> None:
    client = ledger.client()
    order_id = placed(client)
    cancel(client, order_id)
    path = f"/orders/{order_id}/events"
    rows = client.get(path).json()["data"]
    assert [(r["version"], r["type"], r["status"], r["actor"]) for r in rows] == [
        (1, "OrderPlaced", "pending", "gateway:gateway"),
        (2, "OrderCancelled", "cancelled", "gateway:gateway"),
    ]
    assert rows[0]["detail"]["lines"] == order_body()["lines"]
    assert rows[1]["detail"] == {"reason": "customer_request", "by": "customer"}
    records = {(r.partition, r.offset): r.key for r in ledger.records(ledger.topics.events)}
    assert {records[r["partition"], r["offset"]] for r in rows} == {order_id.encode()}
    assert client.get(path, params={"limit": 1}).json()["data"] == rows[:1]
    assert client.get(path, params={"after": 1}).json()["data"] == rows[1:]
    assert client.get(path, params={"after": 2, "limit": 200}).json() == {"data": []}
    assert "contact" not in client.get(path).text.replace("contact_digest", "")


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "after=-1", "after=x", "after=99999999999"])
def test_a_wrong_page_is_an_invalid_field(ledger: RunningLedger, query: str) -> None:
    client = ledger.client()
    answer = client.get(f"/orders/{placed(client)}/events?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-field")


def test_another_representation_is_not_acceptable(ledger: RunningLedger) -> None:
    client = ledger.client()
    answer = client.get(f"/orders/{placed(client)}/events", headers={"Accept": "application/xml"})
    assert (answer.status_code, answer.json()["code"]) == (406, "not-acceptable")


# ---- streams --------------------------------------------------------------------------------------------------------


class Stream(threading.Thread):
    """Reads a stream into `messages` ({id, event, data} or {comment}) until it ends."""

    open: ClassVar[list[Stream]] = []

    def __init__(self, client: httpx.Client, order_id: str, headers: dict[str, str] | None = None, query: str = "") -> None:
        super().__init__()
        self.messages: list[dict[str, Any]] = []
        self.headers: httpx.Headers | None = None
        self._client, self._path = client, f"/orders/{order_id}/events{query}"
        self._sent = {"Accept": "text/event-stream"} | (headers or {})
        self.open.append(self)
        self.start()

    def run(self) -> None:
        with self._client.stream("GET", self._path, headers=self._sent) as answer:
            self.headers = answer.headers
            message: dict[str, Any] = {}
            for line in answer.iter_lines():
                if line:
                    name, _, value = line.partition(": ")
                    message[name or "comment"] = value
                elif message:
                    self.messages.append(message)
                    message = {}

    def events(self) -> list[tuple[str, str]]:
        return [(m["id"], m["event"]) for m in self.messages if "id" in m]

    def wait_for(self, count: int, timeout_s: float = PATIENCE_S) -> list[tuple[str, str]]:
        deadline = time.monotonic() + timeout_s
        while len(self.events()) < count:
            assert time.monotonic() < deadline, self.messages
            time.sleep(0.005)
        return self.events()


def test_a_stream_sends_past_events_and_then_new_ones(ledger: RunningLedger) -> None:
    client = ledger.client()
    order_id = placed(client)
    stream = Stream(client, order_id)
    assert stream.wait_for(1) == [("1", "OrderPlaced")]
    cancel(client, order_id)
    assert stream.wait_for(2) == [("1", "OrderPlaced"), ("2", "OrderCancelled")]
    assert stream.headers is not None
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert stream.headers["cache-control"] == "no-store"
    rows = client.get(f"/orders/{order_id}/events").json()["data"]
    assert [json.loads(m["data"]) for m in stream.messages if "data" in m] == rows


def test_a_stream_resumes_behind_the_last_event_seen(ledger: RunningLedger) -> None:
    client = ledger.client()
    order_id = placed(client)
    cancel(client, order_id)
    assert Stream(client, order_id, {"Last-Event-ID": "1"}).wait_for(1) == [("2", "OrderCancelled")]
    assert Stream(client, order_id, query="?after=1").wait_for(1) == [("2", "OrderCancelled")]
    assert Stream(client, order_id, {"Last-Event-ID": ""}).wait_for(2)[-1] == ("2", "OrderCancelled")
    for wrong in ("x", "-1", "1.0", "99999999999"):
        headers = {"Accept": "text/event-stream", "Last-Event-ID": wrong}
        answer = client.get(f"/orders/{order_id}/events", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid-field"), wrong


def test_a_stream_of_another_customers_order_is_404(ledger: RunningLedger) -> None:
    order_id = placed(ledger.client())
    answer = ledger.client(customer="c-2").get(f"/orders/{order_id}/events", headers={"Accept": "text/event-stream"})
    assert (answer.status_code, answer.json()["code"]) == (404, "order-not-found")


def test_an_idle_stream_sends_comments(ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "COMMENT_S", 0.1)
    client = ledger.client()
    stream = Stream(client, placed(client))
    until(lambda: len([m for m in stream.messages if "comment" in m]) >= 4)
    assert stream.events() == [("1", "OrderPlaced")]


def test_an_idle_stream_ends_in_time(ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "STREAM_S", 1.55)
    client = ledger.client()
    began = time.monotonic()
    stream = Stream(client, placed(client))
    stream.join(PATIENCE_S)
    assert not stream.is_alive()
    assert 1.5 < time.monotonic() - began < PATIENCE_S  # without the setting: half an hour
    assert stream.events() == [("1", "OrderPlaced")]


def test_streams_end_immediately_when_the_process_stops(ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "COMMENT_S", 2 * PATIENCE_S)  # streams that sleep would notice the stop only then
    client = ledger.client()
    streams = [Stream(client, placed(client)) for _ in range(5)]
    for stream in streams:
        stream.wait_for(1)
    ledger.loop.call_soon_threadsafe(ledger.context.end_streams)
    for stream in streams:
        stream.join(PATIENCE_S)
        assert not stream.is_alive()
    assert client.get("/ready").status_code == 503, "no new requests for a process that stops"


def test_a_client_that_leaves_is_noticed(ledger: RunningLedger) -> None:
    client = ledger.client()
    order_id = placed(client)
    waiters = ledger.context.projector.waiters._orders
    with client.stream("GET", f"/orders/{order_id}/events", headers={"Accept": "text/event-stream"}) as answer:
        lines = answer.iter_lines()  # kept: dropping it would close the stream
        next(lines)
        deadline = time.monotonic() + PATIENCE_S
        while order_id not in waiters:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    deadline = time.monotonic() + PATIENCE_S
    while order_id in waiters:
        assert time.monotonic() < deadline, "the stream continues for nobody"
        time.sleep(0.01)
