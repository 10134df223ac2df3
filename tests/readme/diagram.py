"""The rules as a picture and as tables, made from the transition tables, so that they always agree with the code. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from ledger import events as e
from ledger import transitions as t
from ledger.transitions import Code, Status

START = "[*]"
S = TypeVar("S", bound=str)

# The shown status after a request's event.
LEADS_TO: dict[str, Status] = {
    e.ORDER_CANCELLED: Status.CANCELLED,
    e.FULFILMENT_STARTED: Status.PROCESSING,
    e.PARCEL_SHIPPED: Status.PROCESSING,
    e.ORDER_SHIPPED: Status.SHIPPED,
    e.ORDER_DELIVERED: Status.DELIVERED,
}
# Facts, and lines that are cancelled, move the shown status by what they complete or undo (`order.display`); the exhaustive test
# sees no other moves.
OTHER_MOVES: tuple[tuple[Status, Status, str], ...] = (
    (Status.PENDING, Status.PAID, e.PAYMENT_CAPTURED),
    (Status.PENDING, Status.PAID, e.STOCK_RESERVED),
    (Status.PAID, Status.PENDING, e.STOCK_RELEASED),
    (Status.PENDING, Status.PAID, e.LINES_CANCELLED),
    (Status.PROCESSING, Status.SHIPPED, e.LINES_CANCELLED),
    (Status.PROCESSING, Status.DELIVERED, e.LINES_CANCELLED),
)


def moves() -> list[tuple[Status, Status, str]]:
    """Every change of the shown status: from, to, and the event that causes it. By status, then by target."""
    changes = list(OTHER_MOVES)
    for row in t.REQUESTS.values():
        for status, outcome in row.items():
            if not isinstance(outcome, Code) and outcome in LEADS_TO and LEADS_TO[outcome] is not status:
                changes.append((status, LEADS_TO[outcome], outcome))
    order = list(Status)
    return sorted(set(changes), key=lambda m: (order.index(m[0]), order.index(m[1]), m[2]))


def states() -> str:
    """The shown status as a Mermaid state diagram."""
    events: dict[tuple[Status, Status], list[str]] = {}
    for source, target, event in moves():
        events.setdefault((source, target), []).append(event)
    lines = ["```mermaid", "stateDiagram-v2", f"    {START} --> {Status.PENDING}: {e.ORDER_PLACED}"]
    lines += [f"    {source} --> {target}: {' / '.join(names)}" for (source, target), names in events.items()]
    left = {source for source, _, _ in moves()}
    lines += [f"    {status} --> {START}" for status in Status if status not in left]
    return "\n".join([*lines, "```"])


def requests() -> str:
    """The result of each request in each shown status: an event, or the refusal's code."""
    rows: dict[str, dict[Status, str | Code]] = {str(operation): row for operation, row in t.REQUESTS.items()}
    return _table("request", rows, [(status, str(status)) for status in Status])


def facts() -> str:
    """The state after each observed fact, by the state before; never a refusal for state."""
    attempts = [(state, state) for state in t.ATTEMPT_STATES]
    refunds = [(state, state or "not known") for state in t.REFUND_STATES]
    stock = [(state, state) for state in t.STOCK_STATES]
    return "\n\n".join(
        (
            _table("payment attempt is", t.ATTEMPT_FACTS, attempts),
            _table("refund is", t.REFUND_FACTS, refunds),
            _table("stock is", t.STOCK_FACTS, stock),
        )
    )


def _table(corner: str, rows: Mapping[str, Mapping[S, str | Code]], columns: Sequence[tuple[S, str]]) -> str:
    lines = [_row([corner, *(title for _, title in columns)]), _row(["---"] * (len(columns) + 1))]
    lines += [_row([name, *(_cell(row[key]) for key, _ in columns)]) for name, row in rows.items()]
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(outcome: str | Code) -> str:
    """Events and states are plain text, codes are code."""
    return f"`{outcome}`" if isinstance(outcome, Code) else outcome


def states_and_requests() -> str:
    """The diagram, and below it the results of requests."""
    return f"{states()}\n\n{requests()}"
