"""The desk's day at the console in a real Chromium: every screen, and every action of an order's life."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support.desk_orders import flagged, in_other_scripts, paid
from tests.support.harness import order_body
from tests.support.patience import until
from tests.support.paying_shop import Shop

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


def test_a_whole_life_from_the_desk(shop: Shop, chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    order = paid(shop, reference="life-1")
    with at_desk(chromium, shop.ledger.url) as desk:
        page = desk.sign_in(shop.ledger.tokens["admin"]).page
        desk.open_order(order)
        expect(page.get_by_text("Live", exact=True)).to_be_visible()
        until(lambda: desk.actions()[:3] == ["Start processing…", "Ship a parcel…", "Ship all that remains…"])
        desk.picture("order-paid")
        desk.act("Start processing")
        desk.closed()
        desk.happened("Processing started")
        until(lambda: "Start processing…" not in desk.actions())
        # A parcel with one of three units.
        page.get_by_role("button", name="Ship a parcel…").click()
        dialog = page.get_by_role("dialog")
        quantities = dialog.get_by_role("spinbutton")
        quantities.nth(0).fill("1")
        quantities.nth(1).fill("0")
        dialog.get_by_label("Carrier").fill("DHL")
        dialog.get_by_label("Tracking number").fill("JD0146000")
        desk.picture("dialog-parcel")
        desk.send()
        desk.closed()
        expect(page.get_by_text("DHL · JD0146000").first).to_be_visible()
        until(lambda: "Cancel order…" not in desk.actions())  # a parcel is gone
        desk.act("Ship all that remains")
        desk.closed()
        desk.happened("Order shipped")
        until(lambda: {"Parcel 1 delivered…", "Parcel 2 delivered…", "Mark as delivered…"} <= set(desk.actions()))
        for number in (1, 2):
            desk.act(f"Parcel {number} delivered")
            desk.closed()
        desk.happened("Order delivered")
        desk.act("Refund", amount="5,00", reason="damaged")
        desk.closed()
        desk.happened("Refund settled")
        expect(page.get_by_text("€5.00").first).to_be_visible()
        desk.act("Change metadata", name="ticket", value="T-1")
        desk.closed()
        desk.act("Add a note", text="Called: happy.\nמדבר עברית")
        desk.closed()
        expect(page.get_by_text("Called: happy. מדבר עברית")).to_be_visible()
        desk.picture("order-delivered")
        page.get_by_role("button", name="Delete…").click()
        desk.send()
        desk.closed()
        expect(page.get_by_text("Called: happy.")).to_have_count(0)
    now = shop.read(order)
    assert (now["status"], now["refunded_minor"], now["metadata"]) == ("delivered", 500, {"ticket": "T-1"})
    assert [len(parcel["lines"]) for parcel in now["shipments"]] == [1, 2]


def test_units_and_orders_are_cancelled(shop: Shop, chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    order = paid(shop, reference="cancel-1")
    with at_desk(chromium, shop.ledger.url) as desk:
        page = desk.sign_in(shop.ledger.tokens["admin"]).page
        desk.open_order(order)
        page.get_by_role("button", name="Cancel units…").click()
        desk.send()
        expect(page.get_by_role("alert")).to_have_text("Choose at least one unit.")
        page.get_by_role("spinbutton").first.fill("1")
        desk.send()
        desk.closed()
        desk.happened("Units cancelled")
        # What the units' cancellation owes is done, so that no other version comes between the person and the order.
        shop.until(order, lambda now: {"RefundSettled", "StockReleased"} <= set(shop.types(now)))
        desk.page.reload()
        desk.happened("Refund settled")
        desk.act("Cancel order", reason="fraud")
        desk.closed()
        desk.happened("Order cancelled")
        until(lambda: desk.actions() == ["Change metadata…"])
    shop.until_axes(order, payment="refunded", stock="released")


def test_the_actions_are_those_that_the_ledger_gives_and_a_reader_has_none(shop: Shop, chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    order = paid(shop, reference="actions-1")
    with at_desk(chromium, shop.ledger.url) as desk:
        page = desk.sign_in(shop.ledger.tokens["reader"]).page
        desk.open_order(order)
        expect(page.get_by_text("Erased, or not for your role.")).to_be_visible()
        expect(page.get_by_role("group", name="Actions")).to_have_count(0)
        expect(page.get_by_role("heading", name="Notes")).to_have_count(0)
    outlook = shop.admin.get(f"/orders/{order['order_id']}/outlook").json()
    offered = sum(a["operation"] not in ("addNote", "resolveAttention") for a in outlook["actions"])
    with at_desk(chromium, shop.ledger.url) as desk:
        desk.sign_in(shop.ledger.tokens["admin"])
        desk.open_order(order)
        until(lambda: len(desk.actions()) == offered)


def test_orders_are_found_and_filtered_and_no_email_address_is_in_the_address(shop: Shop, chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    order = shop.place(reference="needle-7", contact=order_body()["contact"] | {"email": "needle@example.org"})
    with at_desk(chromium, shop.ledger.url) as desk:
        page = desk.sign_in(shop.ledger.tokens["admin"]).page
        for by, text in (
            ("Number", order["number"].lower().replace("-", "")),
            ("Reference", "needle-7"),
            ("E-mail address", "needle@example.org"),
        ):
            desk.go("#/orders")
            page.get_by_label("Find by").select_option(by)
            page.get_by_label("Text to find").fill(text)
            page.get_by_role("button", name="Find").click()
            expect(page.get_by_role("row")).to_have_count(2)
            expect(page.get_by_role("link", name=order["number"])).to_be_visible()
        desk.go("#/orders?number=AMWK-446T-4")
        expect(page.get_by_text("No orders", exact=True)).to_be_visible()
        desk.picture("orders-none")
        desk.go("#/orders")
        page.get_by_role("button", name="Cancelled").click()
        expect(page.get_by_role("button", name="Cancelled")).to_be_focused()
        assert page.url.endswith("#/orders?status=cancelled")
        page.get_by_role("button", name="All").click()
        # New orders come by themselves.
        late = shop.place(reference="late-1")
        expect(page.get_by_role("link", name=late["number"])).to_be_visible()
        in_other_scripts(shop)
        expect(page.get_by_text("hebrew-", exact=False).first).to_be_visible()
        desk.picture("orders")


def test_the_slider_shows_earlier_versions_and_what_changed(shop: Shop, chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    order = paid(shop, reference="slide-1")
    with at_desk(chromium, shop.ledger.url) as desk:
        page = desk.sign_in(shop.ledger.tokens["admin"]).page
        desk.open_order(order)
        slider = page.get_by_role("slider", name="Version")
        slider.focus()
        slider.press("Home")
        expect(page.get_by_text("The first version.")).to_be_visible()
        expect(page.get_by_role("group", name="Actions")).to_have_count(0)
        expect(slider).to_be_focused()
        slider.press("ArrowRight")
        expect(page.get_by_role("region", name="Versions").get_by_text(re.compile(r"Version 2 of \d+"))).to_be_visible()
        desk.picture("order-version-2")
        slider.press("End")
        expect(page.locator(".changes dt").first).to_be_visible()
        slider.press("ArrowLeft")
        page.get_by_role("button", name="Back to now").click()
        expect(page.get_by_role("group", name="Actions")).to_be_visible()


def test_a_flag_is_listed_oldest_first_and_resolved(shop: Shop, chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    first, second = flagged(shop, "stuck"), flagged(shop, "amount_mismatch")
    with at_desk(chromium, shop.ledger.url) as desk:
        page = desk.sign_in(shop.ledger.tokens["admin"]).page
        expect(page.get_by_role("navigation", name="Screens").locator(".count")).to_be_visible()
        desk.go("#/attention")
        links = page.locator("a.row-link")
        expect(links.filter(has_text=second["number"])).to_be_visible()
        numbers = links.all_inner_texts()
        assert numbers.index(first["number"]) < numbers.index(second["number"])
        desk.picture("attention")
        links.filter(has_text=first["number"]).click()
        expect(page.get_by_role("button", name="Resolve…")).to_be_visible()
        desk.act("Resolve", action="retry", ticket="T-9")
        desk.closed()
        desk.happened("Flag resolved")
    assert shop.read(first)["attention"] == []


def test_day_and_system_show_figures(shop: Shop, chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    paid(shop)
    shop.place(currency="USD")
    with at_desk(chromium, shop.ledger.url) as desk:
        page = desk.sign_in(shop.ledger.tokens["reader"]).page
        desk.go("#/day")
        expect(page.get_by_role("heading", name="EUR", exact=True)).to_be_visible()
        expect(page.get_by_role("heading", name="USD", exact=True)).to_be_visible()
        page.get_by_text("Figures").first.click()
        expect(page.get_by_role("table").first).to_be_visible()
        desk.picture("day")
        desk.go("#/day?from=2020-01-01&to=2020-01-03")
        expect(page.get_by_text("No orders on these days")).to_be_visible()
        desk.picture("day-none")
        for typed in ("x", "2020-13-01", "2020-02-30", "99999-01-01"):
            desk.go(f"#/day?from={typed}&to={typed}")
            expect(page.get_by_role("heading", name="EUR", exact=True)).to_be_visible()
            desk.go("#/day?from=2020-01-01&to=2020-01-03")
            expect(page.get_by_text("No orders on these days")).to_be_visible()
        desk.go("#/system")
        expect(page.get_by_text("Ready", exact=True)).to_be_visible()
        expect(page.get_by_role("heading", name="Partitions")).to_be_visible()
        desk.picture("system")
