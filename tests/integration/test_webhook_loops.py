"""The loop of one webhook endpoint: what a fault of the loop costs, and what a URL that cannot be used."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from api.representations import webhook_body
from commands.webhooks import delivering, door
from commands.webhooks.delivering import EndpointLoop, WithEndpoints
from commands.webhooks.door import MAX_CONNECTIONS
from commands.webhooks.endpoints import Endpoint
from commands.webhooks.queues import Queues
from commands.webhooks.signing import digest_of, secret_of
from commands.webhooks.tries import Tried
from ledger.clock import monotonic_ms
from ledger.errors import LogUnavailable
from ledger.log import Bookmark
from tests.support.changed_logs import send
from tests.support.one_log import TOPICS, Ledger, place
from tests.support.patience import PATIENCE_S, until
from tests.support.webhook_receiver import Receiver

HASH_KEY = b"0123456789abcdef"


@pytest.fixture
def ledger() -> Ledger:
    """With the first events of forty orders, and no process."""
    ledger = Ledger()
    running = ledger.start()
    send(ledger, [place(f"k{n}") for n in range(40)])
    ledger.stop(running)
    return ledger


def loop_of(ledger: Ledger, url: str, clock_ms: Callable[[], int] = monotonic_ms) -> tuple[EndpointLoop, list[Tried]]:
    """The loop of an endpoint for three of the four partitions, and its tries."""
    tries: list[Tried] = []
    shared = WithEndpoints(
        log=ledger.log,
        topics=TOPICS,
        hash_key=HASH_KEY,
        group="app-webhook",
        node="one",
        compose=webhook_body,
        allow_private=True,
        on_tried=lambda name, tried: tries.append(tried),
        monotonic_ms=clock_ms,
    )
    digest = digest_of(secret_of(HASH_KEY, "shop", "s1"))
    endpoint = Endpoint(url=url, created_at=1, enabled_at=1, salt="s1", digest=digest, start={}, started_at=1)
    return EndpointLoop(shared, "shop", endpoint, {0, 1, 2}), tries


def test_a_fault_of_the_loop_begins_no_other_delivery(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "TIMEOUT_S", PATIENCE_S)
    receiver = Receiver(lambda got: "silent")
    one, tries = loop_of(ledger, receiver.url)
    one.start()
    try:
        until(lambda: len(receiver.got) == MAX_CONNECTIONS)
        ledger.log.away(True)
        one.own({0, 1, 2, 3})  # the position in the fourth partition cannot be read
        until(lambda: one._thread.restarts)
        assert (len(receiver.got), receiver.connections, tries) == (MAX_CONNECTIONS, MAX_CONNECTIONS, [])
    finally:
        ledger.log.away(False)
        one.stop()
        one.join(PATIENCE_S)
        receiver.close()


@pytest.mark.parametrize("url", ["https://a.example:99999/", "https://[1:2]/"])
def test_a_url_that_cannot_be_used_fails_its_deliveries_and_says_so(ledger: Ledger, url: str) -> None:
    """`serve` refuses it now; an earlier one stored it."""
    one, tries = loop_of(ledger, url)
    one.start()
    try:
        until(lambda: tries or one._thread.restarts or not one._thread.is_alive())
        assert (one._thread.restarts, one._thread.is_alive()) == (0, True)
        assert (tries[0].result, tries[0].status, tries[0].detail) == ("no_answer", 0, "the URL cannot be used")
        assert one.health.error == "no_answer"
    finally:
        one.stop()
        one.join(PATIENCE_S)


def test_what_is_owed_is_changed_only_where_deliveries_end(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the event loop, also when partitions are taken and given away: from another thread, that would lose orders."""
    users: set[int] = set()

    class Watched(Queues):
        def __getattribute__(self, name: str) -> Any:
            users.add(threading.get_ident())
            return super().__getattribute__(name)

    monkeypatch.setattr(delivering, "Queues", Watched)
    receiver = Receiver()
    one, tries = loop_of(ledger, receiver.url)
    one.start()
    try:
        until(lambda: {tried.partition for tried in tries} == {0, 1, 2})
        one.own({1, 2, 3})
        until(lambda: 3 in {tried.partition for tried in tries})
        assert users == {one._thread.ident}
    finally:
        one.stop()
        one.join(PATIENCE_S)
        receiver.close()


def test_a_fault_after_a_delivery_restarts_the_loop_and_nothing_is_missed(ledger: Ledger) -> None:
    """asyncio only logs what a callback raises."""
    fine = threading.Event()

    def clock_ms() -> int:
        if not fine.is_set() and asyncio.current_task() is None:  # a delivery has ended, and the next ones should begin
            fine.set()
            raise RuntimeError("no time")
        return monotonic_ms()

    receiver = Receiver()
    one, _ = loop_of(ledger, receiver.url, clock_ms)
    one.start()
    try:
        until(lambda: one._thread.restarts)
        owed = {f"{event.order_id}/1" for event in ledger.events() if ledger.log.partition_for(event.order_id.encode(), 4) != 3}
        until(lambda: set(receiver.ids()) >= owed)
        assert one._thread.restarts == 1
    finally:
        one.stop()
        one.join(PATIENCE_S)
        receiver.close()


def test_a_loop_that_cannot_begin_leaves_nothing_open(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    make_bookmark, make_reader, refusals = ledger.log.bookmark, ledger.log.reader, [LogUnavailable("too many files are open")]

    def bookmark(group: str) -> Bookmark:
        one_more = make_bookmark(group)
        close = one_more.close
        opened.append(group)
        monkeypatch.setattr(one_more, "close", lambda: (opened.remove(group), close()))
        return one_more

    def reader(*args: Any, **how: Any) -> Any:
        if refusals:
            raise refusals.pop()
        assert len(opened) == 1, "the one of the try before is closed"
        return make_reader(*args, **how)

    monkeypatch.setattr(ledger.log, "bookmark", bookmark)
    monkeypatch.setattr(ledger.log, "reader", reader)
    receiver = Receiver()
    one, tries = loop_of(ledger, receiver.url)
    one.start()
    try:
        until(lambda: tries)
        assert one._thread.restarts == 1
    finally:
        one.stop()
        one.join(PATIENCE_S)
        receiver.close()
    assert opened == []
