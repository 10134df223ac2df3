"""The texts that no erasure reaches, as tables. Pure."""

from __future__ import annotations

from ledger.kept_for_ever import ELSEWHERE, TEXTS


def table() -> str:
    """A row per field of an event, then a row per place, in Markdown."""
    rows = ["| field of an event | written by | for | not for |", "|---|---|---|---|"]
    rows += [f"| `{text.field}` | {text.writer} | {text.meant} | {text.wrong} |" for text in TEXTS]
    rows += ["", "| where | what an erasure leaves |", "|---|---|"]
    rows += [f"| {where} | {left} |" for where, left in ELSEWHERE]
    return "\n".join(rows)
