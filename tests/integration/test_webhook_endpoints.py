"""Which webhook endpoints an admin can have: their URLs, names, types and number; and the judge of their messages."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from api.services import webhook_endpoints
from commands.webhooks.endpoints import EndpointsView, Health, encode, health_key
from commands.webhooks.tries import Tried
from ledger.clock import now_ms
from ledger.log import NewRecord, Reader, Record, TopicPartition
from ledger.memory.log import MemoryLog
from ledger.topics import Topics
from tests.support.harness import RunningLedger, running_ledger
from tests.support.patience import PATIENCE_S
from tests.support.webhook_receiver import OK, Got

URL = "https://a.example/hook"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://a.example/",
        "https://",
        "https://user:pw@a.example/",
        "https://a.example/#x",
        "https://a b/",
        "javascript:alert(1)",
        "https://a.example:0/",
        "https://a.example:65536/",
        "https://a.example:99999/",
        "https://[1:2]/",
        "https://[::1::]/",
        "https://[127.0.0.1]/",
    ],
)
def test_an_invalid_url_is_refused(ledger: RunningLedger, url: str) -> None:
    answer = ledger.client("admin").put("/webhook-endpoints/wrong", json={"url": url})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-field")


def test_the_health_of_a_deleted_endpoint_is_deleted_also_that_of_nodes_that_are_no_more(ledger: RunningLedger) -> None:
    admin, endpoints, body = ledger.client("admin"), ledger.context.webhook_endpoints, {"url": URL, "enabled": False}
    assert admin.put("/webhook-endpoints/again", json=body).status_code == 201
    before = Health(failing_since=now_ms(), failed_at=now_ms(), error="timed_out", failed=4, waiting=2)
    ledger.run(endpoints.write([(health_key("again", "old"), encode(before))]))
    assert admin.get("/webhook-endpoints/again").json()["health"]["waiting"] == 2
    assert admin.delete("/webhook-endpoints/again").status_code == 204
    view = ledger.run(endpoints.view())
    assert not view.healths["again"]
    late = replace(before, failing_since=1, failed_at=1)  # by a node that still knew the deleted one
    ledger.run(endpoints.write([(health_key("again", "old"), encode(late))]))
    assert admin.put("/webhook-endpoints/again", json=body).status_code == 201
    health = admin.get("/webhook-endpoints/again").json()["health"]
    assert not any(health.values()), health
    assert admin.delete("/webhook-endpoints/again").status_code == 204


def test_names_types_and_numbers_of_endpoints_are_bounded(ledger: RunningLedger) -> None:
    admin = ledger.client("admin")
    for name in ("UP", "-a", "a_b", "a" * 41):
        assert admin.put(f"/webhook-endpoints/{name}", json={"url": URL}).status_code == 404
    for body in ({"url": URL, "types": []}, {"url": URL, "types": ["OrderEaten"]}):
        assert admin.put("/webhook-endpoints/wrong", json=body).status_code == 422
    for number in range(20):
        assert admin.put(f"/webhook-endpoints/many-{number}", json={"url": URL, "enabled": False}).status_code == 201
    answer = admin.put("/webhook-endpoints/too-many", json={"url": URL})
    assert (answer.status_code, answer.json()["code"]) == (422, "limit-exceeded")


def test_production_delivers_to_public_addresses_and_by_https_alone() -> None:
    with running_ledger(MemoryLog(), Topics(), env="production") as ledger:
        ledger.context.settings = ledger.context.settings.model_copy(update={"webhooks_allow_private": False})
        admin = ledger.client("admin")
        for url in (
            "https://127.0.0.1/",
            "https://[::1]/",
            "https://10.1.2.3/",
            "https://localhost/",
            "https://169.254.169.254/",
        ):
            answer = admin.put("/webhook-endpoints/inside", json={"url": url})
            assert answer.json()["errors"][0]["code"] == "private-address", url
        for host in ("2130706433", "127.1", "0x7f000001", "a.example.0x7f", "0", "127.0.0.1."):
            answer = admin.put("/webhook-endpoints/odd", json={"url": f"https://{host}/"})
            assert answer.json()["errors"][0]["code"] == "not-a-webhook-url", host
        answer = admin.put("/webhook-endpoints/plain", json={"url": "http://a.example/"})
        assert answer.json()["errors"][0]["code"] == "not-a-webhook-url"
        assert (
            admin.put("/webhook-endpoints/fine", json={"url": "https://a.example:8443/x?y=1", "enabled": False}).status_code
            == 201
        )
        view = ledger.run(ledger.context.webhook_endpoints.view())
        assert isinstance(view, EndpointsView)
        assert list(view.endpoints) == ["fine"]


def test_got_is_what_it_says() -> None:
    """The judge itself: a message with another body is not signed."""
    got = Got(OK, "/", {"webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "webhook-timestamp": "1614265330"}, b'{"test": 2432232314}')
    got.headers["webhook-signature"] = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert got.is_signed("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    assert not got._replace(body=b"{}").is_signed("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")


# ---- a log that does not answer in time -----------------------------------------------------------------------------


class Halting:
    """A reader that returns so many records, and then nothing."""

    def __init__(self, reader: Reader, most: int) -> None:
        self._reader, self._left = reader, most
        self.assign, self.reached_end = reader.assign, reader.reached_end
        self.silent_s, self.close = reader.silent_s, reader.close

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        if not self._left:
            time.sleep(timeout_s)
            return []
        records = self._reader.poll(min(max_records, self._left), timeout_s)
        self._left -= len(records)
        return records


class SlowLog(MemoryLog):
    """`most_tries`: readers of the delivery log halt after so many. `held`: who asks for `order-control` waits meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.most_tries: int | None = None
        self.asked, self._released = threading.Event(), threading.Event()
        self._released.set()

    def reader(self, name: str, **options: Any) -> Any:
        reader = super().reader(name, **options)
        return Halting(reader, self.most_tries) if name == "deliveries" and self.most_tries is not None else reader

    def starts(self, partitions: Iterable[TopicPartition], timeout_s: float = 5.0) -> dict[TopicPartition, int]:
        tps = list(partitions)
        if not self._released.is_set() and any(tp.topic == Topics().control for tp in tps):
            self.asked.set()
            assert self._released.wait(PATIENCE_S)
        return super().starts(tps, timeout_s)

    @contextmanager
    def held(self) -> Iterator[None]:
        self._released.clear()
        try:
            yield
        finally:
            self._released.set()


def send_tries(ledger: RunningLedger, endpoint: str, count: int) -> None:
    tries = [Tried(f"msg_{n}", "OrderPlaced", "ord_1", 0, n, now_ms(), 5, 1, "delivered", 200) for n in range(count)]
    topic, key = ledger.topics.deliveries, endpoint.encode()
    ledger.run(ledger.context.submissions.send_all([NewRecord(topic, 0, key, msgspec.json.encode(tried)) for tried in tries]))


@pytest.mark.parametrize("most", [0, 5])
def test_a_page_of_tries_that_was_not_read_in_time_is_not_answered_as_if_it_were_whole(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SlowLog()
    with running_ledger(log, Topics()) as ledger:
        admin = ledger.client("admin")
        assert admin.put("/webhook-endpoints/slow", json={"url": URL, "enabled": False}).status_code == 201
        send_tries(ledger, "slow", 10)
        log.most_tries = most
        with monkeypatch.context() as patch:
            patch.setattr(webhook_endpoints, "READ_S", 0.05)
            answer = admin.get("/webhook-endpoints/slow/deliveries")
        assert (answer.status_code, answer.json().get("code")) == (503, "ledger-unavailable"), answer.text
        log.most_tries = None
        tries = admin.get("/webhook-endpoints/slow/deliveries").json()["data"]
        assert [row["message_id"] for row in tries] == [f"msg_{n}" for n in reversed(range(10))]


def test_questions_that_wait_for_the_log_leave_the_threads_of_the_node_to_others() -> None:
    log, more_than_threads = SlowLog(), 40
    with running_ledger(log, Topics()) as ledger:
        endpoints = ledger.context.webhook_endpoints
        with log.held():
            waiting = [asyncio.run_coroutine_threadsafe(endpoints.view(), ledger.loop) for _ in range(more_than_threads)]
            assert log.asked.wait(PATIENCE_S)
            assert ledger.run(asyncio.to_thread(lambda: "done")) == "done"
            assert not any(one.done() for one in waiting)
        assert all(one.result(PATIENCE_S).endpoints == {} for one in waiting)
