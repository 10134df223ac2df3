"""Composes messages to customers from templates: the shop's own, else the shipped ones.

which language      the first of these that has the message: the customer's (`locale` of the contact) and its less detailed
                    forms, the shop's, English
which template      in that language, the shop's file, else the shipped one
a failing template  the message is composed from the shipped templates alone; that is counted and logged
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any

import structlog
from msgspec import Struct
from msgspec.structs import asdict

from commands.notifier.languages import SHIPPED, chain, lookups
from commands.notifier.message_port import OutMessage
from commands.notifier.notices import EMAIL, SMS
from commands.notifier.template_files import SHIPPED_TEMPLATES, TemplateFailed, TemplateFiles
from commands.notifier.values import Wording, one_line, values_of
from commands.phone_numbers import dialled
from ledger.contacts import OrderContact
from ledger.errors import ConfigError
from ledger.events import OrderEvent
from ledger.order import Order

TEXT_PART, HTML_PART, SMS_PART = "email.txt", "email.html", "sms.txt"
_TEXT_OF = {EMAIL: TEXT_PART, SMS: SMS_PART}
_SUBJECT = "Subject:"
# Outside the alphabet of text messages: with one of them, a message has less than half the room.
_PLAIN_SPACES = {0xA0: " ", 0x202F: " "}

log = structlog.get_logger(__name__)


class Composed(Struct, frozen=True):
    """One message: its language, its parts, and the templates they come from."""

    language: str
    subject: str
    text: str
    html: str | None
    templates: tuple[str, ...]


class Shop(Struct, frozen=True):
    """Whose messages they are: the name, the language and time zone of its messages, its folder of templates."""

    name: str
    language: str = SHIPPED
    zone: tzinfo = UTC
    folder: Path | None = None


class Composer:
    """A `MessageComposer`. Raises `ConfigError` if the folder of the shop cannot be read."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._shipped = TemplateFiles([SHIPPED_TEMPLATES])
        self.files = self._shipped
        if shop.folder is not None:
            if not shop.folder.is_dir():
                raise ConfigError(f"NOTIFY_TEMPLATES_DIR: {shop.folder} is not a folder")
            self.files = TemplateFiles([shop.folder, SHIPPED_TEMPLATES])
        self.failures = 0

    def messages_of(
        self, event: OrderEvent, order: Order, notice: str, contact: OrderContact, channels: frozenset[str]
    ) -> list[OutMessage]:
        messages = []
        for channel, to in ((EMAIL, contact.email), (SMS, _number_of(contact))):
            if channel in channels and to:
                composed = self._composed(event, order, notice, contact, channel)
                key = f"{event.order_id}:{event.version}:{channel}"
                messages.append(OutMessage(key, channel, to, composed.subject, composed.text, composed.html))
        return messages

    def _composed(self, event: OrderEvent, order: Order, notice: str, contact: OrderContact, channel: str) -> Composed:
        try:
            return self.compose(self.files, event, order, notice, contact, channel)
        except TemplateFailed as exc:
            if self.files is self._shipped:
                raise
            self.failures += 1
            about = {"order_id": event.order_id, "version": event.version, "channel": channel}
            log.error("template failed, using the shipped one", template=exc.template, line=exc.line, why=exc.kind, **about)
            return self.compose(self._shipped, event, order, notice, contact, channel)

    def compose(
        self, files: TemplateFiles, event: OrderEvent, order: Order, notice: str, contact: OrderContact, channel: str
    ) -> Composed:
        """The message, of these templates only. Raises `TemplateFailed`."""
        tags = chain((contact.locale, self._shop.language))
        part = _TEXT_OF[channel]
        tag = next((tag for tag in tags if files.has(f"{tag}/{notice}.{part}")), tags[-1])
        # Amounts and dates as the customer's region writes them, if the message is in the customer's language.
        of_customer = lookups(contact.locale or "")
        wording = Wording(tag, of_customer[0] if tag in of_customer else tag, self._shop.zone)
        values = asdict(values_of(event, order, contact, self._shop.name, wording))
        name = f"{tag}/{notice}.{part}"
        if channel == SMS:
            return Composed(tag, "", sms_text(files, name, values), None, (name,))
        subject, text = mail_text(files, name, values)
        html_name = html_template(files, tag, notice)
        if html_name is None:
            return Composed(tag, subject, text, None, (name,))
        return Composed(tag, subject, text, mail_html(files, html_name, values, subject), (name, html_name))


def mail_text(files: TemplateFiles, name: str, values: Mapping[str, Any]) -> tuple[str, str]:
    """(subject, body) of the text part of a mail: the first line of the template is the subject. Raises `TemplateFailed`."""
    head, _, body = files.render(name, values).partition("\n")
    subject = one_line(head.removeprefix(_SUBJECT))
    if not head.startswith(_SUBJECT) or not subject:
        raise TemplateFailed(name, "subject", f"the first line must be `{_SUBJECT} ...`", 1)
    return subject, _filled(name, body.strip("\n")) + "\n"


def mail_html(files: TemplateFiles, name: str, values: Mapping[str, Any], subject: str) -> str:
    """The HTML part of a mail with this subject. Raises `TemplateFailed`."""
    return _filled(name, files.render(name, {**values, "subject": subject}))


def sms_text(files: TemplateFiles, name: str, values: Mapping[str, Any]) -> str:
    """A text message. Raises `TemplateFailed`."""
    return _filled(name, files.render(name, values).translate(_PLAIN_SPACES).strip())


def html_template(files: TemplateFiles, tag: str, notice: str) -> str | None:
    """The HTML part beside a text part of this language, perhaps in less detail (`de` for `de-AT`); None if there is none."""
    names = (f"{one}/{notice}.{HTML_PART}" for one in lookups(tag))
    return next((name for name in names if files.has(name)), None)


def _filled(name: str, text: str) -> str:
    if not text.strip():
        raise TemplateFailed(name, "empty", "it renders no text")
    return text


def _number_of(contact: OrderContact) -> str | None:
    """The number in E.164, or as it was sent if it is invalid: the door will refuse it."""
    if contact.phone is None:
        return None
    try:
        return dialled(contact.phone, contact.shipping_address.country)
    except ValueError:
        return contact.phone
