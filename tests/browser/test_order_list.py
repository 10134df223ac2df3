"""The list of orders at the desk: what is on its first page is what the ledger has, and nothing between its pages is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.desk_orders import paid
from tests.support.harness import key
from tests.support.paying_shop import Shop

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
SHOW = """hidden => {
    Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
}"""


def hide(page: Page, hidden: bool) -> None:
    """As when another tab is in front, and this one again."""
    page.evaluate(SHOW, hidden)


def test_an_order_that_no_longer_matches_the_filter_leaves_the_list(shop: Shop, chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    leaving, staying = paid(shop, reference="leaving-1"), paid(shop, reference="staying-1")
    with at_desk(chromium, shop.ledger.url) as desk:
        page = desk.sign_in(shop.ledger.tokens["admin"]).page
        desk.go("#/orders?status=paid")
        for order in (leaving, staying):
            expect(page.locator(f"tr[data-order={order['order_id']}]")).to_be_visible()
        expect(page.get_by_text("Live", exact=True)).to_be_visible()
        assert shop.admin.post(f"/orders/{leaving['order_id']}/cancel", json={}, headers=key()).status_code == 200
        expect(page.locator(f"tr[data-order={leaving['order_id']}]")).to_have_count(0)
        expect(page.locator(f"tr[data-order={staying['order_id']}]")).to_be_visible()


def test_all_orders_that_came_while_the_page_was_hidden_can_be_reached(shop: Shop, chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    before = shop.place(reference="before-all")
    with at_desk(chromium, shop.ledger.url) as desk:
        page = desk.sign_in(shop.ledger.tokens["admin"]).page
        expect(page.locator(f"tr[data-order={before['order_id']}]")).to_be_visible()
        expect(page.get_by_text("Live", exact=True)).to_be_visible()
        hide(page, True)
        orders = [shop.place(reference=f"hidden-{number}") for number in range(60)]
        hide(page, False)
        expect(page.locator(f"tr[data-order={orders[-1]['order_id']}]")).to_be_visible()
        page.get_by_role("button", name="Show more").click()
        for order in (*orders, before):
            expect(page.locator(f"tr[data-order={order['order_id']}]")).to_have_count(1)
        expect(page.get_by_text("as they were when you asked for them")).to_be_visible()
        numbers = page.locator("tr[data-order]").evaluate_all("rows => rows.map((row) => row.dataset.order)")
        assert [one for one in numbers if one in {order["order_id"] for order in orders}] == [
            order["order_id"] for order in reversed(orders)
        ]
        # A list with more pages is live at its top.
        last = shop.place(reference="after-all")
        expect(page.locator("tr[data-order]").first).to_have_attribute("data-order", last["order_id"])
        expect(page.locator(f"tr[data-order={before['order_id']}]")).to_have_count(1)
