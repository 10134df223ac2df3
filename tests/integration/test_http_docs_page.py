"""`/docs` without a network: everything that the page needs comes from this server, and nothing else is permitted to it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import pytest

from ledger.memory.log import MemoryLog
from ledger.topics import Topics
from tests.support import loopback
from tests.support.harness import RunningLedger, running_ledger

TYPES = {".js": "text/javascript", ".css": "text/css"}


@pytest.fixture(scope="module")
def ledger() -> Iterator[RunningLedger]:
    with running_ledger(MemoryLog(), Topics()) as running:
        yield running


class Addresses(HTMLParser):
    """Every address in a page, and whether there is a script in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline: list[str] = []
        self._in_script = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src", "srcset", "action", "data", "content")]
        self.inline += [name for name, _ in attrs if name.startswith("on") or name == "style"]
        self._in_script = tag == "script"

    def handle_data(self, data: str) -> None:
        if self._in_script and data.strip():
            self.inline.append(data)


def policy_of(header: str) -> dict[str, list[str]]:
    return {name: sources for name, *sources in (part.split() for part in header.split(";"))}


def test_the_page_is_made_of_files_of_this_server_alone(ledger: RunningLedger) -> None:
    page = loopback.get(f"{ledger.url}/docs")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    read = Addresses(page.text)
    assert read.inline == [], "the policy permits no script within the page"
    files = [address for address in read.addresses if "." in address]
    assert len(files) == 3
    for address in files:
        assert not urlsplit(address).scheme
        assert not urlsplit(address).netloc
        answer = loopback.get(urljoin(f"{ledger.url}/docs", address))
        media = TYPES[re.search(r"\.\w+$", address)[0]]  # type: ignore[index]
        assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, media), address
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.content
    assert "https:" not in page.text
    assert "http:" not in page.text


def test_the_policy_permits_nothing_from_outside(ledger: RunningLedger) -> None:
    policy = policy_of(loopback.get(f"{ledger.url}/docs").headers["content-security-policy"])
    assert policy["default-src"] == ["'none'"]
    assert policy["script-src"] == ["'self'"], "neither within the page, nor made of text"
    assert {source for sources in policy.values() for source in sources} <= {"'none'", "'self'", "'unsafe-inline'", "data:"}
    assert [name for name, sources in policy.items() if "'unsafe-inline'" in sources] == ["style-src"]
    assert {"base-uri", "form-action", "frame-ancestors"} <= policy.keys(), "which default-src does not cover"


def test_the_style_sheet_fetches_nothing(ledger: RunningLedger) -> None:
    sheet = loopback.get(f"{ledger.url}/docs/swagger-ui.css").text
    assert "@import" not in sheet
    assert [url for url in re.findall(r"url\(\s*[\"']?([^\"')]{1,60})", sheet) if not url.startswith("data:")] == []


def test_the_script_shows_the_document_of_this_program_and_asks_no_validator(ledger: RunningLedger) -> None:
    script = loopback.get(f"{ledger.url}/docs/start.js").text
    shown = re.fullmatch(r"SwaggerUIBundle\((.*)\);\n", script)
    assert shown
    settings = json.loads(shown[1])
    assert settings["spec"] == json.loads(json.dumps(ledger.app.openapi()))
    assert (settings["dom_id"], settings["validatorUrl"]) == ("#swagger-ui", None)
    bundle = loopback.get(f"{ledger.url}/docs/swagger-ui-bundle.js").text
    assert "SwaggerUIBundle" in bundle
    assert len(bundle) > 500_000


@pytest.mark.parametrize("name", ["x", "..%2f..%2f__init__.py", "redoc.standalone.js", "swagger-ui.css.map", "start.js/"])
def test_another_file_is_not_answered(ledger: RunningLedger, name: str) -> None:
    answer = loopback.get(f"{ledger.url}/docs/{name}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")
