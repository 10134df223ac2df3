"""The picture of the rules in the documents agrees with the transition tables."""

from __future__ import annotations

from ledger.transitions import ATTEMPT_FACTS, REQUESTS, Operation, Status
from tests.readme import diagram
from tests.support.moves import MOVES
from tests.support.moves import moves as moves_reached
from tests.support.order_universes import MOVING_UNIVERSES


def test_every_move_that_is_drawn_can_happen_and_every_one_that_can_happen_is_drawn() -> None:
    drawn: dict[tuple[str, str], set[str]] = {}
    for source, target, event in diagram.moves():
        drawn.setdefault((str(source), str(target)), set()).add(event)
    assert drawn == MOVES == moves_reached(MOVING_UNIVERSES)


def test_the_diagram_names_every_status_and_ends_at_final_ones() -> None:
    drawn = diagram.states()
    assert all(f" {status}" in drawn for status in Status)
    assert [line.split()[0] for line in drawn.splitlines() if line.endswith("--> [*]")] == ["delivered", "cancelled"]
    assert drawn.startswith("```mermaid\nstateDiagram-v2\n    [*] --> pending: OrderPlaced\n")


def test_the_table_has_a_row_for_each_request_and_a_cell_for_each_status() -> None:
    head, _, *rows = diagram.requests().splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")] == ["request", *Status]
    assert len(rows) == len(REQUESTS)
    for operation, row in zip(REQUESTS, rows, strict=True):
        cells = [cell.strip().strip("`") for cell in row.strip("|").split("|")]
        assert cells == [operation, *(REQUESTS[operation][status] for status in Status)]
    assert Operation.RECORD_PAYMENT not in REQUESTS


def test_the_facts_have_their_tables_too() -> None:
    tables = [table.splitlines() for table in diagram.facts().split("\n\n")]
    assert [table[0].split("|")[1].strip() for table in tables] == ["payment attempt is", "refund is", "stock is"]
    assert [row.split("|")[1].strip() for row in tables[0][2:]] == list(ATTEMPT_FACTS)
