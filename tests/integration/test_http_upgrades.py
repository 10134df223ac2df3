"""`serve` during an upgrade: requests of a level that is not in use yet, and refusals of a program that is newer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from api.problems import PROBLEMS
from ledger import levels
from ledger.levels import Additions
from ledger.memory.log import MemoryLog
from ledger.schemas import codec as codecs
from ledger.schemas import of_the_ledger
from ledger.schemas.of_the_ledger import use_level
from ledger.topics import Topics
from tests.support import later_schemas
from tests.support.harness import RunningLedger, key, order_body, placed, running_ledger


@pytest.fixture
def ledger() -> Iterator[RunningLedger]:
    with later_schemas.nothing_learned(), running_ledger(MemoryLog(), Topics("upgraded.")) as running:
        yield running


def test_a_request_of_a_later_level_is_answered_503_until_the_upgrade_is_finished(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a program that brought the placing of orders with level 2."""
    client, headers, body = ledger.client(), key(), order_body()
    before = ledger.count(ledger.topics.commands)
    monkeypatch.setattr(levels, "NEW_IN", {2: Additions(words=frozenset({"PlaceOrder"}))})
    for module in (levels, codecs, of_the_ledger):
        monkeypatch.setattr(module, "LEVEL", 2)
    refused = client.post("/orders", json=body, headers=headers)
    assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (503, "not-upgraded", "60")
    assert ledger.count(ledger.topics.commands) == before
    use_level(2)
    assert client.post("/orders", json=body, headers=headers).status_code == 201


def test_a_refusal_of_a_newer_program_is_answered_409_and_by_its_own_words_after_the_upgrade(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a node whose program is older than the code `order_cancelled`. It used to be a 500."""
    client, headers = ledger.client(), key()
    order = placed(client)
    order_id = order["order_id"]
    cut = {"lines": [{name: order["lines"][0][name] for name in ("service", "sku", "quantity")}]}
    assert client.post(f"/orders/{order_id}/cancel", headers=key()).status_code == 200
    with monkeypatch.context() as older:
        older.delitem(PROBLEMS, "order-cancelled")
        answer = client.post(f"/orders/{order_id}/lines/cancel", json=cut, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (409, "newer-refusal")
        assert answer.json()["current"] == {"version": 2, "status": "cancelled"}
        state = client.get(f"/commands/{answer.json()['command_id']}").json()
        assert (state["state"], state["problem"]["code"]) == ("refused", "newer-refusal")
    answer = client.post(f"/orders/{order_id}/lines/cancel", json=cut, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (409, "order-cancelled")
