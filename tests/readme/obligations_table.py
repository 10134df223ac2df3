"""The obligations of an order in each state, as a table. Pure."""

from __future__ import annotations

from commands.obligations import TABLE


def table() -> str:
    """A row per row of `obligations.TABLE`, in Markdown."""
    rows = ["| the order is | so it owes | which leads to |", "|---|---|---|"]
    rows += [f"| {row.when} | {row.action} | {row.leads_to} |" for row in TABLE]
    return "\n".join(rows)
