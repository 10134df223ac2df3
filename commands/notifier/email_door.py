"""E-mail: to an SMTP server, or as `.eml` files if none is set. Uses only the standard library.

Apprise, which sends text messages, could also send e-mail. But it does not distinguish a refused address from an unreachable
server, and creates a new Message-ID for every attempt. Here the Message-ID derives from the key, so that repetitions are
recognisable.
"""

from __future__ import annotations

import os
import re
import smtplib
import socket
import ssl
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import EmailPolicy
from email.utils import formatdate, parseaddr
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from commands.mailboxes import mailbox
from commands.notifier.message_port import NotSent, OutMessage
from commands.notifier.notices import EMAIL
from ledger.errors import ConfigError
from ledger.files import private_folder

TIMEOUT_S = 15.0  # of connecting to one address, and of one line of an answer
CALL_S = 60.0  # of a mail
MAX_LINE = 76
LONGEST_LINE = 998  # RFC 5322
# Addresses that are valid without parsing; any other is parsed.
_PLAIN_ADDRESS = re.compile(r"[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")
_PORTS = {"smtp": 25, "smtp+starttls": 587, "smtps": 465}


class SmtpDoor:
    """`url`: smtp://host:port, smtps:// or smtp+starttls://, with user:password@ where the server wants them.

    Raises `ConfigError` for any other URL, without repeating it: it may contain a password.
    """

    channel = EMAIL

    def __init__(self, url: str, sender: str) -> None:
        try:
            parts = urlsplit(url)
            self._scheme, self._host = parts.scheme.lower(), parts.hostname or ""
            self._port = parts.port or _PORTS[self._scheme]
        except (ValueError, KeyError):
            raise ConfigError("NOTIFY_EMAIL_URL must be smtp://, smtps:// or smtp+starttls://host:port") from None
        if not self._host:
            raise ConfigError("NOTIFY_EMAIL_URL has no host")
        self._user, self._password = unquote(parts.username or ""), unquote(parts.password or "")
        self._sender = sender_of(sender)

    def send(self, message: OutMessage) -> None:
        mail = as_mail(message, self._sender)
        try:
            with self._connected() as server:
                server.send_message(mail, to_addrs=[_recipient(message)])  # the library would remove quotes
        except smtplib.SMTPRecipientsRefused as exc:
            code = max((code for code, _ in exc.recipients.values()), default=500)
            raise NotSent(f"the server refused the recipient ({code})", again=code < 500) from None
        except smtplib.SMTPResponseException as exc:
            # Refused credentials may be accepted later; a verdict on the message itself is final.
            again = exc.smtp_code < 500 or isinstance(exc, smtplib.SMTPAuthenticationError | smtplib.SMTPConnectError)
            raise NotSent(f"the server answered {exc.smtp_code}", again) from None
        except (OSError, smtplib.SMTPException) as exc:
            raise NotSent(f"mail server unreachable: {type(exc).__name__}", again=True, is_reached=False) from None

    def kept(self) -> Collection[str]:
        return ()

    def forget(self, order_ids: Collection[str]) -> None:
        """Does nothing: this door keeps no messages."""

    @contextmanager
    def _connected(self) -> Iterator[smtplib.SMTP]:
        """A server for one mail, for `CALL_S` at most: the time-outs of the library are of one line of an answer."""
        if self._scheme == "smtps":
            server: smtplib.SMTP = smtplib.SMTP_SSL(timeout=TIMEOUT_S, context=ssl.create_default_context())
        else:
            server = smtplib.SMTP(timeout=TIMEOUT_S)
        server._host = self._host  # type: ignore[attr-defined]  # noqa: SLF001  for TLS; the library sets it only if it connects
        too_long = threading.Timer(CALL_S, _cut, [server])
        too_long.daemon = True
        too_long.start()
        try:
            code, _ = server.connect(self._host, self._port)
            if code != 220:
                raise smtplib.SMTPConnectError(code, "no greeting")
            if self._scheme == "smtp+starttls":
                server.starttls(context=ssl.create_default_context())
            if self._user:
                server.login(self._user, self._password)
            yield server
            with suppress(OSError, smtplib.SMTPException):  # the mail is accepted, whatever the server says now
                server.quit()
        finally:
            too_long.cancel()
            server.close()


def _cut(server: smtplib.SMTP) -> None:
    """End the connection, which another thread uses: there, the next read or write fails."""
    if (connection := server.sock) is not None:
        with suppress(OSError):  # it has ended
            socket.socket.shutdown(connection, socket.SHUT_RDWR)  # that of TLS would take its state away from the other thread


class EmlDoor:
    """Writes each message to a file named by its key, so that a repeated message overwrites its file."""

    channel = EMAIL

    def __init__(self, folder: Path, sender: str) -> None:
        self._folder, self._sender = folder, sender_of(sender)
        if folder.is_dir():
            private_folder(folder)

    def send(self, message: OutMessage) -> None:
        name = message.key.replace(":", "-")
        part = self._folder / f".{name}.part"
        content = as_mail(message, self._sender).as_bytes()
        try:
            try:
                descriptor = self._open(part)
            except FileNotFoundError:
                private_folder(self._folder)
                descriptor = self._open(part)
            with os.fdopen(descriptor, "wb", 0) as file:
                file.write(content)
            part.replace(self._folder / f"{name}.eml")
        except OSError as exc:
            raise NotSent(f"file not written: {type(exc).__name__}", again=True) from None

    def kept(self) -> Collection[str]:
        return {order_id for _, order_id in self._files()}

    def forget(self, order_ids: Collection[str]) -> None:
        for path, order_id in self._files():
            if order_id in order_ids:
                path.unlink(missing_ok=True)

    def _files(self) -> Iterator[tuple[Path, str]]:
        """Every message file with its order id, including partly written ones."""
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                if path.suffix in (".eml", ".part"):
                    yield path, path.name.removeprefix(".").rsplit("-", 2)[0]

    @staticmethod
    def _open(path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)  # an address is personal data


def sender_of(text: str) -> Address:
    """`Shop <shop@example.org>` as an address. Raises `ConfigError`."""
    name, address = parseaddr(text)
    try:
        return Address(display_name=name, addr_spec=address)
    except (ValueError, IndexError):
        raise ConfigError("NOTIFY_FROM must be an e-mail address, or a name and an address in angle brackets") from None


class _KeepPlain(EmailPolicy):
    """Keeps a short ASCII header verbatim: the library would parse it and fold it into the same line.

    A line break raises `ValueError`, as in any other header.
    """

    def header_store_parse(self, name: str, value: Any) -> tuple[str, Any]:
        if isinstance(value, str) and value.isascii() and value.isprintable() and len(name) + len(value) < MAX_LINE:
            return name, value
        return super().header_store_parse(name, value)

    def header_fetch_parse(self, name: str, value: str) -> Any:
        return _PARSED.get((name, value)) or super().header_fetch_parse(name, value)


_POLICY = _KeepPlain()
_BOUNDARY = "=_order-ledger"  # with these two signs it is in no encoded part (RFC 2045, 6.7)
_TEXT, _HTML = 'text/plain; charset="utf-8"', 'text/html; charset="utf-8"'
_ALTERNATIVE = f'multipart/alternative; boundary="{_BOUNDARY}"'
_KNOWN = {"Content-Type": (_TEXT, _HTML, _ALTERNATIVE), "Content-Transfer-Encoding": ("7bit", "8bit")}
_PARSED = {(name, value): _POLICY.header_factory(name, value) for name, values in _KNOWN.items() for value in values}


def _recipient(message: OutMessage) -> str:
    """The address in the form that every server accepts. Raises `ValueError`."""
    return message.to if _PLAIN_ADDRESS.fullmatch(message.to) else mailbox(message.to)


def as_mail(message: OutMessage, sender: Address) -> EmailMessage:
    """A mail in UTF-8, of text or of text and HTML. Customer text can only become the value of a header.

    Raises `NotSent` for an invalid address.
    """
    mail = EmailMessage(_POLICY)
    try:
        mail["From"] = str(sender) if sender.display_name.isascii() else sender
        mail["To"] = _recipient(message)
        mail["Subject"] = message.subject
        mail["Message-ID"] = f"<{message.key.replace(':', '.')}@order-ledger>"
    except (ValueError, IndexError):
        raise NotSent("not an e-mail address", again=False) from None
    mail["Date"] = formatdate()
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no vacation replies
    if message.html is not None:
        _set_parts(mail, message.text, message.html)
    elif message.text.isascii() and "\r" not in message.text and all(len(x) < MAX_LINE for x in message.text.split("\n")):
        mail["Content-Type"] = _TEXT
        mail["Content-Transfer-Encoding"] = "7bit"
        mail["MIME-Version"] = "1.0"
        mail.set_payload(message.text if message.text.endswith("\n") else f"{message.text}\n")
    else:
        mail.set_content(message.text)
    return mail


def _set_parts(mail: EmailMessage, text: str, html: str) -> None:
    """Make `mail` one of two parts: mail readers show the last one that they can.

    The library needs a millisecond for that, most of it to parse headers of its own.
    """
    if _BOUNDARY in text or _BOUNDARY in html:
        mail.set_content(text)
        mail.add_alternative(html, subtype="html")
        return
    mail["MIME-Version"] = "1.0"
    mail["Content-Type"] = _ALTERNATIVE
    mail.set_payload([_part(text, "plain", _TEXT), _part(html, "html", _HTML)])


def _part(content: str, subtype: str, kind: str) -> EmailMessage:
    """A part of a mail, as it is unless a line is too long for that."""
    part = EmailMessage(_POLICY)
    sent = (content if content.endswith("\n") else f"{content}\n").encode()
    if b"\r" in sent or max(map(len, sent.split(b"\n"))) > LONGEST_LINE:
        part.set_content(content, subtype=subtype)
        del part["MIME-Version"]
        return part
    part["Content-Type"] = kind
    part["Content-Transfer-Encoding"] = "7bit" if content.isascii() else "8bit"
    part.set_payload(sent.decode("ascii", "surrogateescape"))
    return part
