"""Text messages, through any service that Apprise supports. The only importer of `apprise`."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable

from commands.notifier.message_port import NotSent, OutMessage
from commands.notifier.notices import SMS
from ledger.errors import ConfigError
from ledger.extras import needs

with needs("sms"):
    import apprise

_NUMBER = re.compile(r"\+?[0-9]{5,20}")


def _schemes(of_service: str | Iterable[str] | None) -> frozenset[str]:
    """The URL schemes of a service; Apprise gives one, several, or none."""
    return frozenset((of_service,) if isinstance(of_service, str) else of_service or ())


class SmsDoor:
    """`url` is an Apprise URL without the recipient's number at its end, e.g. twilio://sid:token@from.

    Raises `ConfigError` if Apprise does not support it, without repeating it: it contains a token.
    """

    channel = SMS

    def __init__(self, url: str) -> None:
        logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # it logs recipients
        self._url = url.rstrip("/")
        service = apprise.Apprise.instantiate(f"{self._url}/+15005550006")
        if service is None:
            raise ConfigError("NOTIFY_SMS_URL is not an Apprise URL of a text message service")
        self._open_schemes = _schemes(service.protocol)

    @property
    def is_encrypted(self) -> bool:
        """Whether messages reach the service over TLS."""
        return self._url.partition("://")[0].lower() not in self._open_schemes

    def send(self, message: OutMessage) -> None:
        number = re.sub(r"[\s()./-]", "", message.to)
        if not _NUMBER.fullmatch(number):
            raise NotSent("not a phone number", again=False)
        service = apprise.Apprise.instantiate(f"{self._url}/{number}")
        if service is None:
            raise NotSent("the service does not accept this number", again=False)
        if not service.notify(body=message.text):
            raise NotSent("the service did not accept the message", again=True)

    def kept(self) -> Collection[str]:
        return ()

    def forget(self, order_ids: Collection[str]) -> None:
        """Does nothing: this door keeps no messages."""
