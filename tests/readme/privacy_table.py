"""What no erasure reaches, as tables: `python -m tests.readme.privacy_table README.md`."""

from __future__ import annotations

import sys

from ledger.kept_for_ever import ELSEWHERE, TEXTS
from tests.readme import generated_blocks

BEGIN = generated_blocks.begin("privacy")


def table() -> str:
    """A row per field, in Markdown."""
    rows = ["| field of an event | written by | for | not for |", "|---|---|---|---|"]
    rows += [f"| `{text.field}` | {text.writer} | {text.meant} | {text.wrong} |" for text in TEXTS]
    rows += ["", "| where | what an erasure leaves |", "|---|---|"]
    rows += [f"| {where} | {what} |" for where, what in ELSEWHERE]
    return "\n".join(rows)


def rewritten(text: str) -> str:
    """`text` with the table made anew. Raises `NoBlock` when it has no place for it."""
    return generated_blocks.rewritten(text, {"privacy": table}, "privacy")


def main(arguments: list[str]) -> int:
    """Rewrite each named file in place; 0 when done."""
    return generated_blocks.main(arguments, rewritten, "tests.readme.privacy_table")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
