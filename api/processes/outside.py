"""Settings of the external services: the payment provider, the stock services, and the sandbox for those that are not set.

Production needs all of them and refuses the sandbox. Development runs without any: orders are placed and read, and their
obligations stay open.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from api.settings import Settings
from ledger.bounds import SERVICES
from ledger.errors import ConfigError
from ledger.http_client import is_loopback, proxy_for

PROVIDER_URL = "https://api.stripe.com"


def check_outside(settings: Settings) -> bool:
    """Whether external services are set. Raises `ConfigError` naming what is missing, contradictory or forbidden."""
    missing = _missing(settings)
    _check_addresses(settings)
    if settings.app_env == "production":
        if settings.sandbox_url:
            raise ConfigError("SANDBOX_URL must not be set when APP_ENV is production")
        if missing:
            raise ConfigError(f"APP_ENV is production, and {_names(missing)} not set: orders could be neither paid nor reserved")
    if settings.sandbox_url:
        _check_loopback(settings.sandbox_url)
        return True
    if len(missing) == 1 + len(SERVICES):
        return False
    if missing:
        raise ConfigError(f"{_names(missing)} not set, and there is no SANDBOX_URL to use instead")
    if settings.payment_gateway_webhook_secrets is None and settings.app_env == "production":
        raise ConfigError("PAYMENT_GATEWAY_WEBHOOK_SECRETS is not set: forged webhooks could not be detected")
    if settings.notify_email_url is None and settings.app_env == "production":
        raise ConfigError("APP_ENV is production, and NOTIFY_EMAIL_URL is not set: e-mails would only be written to files")
    return True


def needs_sandbox(settings: Settings) -> bool:
    """Whether `up` should start the sandbox: a service is not set, and neither is SANDBOX_URL. Never in production."""
    return settings.app_env != "production" and not settings.sandbox_url and bool(_missing(settings))


def addresses(settings: Settings, name: str) -> tuple[str | None, str | None]:
    """(URL, gRPC target) of a service. Raises `ConfigError` if both are set."""
    url: str | None = getattr(settings, f"{name}_service_url")
    target: str | None = getattr(settings, f"{name}_service_grpc_target")
    if url and target:
        raise ConfigError(f"{name.upper()}_SERVICE_URL and {name.upper()}_SERVICE_GRPC_TARGET are both set: choose one")
    return url, target


def webhook_secrets(settings: Settings) -> tuple[str, ...]:
    """The signing secrets, newest first."""
    text = settings.payment_gateway_webhook_secrets
    return tuple(s.strip() for s in text.get_secret_value().split(",") if s.strip()) if text else ()


def _missing(settings: Settings) -> list[str]:
    missing = [] if settings.payment_gateway_secret_key else ["PAYMENT_GATEWAY_SECRET_KEY"]
    without = [name.upper() for name in SERVICES if not any(addresses(settings, name))]
    return missing + [f"{name}_SERVICE_URL or {name}_SERVICE_GRPC_TARGET" for name in without]


def _check_addresses(settings: Settings) -> None:
    """Check that each address can be used, with the environment's proxy or without. Raises `ConfigError` naming the setting."""
    asked = {f"{name.upper()}_SERVICE_URL": addresses(settings, name)[0] for name in SERVICES}
    if settings.payment_gateway_secret_key is not None:
        asked["PAYMENT_GATEWAY_SECRET_KEY"] = PROVIDER_URL
    for name, url in asked.items():
        try:
            if url:
                proxy_for(url)
        except ConfigError as exc:
            raise ConfigError(f"{name}: {exc}") from None


def _names(missing: list[str]) -> str:
    return f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'}"


def _check_loopback(url: str) -> None:
    try:
        loopback = is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        loopback = False
    if not loopback:
        raise ConfigError("SANDBOX_URL must be on the loopback interface: the sandbox is for development")
