"""The README's table of what an order owes in which state: `python -m tests.readme.obligations_table README.md`."""

from __future__ import annotations

import sys

from commands.obligations import TABLE
from tests.readme import generated_blocks

BEGIN, END = generated_blocks.begin("obligations"), generated_blocks.END


def table() -> str:
    """A row per row of `obligations.TABLE`, in Markdown."""
    rows = ["| the order is | so it owes | which leads to |", "|---|---|---|"]
    rows += [f"| {row.when} | {row.what} | {row.leads_to} |" for row in TABLE]
    return "\n".join(rows)


def rewritten(text: str) -> str:
    """`text` with the table made anew. Raises `NoBlock` when it has no place for it."""
    return generated_blocks.rewritten(text, {"obligations": table}, "obligations")


def main(arguments: list[str]) -> int:
    """Rewrite each named file in place; 0 when done."""
    return generated_blocks.main(arguments, rewritten, "tests.readme.obligations_table")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
