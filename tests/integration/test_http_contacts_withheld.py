"""Contacts and notes are not shown before this node knows which of them were erased."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ledger.log import TopicPartition
from tests.support import loopback
from tests.support.everybodys_orders import OWN, World, everybodys_orders
from tests.support.serving import AdjustableStatus


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with everybodys_orders(tmp_path_factory.mktemp("sandbox")) as world:
        yield world


def test_a_node_that_never_was_at_the_end_of_the_log_shows_no_contact(world: World) -> None:
    world.ledger.status.staleness_ms, before = None, world.ledger.status.staleness_ms
    world.ledger.folding.clear()
    try:
        world.ledger.status.staleness_ms = None
        for role, status in (("gateway", 503), ("admin", 503), ("reader", 200)):
            with loopback.client(base_url=world.ledger.url, headers=world.client(role).headers) as client:
                answer = client.get(f"/orders/{world.ids[OWN]}")
            assert answer.status_code == status, role
            assert "mark-" not in answer.text
    finally:
        world.ledger.status.staleness_ms = before
        world.ledger.folding.set()


@pytest.mark.parametrize("beginning", [{"begun": True}, {"begun": False, "connecting": True}], ids=["begun", "connecting"])
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
    assert statuses(of_all) == {200}
    assert world.client("gateway").get(order).headers["ledger-staleness-ms"] == "60000"
