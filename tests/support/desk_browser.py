"""A person of the shop's desk at `/console`, in a real Chromium that Playwright drives. For the tests with the marker `browser`.

Chromium is the machine's own (`apt-get install chromium`; another one by `CHROMIUM`). Playwright and axe-core come from
`uv run --with playwright --with axe-playwright-python pytest -m browser`. Pictures land in `ARTEFACTS`, by default `.artefacts`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

PATIENCE_MS = 60_000
DESKTOP, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 780}
ROOT = Path(__file__).parents[2]


def chromium_path() -> str:
    """The program. Raises `RuntimeError` saying how to get one."""
    for name in (os.environ.get("CHROMIUM", "chromium"), "chromium-browser", "google-chrome"):
        if (path := shutil.which(name)) is not None:
            return path
    raise RuntimeError("no Chromium on PATH: `apt-get install chromium`, or set CHROMIUM")


def artefacts() -> Path:
    """The folder of the pictures."""
    folder = Path(os.environ.get("ARTEFACTS", ROOT / ".artefacts")) / "console"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """A browser without a window, until the block ends."""
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        # A browser that runs as root has no sandbox; it opens nothing but this ledger's own page.
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Desk:
    """One person with one tab. `check` says whether the tab did what a page of the console may do; call it last."""

    def __init__(self, context: BrowserContext, url: str, issuer: str = "") -> None:
        """`issuer`: the other origin that the tab may ask, where the person logs in."""
        self.context, self.url, self._issuer = context, url, issuer
        self.page: Page = context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.faults: list[str] = []
        self.asked: list[tuple[str, str, dict[str, str]]] = []  # method, address, headers
        self.addresses: set[str] = set()  # of the page
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda message: self._said(message.type, message.text))
        self.page.on("request", lambda request: self.asked.append((request.method, request.url, dict(request.headers))))
        self.page.on("framenavigated", lambda frame: self.addresses.add(frame.url))

    def _said(self, kind: str, text: str) -> None:
        # What the network or the ledger refused is shown to the person, and by Chromium in the console.
        if kind in ("error", "warning") and not text.startswith("Failed to load resource"):
            self.faults.append(text)

    def sign_in(self, token: str) -> Desk:
        self.page.goto(f"{self.url}/console")
        self.enter(token)
        expect(self.page.get_by_role("navigation", name="Screens")).to_be_visible()
        return self

    def enter(self, token: str) -> None:
        """Give the token to the screen that asks for it."""
        self.page.get_by_label("Token").fill(token)
        self.page.get_by_role("button", name="Sign in").click()

    def go(self, place: str) -> None:
        """Open a screen by its address, such as `#/day`."""
        self.page.evaluate("place => { location.hash = place; }", place)

    def open_order(self, order: dict[str, Any]) -> None:
        self.go(f"#/orders/{order['order_id']}")
        expect(self.page.get_by_role("heading", name=order["number"], level=1)).to_be_visible()

    def act(self, label: str, **fields: str) -> None:
        """Press the button of an action, fill its dialog in and send it. `fields` are by name."""
        self.page.get_by_role("button", name=f"{label}…", exact=True).click()
        dialog = self.page.get_by_role("dialog")
        for name, text in fields.items():
            control = dialog.locator(f"[name={name}]")
            if control.evaluate("one => one.tagName") == "SELECT":
                control.select_option(text)
            else:
                control.fill(text)
        self.send()

    def send(self) -> None:
        """Send the open dialog."""
        self.page.get_by_role("dialog").locator(".foot button:not([type])").click()

    def closed(self) -> None:
        """Wait until no dialog is open: what was sent is decided."""
        expect(self.page.get_by_role("dialog")).to_have_count(0)

    def happened(self, sentence: str) -> None:
        """Wait until the timeline of the order has an event with these words, perhaps behind a dialog."""
        expect(self.page.locator(".timeline .say", has_text=sentence).first).to_be_attached()

    def actions(self) -> list[str]:
        """The labels of the actions that are offered."""
        labels: list[str] = self.page.get_by_role("group", name="Actions").get_by_role("button").all_inner_texts()
        return labels

    def picture(self, name: str) -> None:
        """The whole page as `<name>.png`."""
        self.page.screenshot(path=artefacts() / f"{name}.png", full_page=True)

    def unreachable_to_some(self) -> list[str]:
        """What axe-core finds on the screen against WCAG 2.2 A and AA, one line each."""
        from axe_playwright_python.sync_playwright import Axe

        tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
        results = Axe().run(self.page, options={"runOnly": {"type": "tag", "values": tags}}).response
        return [
            f"{rule['id']}: {node['target']} {node.get('failureSummary', '')}"
            for rule in results["violations"]
            for node in rule["nodes"]
        ]

    def check(self) -> None:
        """No fault in the scripts, no other origin, no cookie, nothing personal and no token in an address of the page."""
        assert self.faults == []
        own = [one for one in self.asked if not (self._issuer and one[1].startswith(self._issuer))]
        assert [address for _, address, _ in own if not address.startswith(self.url)] == []
        assert [headers for _, _, headers in self.asked if "cookie" in headers] == []
        assert self.context.cookies() == []
        assert [address for address in self.addresses if "@" in address or "%40" in address or "ol_" in address] == []
        for method, address, headers in own:
            if method not in ("GET", "HEAD"):
                assert "idempotency-key" in headers, (method, address)
                assert "if-match" in headers or "/notes" in address, (method, address)


@contextmanager
def at_desk(browser: Browser, url: str, issuer: str = "", **options: Any) -> Iterator[Desk]:
    """A person with an empty browser of their own. `options`: of the context, such as `color_scheme`."""
    settings: dict[str, Any] = {"viewport": DESKTOP, "locale": "en-GB", "timezone_id": "Europe/Berlin", "color_scheme": "light"}
    context = browser.new_context(**settings | options)
    try:
        desk = Desk(context, url, issuer)
        yield desk
        desk.check()
    finally:
        context.close()
