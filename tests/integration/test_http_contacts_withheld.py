"""Contacts and notes are not shown before this node knows which of them were erased."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from api.processes.beginning import Beginning
from ledger.log import EventLog, TopicPartition
from ledger.memory.log import MemoryLog
from ledger.topics import Topics
from ledger.upgrades.membership import Membership
from projections import faust_app, feed
from projections.opening import Opened, projections_of
from tests.support import loopback
from tests.support.everybodys_orders import OWN, World, everybodys_orders
from tests.support.harness import RunningLedger, another_node, placed, running_ledger
from tests.support.patience import PATIENCE_S, until
from tests.support.serving import AdjustableStatus


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with everybodys_orders(tmp_path_factory.mktemp("sandbox")) as world:
        yield world


def test_a_node_that_never_was_at_the_end_of_the_log_shows_no_contact(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with world.ledger.folding.paused(), monkeypatch.context() as unknown:
        unknown.setattr(world.ledger.status, "staleness_ms", None)
        for role, status in (("gateway", 503), ("admin", 503), ("reader", 200)):
            with loopback.client(base_url=world.ledger.url, headers=world.client(role).headers) as client:
                answer = client.get(f"/orders/{world.ids[OWN]}")
            assert answer.status_code == status, role
            assert "mark-" not in answer.text


@pytest.mark.parametrize(
    "beginning",
    [{"begun": True}, {"begun": False, "answered": False, "connecting": True}, {"begun": False, "answered": True}],
    ids=["begun", "connecting", "answered"],
)
def test_a_node_shows_no_contact_before_it_has_folded_them_all_since_its_start(
    world: World, monkeypatch: pytest.MonkeyPatch, beginning: dict[str, bool]
) -> None:
    """They may have been erased while it was down."""
    status = AdjustableStatus(caught_up=False, staleness_ms=60_000, **beginning)
    monkeypatch.setattr(world.ledger.context, "status", status)
    order = f"/orders/{world.ids[OWN]}"
    of_order = [("gateway", order), ("admin", order), ("admin", f"{order}/notes")]
    of_all = [*of_order, ("admin", "/orders?email=ada@example.org")]

    def statuses(asked: list[tuple[str, str]]) -> set[int]:
        answers = [world.client(role).get(path) for role, path in asked]
        assert all("mark-" not in answer.text or answer.status_code == 200 for answer in answers)
        assert {answer.json()["code"] for answer in answers if answer.status_code == 503} <= {"not-caught-up"}
        return {answer.status_code for answer in answers}

    assert statuses(of_all) == {503}
    assert statuses([("reader", order), ("reader", "/orders"), ("gateway", "/orders"), ("gateway", f"{order}/events")]) == {200}
    contacts = [TopicPartition(world.ledger.topics.contacts, p) for p in range(world.ledger.context.partitions)]
    mine = world.ledger.context.partition_of(world.ids[OWN])
    status.reached = frozenset(tp for tp in contacts if tp.partition != mine)
    assert statuses(of_all) == {503}
    status.reached = frozenset({contacts[mine]})
    assert (statuses(of_order), statuses(of_all[-1:])) == ({200}, {503})
    status.reached = frozenset(contacts)
    assert statuses(of_all) == {200}
    # The log is unreachable since the start: stale, and marked.
    status.reached, status.begun, status.connecting, status.connected = frozenset(), False, False, False
    status.answered = False
    assert statuses(of_all) == {200}
    assert world.client("gateway").get(order).headers["ledger-staleness-ms"] == "60000"


class Hesitant:
    """A log that answers, except which topics it has: for which it waits."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.asked, self.answers = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def topic_id(self, topic: str) -> bytes:
        self.asked.set()
        self.answers.wait(PATIENCE_S)
        return self._log.topic_id(topic)


def test_from_the_first_answer_of_the_log_no_contact_is_shown_however_long_the_start_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, nobody knows when it will answer: they are shown, and the answer says how old they may be."""
    log = MemoryLog()
    with running_ledger(log, Topics()) as ledger, another_node(ledger) as node:
        order = placed(ledger.client())
        path = f"/orders/{order['order_id']}"
        until(lambda: node.client().get(path).status_code == 200)
        node.folding.pause()  # a node that was down since
        asked = (("gateway", path), ("admin", f"{path}/notes"), ("admin", "/orders?email=ada@example.org"))

        def statuses() -> tuple[int, ...]:
            return tuple(node.client(role).get(one).status_code for role, one in asked)

        slow = Hesitant(log)
        with starting(node, slow, tmp_path, log):
            monkeypatch.setattr(feed, "SILENT_S", 0.0)  # it started long ago
            assert statuses() == (200, 200, 200)
            assert int(node.client().get(path).headers["ledger-staleness-ms"]) >= 60_000
            log.away(False)
            assert slow.asked.wait(PATIENCE_S)  # whether the databases are of this log, which may take a minute
            assert statuses() == (503, 503, 503)
            assert node.client().get(path).json()["code"] == "not-caught-up"
            assert node.client("reader").get(path).status_code == 200, "an order without its contact"


@contextmanager
def starting(node: RunningLedger, log: Hesitant, folder: Path, away: MemoryLog) -> Iterator[None]:
    """The start of `node` with databases that were at the end of the log a minute ago. The log is unreachable at first."""
    context, event_log = node.context, cast("EventLog", log)
    known_at = time.monotonic() - 60
    app = faust_app.build_app(
        app_id="late", log=event_log, folder=context.projector, state_dir=folder, exit_grace_s=None, wait=True
    )
    app.feed.known_current_at = known_at
    membership = Membership(event_log, node.topics, "serve", "late", "0.3.0", pytest.fail)
    opened = Opened("g000001", context.projector.databases, known_at)
    beginning = Beginning(
        context.settings, event_log, projections_of(folder), opened, app, context, membership, lambda: pytest.fail("ended")
    )

    async def serve() -> None:
        app.feed.open(pytest.fail)
        beginning.served(lambda generation: None)

    away.away(True)
    context.status = app.status
    node.run(serve())
    beginning.start()
    try:
        yield
    finally:
        away.away(False)
        log.answers.set()
        beginning.end()
        membership.leave()
