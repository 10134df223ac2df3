"""Two ledgers on one cluster, with different prefixes and otherwise the same settings."""

from __future__ import annotations

from ledger.memory.log import MemoryLog
from ledger.topics import Topics
from tests.support.harness import placed, running_ledger


def test_they_never_fence_each_other() -> None:
    """Both used to have the transactional ids of APP_ID alone: each one's writer ended the other's."""
    log = MemoryLog()
    with running_ledger(log, Topics("eu.")) as first, running_ledger(log, Topics("us.")) as second:
        for ledger in (first, second, first, second):
            placed(ledger.client())
