"""Where a page of the desk could mislead the person: late answers, lost ones, closed dialogs, dates half typed."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.desk_orders import flagged, paid
from tests.support.patience import until
from tests.support.paying_shop import Shop

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

pytestmark = pytest.mark.browser


def notes_of(shop: Shop, order: dict[str, Any]) -> list[dict[str, Any]]:
    answer = shop.admin.get(f"/orders/{order['order_id']}/notes")
    assert answer.status_code == 200, answer.text
    notes: list[dict[str, Any]] = answer.json()["data"]
    return notes


def answered_by_a_proxy(page: Page, path: str) -> list[str]:
    """The first command is carried out, and a proxy answers that it took too long. Returns the keys of all commands."""
    keys: list[str] = []

    def answer(route: Route) -> None:
        if route.request.method == "GET":
            route.fallback()
            return
        keys.append(route.request.headers["idempotency-key"])
        if len(keys) == 1:
            route.fetch()
            route.fulfill(status=524, content_type="text/html", body="<h1>A timeout occurred</h1>")
        else:
            route.continue_()

    page.route(re.compile(path), answer)
    return keys


def test_money_that_is_left_without_any_unit_can_be_refunded(shop: Shop, chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    order = paid(shop, reference="shipping-left")
    with at_desk(chromium, shop.ledger.url) as desk:
        page = desk.sign_in(shop.ledger.tokens["admin"]).page
        desk.open_order(order)
        page.get_by_role("button", name="Refund…").click()
        for number in page.get_by_role("dialog").get_by_role("spinbutton").all():
            number.fill(number.get_attribute("max") or "")
        desk.send()
        desk.closed()
        desk.happened("Refund settled")
        left = shop.until(order, lambda now: now["refunded_minor"] > 0)
        room = left["captured_minor"] - left["refunded_minor"]
        assert room > 0
        page.get_by_role("button", name="Refund…").click()
        expect(page.get_by_role("dialog").get_by_role("group", name="Units")).to_have_count(0)
        page.get_by_role("dialog").get_by_label("Amount").fill("0.50")
        desk.send()
        desk.closed()
        shop.until(order, lambda now: now["refunded_minor"] == left["refunded_minor"] + 50)


def test_a_command_that_a_proxy_answered_is_repeated_under_its_key(shop: Shop, chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    order = paid(shop, reference="proxy-1")
    with at_desk(chromium, shop.ledger.url) as desk:
        page = desk.sign_in(shop.ledger.tokens["admin"]).page
        desk.open_order(order)
        keys = answered_by_a_proxy(page, "/notes$")
        desk.act("Add a note", text="Once")
        expect(page.get_by_role("dialog").get_by_text("To send it again is safe")).to_be_visible()
        desk.send()
        desk.closed()
        expect(page.get_by_text("Once", exact=True)).to_have_count(1)
    assert len(keys) == 2
    assert len(set(keys)) == 1
    assert len(notes_of(shop, order)) == 1


def test_a_note_that_is_gone_already_was_deleted(shop: Shop, chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    order = paid(shop, reference="gone-1")
    with at_desk(chromium, shop.ledger.url) as desk:
        page = desk.sign_in(shop.ledger.tokens["admin"]).page
        desk.open_order(order)
        desk.act("Add a note", text="Short-lived")
        desk.closed()
        answered_by_a_proxy(page, "/notes/")
        page.get_by_role("button", name="Delete…").click()
        desk.send()
        expect(page.get_by_role("dialog").get_by_text("To send it again is safe")).to_be_visible()
        desk.send()
        desk.closed()
        expect(page.get_by_text("Short-lived")).to_have_count(0)
    assert notes_of(shop, order) == []


def test_what_became_of_a_command_is_said_after_its_dialog_was_closed(shop: Shop, chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    order = paid(shop, reference="closed-1")
    held: list[Route] = []
    with at_desk(chromium, shop.ledger.url) as desk:
        page = desk.sign_in(shop.ledger.tokens["admin"]).page
        desk.open_order(order)
        page.route(re.compile("/cancel$"), lambda route: held.append(route))
        for number, words in enumerate(("Too late to cancel", "is unknown")):
            desk.act("Cancel order")
            until(lambda number=number: len(held) > number or bool(page.wait_for_timeout(50)))  # type: ignore[misc]
            page.keyboard.press("Escape")
            desk.closed()
            body = json.dumps(
                {"title": "Too late to cancel", "status": 409, "code": "too-late-to-cancel", "detail": "A parcel is gone."}
            )
            if number:
                held[number].abort("connectionreset")
            else:
                held[number].fulfill(status=409, content_type="application/problem+json", body=body)
            notice = page.locator(".toast.notice")
            expect(notice).to_contain_text(words)
            desk.picture(f"notice-{number}")
            notice.get_by_role("button", name="Close").click()
            expect(notice).to_have_count(0)
    assert shop.read(order)["status"] == "paid"


def test_what_is_read_after_an_event_includes_it_on_any_node(shop: Shop, chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    order = paid(shop, reference="position-1")
    with at_desk(chromium, shop.ledger.url) as one, at_desk(chromium, shop.ledger.url) as other:
        one.sign_in(shop.ledger.tokens["admin"]).open_order(order)
        page = other.sign_in(shop.ledger.tokens["admin"]).page
        expect(page.get_by_text("Live", exact=True)).to_be_visible()
        before = len(one.asked), len(other.asked)
        shop.cancel(order)
        one.happened("Order cancelled")
        expect(page.locator(f"tr[data-order={order['order_id']}]").get_by_text("cancelled")).to_be_visible()
        event = shop.admin.get(f"/orders/{order['order_id']}/events").json()["data"][-1]
        for desk, path, first in ((one, f"/orders/{order['order_id']}", before[0]), (other, "/orders?", before[1])):
            reads = [headers for _, address, headers in desk.asked[first:] if address.removeprefix(desk.url).startswith(path)]
            partition, offset = reads[-1]["ledger-position"].split("-")
            assert int(partition) == event["partition"]
            assert int(offset) > 0


def test_back_to_now_shows_what_is_now_whatever_happens_meanwhile(shop: Shop, chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    order = paid(shop, reference="slide-2")
    held: list[Route] = []
    with at_desk(chromium, shop.ledger.url) as desk:
        page = desk.sign_in(shop.ledger.tokens["admin"]).page
        desk.open_order(order)
        slider = page.get_by_role("slider", name="Version")
        slider.focus()
        slider.press("Home")
        expect(page.get_by_text("The first version.")).to_be_visible()
        page.route(re.compile(rf"version={order['version'] - 1}$"), lambda route: held.append(route))
        page.get_by_role("button", name="Back to now").click()
        expect(slider).to_be_focused()
        shop.cancel(order)
        desk.happened("Order cancelled")
        expect(page.get_by_text("as it is now")).to_be_visible()
        expect(page.locator(".order-title").get_by_text("cancelled")).to_be_visible()
        for route in held:
            route.continue_()
        page.wait_for_timeout(300)
        expect(page.locator(".order-title").get_by_text("cancelled")).to_be_visible()


def test_a_flag_that_is_not_about_refunds_counts_no_money(shop: Shop, chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    order = flagged(shop, "stuck")
    with at_desk(chromium, shop.ledger.url) as desk:
        page = desk.sign_in(shop.ledger.tokens["admin"]).page
        desk.open_order(order)
        page.get_by_role("button", name="Resolve…").click()
        expect(page.get_by_role("dialog").get_by_text("Empty: no money.")).to_be_visible()
        desk.send()
        desk.closed()


@pytest.mark.parametrize("typed", ["0002-11-13", "275760-01-01"])
def test_a_date_half_typed_changes_nothing(shop: Shop, chromium: Browser, typed: str) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    with at_desk(chromium, shop.ledger.url) as desk:
        page = desk.sign_in(shop.ledger.tokens["admin"]).page
        for place, label in (("#/orders", "Placed from"), ("#/day", "From")):
            desk.go(place)
            field = page.get_by_label(label, exact=True)
            expect(field).to_be_visible()
            change = "(one, text) => { one.value = text; one.dispatchEvent(new Event('change')); }"
            field.evaluate(change, typed)
            expect(field).to_have_value(typed)
            assert page.url.endswith(place)
        desk.go("#/orders?placed_from=%2B275760-09-13T00:00:00Z&placed_to=x")
        expect(page.get_by_role("heading", name="Orders", level=1)).to_be_visible()
        expect(page.get_by_label("Placed from")).to_have_value("")


def test_the_focus_stays_where_it_is_when_a_list_is_read_again(shop: Shop, chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    order = flagged(shop, "stuck")
    with at_desk(chromium, shop.ledger.url) as desk:
        page = desk.sign_in(shop.ledger.tokens["admin"]).page
        desk.go("#/attention")
        link = page.locator("a.row-link").filter(has_text=order["number"])
        link.focus()
        marked = link.evaluate_handle("one => one")
        page.wait_for_function("one => !one.isConnected", arg=marked)  # it was read again
        expect(link).to_be_focused()
        desk.go("#/system")
        table = page.locator(".table-box").first
        table.focus()
        marked = table.evaluate_handle("one => one")
        page.wait_for_function("one => !one.isConnected", arg=marked)
        expect(table).to_be_focused()


def test_the_age_of_what_is_shown_is_not_hidden_by_answers_without_one(shop: Shop, chromium: Browser) -> None:
    page = chromium.new_page()
    try:
        page.goto(f"{shop.ledger.url}/console")
        body = json.dumps({"data": [], "status": "ready"})
        page.route(
            re.compile("/(orders|ready)$"),
            lambda route: route.fulfill(
                status=200,
                content_type="application/json",
                headers={} if route.request.url.endswith("ready") else {"Ledger-Staleness-Ms": "600000"},
                body=body,
            ),
        )
        ages = page.evaluate("""async () => {
            const m = await import('/console/api.js'), ages = [];
            m.whenRead((ms) => ages.push(ms));
            await m.read("orders");
            await m.read("ready");
            return ages;
        }""")
    finally:
        page.close()
    assert ages == [600_000]


def test_a_dead_connection_is_no_answer(shop: Shop, chromium: Browser) -> None:
    """The minute that the page waits is a tenth of a second here."""
    page = chromium.new_page()
    try:
        page.add_init_script("const of = AbortSignal.timeout; AbortSignal.timeout = (ms) => of.call(AbortSignal, ms / 600);")
        page.goto(f"{shop.ledger.url}/console")
        page.route(re.compile("/orders"), lambda _: None)
        asked = 'm.read("orders")', 'm.command("POST", "orders", { orderId: "o", body: {}, key: "k" })'
        for ask in asked:
            module = "const m = await import('/console/api.js')"
            assert (
                page.evaluate(f"async () => {{ {module}; return {ask}.catch((error) => error instanceof m.NoAnswer); }}") is True
            )
    finally:
        page.close()
