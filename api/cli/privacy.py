"""The verb `privacy`: shows what no erasure reaches, and what must therefore not be put there."""

from __future__ import annotations

from rich.table import Column, Table

from api.cli.terminal import Screen, write_json
from ledger.kept_for_ever import ELSEWHERE, TEXTS


def run_privacy(as_json: bool, out: Screen) -> None:
    """Show both tables of `ledger.kept_for_ever`."""
    if as_json:
        places = [{"where": where, "left": data} for where, data in ELSEWHERE]
        write_json({"kept_for_ever": [text._asdict() for text in TEXTS], "elsewhere": places})
        return
    out.print("Names, addresses, phone numbers and notes belong in an order's contact, which can be erased. Events cannot.\n")
    fields = Table(Column("field of an event", no_wrap=True), "written by", "for", "not for")
    for text in TEXTS:
        fields.add_row(*text)
    out.print(fields)
    elsewhere = Table("where", "what an erasure leaves")
    for row in ELSEWHERE:
        elsewhere.add_row(*row)
    out.print(elsewhere)
