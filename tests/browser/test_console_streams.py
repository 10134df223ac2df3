"""How the console follows a stream, in the browser: what a message may have in it, and what a fault of the server costs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.patience import PATIENCE_S
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
    let lost = 0;
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
        lost: () => (lost += 1),
    });
    return { heard, states, lost };
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


def problem(status: int, code: str) -> Answer:
    body = json.dumps({"type": f"/problems/{code}", "title": code, "status": status, "code": code})
    return lambda route: route.fulfill(status=status, content_type="application/problem+json", body=body)


def of_a_proxy(status: int) -> Answer:
    return lambda route: route.fulfill(status=status, content_type="text/html", body="<h1>Sorry</h1>")


def broken(route: Route) -> None:
    route.abort("connectionreset")


def passed_on(route: Route) -> None:
    route.continue_()


def answered(page: Page, *answers: Answer) -> list[Request]:
    """Requests for the stream get these answers, in order; the requests that came."""
    left, requests = list(answers), list[Any]()

    def answer(route: Route) -> None:
        requests.append(route.request)
        left.pop(0)(route) if left else broken(route)

    page.route(STREAMS, answer)
    return requests


@pytest.mark.parametrize(
    "fault",
    [problem(500, "internal-error"), problem(503, "not-caught-up"), problem(429, "too-many-requests"), of_a_proxy(520), broken],
    ids=["500", "503", "429", "of a proxy", "broken"],
)
def test_a_fault_of_the_server_is_waited_out(page: Page, fault: Answer) -> None:
    requests = answered(page, stream("first"), fault, fault, stream("last"))
    followed = page.evaluate(FOLLOW, [None])
    assert followed["heard"] == ["first", "last"]
    assert followed["states"][:3] == ["live", "waiting", "waiting"]
    assert "ended" not in followed["states"]
    assert [request.headers.get("last-event-id") for request in requests] == [None, "1", "1", "1"]


def test_a_place_that_the_server_no_longer_knows_is_dropped_and_the_stream_begins_at_the_end(page: Page) -> None:
    """As after a restore of the log."""
    requests = answered(page, problem(400, "invalid-cursor"), stream("last"))
    followed = page.evaluate(FOLLOW, ["a place of the log before"])
    assert (followed["heard"], followed["lost"]) == (["last"], 1)
    assert [request.headers.get("last-event-id") for request in requests] == ["a place of the log before", None]
    assert all("start=end" in request.url for request in requests)


@pytest.mark.parametrize(("status", "code"), [(404, "order-not-found"), (403, "forbidden"), (400, "invalid-cursor")])
def test_what_no_retry_mends_ends_the_stream_and_says_so(page: Page, status: int, code: str) -> None:
    requests = answered(page, problem(status, code), stream("last"))
    assert page.evaluate(FOLLOW, [None]) == {"heard": [], "states": ["ended"], "lost": 0}
    assert len(requests) == 1
    mark = """async () => {
        const m = await import('/console/live.js'), element = document.createElement("span");
        m.liveMark(element)("ended");
        return [element.className, element.textContent];
    }"""
    assert page.evaluate(mark) == ["live ended", "Not live any more. Reload the page to see what is new."]


def test_a_message_that_the_page_cannot_take_costs_no_other_one(page: Page) -> None:
    answered(page, stream("first", "bad", "last"))
    with page.expect_console_message(lambda message: message.type == "error" and "not understood" in message.text):
        assert page.evaluate(FOLLOW, [None])["heard"] == ["first", "last"]


@pytest.mark.parametrize("ask", ['read("orders")', 'command("POST", "orders", { orderId: "ord_x", body: {}, key: "k" })'])
def test_an_answer_that_is_not_from_the_ledger_is_no_answer(page: Page, ask: str) -> None:
    """So a command is sent again under its key."""
    page.route("**/orders", of_a_proxy(200))
    asked = f"""async () => {{
        const m = await import('/console/api.js');
        return m.{ask}.catch((error) => [error instanceof m.NoAnswer, error.message]);
    }}"""
    assert page.evaluate(asked) == [True, "The answer is not from the ledger; a proxy may have given it."]


def test_what_is_read_again_and_again_outlives_any_fault(page: Page) -> None:
    repeat = """async () => {
        const m = await import('/console/live.js'), ending = new AbortController();
        let calls = 0;
        const work = async () => {
            calls += 1;
            if (calls === 1) throw new TypeError("not understood");
            ending.abort();
        };
        await m.repeat(work, { every: 10, signal: ending.signal });
        return calls;
    }"""
    with page.expect_console_message(lambda message: message.type == "error" and "not understood" in message.text):
        assert page.evaluate(repeat) == 2


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


def test_the_list_of_orders_outlives_a_fault_and_another_log(shop: Shop, chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    with at_desk(chromium, shop.ledger.url) as desk:
        requests = answered(desk.page, stream("{}"), problem(500, "internal-error"), problem(400, "invalid-cursor"), passed_on)
        page = desk.sign_in(shop.ledger.tokens["admin"]).page
        deadline = time.monotonic() + PATIENCE_S
        while len(requests) < 4:
            assert time.monotonic() < deadline, requests
            page.wait_for_timeout(50)
        expect(page.get_by_text("Live", exact=True)).to_be_visible()
        order = shop.place(reference="after-all-that")
        expect(page.locator(f"tr[data-order={order['order_id']}]")).to_be_visible()
        assert [request.headers.get("last-event-id") for request in requests] == [None, "1", "1", None]
