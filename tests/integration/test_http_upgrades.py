"""A request that needs a later feature level than that in use: refused, not lost, and accepted when the upgrade is finished."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ledger import levels
from ledger.levels import Additions
from ledger.memory.log import MemoryLog
from ledger.schemas import codec as codecs
from ledger.schemas import of_the_ledger
from ledger.schemas.of_the_ledger import use_level
from ledger.topics import Topics
from tests.support import later_schemas
from tests.support.harness import RunningLedger, key, order_body, running_ledger


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
