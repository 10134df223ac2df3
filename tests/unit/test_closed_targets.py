"""Topics without records whose `order-control` has some: of a ledger that was closed, or of a later level. Nothing goes there."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from api.cli.archive import NotEmpty, refuse_filled
from ledger.errors import LedgerError
from ledger.memory.log import MemoryLog
from ledger.upgrades.control import Control
from ledger.upgrades.membership import ProgramTooOld
from ledger.upgrades.records import LEVEL_KEY, Moved, View, announcement, moved_records
from tests.support.backed_up import BackedUp, records_in
from tests.support.one_log import PARTITIONS, TOPICS, WRITERS

CLOSED = moved_records(Moved("new.", 8), "0.2.0")
LATER = [(LEVEL_KEY, announcement(99, "9.9.0"))]
either = pytest.mark.parametrize(
    ("control", "error", "text"),
    [
        (CLOSED, NotEmpty, r"order-control is not empty: .* TOPIC_PREFIX=new\. .* is closed; delete order-control, too"),
        (LATER, ProgramTooOld, r"order-control has feature level 99.* take version 9\.9\.0 or later"),
    ],
    ids=["closed", "later"],
)


@pytest.fixture
def backed(tmp_path: Path) -> BackedUp:
    backed = BackedUp(tmp_path / "backup")
    backed.orders("first", 1)
    return backed


def log_with(control: list[tuple[bytes, bytes]]) -> MemoryLog:
    """All topics of the ledger, empty except for these records."""
    log = MemoryLog()
    log.ensure_topics(TOPICS.specs(PARTITIONS, WRITERS))
    with closing(Control(log, TOPICS)) as records:
        records.write(control)
    return log


@either
def test_nothing_is_restored_there(
    backed: BackedUp, control: list[tuple[bytes, bytes]], error: type[LedgerError], text: str
) -> None:
    backed.backup()
    log = log_with(control)
    with pytest.raises(error, match=text):
        backed.restore(log)
    assert records_in(log, TOPICS.events) == []
    assert [(record.key, record.value) for record in records_in(log, TOPICS.control)] == control


@either
def test_no_archive_is_imported_there(control: list[tuple[bytes, bytes]], error: type[LedgerError], text: str) -> None:
    names = [TOPICS.events, TOPICS.refusals, TOPICS.commands]
    refuse_filled(log_with([]), TOPICS, "app", PARTITIONS, names)
    with pytest.raises(error, match=text):
        refuse_filled(log_with(control), TOPICS, "app", PARTITIONS, names)


def test_a_restored_level_does_not_replace_a_higher_one_that_is_there(backed: BackedUp, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Control(backed.before.log, TOPICS)) as control:
        control.write([(LEVEL_KEY, announcement(2, "0.3.0"))])
    backed.backup()
    monkeypatch.setattr("api.cli.backup.proving.LEVEL", 3)
    monkeypatch.setattr("api.cli.archive.LEVEL", 3)
    log = log_with([(LEVEL_KEY, announcement(3, "0.4.0"))])
    backed.restore(log)
    assert records_in(log, TOPICS.events)
    log.clean()
    assert Control(log, TOPICS).read(View()).level == 3, "whatever compaction left"
