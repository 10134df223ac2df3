"""Blocks of a text made from code, between `<!-- generated: name -->` and `<!-- end generated -->`. Pure but for `main`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from ledger.errors import LedgerError

END = "<!-- end generated -->"
_BLOCK = re.compile(rf"(<!-- generated: ([a-z]+) -->\n).*?({END})", re.DOTALL)


class NoBlock(LedgerError, ValueError):
    """A text has no place for a generated block."""

    code = "no_block"


def begin(name: str) -> str:
    """The line that a block begins with."""
    return f"<!-- generated: {name} -->\n"


def rewritten(text: str, blocks: Mapping[str, Callable[[], str]], needed: str) -> str:
    """`text` with its places for `blocks` made anew. Raises `NoBlock` when there is none for `needed`."""
    if needed not in [name for _, name, _ in _BLOCK.findall(text)]:
        raise NoBlock(f"no place for it: put `{begin(needed).strip()}` and `{END}` on lines of their own")

    def anew(found: re.Match[str]) -> str:
        head, name, end = found.groups()
        return f"{head}{blocks[name]()}\n{end}" if name in blocks else found[0]

    return _BLOCK.sub(anew, text)


def main(arguments: list[str], rewrite: Callable[[str], str], module: str) -> int:
    """`python -m <module> README.md`: rewrite each named file in place; 0 when done."""
    if not arguments:
        print(f"usage: python -m {module} README.md")
        return 2
    for name in arguments:
        path = Path(name)
        before = path.read_text("utf-8")
        after = rewrite(before)
        if after != before:
            path.write_text(after, "utf-8")
        print(f"{name}: {'rewritten' if after != before else 'up to date'}")
    return 0
