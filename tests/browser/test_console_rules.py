"""The pure parts of the console's scripts, in the browser that runs them: money, what changed, metrics, streams, charts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.paying_shop import Shop

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(shop: Shop, chromium: Browser) -> Iterator[Page]:
    page = chromium.new_page(locale="en-GB", timezone_id="Europe/Berlin")
    page.goto(f"{shop.ledger.url}/console")
    yield page
    page.close()


def run(page: Page, module: str, expression: str, *values: Any) -> Any:
    """The value of an expression in which `m` is a module of the console and `v` the values."""
    script = f"async v => {{ const m = await import('/console/{module}'); return {expression}; }}"
    return page.evaluate(script, list(values))


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [
        (1234, "EUR", "€12.34"),
        (-5, "EUR", "-€0.05"),
        (1900, "JPY", "JP¥1,900"),
        (1500, "KWD", "KWD 1.500"),
        (0, "USD", "US$0.00"),
    ],
)
def test_money_has_the_digits_of_its_currency(page: Page, minor: int, currency: str, text: str) -> None:
    assert run(page, "format.js", "m.money(v[0], v[1])", minor, currency).replace("\u00a0", " ") == text


@pytest.mark.parametrize(
    ("text", "currency", "minor"),
    [
        ("12.34", "EUR", 1234),
        ("12,5", "EUR", 1250),
        (" 7 ", "EUR", 700),
        ("0.01", "EUR", 1),
        ("1.234", "EUR", None),
        ("1900", "JPY", 1900),
        ("19.5", "JPY", None),
        ("1.5", "KWD", 1500),
        ("", "EUR", None),
        ("-1", "EUR", None),
        ("1e3", "EUR", None),
        ("1,234.00", "EUR", None),
    ],
)
def test_a_typed_amount_is_read_exactly_or_refused(page: Page, text: str, currency: str, minor: int | None) -> None:
    assert run(page, "format.js", "m.minorOf(v[0], v[1])", text, currency) == minor


def test_what_changed_names_the_members_and_rows_that_did(page: Page) -> None:
    line = {"service": "product", "sku": "tea", "name": "Tea", "quantity": 2}
    before = {
        "version": 1,
        "status": "paid",
        "axes": {"stock": "pending"},
        "lines": [line],
        "shipments": [],
        "cancel_reason": None,
    }
    after = {
        "version": 2,
        "status": "processing",
        "axes": {"stock": "reserved"},
        "lines": [line | {"shipped_quantity": 1}],
        "shipments": [{"number": 1}],
        "cancel_reason": None,
    }
    changes = run(page, "differences.js", "m.differences(v[0], v[1])", before, after)
    assert {(c["path"], c.get("row")) for c in changes} == {
        ("status", None),
        ("axes.stock", None),
        ("lines.shipped_quantity", "product tea"),
        ("shipments", "parcel 1"),
    }
    assert run(page, "differences.js", "m.differences(v[0], v[1])", after, after) == []


def test_metrics_are_read_as_prometheus_writes_them(page: Page) -> None:
    text = '# HELP a b\na{x="1",y="q\\"\\n"} 2.5\na{x="2"} +Inf\nb 7\n\nnonsense\nc{x="\u2028"} 1\n'
    read = run(page, "metrics_text.js", "[...m.samples(v[0])]", text)
    assert read[1] == ["b", [{"labels": {}, "value": 7}]]
    assert read[0][1][0] == {"labels": {"x": "1", "y": 'q"\n'}, "value": 2.5}
    assert run(page, "metrics_text.js", "[...m.by(m.samples(v[0]), 'a', 'x').keys()]", text) == ["1", "2"]
    assert run(page, "metrics_text.js", "[...m.by(m.samples(v[0]), 'c', 'x').keys()]", text) == ["\u2028"]


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_stream_is_read_whole_however_it_is_cut(page: Page, size: int) -> None:
    text = ': ping\n\nevent: OrderPlaced\ndata: {"a":\ndata: "ä"}\nid: 1\n\nid: 2\ndata: x\n\n'
    text += "data: a\u2028b:\u2029 c\nid:3\nretry\n\ndata:  d\ndata\n\ndata: unfinished"
    expression = """await (async () => {
        const bytes = new TextEncoder().encode(v[0]);
        const parts = Array.from({ length: Math.ceil(bytes.length / v[1]) }, (_, i) => bytes.slice(i * v[1], (i + 1) * v[1]));
        const body = new ReadableStream({ start(c) { parts.forEach((part) => c.enqueue(part)); c.close(); } });
        const read = [];
        for await (const one of m.messages({ body })) read.push(one);
        return read;
    })()"""
    assert run(page, "live.js", expression, text, size) == [
        {"id": "1", "event": "OrderPlaced", "data": '{"a":\n"ä"}'},
        {"id": "2", "event": None, "data": "x"},
        {"id": "3", "event": None, "data": "a\u2028b:\u2029 c"},
        {"id": None, "event": None, "data": " d\n"},
    ]


def test_axes_end_at_round_numbers_and_days_without_events_are_shown(page: Page) -> None:
    assert run(page, "charts.js", "v.map(m.roundUp)", 0, 1, 7, 10, 11, 4_999, 5_001) == [1, 1, 10, 10, 20, 5_000, 10_000]
    days = run(page, "day.js", "m.everyDay([{ day: '2030-03-31', placed: 2 }], '2030-03-30', '2030-04-01')")
    assert [(row["day"], row["placed"]) for row in days] == [("2030-03-30", 0), ("2030-03-31", 2), ("2030-04-01", 0)]
