"""Blocks of a text that are generated from code, between `<!-- generated: name -->` and `<!-- end generated -->`. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping

from ledger.errors import LedgerError

END = "<!-- end generated -->"
_BEGIN = re.compile(r"<!-- generated: ([a-z]+) -->\n")
_BLOCK = re.compile(rf"<!-- generated: ([a-z]+) -->\n((?:(?!<!-- generated: ).)*?){END}", re.DOTALL)


class WrongBlocks(LedgerError, ValueError):
    """A text lacks the markers of a block, has those of an unknown block, or has some twice."""

    code = "wrong_blocks"


def begin(name: str) -> str:
    """The first line of a block."""
    return f"<!-- generated: {name} -->\n"


def in_place(name: str, content: str) -> str:
    """A whole block, as it appears in a document."""
    return f"{begin(name)}{content}\n{END}"


def rewritten(text: str, blocks: Mapping[str, Callable[[], str]]) -> str:
    """`text` with each of `blocks` up to date. Raises `WrongBlocks` unless `text` has markers for exactly these, once each."""
    _check(text, blocks)
    return _BLOCK.sub(lambda block: in_place(block[1], blocks[block[1]]()), text)


def stale(text: str, blocks: Mapping[str, Callable[[], str]]) -> list[str]:
    """Names of the blocks in `text` that are not up to date. Raises as `rewritten`."""
    _check(text, blocks)
    return [block[1] for block in _BLOCK.finditer(text) if block[0] != in_place(block[1], blocks[block[1]]())]


def names(text: str) -> list[str]:
    """Names of all blocks that begin in `text`."""
    return _BEGIN.findall(text)


def _check(text: str, blocks: Mapping[str, Callable[[], str]]) -> None:
    begun, whole = names(text), [block[1] for block in _BLOCK.finditer(text)]
    for name, count in Counter(begun).items():
        if name not in blocks:
            raise WrongBlocks(f"unknown block {name!r}: known here are {', '.join(blocks)}")
        if count > 1:
            raise WrongBlocks(f"block {name!r} is there {count} times")
    for name in blocks:
        if name not in begun:
            raise WrongBlocks(f"no block {name!r}: put `{begin(name).strip()}` and `{END}` on lines of their own")
        if name not in whole:
            raise WrongBlocks(f"block {name!r} does not end: put `{END}` on a line of its own")
