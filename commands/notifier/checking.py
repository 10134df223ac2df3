"""Checks templates: whether each compiles, renders orders of every kind, and has what it needs beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from commands.notifier.composing import HTML_PART, SMS_PART, TEXT_PART, Composer, Shop, mail_html, mail_text, sms_text
from commands.notifier.formats import is_known
from commands.notifier.languages import canonical, lookups
from commands.notifier.notices import NOTICES
from commands.notifier.samples import samples
from commands.notifier.template_files import TemplateFailed, TemplateFiles
from commands.notifier.values import Wording, values_of

PARTS = (TEXT_PART, HTML_PART, SMS_PART)
_MESSAGES = frozenset(f"{notice}.{part}" for notice in NOTICES for part in PARTS)


class Fault(Struct, frozen=True):
    """What is wrong with one template. `kind`: that of `TemplateFailed`, or `language`, `unused` or `unescaped`."""

    template: str
    line: int | None
    kind: str
    detail: str


class Checked(Struct, frozen=True):
    """The result. `rendered` counts renderings of `templates` templates."""

    languages: list[str]
    templates: int
    rendered: int
    faults: list[Fault]


def check(shop: Shop) -> Checked:
    """Check the templates of the shop, and the shipped ones that they do not replace. Raises `ConfigError`."""
    files = Composer(shop).files
    names = files.names()
    messages = [name for name in names if _is_message(name)]
    languages = sorted({name.split("/")[0] for name in messages})
    faults = [*_language_faults(languages, shop.language), *_missing(files, languages), *_reference_faults(files, names)]
    rendered = 0
    for name in messages:
        for fault in _renderings(files, name, shop):
            rendered += 1
            if fault is not None:
                faults.append(fault)
                break
    once = {(fault.template, fault.line or 0, fault.kind): fault for fault in reversed(faults)}
    return Checked(languages, len(messages), rendered, [fault for _, fault in sorted(once.items())])


def _is_message(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    return bool(folder) and "/" not in folder and file in _MESSAGES


def _language_faults(languages: list[str], of_shop: str) -> Iterator[Fault]:
    for language in languages:
        written = canonical(language)
        if written is None:
            yield Fault(f"{language}/", None, "language", "not a language tag such as de or de-AT")
        elif written != language:
            yield Fault(f"{language}/", None, "language", f"write it {written}: otherwise it is never used")
        elif not is_known(language):
            yield Fault(f"{language}/", None, "language", "Babel does not know it: amounts and dates would be in English")
    if not set(lookups(of_shop)) & set(languages):
        yield Fault(f"{of_shop}/", None, "language", "NOTIFY_LANGUAGE, but there are no templates in this language")


def _missing(files: TemplateFiles, languages: list[str]) -> Iterator[Fault]:
    """A language has the text part of every mail; HTML parts and text messages of all notices, or of none."""
    for language in languages:
        for part in PARTS:
            names = {notice: [f"{tag}/{notice}.{part}" for tag in lookups(language)] for notice in NOTICES}
            without = [notice for notice in NOTICES if not any(files.has(name) for name in names[notice])]
            if part == TEXT_PART or len(without) < len(NOTICES):
                for notice in without:
                    yield Fault(f"{language}/{notice}.{part}", None, "missing", _INSTEAD[part])


_INSTEAD = {
    TEXT_PART: "the message is sent in another language",
    HTML_PART: "the mail is sent as text only",
    SMS_PART: "the message is sent in another language",
}


def _reference_faults(files: TemplateFiles, names: list[str]) -> Iterator[Fault]:
    """Files that no message uses, and texts in HTML, whose values would not be escaped."""
    used: set[str | None] = set()
    for name in names:
        try:
            references = files.references(name)
        except TemplateFailed as exc:
            yield _fault(exc)
            continue
        used |= references
        for reference in sorted(one for one in references if one is not None):
            if name.endswith(".html") and reference.endswith(".txt"):
                yield Fault(name, None, "unescaped", f"includes {reference}, whose values would not be escaped in HTML")
    if None in used:
        return  # a computed name may be that of any file
    for name in names:
        if not _is_message(name) and name not in used and not name.endswith(".md"):
            yield Fault(name, None, "unused", "not the name of a message, and not included by a template")


def _renderings(files: TemplateFiles, name: str, shop: Shop) -> Iterator[Fault | None]:
    """Render the template with every sample; None where that works."""
    language, _, file = name.partition("/")
    notice, _, part = file.partition(".")
    for sample in samples(notice):
        wording = Wording(language, language, shop.zone)
        values = asdict(values_of(sample.event, sample.order, sample.contact, shop.name, wording))
        try:
            text = _rendered(files, name, part, values)
        except TemplateFailed as exc:
            detail = f"{exc.detail} ({sample.name})" if exc.kind in ("fails", "empty", "subject") else exc.detail
            yield Fault(exc.template, exc.line, exc.kind, detail)
            continue
        written = sample.contact.name
        if part == HTML_PART and "<" in written and written in text:
            yield Fault(name, None, "unescaped", f"a value is not escaped, perhaps because of `| safe` ({sample.name})")
        else:
            yield None


def _rendered(files: TemplateFiles, name: str, part: str, values: dict[str, Any]) -> str:
    if part == SMS_PART:
        return sms_text(files, name, values)
    if part == TEXT_PART:
        return mail_text(files, name, values)[1]
    return mail_html(files, name, values, "Subject")


def _fault(exc: TemplateFailed) -> Fault:
    return Fault(exc.template, exc.line, exc.kind, exc.detail)
