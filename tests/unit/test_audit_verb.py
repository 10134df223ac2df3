"""A line of `audit` names the things that its number counts."""

from __future__ import annotations

import pytest

from api.cli.audit import COUNTED, _line
from ledger.audit import ACTIONS, OUTCOMES, AuditRecord


def line(action: str, outcome: str, count: int | None) -> str:
    record = AuditRecord(
        audit_id="a",
        occurred_at=0,
        node="one",
        actor="cli:ada",
        role="",
        action=action,
        outcome=outcome,
        count=count,
        why="more machines",
    )
    return _line(record, "0-7").partition(outcome)[2].strip()


@pytest.mark.parametrize(
    ("action", "outcome", "said"),
    [
        ("customer_erasure", "done", "12 contacts"),
        ("gap_acceptance", "requested", "12 commands"),
        ("writers_change", "done", "12 writers"),
        ("log_copy", "requested", "12 partitions"),
        ("log_copy", "done", "12 events"),
        ("action_of_a_later_program", "done", "12"),
    ],
)
def test_a_number_is_of_the_things_that_its_action_counts(action: str, outcome: str, said: str) -> None:
    assert line(action, outcome, 12) == f"{said}  more machines"
    assert line(action, outcome, None) == "more machines"


def test_the_table_has_actions_and_outcomes_of_the_audit() -> None:
    assert {action for action, _ in COUNTED} <= set(ACTIONS)
    assert {outcome for _, outcome in COUNTED} <= set(OUTCOMES)
