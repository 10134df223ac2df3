"""`messages preview` of an order that was placed through the API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from api.cli.messages import Preview, run_preview
from api.cli.terminal import Screen, Terminal
from api.settings import Settings
from ledger.memory.log import MemoryLog
from ledger.topics import Topics
from tests.support.harness import RunningLedger, key, order_body, running_ledger

SHOP = Settings(_env_file=None, notify_from="Bean & Leaf <shop@example.org>")


@pytest.fixture(scope="module")
def ledger() -> Iterator[RunningLedger]:
    with running_ledger(MemoryLog(), Topics("preview.")) as running:
        yield running


@pytest.fixture(scope="module")
def placed(ledger: RunningLedger) -> dict[str, Any]:
    contact = order_body()["contact"] | {"name": "Zoë <Z>", "locale": "de-AT"}
    answer = ledger.client().post("/orders", json=order_body(contact=contact), headers=key() | {"Prefer": "wait=10"})
    assert answer.status_code == 201, answer.text
    assert answer.json()["contact"]["locale"] == "de-AT"
    return dict(answer.json())


@pytest.fixture
def order(placed: dict[str, Any]) -> str:
    return str(placed["order_id"])


@pytest.fixture
def number(placed: dict[str, Any]) -> str:
    return str(placed["number"])


def previewed(
    ledger: RunningLedger,
    order: str,
    capsys: pytest.CaptureFixture[str],
    preview: Preview,
    role: str = "admin",
    as_json: bool = False,
) -> tuple[int, str, str]:
    terminal = Terminal(Screen(), Screen(stderr=True), as_json)
    code = run_preview(SHOP, (order, ledger.url, ledger.tokens[role]), preview, terminal)
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_an_order_is_shown_as_its_customer_would_read_it(
    ledger: RunningLedger, order: str, number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text, said = previewed(ledger, order, capsys, Preview("placed"))
    assert code == 0
    assert text.startswith(f"Subject: Ihre Bestellung {number}\n\nGuten Tag Zoë <Z>,\n")
    assert "  2 x Espresso 1 kg: €\u00a024,00\n" in text
    assert "€\u00a034,00" in text
    assert "language de, from de/placed.email.txt, de/placed.email.html" in said
    _, page, _ = previewed(ledger, order, capsys, Preview("placed", form="html"))
    assert "Guten Tag Zoë &lt;Z&gt;," in page
    _, sms, _ = previewed(ledger, order, capsys, Preview("placed", "en", "sms"))
    assert sms == f"Order {number} received. Total: €34.00. Bean & Leaf\n"


def test_what_has_not_happened_yet_is_made_up_and_amounts_are_the_orders(
    ledger: RunningLedger, order: str, number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, shipped, _ = previewed(ledger, order, capsys, Preview("shipped", "en"))
    assert "Carrier: DHL" in shipped
    _, cancelled, _ = previewed(ledger, order, capsys, Preview("cancelled", "en"))
    assert "was cancelled as you asked." in cancelled
    _, cut, _ = previewed(ledger, order, capsys, Preview("lines_cancelled", "en"))
    assert "  1 x Espresso 1 kg\n\nYour order costs €0.00 less." in cut
    _, refunded, _ = previewed(ledger, order, capsys, Preview("refunded", "en"), as_json=True)
    assert f"We have refunded €0.00 for order {number}." in json.loads(refunded)["text"]


def test_a_reader_sees_the_samples_contact_and_an_unknown_order_is_none(
    ledger: RunningLedger, order: str, number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text, said = previewed(ledger, order, capsys, Preview("placed"), role="reader")
    assert code == 0
    assert "Hello Ada Example," in text
    assert "Zoë" not in text
    assert "the sample's is shown" in said
    code, text, said = previewed(ledger, "ord_none", capsys, Preview("placed"))
    assert (code, text, said) == (1, "", "no order ord_none\n")
