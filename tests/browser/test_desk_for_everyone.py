"""The console for everyone: axe-core on every screen, by keys alone, on a phone, in the dark, in any script, with many orders."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from ledger.memory.log import MemoryLog
from ledger.topics import Topics
from tests.support.desk_orders import LONG, flagged, in_other_scripts, paid
from tests.support.harness import decided, order_body, running_ledger
from tests.support.paying_shop import Shop

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser
MANY = 10_000
SCREENS = ("orders", "attention", "day", "system")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", ["desktop", "phone"])
def test_axe_finds_nothing_on_any_screen(shop: Shop, chromium: Browser, scheme: str, device: str) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import DESKTOP, PHONE, at_desk

    people = in_other_scripts(shop)
    order, waiting = paid(shop), flagged(shop)
    size = PHONE if device == "phone" else DESKTOP
    problems: dict[str, list[str]] = {}
    with at_desk(chromium, shop.ledger.url, color_scheme=scheme, viewport=size, bypass_csp=True) as desk:
        page = desk.page

        def judge(name: str) -> None:
            desk.picture(f"{name}-{device}-{scheme}")
            problems[name] = desk.unreachable_to_some()
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            problems[name] += [f"wider than the screen by {wide} px"] if wide > 0 else []

        page.goto(f"{desk.url}/console")
        judge("sign-in")
        desk.enter(shop.ledger.tokens["admin"])
        for screen in SCREENS:
            desk.go(f"#/{screen}")
            expect(page.get_by_role("heading", level=1, name=screen.capitalize())).to_be_visible()
            expect(page.get_by_text("Reading…")).to_have_count(0)
            judge(screen)
        for name, one in {"order": order, "flagged": waiting, **people}.items():
            desk.open_order(one)
            judge(f"order-{name}")
        desk.open_order(order)
        page.get_by_role("button", name="Refund…").click()
        judge("dialog")
    assert {name: faults for name, faults in problems.items() if faults} == {}


def test_what_shuts_somebody_out_is_seen(shop: Shop, chromium: Browser) -> None:
    """A judge that finds nothing anywhere would pass every screen."""
    from tests.support.desk_browser import at_desk

    with at_desk(chromium, shop.ledger.url) as desk:
        desk.page.goto(f"{desk.url}/console")
        desk.page.evaluate("document.querySelector('input').closest('label').replaceWith(document.querySelector('input'))")
        desk.page.evaluate("document.querySelector('h1').style.color = '#ccc'")
        rules = {line.partition(":")[0] for line in desk.unreachable_to_some()}
    assert {"label", "color-contrast"} <= rules


def test_everything_is_reached_by_keys(shop: Shop, chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    order = paid(shop, reference="keys-1")
    with at_desk(chromium, shop.ledger.url) as desk:
        page = desk.sign_in(shop.ledger.tokens["admin"]).page
        expect(page.get_by_role("link", name=order["number"])).to_be_visible()
        for place in ("attention", "day", "system", "orders"):
            page.keyboard.press("g")
            page.keyboard.press(place[0])
            expect(page.get_by_role("heading", level=1, name=place.capitalize())).to_be_visible()
        page.keyboard.press("/")
        expect(page.get_by_label("Text to find")).to_be_focused()
        page.keyboard.type(order["number"])
        page.keyboard.press("Enter")
        expect(page.get_by_role("row")).to_have_count(2)
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1, name=order["number"])).to_be_visible()
        page.get_by_role("button", name="Start processing…").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
        expect(page.get_by_role("button", name="Start processing…")).to_be_focused()
        page.keyboard.press("?")
        page.get_by_label("Use keys of one character").press("Space")
        page.keyboard.press("Escape")
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_have_count(0)


def test_long_words_and_other_scripts_stay_within_the_page(shop: Shop, chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import PHONE, at_desk

    people = in_other_scripts(shop)
    with at_desk(chromium, shop.ledger.url, viewport=PHONE) as desk:
        page = desk.sign_in(shop.ledger.tokens["admin"]).page
        for person, order in people.items():
            desk.open_order(order)
            expect(page.get_by_text(LONG).first).to_be_visible()
            desk.picture(f"phone-{person}")
            assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), person
        names = page.evaluate("[...document.querySelectorAll('bdi')].map(one => one.dir)")
        assert set(names) == {"auto"}


def test_ten_thousand_orders_are_listed_by_pages_and_stay_quick(chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    with running_ledger(MemoryLog(), Topics("many.")) as ledger:
        clients = [ledger.client(customer=f"c-{number}") for number in range(16)]

        def place(number: int) -> dict[str, Any]:
            body = order_body(reference=f"many-{number}")
            order: dict[str, Any] = decided(clients[number % 16], "/orders", body).json()
            return order

        with ThreadPoolExecutor(16) as pool:
            last = list(pool.map(place, range(MANY)))[-1]
        with at_desk(chromium, ledger.url) as desk:
            page = desk.sign_in(ledger.tokens["admin"]).page
            began = time.monotonic()
            page.reload()
            expect(page.locator("a.row-link")).to_have_count(50)
            print(f"first page of {MANY} orders: {time.monotonic() - began:.2f} s")
            for shown in range(100, 501, 50):
                page.get_by_role("button", name="Show more").click()
                expect(page.locator("a.row-link")).to_have_count(shown)
            page.get_by_label("Text to find").fill(last["number"])
            page.get_by_role("button", name="Find").click()
            expect(page.locator("a.row-link")).to_have_count(1)
