"""What goes wrong at a desk: two of them at one order, a token that ends, a network that fails, a refusal."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from api.callers.auth import Principal, Token, hash_token, new_token
from ledger.clock import now_ms
from tests.support.desk_orders import paid
from tests.support.harness import key
from tests.support.patience import until
from tests.support.paying_shop import Shop

if TYPE_CHECKING:
    from playwright.sync_api import APIResponse, Browser, Route

pytestmark = pytest.mark.browser


def test_of_two_desks_at_one_order_the_second_sees_what_the_first_did(shop: Shop, chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    order = paid(shop, reference="race-1")
    token = shop.ledger.tokens["admin"]
    with at_desk(chromium, shop.ledger.url) as one, at_desk(chromium, shop.ledger.url) as other:
        for desk in (one, other):
            desk.sign_in(token)
            desk.open_order(order)
        one.page.get_by_role("button", name="Cancel order…").click()
        other.act("Start processing")
        other.closed()
        one.happened("Processing started")
        one.send()
        alert = one.page.get_by_role("dialog").get_by_role("alert")
        expect(alert).to_contain_text("The order has changed")
        expect(alert).to_contain_text("Processing started")
        one.picture("dialog-conflict")
        assert shop.read(order)["status"] == "processing", "nothing was done"
        alert.get_by_role("button", name=re.compile("Do it with version")).click()
        one.closed()
        one.happened("Order cancelled")
        other.happened("Order cancelled")
    assert shop.read(order)["status"] == "cancelled"


def test_an_answer_that_comes_too_late_does_not_replace_a_newer_one(shop: Shop, chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    order = paid(shop, reference="late-1")
    held: list[tuple[Route, APIResponse]] = []

    def hold(route: Route) -> None:
        held.append((route, route.fetch())) if not held else route.continue_()

    with at_desk(chromium, shop.ledger.url) as one, at_desk(chromium, shop.ledger.url) as other:
        for desk in (one, other):
            desk.sign_in(shop.ledger.tokens["admin"])
            desk.open_order(order)
        one.page.route(re.compile(f"/orders/{order['order_id']}$"), hold)
        with one.page.expect_request(lambda request: request.url.endswith(f"/orders/{order['order_id']}")):
            other.act("Start processing")
        other.closed()
        until(lambda: bool(held) or bool(one.page.wait_for_timeout(50)))  # Playwright calls `hold` while it waits
        other.act("Cancel order")
        other.closed()
        cancelled = one.page.locator(".pill", has_text="cancelled").first
        expect(cancelled).to_be_visible()
        route, answer = held[0]
        with one.page.expect_request_finished(lambda request: request == route.request):
            route.fulfill(response=answer)
        one.page.wait_for_timeout(300)  # shown by then, if ever
        expect(cancelled).to_be_visible()


def test_a_token_that_expires_asks_for_the_next_one_and_returns_to_the_order(shop: Shop, chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    order = paid(shop, reference="expiring-1")
    tokens, secret = shop.ledger.context.tokens, new_token("admin")
    before = tokens.known
    short = Token(bytes.fromhex(hash_token(secret)), Principal("short", "admin"), now_ms() + 3_600_000)
    tokens.replace([*before, short])
    try:
        with at_desk(chromium, shop.ledger.url) as desk:
            page = desk.sign_in(secret).page
            page.get_by_role("link", name=order["number"]).click()
            page.get_by_role("button", name="Start processing…").click()
            tokens.replace([*before, short._replace(expires_at_ms=now_ms() - 1)])
            # A person sends the dialog, unless the page has noticed it before.
            page.get_by_role("dialog").evaluate_all("all => all.forEach(one => one.querySelector('form').requestSubmit())")
            expect(page.get_by_role("alert")).to_contain_text("The token expired")
            expect(page.get_by_role("dialog")).to_have_count(0)
            desk.picture("sign-in-expired")
            desk.enter(shop.ledger.tokens["admin"])
            expect(page.get_by_role("heading", name=order["number"])).to_be_visible()
    finally:
        tokens.replace(before)
    assert shop.read(order)["status"] == "paid"


def test_a_wrong_token_and_one_of_a_gateway_are_refused_in_words(shop: Shop, chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    with at_desk(chromium, shop.ledger.url) as desk:
        desk.page.goto(f"{desk.url}/console")
        desk.picture("sign-in")
        desk.enter("nonsense")
        expect(desk.page.get_by_role("alert")).to_contain_text("The token is not accepted")
        for role in ("gateway", "operator"):
            desk.enter(shop.ledger.tokens[role])
            expect(desk.page.get_by_role("alert")).to_contain_text("This token cannot be used here")
        desk.enter(shop.ledger.tokens["reader"])
        expect(desk.page.get_by_role("navigation", name="Screens")).to_be_visible()
        desk.page.reload()
        expect(desk.page.get_by_role("navigation", name="Screens")).to_be_visible()
        desk.page.get_by_role("button", name="Sign out").click()
        expect(desk.page.get_by_label("Token")).to_be_focused()
        assert desk.page.evaluate("sessionStorage.length") == 0
        desk.page.reload()
        expect(desk.page.get_by_label("Token")).to_be_visible()


def test_an_address_of_no_order_asks_for_nothing_but_the_list(shop: Shop, chromium: Browser) -> None:
    """Somebody else may have written the address that a person of the desk opens."""
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    order = paid(shop, reference="forged-1")
    forged = ("orders/..\\webhook-endpoints\\erp\\secret#", "orders/..%2fready", "orders/ord_x", "constructor", "__proto__/x")
    with at_desk(chromium, shop.ledger.url) as desk:
        desk.sign_in(shop.ledger.tokens["admin"]).open_order(order)
        before = len(desk.asked)
        for place in forged:
            desk.go(f"#/{place}")
            expect(desk.page.get_by_role("heading", name="Orders", level=1)).to_be_visible()
            desk.open_order(order)
        asked = [address.removeprefix(desk.url) for _, address, _ in desk.asked[before:]]
        expected = ("/orders?", f"/orders/{order['order_id']}", "/events?", "/console/icon.svg")
        assert [address for address in asked if not address.startswith(expected)] == []


def test_when_the_network_fails_the_page_says_so_and_catches_up_by_itself(shop: Shop, chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    order = paid(shop, reference="offline-1")
    with at_desk(chromium, shop.ledger.url) as desk:
        page = desk.sign_in(shop.ledger.tokens["admin"]).page
        expect(page.get_by_text("Live", exact=True)).to_be_visible()
        desk.context.set_offline(True)
        expect(page.get_by_text("Not connected", exact=False)).to_be_visible()
        desk.picture("orders-offline")
        shop.place(reference="while-offline")
        desk.context.set_offline(False)
        expect(page.get_by_text("while-offline")).to_be_visible()
        # A command without an answer is repeated under the same key, and happens once.
        desk.open_order(order)
        page.get_by_role("button", name="Start processing…").click()
        desk.context.set_offline(True)
        desk.send()
        expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("No answer")
        desk.picture("dialog-no-answer")
        desk.context.set_offline(False)
        desk.send()
        desk.closed()
        sent = [headers["idempotency-key"] for method, _, headers in desk.asked if method == "PUT"]
        assert len(sent) == 2
        assert len(set(sent)) == 1
    assert shop.types(order).count("FulfilmentStarted") == 1


def test_a_refusal_is_shown_with_its_code_and_a_new_try_has_a_new_key(shop: Shop, chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    order = paid(shop, reference="refused-1")
    with at_desk(chromium, shop.ledger.url) as desk:
        page = desk.sign_in(shop.ledger.tokens["admin"]).page
        desk.open_order(order)
        page.get_by_role("button", name="Ship a parcel…").click()
        dialog = page.get_by_role("dialog")
        # A card number in a text, which the API refuses.
        dialog.get_by_label("Tracking number").fill("4242424242424242")
        desk.send()
        expect(dialog.get_by_role("alert")).to_contain_text("422 invalid-field")
        desk.picture("dialog-refused")
        dialog.get_by_label("Tracking number").fill("JD01")
        desk.send()
        desk.closed()
        sent = [headers["idempotency-key"] for method, address, headers in desk.asked if address.endswith("/shipments")]
        assert len(set(sent)) == 2
    assert shop.admin.get(f"/orders/{order['order_id']}").json()["status"] == "shipped"
    assert shop.admin.post(f"/orders/{order['order_id']}/cancel", json={}, headers=key()).status_code == 409
