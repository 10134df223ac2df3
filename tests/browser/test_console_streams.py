"""How the console follows a stream, in the browser: what a message may have in it, and what a fault of the server costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.paying_shop import Shop

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request, Route

    Answer = Callable[[Route], None]

pytestmark = pytest.mark.browser
SEPARATORS = "\u2028\u2029"  # ends of lines to JavaScript's regular expressions, and characters like others in an event stream
STREAMS = "**/events?start=end*"
# Follows a stream of the module `m` from `v[0]` on until a message "last" or its end. The first message "bad" is not understood.
FOLLOW = """async v => {
    const m = await import('/console/live.js');
    const heard = [], states = [], ending = new AbortController();
    await m.follow("events", {
        query: { start: "end" },
        last: v[0],
        signal: ending.signal,
        heard: (message) => {
            if (message.data === "bad") throw new Error("not understood");
            heard.push(message.data);
            if (message.data === "last") ending.abort();
        },
        state: (now) => states.push(now),
    });
    return { heard, states };
}"""


@pytest.fixture
def page(shop: Shop, chromium: Browser) -> Iterator[Page]:
    page = chromium.new_page()
    page.goto(f"{shop.ledger.url}/console")
    yield page
    page.close()


def stream(*data: str) -> Answer:
    """Messages with these data, and the end of the connection. Their ids are their numbers."""
    body = "".join(f"id: {number}\ndata: {text}\n\n" for number, text in enumerate(data, 1))
    return lambda route: route.fulfill(status=200, content_type="text/event-stream", body=body)


def broken(route: Route) -> None:
    route.abort("connectionreset")


def answered(page: Page, *answers: Answer) -> list[Request]:
    """Requests for the stream get these answers, in order; the requests that came."""
    left, requests = list(answers), list[Any]()

    def answer(route: Route) -> None:
        requests.append(route.request)
        left.pop(0)(route) if left else broken(route)

    page.route(STREAMS, answer)
    return requests


def test_a_message_that_the_page_cannot_take_costs_no_other_one(page: Page) -> None:
    answered(page, stream("first", "bad", "last"))
    with page.expect_console_message(lambda message: message.type == "error" and "not understood" in message.text):
        assert page.evaluate(FOLLOW, [None])["heard"] == ["first", "last"]


def test_an_order_with_any_characters_and_those_after_it_come_to_every_desk(shop: Shop, chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    with at_desk(chromium, shop.ledger.url) as desk:
        page = desk.sign_in(shop.ledger.tokens["admin"]).page
        expect(page.get_by_text("Live", exact=True)).to_be_visible()
        line = {"service": "product", "sku": "tea", "name": f"Tea{SEPARATORS}green", "quantity": 1, "unit_price_minor": 3_400}
        for order in (shop.place(lines=[line], adjustments=[]), shop.place(reference="after-separators")):
            expect(page.locator(f"tr[data-order={order['order_id']}]")).to_be_visible()
        expect(page.get_by_text("Live", exact=True)).to_be_visible()
