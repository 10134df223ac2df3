"""The README's table of what an order owes in which state: `python -m commands.obligations_table README.md`."""

from __future__ import annotations

import sys
from pathlib import Path

from commands.obligations import TABLE

BEGIN, END = "<!-- generated: obligations -->\n", "<!-- end generated -->"


def table() -> str:
    """A row per row of `obligations.TABLE`, in Markdown."""
    rows = ["| the order is | so it owes | which leads to |", "|---|---|---|"]
    rows += [f"| {row.when} | {row.what} | {row.leads_to} |" for row in TABLE]
    return "\n".join(rows) + "\n"


def rewritten(text: str) -> str:
    """`text` with the block made anew. Raises `ValueError` when it has no place for it."""
    head, mark, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not mark or not end:
        raise ValueError("no place for the table: put `<!-- generated: obligations -->` and `<!-- end generated -->` there")
    return f"{head}{BEGIN}{table()}{END}{tail}"


def main(arguments: list[str]) -> int:
    """Rewrite each named file in place."""
    for name in arguments:
        path = Path(name)
        path.write_text(rewritten(path.read_text("utf-8")), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
