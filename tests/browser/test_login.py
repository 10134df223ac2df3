"""Staff log in at the issuer that the ledger trusts: PKCE in a real browser, and what goes wrong on the way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.harness import order_body, placed
from tests.support.issuer import CONSOLE
from tests.support.trusted import Trusted, running_trusted

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.support.desk_browser import Desk

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def trusted() -> Iterator[Trusted]:
    with running_trusted(oidc_console_client_id=CONSOLE, oidc_token_types="at+jwt") as running:
        yield running


def leave_for_the_issuer(desk: Desk, place: str = "") -> None:
    desk.page.goto(f"{desk.url}/console{place}")
    desk.page.get_by_role("button", name="Log in at").wait_for()
    desk.picture("sign-in-with-issuer")
    desk.page.get_by_role("button", name="Log in at").click()
    desk.page.get_by_role("button", name="Log in", exact=True).wait_for()


def log_in(desk: Desk, user: str = "ada") -> None:
    desk.page.locator("input[name=login]").fill(user)
    desk.page.get_by_role("button", name="Log in").click()


def test_a_person_logs_in_and_works_where_they_were_going(trusted: Trusted, chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    with trusted.ledger.client() as client:
        order = placed(client, order_body())
    with at_desk(chromium, trusted.ledger.url, trusted.issuer.url) as desk:
        leave_for_the_issuer(desk, f"#/orders/{order['order_id']}")
        log_in(desk)
        expect(desk.page.get_by_role("heading", name=order["number"], level=1)).to_be_visible()
        assert desk.page.url == f"{desk.url}/console#/orders/{order['order_id']}", "nothing of the issuer stays in the address"
        desk.act("Cancel order", reason="other")
        desk.happened("Order cancelled")
        desk.page.reload()
        expect(desk.page.get_by_role("heading", name=order["number"], level=1)).to_be_visible()
        desk.page.get_by_role("button", name="Sign out").click()
        expect(desk.page.get_by_role("button", name="Log in at")).to_be_visible()
        assert desk.page.evaluate("Object.keys(sessionStorage)") == []
    exchanges = [asked for asked in trusted.issuer.asked.items() if asked[0] == "/token"]
    assert exchanges == [("/token", 1)]


def test_a_login_that_was_not_begun_here_is_refused(trusted: Trusted, chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    before = trusted.issuer.asked["/token"]
    with at_desk(chromium, trusted.ledger.url, trusted.issuer.url) as desk:
        desk.page.goto(f"{desk.url}/console?code=stolen&state=another")
        expect(desk.page.get_by_text("was not begun in this tab")).to_be_visible()
        assert desk.page.url == f"{desk.url}/console"
        assert desk.page.evaluate("sessionStorage.length") == 0
    assert trusted.issuer.asked["/token"] == before, "the code was not used"


def test_a_person_who_is_refused_or_has_no_role_sees_why(trusted: Trusted, chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    with at_desk(chromium, trusted.ledger.url, trusted.issuer.url) as desk:
        leave_for_the_issuer(desk)
        pending: dict[str, Any] = desk.page.evaluate("Object.fromEntries(new URLSearchParams(location.search))")
        desk.page.goto(f"{desk.url}/console?error=access_denied&state={pending['state']}")
        expect(desk.page.get_by_text("access_denied")).to_be_visible()
        expect(desk.page.get_by_role("button", name="Log in at")).to_be_enabled()
        trusted.issuer.users["eve"] = type(trusted.issuer.users["ada"])("u-eve", {"roles": ["shop-guest"]})
        leave_for_the_issuer(desk)
        log_in(desk, "eve")
        expect(desk.page.get_by_text("This token cannot be used here")).to_be_visible()


def test_an_issuer_that_is_unreachable_leaves_the_field_for_a_token(trusted: Trusted, chromium: Browser) -> None:
    from playwright.sync_api import expect

    from tests.support.desk_browser import at_desk

    with at_desk(chromium, trusted.ledger.url, trusted.issuer.url) as desk:
        leave_for_the_issuer(desk)
        trusted.issuer.instead["/token"] = (503, b"{}", {"Content-Type": "application/json"})
        try:
            log_in(desk)
            expect(desk.page.get_by_text("gave no token (503)")).to_be_visible()
        finally:
            del trusted.issuer.instead["/token"]
        desk.enter(trusted.ledger.tokens["admin"])
        expect(desk.page.get_by_role("navigation", name="Screens")).to_be_visible()
