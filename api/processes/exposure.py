"""Refuses, at start, settings that would expose data, unless they are explicitly allowed.

Production uses an unencrypted connection only if `ALLOW_PLAINTEXT` names it. A node is reachable from other machines only if
`APP_ENV` is set.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import structlog

from api.processes.outside import addresses
from api.settings import Settings
from ledger.bounds import SERVICES
from ledger.errors import ConfigError
from ledger.http_client import is_loopback
from ledger.kafka.settings import KafkaSettings

log = structlog.get_logger(__name__)


class Plaintext(NamedTuple):
    """An unencrypted connection: its name in ALLOW_PLAINTEXT, the setting, its current value, what to set instead."""

    name: str
    setting: str
    value: str
    instead: str


def check_exposure(settings: Settings, kafka: KafkaSettings) -> None:
    """Raises `ConfigError` with a line for each setting that exposes data. No line contains a secret."""
    if settings.app_env is None and not is_loopback(settings.host):
        where = f"HOST is {settings.host}, which other machines can reach"
        raise ConfigError(f"{where}: set APP_ENV to production, or to development if that is intended")
    refuse_plaintext(settings, [*_kafka(kafka), *_mail(settings), *_stock(settings), *_oidc(settings)])


def refuse_plaintext(settings: Settings, plaintexts: list[Plaintext]) -> None:
    """In production, log each allowed connection; raises `ConfigError` with a line for each that is not allowed."""
    if settings.app_env != "production":
        return
    lines = []
    for one in plaintexts:
        if one.name in settings.plaintext_allowed:
            log.warning("connection is not encrypted, allowed by ALLOW_PLAINTEXT", setting=one.setting, allowed=one.name)
        else:
            lines.append(f"{one.setting} {one.value}: production needs {one.instead}, or {one.name} in ALLOW_PLAINTEXT")
    if lines:
        raise ConfigError("\n".join(lines))


def _kafka(kafka: KafkaSettings) -> Iterator[Plaintext]:
    if kafka.security_protocol in ("PLAINTEXT", "SASL_PLAINTEXT"):
        yield Plaintext("kafka", "KAFKA_SECURITY_PROTOCOL", f"is {kafka.security_protocol}", "SSL or SASL_SSL")


def _mail(settings: Settings) -> Iterator[Plaintext]:
    url = settings.notify_email_url
    if url is not None and url.get_secret_value().lower().startswith("smtp:"):
        yield Plaintext("smtp", "NOTIFY_EMAIL_URL", "begins with smtp://", "smtp+starttls:// or smtps://")


def _oidc(settings: Settings) -> Iterator[Plaintext]:
    for name, url in (("OIDC_ISSUER", settings.oidc_issuer), ("OIDC_JWKS_URL", settings.oidc_jwks_url)):
        if url is not None and not url.lower().startswith("https:"):
            yield Plaintext("oidc", name, "does not begin with https://", "an https:// address")


def _stock(settings: Settings) -> Iterator[Plaintext]:
    for service in SERVICES:
        url, target = addresses(settings, service)
        if url and not url.lower().startswith("https:"):
            yield Plaintext("stock", f"{service.upper()}_SERVICE_URL", "does not begin with https://", "an https:// address")
        if target and not target.startswith("https://"):
            yield Plaintext(
                "stock", f"{service.upper()}_SERVICE_GRPC_TARGET", "does not begin with https://", "an https:// address"
            )
