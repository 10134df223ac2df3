"""`/console`: static files of this package, a strict policy, nothing personal in addresses, only operations of the contract."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest

from api.routes.console import TYPES, names
from ledger.currencies import digits
from ledger.memory.log import MemoryLog
from ledger.topics import Topics
from tests.support import loopback
from tests.support.harness import RunningLedger, running_ledger

FOLDER = Path(__file__).parents[2] / "api" / "console"
SCRIPTS = sorted(FOLDER.glob("*.js"))


@pytest.fixture(scope="module")
def ledger() -> Iterator[RunningLedger]:
    with running_ledger(MemoryLog(), Topics(), env="production") as running:
        yield running


class Page(HTMLParser):
    """The addresses of a page, and whatever a strict policy would refuse."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline: list[str] = []
        self._in: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src", "action", "data", "srcset")]
        self.inline += [name for name, _ in attrs if name.startswith("on") or name == "style"]
        self._in = tag

    def handle_data(self, data: str) -> None:
        if self._in in ("script", "style") and data.strip():
            self.inline.append(data)


def policy_of(header: str) -> dict[str, list[str]]:
    return {name: sources for name, *sources in (part.split() for part in header.split(";"))}


def test_the_page_and_its_files_need_no_token_and_have_their_types(ledger: RunningLedger) -> None:
    page = loopback.get(f"{ledger.url}/console")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    read = Page(page.text)
    assert read.inline == []
    assert len(read.addresses) == 7
    for name in sorted(names() - {"index.html"}):
        answer = loopback.get(f"{ledger.url}/console/{name}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, TYPES[Path(name).suffix]), name
        assert answer.content == (FOLDER / name).read_bytes()
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "set-cookie" not in answer.headers
    for address in read.addresses:
        assert not urlsplit(address).netloc
        assert loopback.get(urljoin(f"{ledger.url}/console", address)).status_code == 200, address


def test_every_import_of_a_script_is_a_file_that_is_served() -> None:
    for script in SCRIPTS:
        for target in re.findall(r'from "([^"]+)"', script.read_text("utf-8")):
            assert target.removeprefix("./") in names(), (script.name, target)
    style = "".join(sheet.read_text("utf-8") for sheet in FOLDER.glob("*.css"))
    assert "@import" not in style
    assert "url(" not in style


def test_the_policy_permits_this_origin_alone_and_nothing_inline(ledger: RunningLedger) -> None:
    answer = loopback.get(f"{ledger.url}/console")
    policy = policy_of(answer.headers["content-security-policy"])
    assert policy["default-src"] == ["'none'"]
    assert {name for name, sources in policy.items() if sources == ["'self'"]} == {
        *("script-src", "style-src", "img-src", "connect-src"),
    }
    assert {"base-uri", "form-action", "frame-ancestors"} <= {name for name, sources in policy.items() if sources == ["'none'"]}
    assert policy["require-trusted-types-for"] == ["'script'"], "no text becomes HTML"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"


def test_a_browser_keeps_a_file_and_asks_each_time_whether_it_has_changed(ledger: RunningLedger) -> None:
    first = loopback.get(f"{ledger.url}/console/main.js")
    assert first.headers["cache-control"] == "no-cache"
    again = loopback.get(f"{ledger.url}/console/main.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["cache-control"]) == (304, b"", "no-cache")
    other = loopback.get(f"{ledger.url}/console/main.js", headers={"If-None-Match": '"other"'})
    assert other.status_code == 200
    with loopback.client(base_url=ledger.url) as client:
        head = client.head("/console/main.js")
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", first.headers["etag"])
    assert ledger.client("admin").get("/orders").headers["cache-control"] == "no-store", "data is never kept"


@pytest.mark.parametrize(
    "name", ["x.js", "..%2fapp.py", "..%2f..%2fpyproject.toml", "index.html", "README.md", "main.js/", "%00.js"]
)
def test_another_file_is_not_answered(ledger: RunningLedger, name: str) -> None:
    answer = loopback.get(f"{ledger.url}/console/{name}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")


def test_only_reading_is_possible(ledger: RunningLedger) -> None:
    answer = loopback.post(f"{ledger.url}/console")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


# ---- what the scripts contain


def script(name: str) -> str:
    return (FOLDER / name).read_text("utf-8")


def test_no_script_keeps_a_cookie_makes_html_of_text_or_asks_another_origin() -> None:
    for path in SCRIPTS:
        text = path.read_text("utf-8")
        for forbidden in ("document.cookie", "innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "new Function", "https://"):
            assert forbidden not in text, (path.name, forbidden)
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", ""), path.name
        if path.name != "api.js":
            assert "fetch(" not in text, f"{path.name} goes around api.js"
        if path.name != "session.js":
            assert "sessionStorage" not in text, path.name
        if path.name != "keys.js":
            assert "localStorage" not in text, path.name


def test_an_email_address_is_never_part_of_the_address_of_the_page() -> None:
    (in_address,) = re.findall(r"IN_ADDRESS = \[(.*)\]", script("orders.js"))
    assert set(re.findall(r'"(\w+)"', in_address)) == {
        *("status", "attention", "placed_from", "placed_to", "number", "reference", "customer_id"),
    }
    assert "IN_ADDRESS.includes(name)" in script("orders.js")


def test_every_path_and_operation_of_the_scripts_is_one_of_the_contract(ledger: RunningLedger) -> None:
    document = ledger.app.openapi()
    described = {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}
    text = "".join(path.read_text("utf-8") for path in SCRIPTS)
    sent = set(re.findall(r'method: "(\w+)", path: [`"](/[^`"]*)[`"]', text))
    assert len(sent) >= 10
    for method, path in sent:
        template = "/orders/{order_id}" + re.sub(
            r"\$\{action\.number\}", "{number}", re.sub(r"\$\{note\.note_id\}", "{note_id}", path)
        )
        assert (method, template) in described, (method, path)
    read = set(re.findall(r'read\(["`]([^"`]+)["`]', text)) | {
        f"orders/${{id}}{path}" for path in ("/outlook", "/refunds", "/notes")
    }
    assert len(read) >= 8
    for path in read:
        template = re.sub(r"\$\{(this\.)?(id|orderId)\}", "{order_id}", f"/{path}")
        assert ("GET", template) in described or template == "/orders/{order_id}${path}", path
    operations = {operation["operationId"] for path in document["paths"].values() for operation in path.values()}
    dialogs = script("actions.js").partition("const DIALOGS = {")[2].partition("\n};")[0]
    for name in re.findall(r"^  (\w+): \(", dialogs, re.MULTILINE):
        assert name in operations


def test_the_minor_units_of_money_are_those_of_the_ledger() -> None:
    (block,) = re.findall(r"export const DIGITS = \{(.*?)\};", script("format.js"), re.DOTALL)
    listed = {code: int(places) for places, codes in re.findall(r'(\d): "([A-Z ]+)"', block) for code in codes.split()}
    assert len(listed) > 20
    for code, places in listed.items():
        assert digits(code) == places, code
    # Codes that are money, from the list that the ledger uses itself.
    from iso4217 import Currency

    others = {c.code: c.exponent for c in Currency if c.exponent not in (None, 2)}
    assert {code: listed.get(code) for code in others} == others


def test_every_event_type_and_flag_has_words() -> None:
    from commands.obligations import Kind
    from ledger.events import EVENT_TYPES

    words = script("words.js")
    assert [kind for kind in EVENT_TYPES if f"  {kind}: [" not in words] == []
    assert [kind for kind in Kind if not re.search(rf"^  {kind.value}: ", words, re.MULTILINE)] == []
    assert len(SCRIPTS) >= 20
    assert [path.name for path in [*SCRIPTS, *FOLDER.glob("*.css")] if len(path.read_text("utf-8").splitlines()) > 400] == []
