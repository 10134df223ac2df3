"""Messages made of sample orders, what is in a page of HTML, and templates that are broken in every way."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from commands.notifier.composing import Composer, Shop
from commands.notifier.message_port import OutMessage
from commands.notifier.notices import EMAIL, SMS
from commands.notifier.samples import Sample, samples

LANGUAGES = ("de", "en")  # of the shipped templates
TAGS_OF_MAIL = {"html", "head", "meta", "title", "style", "body", "table", "tbody", "tr", "td", "h1", "h2", "p", "br", "span"}


class Read(HTMLParser):
    """The tags and the text of a page, and the values of its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.values: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.values += [value for _, value in attrs if value]

    def handle_data(self, data: str) -> None:
        self.text += data


def messages(of: Sample, notice: str, shop: Shop | None = None, **contact: Any) -> list[OutMessage]:
    composer = Composer(shop or Shop("Bean & Leaf"))
    return composer.messages_of(of.event, of.order, notice, replace(of.contact, **contact), frozenset({EMAIL, SMS}))


def mail(of: Sample, notice: str = "placed", shop: Shop | None = None, **contact: Any) -> OutMessage:
    return messages(of, notice, shop, **contact)[0]


def html_of(message: OutMessage) -> str:
    assert message.html is not None
    return message.html


def with_content(notice: str, name: str) -> Sample:
    return next(one for one in samples(notice) if one.name == name)


def write(folder: Path, name: str, text: str | bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


# What is broken: its source, the kind of its fault, the line.
BROKEN: dict[str, tuple[str | bytes, str, int | None]] = {
    "a block that never ends": ("Subject: x\n{% if name %}", "syntax", 2),
    "an unknown filter": ("Subject: x\n{{ name | shout }}", "syntax", 2),
    "an unknown name": ("Subject: x\n\n{{ custmer }}", "fails", 3),
    "an unknown member": ("Subject: {{ order.price }}\nx", "fails", 1),
    "a member named by a value": ("Subject: x\n{{ order[name] }}", "fails", 2),
    "an include that is not there": ("Subject: x\n{% include 'en/nothing.txt' %}", "fails", 2),
    "an include out of the folder": ("Subject: x\n{% include '../secret.txt' %}", "fails", 2),
    "itself": ("Subject: x\n{% include 'en/placed.email.txt' %}", "fails", 2),
    "a division by zero": ("Subject: x\n{{ 1 // 0 }}", "fails", 2),
    "a way into Python": ("Subject: x\n{{ name.__class__.__mro__ }}", "fails", 2),
    "a change of a value": ("Subject: x\n{% set _ = [].append(1) %}x", "fails", 2),
    "a range without end": ("Subject: x\n{% for _ in range(10 ** 9) %}x{% endfor %}", "fails", 2),
    "no subject": ("Hello", "subject", 1),
    "an empty subject": ("Subject: \nHello", "subject", 1),
    "no text": ("Subject: x\n\n", "empty", None),
    "not UTF-8": (b"Subject: Gr\xfc\xdfe\nx", "unreadable", None),
}
