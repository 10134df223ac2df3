"""`python -m tests.readme`: brings every generated block of the documents up to date, in place.

With `--check` nothing is written: the exit code is 1 if a block is stale. A document whose blocks are not those of `DOCUMENTS`
is an error (`generated_blocks.WrongBlocks`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from tests.readme import diagram, generated_blocks, obligations_table, privacy_table, settings_table

ROOT = Path(__file__).resolve().parents[2]

# document -> its blocks, by name, and the function for each
DOCUMENTS: dict[str, dict[str, Callable[[], str]]] = {
    "OPERATIONS.md": {"privacy": privacy_table.table, "settings": settings_table.table},
    "commands/README.md": {"states": diagram.states_and_requests, "obligations": obligations_table.table},
}


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Rewrite the documents below `root`, or with `--check` only compare. Returns 0 if all is up to date afterwards."""
    if arguments not in ([], ["--check"]):
        print("usage: python -m tests.readme [--check]")
        return 2
    failed = False
    for name, blocks in DOCUMENTS.items():
        path = root / name
        text = path.read_text("utf-8")
        try:
            stale = generated_blocks.stale(text, blocks)
        except generated_blocks.WrongBlocks as exc:
            print(f"{name}: {exc}")
            failed = True
            continue
        if stale and not arguments:
            path.write_text(generated_blocks.rewritten(text, blocks), "utf-8")
        outcome = "stale" if arguments else "rewritten"
        print(f"{name}: {f'{outcome}: ' + ', '.join(stale) if stale else 'up to date'}")
        failed = failed or bool(stale and arguments)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
