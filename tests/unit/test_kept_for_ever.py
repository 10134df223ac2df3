"""Every text of an event is personal or the ledger's own: all that no erasure reaches is listed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from api.cli.privacy import run_privacy
from api.cli.terminal import Screen
from ledger.kept_for_ever import ELSEWHERE, OWN, TEXTS
from ledger.schemas.versions import COMMANDS, EVENTS, REFUSALS, versions_of

TEXT = {"string", "bytes"}


def texts_in(schema: Any, named: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[str]:
    """Paths of every text and every run of bytes in an Avro schema."""
    if isinstance(schema, list):
        for branch in schema:
            yield from texts_in(branch, named, path)
    elif isinstance(schema, str):
        if schema in named:
            yield from texts_in(named[schema], named, path)
        elif schema in TEXT:
            yield ".".join(path)
    else:
        kind = schema["type"]
        if "name" in schema:
            named[schema["name"]] = schema
        if kind == "record":
            for field in schema["fields"]:
                yield from texts_in(field["type"], named, (*path, field["name"]))
        elif kind == "array":
            yield from texts_in(schema["items"], named, path)
        elif kind in {"map", "enum"}:
            raise AssertionError(f"{'.'.join(path)}: say here how a {kind} is to be read")
        elif kind in TEXT | {"fixed"}:
            yield ".".join(path)


def texts_of(topic: str) -> set[str]:
    return {text for version in versions_of(topic) for text in texts_in(json.loads(version.text), {})}


def test_every_text_of_an_event_is_listed_or_the_ledgers_own() -> None:
    listed = [text.field for text in TEXTS]
    assert len(set(listed)) == len(listed)
    assert not set(listed) & OWN
    assert texts_of(EVENTS) == set(listed) | OWN


# The same fields under other names, in topics that are kept for weeks.
OF_EVENTS = {"place": "placed", "cancel": "cancel", "ship": "shipment", "resolve_attention": "attention"}
OF_EVENTS |= {"raise_attention": "attention", "record_payment": "payment", "record_refund": "refund"}
OF_EVENTS |= {"record_dispute": "dispute", "record_stock": "stock", "cancel_lines": "cut", "request_refund": "refund_request"}
OF_EVENTS |= {"change_metadata": "metadata", "import_order": "imported"}
# `detail` is a sentence of the ledger; `original` are unreadable bytes, from a sender that is not the ledger.
OF_COMMANDS_ALONE = {"operation", "place.currency", "import_order.place.currency", "request_payment.currency"} | {
    f"record_{kind}.fact" for kind in ("payment", "refund", "dispute", "stock")
}
OF_REFUSALS_ALONE = {"code", "detail", "original"}


def test_commands_and_refusals_have_no_text_that_events_do_not_have() -> None:
    known = {text.field for text in TEXTS} | OWN
    for text in texts_of(COMMANDS) - OF_COMMANDS_ALONE:
        first, _, below = text.partition(".")
        if first == "import_order":  # what was ordered is one member there, too
            below = "placed.number" if below == "number" else below.replace("place.", "placed.", 1)
        assert (f"{OF_EVENTS[first]}.{below}" if below else first) in known, text
    assert texts_of(REFUSALS) - OF_REFUSALS_ALONE <= known


def test_the_verb_says_all_of_it_to_people_and_to_programs(capsys: pytest.CaptureFixture[str]) -> None:
    run_privacy(as_json=True, out=Screen())
    shown = json.loads(capsys.readouterr().out)
    assert [row["field"] for row in shown["kept_for_ever"]] == [text.field for text in TEXTS]
    assert len(shown["elsewhere"]) == len(ELSEWHERE)
    run_privacy(as_json=False, out=Screen())
    said = capsys.readouterr().out
    assert "placed.lines.name" in said
    assert "can be erased" in said
